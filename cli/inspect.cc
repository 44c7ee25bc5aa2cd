#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/commands.h"
#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/quote.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_directory.h"
#include "common/checkpoint/stored_tensor.h"
#include "common/metrics/progress.h"
#include "common/model/kv_pool.h"
#include "common/model/model_directory.h"
#include "common/text/jinja.h"
#include "trainer/run.h"
#include "trainer/run_checkpoint.h"

namespace grouper::cli {
namespace {

void Row(const char* name, const std::string& value) { std::printf("%s: %s\n", name, value.c_str()); }

// "none", how long it is, or why it cannot be rendered (another can be given in the recipe).
std::string TemplateText(const Tokenizer& tokenizer) {
  const std::string& text = tokenizer.chat_template();
  if (text.empty()) return "none";
  const absl::StatusOr<std::shared_ptr<const JinjaTemplate>> parsed = JinjaTemplate::Parse(text);
  return parsed.ok() ? absl::StrCat("yes, ", text.size(), " bytes") : absl::StrCat("not supported: ", parsed.status().message());
}

std::string TokenizerText(const Tokenizer& tokenizer, const ModelConfig& config) {
  const auto named = [&](const char* name, std::optional<int32_t> id) {
    return id ? absl::StrCat(", ", name, " ", *id, " ", QuoteName(tokenizer.Token(*id))) : std::string();
  };
  return absl::StrCat(tokenizer.vocab_size(), " ids of ", config.vocab_size, named("bos", tokenizer.bos_id()), named("eos", tokenizer.eos_id()),
                      named("pad", tokenizer.pad_id()));
}

// "BF16 (290 tensors), F32 (61)": the types in the files, most tensors first.
std::string StoredTypes(const StoredWeights& weights) {
  std::map<std::string, int> counts;
  for (size_t i = 0; i < weights.tensors().size(); ++i) ++counts[Name(weights.stored(i).type)];
  std::vector<std::pair<std::string, int>> order(counts.begin(), counts.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  return absl::StrJoin(order, ", ", [](std::string* out, const auto& type) { absl::StrAppend(out, type.first, " (", type.second, " tensors)"); });
}

// All but the digest of its values as float32, which it returns: a run and a checkpoint have printed theirs.
absl::StatusOr<Sha256Digest> PrintModel(const std::string& path) {
  ThreadPool threads(0);
  ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(path, {}));
  const ModelConfig& c = opened.weights->config();
  ASSIGN_OR_RETURN(const Sha256Digest digest, FloatWeightsDigest(*opened.weights, threads));  // reads and checks every value
  const int64_t parameters = c.NumParameters();
  const auto megabytes = [&](double bytes_per_parameter) { return static_cast<double>(parameters) * bytes_per_parameter / 1e6; };
  const auto kv = [&](DType dtype) { return static_cast<double>(KvPool::BytesPerPage(c, dtype)) / kernels::kPageTokens; };
  Row("model", opened.source);
  Row("architecture", c.architecture);
  Row("parameters", absl::StrFormat("%d (%s), active %d", parameters, HumanCount(static_cast<double>(parameters)), c.NumActiveParameters()));
  Row("layers", absl::StrCat(c.num_hidden_layers, ", hidden ", c.hidden_size, ", heads ", c.num_attention_heads, c.mla ? " (MLA)" : absl::StrCat("/", c.num_key_value_heads)));
  if (c.moe) {
    Row("experts", absl::StrCat(c.moe->router.num_experts, " routed, top ", c.moe->router.top_k, ", ", c.moe->n_shared_experts, " shared"));
  }
  Row("context", absl::StrCat(c.max_position_embeddings));
  Row("vocabulary", absl::StrCat(c.vocab_size, " (tokenizer ", opened.tokenizer->vocab_size(), ")"));
  Row("tokenizer", TokenizerText(*opened.tokenizer, c));
  Row("dtype", StoredTypes(*opened.weights));
  Row("stop_tokens", absl::StrJoin(opened.stop_token_ids, ", "));
  Row("chat_template", TemplateText(*opened.tokenizer));
  Row("kv_bytes_per_token", absl::StrFormat("%.0f in float32, %.0f in bfloat16", kv(DType::kF32), kv(DType::kBF16)));
  // One copy of the weights; training adds the kernels' packed one (CPU), float gradients, AdamW's m and v, and float weights under bfloat16.
  Row("memory_to_roll_out", absl::StrFormat("%.1f MB in float32, %.1f MB in bfloat16, and the cache: %.3f MB or %.3f MB per 1000 tokens", megabytes(4),
                                            megabytes(2), kv(DType::kF32) * 1000 / 1e6, kv(DType::kBF16) * 1000 / 1e6));
  Row("memory_to_train", absl::StrFormat("%.1f MB in float32, %.1f MB in bfloat16 (on a GPU %.1f MB), and activations", megabytes(4 + 4 + 12),
                                         megabytes(2 + 2 + 16), megabytes(2 + 16)));
  if (!Model::CheckMemory(c, DType::kF32, {}, WeightUse::kForward).ok()) {
    RETURN_IF_ERROR(Annotate(Model::CheckMemory(c, DType::kBF16, {}, WeightUse::kForward), path));
  }
  return digest;
}

absl::Status InspectModel(const std::string& path) {
  ASSIGN_OR_RETURN(const Sha256Digest digest, PrintModel(path));
  Row("weights_digest", Hex(digest));
  return absl::OkStatus();
}

absl::Status InspectRun(const std::string& path) {
  FileSystem& fs = DefaultFileSystem();
  ASSIGN_OR_RETURN(const RunDigests digests, ReadRunDigests(fs, path));
  Row("run", path);
  Row("status", digests.finished ? "finished" : "not finished; go on with --resume");
  Row("step", absl::StrCat(digests.step));
  Row("weights_digest", digests.weights);
  Row("completions_digest", digests.completions);
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(fs, JoinPath(path, "checkpoints")));
  for (int64_t step : steps) {
    // Verifies every byte.
    ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(fs, CheckpointPath(JoinPath(path, "checkpoints"), step)));
    Row("checkpoint", absl::StrCat(reader.directory(), " (", reader.files().size(), " files, verified)"));
  }
  // The newest checkpoint's model, or the exported one when somebody has removed the checkpoints.
  const std::string model = steps.empty() ? JoinPath(path, "model") : CheckpointPath(JoinPath(path, "checkpoints"), steps.back());
  return fs.Exists(model) ? PrintModel(model).status() : absl::OkStatus();
}

absl::Status InspectCheckpoint(const std::string& path) {
  ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(DefaultFileSystem(), path));
  ASSIGN_OR_RETURN(const RunState state, ReadRunState(reader));
  Row("checkpoint", path);
  Row("step", absl::StrCat(state.step));
  Row("stage", absl::StrCat(state.stage_index, ", ", state.stage.step, " steps done in it"));
  Row("data_position", absl::StrCat(state.stage.data_position));
  Row("group_serial", absl::StrCat(state.stage.group_serial));
  Row("numerics_id", state.numerics_id);
  Row("weights_digest", state.weights_digest);
  Row("completions_digest", state.completions_digest);
  for (const ManifestFile& file : reader.files()) Row("file", absl::StrCat(file.name, ", ", file.bytes, " bytes, verified"));
  return PrintModel(path).status();
}

absl::Status Run(const Arguments& arguments) {
  const std::string path = arguments.positional(0);
  FileSystem& fs = DefaultFileSystem();
  if (fs.Exists(JoinPath(path, "recipe.textproto")) && !fs.Exists(JoinPath(path, "MANIFEST"))) return InspectRun(path);
  if (fs.Exists(JoinPath(path, "MANIFEST")) || fs.Exists(JoinPath(path, "state.json"))) return InspectCheckpoint(path);
  return InspectModel(path);
}

}  // namespace

const Command kInspect = {
    "inspect",
    "PATH",
    "what is in a model, a checkpoint or a run directory",
    "Loads and checks everything: exit status 0 means that it would load and run. Of a run directory also the model in its newest checkpoint.",
    {},
    Run,
};

}  // namespace grouper::cli
