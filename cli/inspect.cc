#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/commands.h"
#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_directory.h"
#include "common/metrics/progress.h"
#include "common/model/kv_pool.h"
#include "common/model/model_directory.h"
#include "common/text/jinja.h"
#include "trainer/run.h"
#include "trainer/run_checkpoint.h"

namespace grouper::cli {
namespace {

void Row(const char* name, const std::string& value) { std::printf("%s: %s\n", name, value.c_str()); }

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
  return absl::OkStatus();
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
  return absl::OkStatus();
}

// "none", how long it is, or why it cannot be rendered (another can be given in the recipe).
std::string TemplateText(const Tokenizer& tokenizer) {
  const std::string& text = tokenizer.chat_template();
  if (text.empty()) return "none";
  const absl::StatusOr<std::shared_ptr<const JinjaTemplate>> parsed = JinjaTemplate::Parse(text);
  return parsed.ok() ? absl::StrCat("yes, ", text.size(), " bytes") : absl::StrCat("not supported: ", parsed.status().message());
}

absl::Status InspectModel(const std::string& path) {
  ThreadPool threads(0);
  ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(path, {}, threads));
  const Model& model = *loaded.model;
  const ModelConfig& c = model.config();
  const double kv = static_cast<double>(KvPool::BytesPerPage(c, model.dtype())) / kernels::kPageTokens;
  const double weights = static_cast<double>(c.NumParameters()) * static_cast<double>(SizeOf(model.dtype()));
  Row("model", loaded.source);
  Row("architecture", c.architecture);
  Row("parameters", absl::StrFormat("%d (%s), active %d", c.NumParameters(), HumanCount(static_cast<double>(c.NumParameters())), c.NumActiveParameters()));
  Row("layers", absl::StrCat(c.num_hidden_layers, ", hidden ", c.hidden_size, ", heads ", c.num_attention_heads, c.mla ? " (MLA)" : absl::StrCat("/", c.num_key_value_heads)));
  if (c.moe) {
    Row("experts", absl::StrCat(c.moe->router.num_experts, " routed, top ", c.moe->router.top_k, ", ", c.moe->n_shared_experts, " shared"));
  }
  Row("context", absl::StrCat(c.max_position_embeddings));
  Row("vocabulary", absl::StrCat(c.vocab_size, " (tokenizer ", loaded.tokenizer->vocab_size(), ")"));
  Row("dtype", absl::StrCat(Name(model.dtype()), " in memory"));
  Row("stop_tokens", absl::StrJoin(loaded.stop_token_ids, ", "));
  Row("chat_template", TemplateText(*loaded.tokenizer));
  Row("kv_bytes_per_token", absl::StrFormat("%.0f", kv));
  Row("memory_to_roll_out", absl::StrFormat("%.1f MB and %.3f MB per 1000 cached tokens", 2 * weights / 1e6, kv * 1000 / 1e6));
  Row("memory_to_train", absl::StrFormat("%.1f MB and activations", (2 * weights + 12.0 * static_cast<double>(c.NumParameters())) / 1e6));
  Row("weights_digest", Hex(WeightsDigest(model, threads)));
  return absl::OkStatus();
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
    "Loads and checks everything: exit status 0 means that it would load and run.",
    {},
    Run,
};

}  // namespace grouper::cli
