#include "cli/stage_lengths.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/data/dataset.h"
#include "trainer/prompt_encoder.h"

namespace grouper::cli {
namespace {

constexpr int64_t kRows = 4096;    // read of a file
constexpr int64_t kSample = 256;   // encoded of a stage, and the longest row

size_t TextBytes(const DataRow& row) { return json::Dump(row.columns).size(); }

// Rows spread over all, and the one with the most text.
std::vector<DataRow> Sample(const std::vector<DataRow>& rows) {
  std::vector<DataRow> sample;
  const size_t step = std::max<size_t>(1, rows.size() / kSample);
  for (size_t i = 0; i < rows.size(); i += step) sample.push_back(rows[i]);
  if (!rows.empty()) {
    std::vector<size_t> bytes;
    for (const DataRow& row : rows) bytes.push_back(TextBytes(row));
    sample.push_back(rows[static_cast<size_t>(std::max_element(bytes.begin(), bytes.end()) - bytes.begin())]);
  }
  return sample;
}

template <typename F>
Lengths Measure(const std::vector<DataRow>& rows, int64_t context, F tokens_of) {
  Lengths lengths;
  double squares = 0;
  for (const DataRow& row : rows) {
    const int64_t tokens = tokens_of(row);
    if (tokens < 0 || tokens > context) continue;
    ++lengths.count;
    lengths.longest = std::max(lengths.longest, tokens);
    lengths.mean += static_cast<double>(tokens);
    squares += static_cast<double>(tokens) * static_cast<double>(tokens);
  }
  if (lengths.count == 0) return lengths;
  const double n = static_cast<double>(lengths.count);
  lengths.mean /= n;
  lengths.deviation = std::sqrt(std::max(0.0, squares / n - lengths.mean * lengths.mean));
  return lengths;
}

int64_t BytesOf(const std::string& path) {
  if (path.empty()) return 0;
  const absl::StatusOr<uint64_t> size = DefaultFileSystem().FileSize(path);
  return size.ok() ? static_cast<int64_t>(*size) : 0;
}

}  // namespace

absl::StatusOr<std::vector<StageLengths>> MeasureStages(const v1::Recipe& recipe, const LoadedModel& loaded) {
  ASSIGN_OR_RETURN(const PromptEncoder encoder, PromptEncoder::Create(recipe.prompt(), loaded.tokenizer));
  const int64_t context = loaded.model->config().max_position_embeddings;
  const auto prompt_tokens = [&](const DataRow& row) {
    const absl::StatusOr<PromptEncoder::Prompt> prompt = encoder.EncodePrompt(row);
    return prompt.ok() ? static_cast<int64_t>(prompt->token_ids.size()) : -1;
  };
  std::vector<StageLengths> all;
  for (int i = 0; i < recipe.stages_size(); ++i) {
    const v1::Stage& stage = recipe.stages(i);
    v1::Data data = stage.data();
    if (data.max_rows() == 0 || data.max_rows() > kRows) data.set_max_rows(kRows);
    absl::StatusOr<std::unique_ptr<Dataset>> opened = Dataset::Open(data, recipe.seed(), static_cast<uint32_t>(i), "");
    if (!opened.ok()) return Annotate(opened.status(), absl::StrCat("stages[", stage.name(), "]"));
    Dataset& set = **opened;
    std::vector<DataRow> rows = Sample(set.file_rows());
    if (set.has_train() && set.epoch_size() == 0) {
      for (int64_t row = 0; row < kSample; ++row) rows.push_back(set.TrainRow(row));
    }
    StageLengths lengths;
    if (stage.has_sft()) {
      lengths.examples = Measure(rows, context, [&](const DataRow& row) {
        if (!row.HasCompletion()) return int64_t{-1};
        const absl::StatusOr<TrainSequence> example = encoder.EncodeExample(row, stage.sft().train_on_prompt());
        return example.ok() ? static_cast<int64_t>(example->token_ids.size()) : -1;
      });
    }
    if (stage.has_grpo()) lengths.prompts = Measure(rows, context, prompt_tokens);
    const v1::Evaluation& eval = stage.eval();
    if (stage.has_evaluate() || eval.every() > 0 || eval.at_start() || eval.at_end()) {
      lengths.eval_prompts = Measure(Sample(set.eval_rows()), context, prompt_tokens);
      lengths.eval_rows = static_cast<int64_t>(set.eval_rows().size());
      if (eval.max_problems() > 0) lengths.eval_rows = std::min<int64_t>(lengths.eval_rows, eval.max_problems());
    }
    lengths.data_bytes = BytesOf(stage.data().train()) + BytesOf(stage.data().eval());
    all.push_back(lengths);
  }
  return all;
}

}  // namespace grouper::cli
