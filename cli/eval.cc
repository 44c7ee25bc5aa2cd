#include "trainer/evaluate.h"

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "cli/composition.h"
#include "cli/model_options.h"
#include "cli/output_option.h"
#include "cli/prompt_options.h"
#include "common/base/status.h"
#include "common/metrics/metrics.h"
#include "reward/score_file.h"

namespace grouper::cli {
namespace {

// One line a problem.
absl::Status WriteProblems(const EvaluationResult& result, JsonLinesFile* file) {
  for (const ScoredGroup& group : result.groups.groups) {
    json::OrderedJson line;
    line["source"] = group.row.source;
    line["prompt"] = group.prompt.text;
    for (size_t i = 0; i < group.samples.size(); ++i) {
      const v1::RuleResult& rule = group.scores[i].rules(result.rule);
      json::OrderedJson sample;
      sample["completion"] = group.completions[i];
      sample["score"] = rule.status() == v1::RULE_STATUS_SCORED ? json::OrderedJson(rule.score()) : json::OrderedJson(nullptr);
      sample["extracted"] = rule.extracted();
      sample["truncated"] = group.samples[i].finish_reason() == v1::FINISH_REASON_LENGTH;
      if (!rule.reason().empty()) sample["reason"] = rule.reason();
      line["samples"].push_back(std::move(sample));
    }
    RETURN_IF_ERROR(file->AppendLine(json::Dump(line)));
  }
  return file->Sync();
}

void PrintTruncated(const EvaluationResult& result) {
  int truncated = 0, all = 0;
  for (const ScoredGroup& group : result.groups.groups) {
    all += static_cast<int>(group.samples.size());
    for (const v1::Sample& sample : group.samples) truncated += sample.finish_reason() == v1::FINISH_REASON_LENGTH;
  }
  if (truncated > 0) std::printf("truncated %d of %d completions, at --max-new-tokens or the model's context\n", truncated, all);
}

absl::Status Run(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const int64_t samples, arguments.GetInt("samples", 1, 1 << 16));
  ASSIGN_OR_RETURN(const int64_t limit, arguments.GetInt("max-problems", 0, 1 << 30));
  ASSIGN_OR_RETURN(const int64_t new_tokens, arguments.GetInt("max-new-tokens", 1, 1 << 30));
  ASSIGN_OR_RETURN(double temperature, TemperatureFromOptions(arguments));
  ASSIGN_OR_RETURN(const int64_t num_threads, arguments.GetInt("threads", 0, 4096));
  ASSIGN_OR_RETURN(const int64_t seed, arguments.GetInt("seed", 0, INT64_MAX));
  ASSIGN_OR_RETURN(const int64_t top_k, arguments.GetInt("top-k", 0, 1 << 30));
  ASSIGN_OR_RETURN(const double top_p, arguments.GetDouble("top-p", 1e-9, 1));
  RETURN_IF_ERROR(CheckPromptOptions(arguments));
  RETURN_IF_ERROR(CheckOutput(arguments, {"data", "rules"}));
  ASSIGN_OR_RETURN(const ModelPlace place, PlaceFromOptions(arguments));
  const Device device = place.device;
  if (samples > 1 && temperature == 0) {
    if (arguments.Has("temperature")) return absl::InvalidArgumentError("--temperature 0: all samples of a problem would be the same; expected more than 0 with --samples");
    temperature = 1;
  }

  v1::Recipe recipe;
  recipe.set_name("eval");
  recipe.set_seed(static_cast<uint64_t>(seed));
  recipe.set_threads(static_cast<int32_t>(num_threads));
  recipe.mutable_model()->set_path(arguments.Get("model"));
  recipe.mutable_model()->set_device(arguments.Get("device"));
  recipe.mutable_model()->set_dtype(place.dtype == DType::kBF16 ? "bfloat16" : "float32");
  ASSIGN_OR_RETURN(const RulesFile rules, LoadRulesFile(arguments.Get("rules")));
  *recipe.mutable_reward() = rules.reward;
  if (rules.is_recipe) recipe.mutable_reward()->clear_address();
  v1::Stage* stage = recipe.add_stages();
  stage->set_name("eval");
  stage->mutable_evaluate();
  stage->mutable_data()->set_eval(arguments.Get("data"));
  for (const std::string& field : arguments.GetAll("field")) {
    const size_t equals = field.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == field.size()) {
      return absl::InvalidArgumentError("--field " + field + ": expected OUR_NAME=COLUMN");
    }
    (*stage->mutable_data()->mutable_fields())[field.substr(0, equals)] = field.substr(equals + 1);
  }
  v1::Evaluation* eval = stage->mutable_eval();
  eval->set_max_problems(static_cast<int32_t>(limit));
  eval->set_samples(static_cast<int32_t>(samples));
  eval->set_rule(arguments.Get("rule"));
  v1::Sampling* sampling = eval->mutable_sampling();
  sampling->set_temperature(temperature);
  sampling->set_top_k(static_cast<int32_t>(top_k));
  sampling->set_top_p(top_p);
  sampling->set_max_new_tokens(static_cast<int32_t>(new_tokens));
  recipe.mutable_rollout()->set_max_batch_tokens(device.is_cuda() ? 16384 : 2048);
  recipe.mutable_rollout()->set_max_sequences(device.is_cuda() ? 1024 : 256);
  recipe.mutable_rollout()->set_timeout_seconds(600);
  recipe.mutable_reward()->set_timeout_seconds(60);

  // Opened first: a path that cannot be written should not cost an evaluation. What an earlier one left there stays until this one has a result.
  if (arguments.Has("output")) {
    RETURN_IF_ERROR(DefaultFileSystem().OpenAppend(arguments.Get("output")).status());
  }
  absl::StatusOr<std::unique_ptr<Composition>> composition = Composition::Create(recipe, Dirname(arguments.Get("rules")), {}, {}, WeightUse::kForward);
  if (!composition.ok()) return rules.Locate(composition.status());
  const std::unique_ptr<Composition> parts = *std::move(composition);
  ASSIGN_OR_RETURN(const std::unique_ptr<Dataset> data, Dataset::Open(stage->data(), recipe.seed(), 0, ""));
  ASSIGN_OR_RETURN(*recipe.mutable_prompt(), PromptFromOptions(arguments, arguments.Get("model"), *parts->loaded().tokenizer));
  ASSIGN_OR_RETURN(const PromptEncoder encoder, PromptEncoder::Create(recipe.prompt(), parts->loaded().tokenizer));
  Stream stream(parts->threads(), device);
  WeightPublisher publisher(*parts->loaded().model, parts->rollout(), parts->threads());
  StageContext context{recipe,    0,       parts->loaded(), stream,      parts->rollout(), parts->reward(),
                       publisher, *data, encoder,         RealClock(), {}};
  RETURN_IF_ERROR(CheckEvaluation(context, data->eval_rows(), *eval, [&](const json::Json& row) { return parts->rules().CheckRow(row); }));
  ASSIGN_OR_RETURN(const EvaluationResult result, Evaluate(context, data->eval_rows(), *eval));
  if (result.problems == 0) {
    return absl::InvalidArgumentError(absl::StrCat(arguments.Get("data"), ": none of its ", result.unscored, " problems could be scored, see the warnings"));
  }
  std::printf("problems %d", static_cast<int>(result.problems));
  if (result.unscored > 0) std::printf(" (%d more could not be scored)", static_cast<int>(result.unscored));
  std::printf("\npass@1 %.4f  95%% interval [%.4f, %.4f]\n", result.accuracy, result.interval.low, result.interval.high);
  if (samples > 1) std::printf("pass@%d %.4f\nmaj@%d %.4f\n", result.samples, result.pass_at_k, result.samples, result.majority);
  PrintTruncated(result);
  if (!arguments.Has("output")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::unique_ptr<JsonLinesFile> output, JsonLinesFile::Open(DefaultFileSystem(), arguments.Get("output"), 0));
  return WriteProblems(result, output.get());
}

}  // namespace

const Command kEval = {
    "eval",
    "",
    "measure a model on held-out problems: pass@1, pass@k, maj@k",
    "Greedy by default; with --samples above 1 at temperature 1. RULES is the text of a recipe's `reward` block, or a recipe. A run directory's model is\n"
    "asked as it was trained, by the `prompt` of its recipe, unless one of --template, --chat, --system, --prefill, --add-bos is given.",
    {
        {.name = "model", .placeholder = "MODEL", .help = "directory, GGUF file or run directory", .default_text = "", .required = true},
        {.name = "data", .placeholder = "FILE", .help = "problems as JSON lines", .default_text = "", .required = true},
        {.name = "rules", .placeholder = "RULES", .help = "rules as protobuf text, or a recipe", .default_text = "", .required = true},
        {.name = "rule", .placeholder = "NAME", .help = "the rule that decides (default: greatest weight)", .default_text = ""},
        {.name = "field", .placeholder = "NAME=COLUMN", .help = "map our column name to the file's", .default_text = "", .repeated = true},
        {.name = "samples", .placeholder = "K", .help = "samples a problem", .default_text = "1"},
        {.name = "temperature", .placeholder = "T", .help = "0: greedy, else 1e-6..100", .default_text = "0"},
        {.name = "top-k", .placeholder = "K", .help = "0: all", .default_text = "0"},
        {.name = "top-p", .placeholder = "P", .help = "1: all", .default_text = "1"},
        {.name = "max-new-tokens", .placeholder = "N", .help = "longest completion", .default_text = "512"},
        {.name = "max-problems", .placeholder = "N", .help = "first N problems; 0: all", .default_text = "0"},
        {.name = "chat", .placeholder = "", .help = "use the model's chat template (ChatML when it has none)", .default_text = ""},
        {.name = "system", .placeholder = "TEXT", .help = "system message", .default_text = ""},
        {.name = "template", .placeholder = "NAME", .help = "plain (the default), r1_zero, chatml, tokenizer", .default_text = ""},
        {.name = "prefill", .placeholder = "TEXT", .help = "beginning of each completion", .default_text = ""},
        {.name = "add-bos", .placeholder = "", .help = "put the bos token first", .default_text = ""},
        {.name = "output", .placeholder = "FILE", .help = "one JSON line a problem", .default_text = ""},
        {.name = "seed", .placeholder = "N", .help = "of the sampling noise", .default_text = "0"},
        DTypeOption(),
        DeviceOption(),
        {.name = "threads", .placeholder = "N", .help = "CPU threads; 0: one per core", .default_text = "0"},
    },
    Run,
};

}  // namespace grouper::cli
