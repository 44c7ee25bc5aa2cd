// `grouper bench`: each benchmark checks its result first, then prints one line a shape.
#include "kernels/bench.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/bench_check.h"
#include "cli/bench_exactness.h"
#include "cli/bench_speed.h"
#include "cli/bench_weights.h"
#include "cli/commands.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/model/model_directory.h"
#include "common/tensor/cuda.h"

namespace grouper::cli {
namespace {

const std::vector<std::string> kBenchmarks = {"kernels", "train", "rollout", "step", "exactness"};

struct BenchOption {
  std::vector<std::string> benchmarks;  // that have it
  Option option;
};

const std::vector<BenchOption>& BenchOptions() {
  static const std::vector<BenchOption>* const options = new std::vector<BenchOption>{
      {{"train", "rollout", "step", "exactness"},
       {.name = "model", .placeholder = "MODEL", .help = "a config.json (random weights), a directory or a GGUF file", .default_text = ""}},
      {{"train", "rollout", "step"}, {.name = "batch", .placeholder = "N,...", .help = "sequences; several numbers: one after another", .default_text = "96"}},
      {{"train", "exactness"}, {.name = "length", .placeholder = "N", .help = "tokens of a sequence, for exactness of the longest", .default_text = "34"}},
      {{"exactness"}, {.name = "tokens", .placeholder = "N", .help = "sampled tokens to compare, at least", .default_text = "20000"}},
      {{"rollout", "step"}, {.name = "group", .placeholder = "N", .help = "samples a prompt", .default_text = "1"}},
      {{"rollout", "step"}, {.name = "prompt", .placeholder = "N", .help = "prompt tokens", .default_text = "9"}},
      {{"rollout", "step"}, {.name = "new-tokens", .placeholder = "N", .help = "sampled tokens", .default_text = "32"}},
      {{"train", "rollout", "step", "exactness"},
       {.name = "batch-tokens", .placeholder = "N", .help = "tokens a pass or micro-batch; 0: 2048, on a GPU 16384", .default_text = "0"}},
      {{"train", "rollout", "step", "exactness"},
       {.name = "device", .placeholder = "DEVICE", .help = "auto (a GPU if there is one), cpu, cuda or cuda:N", .default_text = "auto"}},
      {{"train", "step"}, {.name = "recompute", .placeholder = "", .help = "blocks are computed again for their gradients", .default_text = ""}},
      {{"train"}, {.name = "no-optimizer", .placeholder = "", .help = "forward and backward alone", .default_text = ""}},
      {{"train", "step"}, {.name = "gradients", .placeholder = "DTYPE", .help = "of the blocks' matrices, float32 or bfloat16 (on a GPU)", .default_text = "float32"}},
      {{"rollout", "step"},
       {.name = "ahead", .placeholder = "WHEN", .help = "passes launched before the results of the last: auto (on a GPU, decode steps as graphs), always, never", .default_text = "auto"}},
      {{"kernels"}, {.name = "filter", .placeholder = "TEXT", .help = "only lines whose name contains this", .default_text = ""}},
      {kBenchmarks, {.name = "threads", .placeholder = "N", .help = "0: one per core", .default_text = "0"}},
  };
  return *options;
}

std::vector<Option> CommandOptions() {
  std::vector<Option> options;
  for (const BenchOption& o : BenchOptions()) {
    options.push_back(o.option);
    if (o.benchmarks.size() < kBenchmarks.size()) options.back().help = absl::StrCat(absl::StrJoin(o.benchmarks, ", "), ": ", o.option.help);
  }
  return options;
}

absl::Status CheckOptions(const Arguments& arguments, const std::string& benchmark) {
  for (const BenchOption& o : BenchOptions()) {
    if (!arguments.Has(o.option.name) || absl::c_linear_search(o.benchmarks, benchmark)) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", o.option.name, ": bench ", benchmark, " has no such option, only bench ", absl::StrJoin(o.benchmarks, ", ")));
  }
  return absl::OkStatus();
}

// A config.json gives random weights, everything else is a model to load.
bool IsConfig(const std::string& path) { return absl::EndsWith(path, ".json"); }

absl::StatusOr<ModelConfig> ReadConfig(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("expected --model MODEL (a config.json, a directory, or a GGUF file)");
  if (!IsConfig(path)) {
    ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(path, {}));
    return opened.weights->config();
  }
  ASSIGN_OR_RETURN(const std::string text, DefaultFileSystem().ReadFile(path, uint64_t{16} << 20));
  ASSIGN_OR_RETURN(const json::Json parsed, Annotate(json::Parse(text), path));
  return ModelConfig::FromHuggingFace(parsed, path);
}

absl::StatusOr<LoadedModel> BenchModel(const std::string& path, const ModelConfig& config, const LoadOptions& options, ThreadPool& threads) {
  if (!IsConfig(path)) return LoadModel(path, options, threads);
  // Shapes alone are enough here: no tokenizer.
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.model, Model::Create(config, options.dtype, options.device));
  Stream stream(threads, options.device);
  FillWeights(*loaded.model, stream);
  loaded.source = path;
  return loaded;
}

absl::StatusOr<EngineOptions::Ahead> ParseAhead(const std::string& name) {
  if (name == "auto") return EngineOptions::Ahead::kOnCuda;
  if (name == "always") return EngineOptions::Ahead::kAlways;
  if (name == "never") return EngineOptions::Ahead::kNever;
  return absl::InvalidArgumentError("--ahead " + name + ": expected auto, always or never");
}

// The options that describe the work, but for --batch.
absl::StatusOr<BenchShape> ParseShape(const Arguments& arguments, bool on_cuda) {
  BenchShape shape;
  ASSIGN_OR_RETURN(shape.length, arguments.GetInt("length", 2, 1 << 20));
  ASSIGN_OR_RETURN(shape.group, arguments.GetInt("group", 1, 1 << 20));
  ASSIGN_OR_RETURN(shape.prompt, arguments.GetInt("prompt", 1, 1 << 20));
  ASSIGN_OR_RETURN(shape.new_tokens, arguments.GetInt("new-tokens", 1, 1 << 20));
  ASSIGN_OR_RETURN(shape.batch_tokens, arguments.GetInt("batch-tokens", 0, 1 << 24));
  if (shape.batch_tokens == 0) shape.batch_tokens = on_cuda ? 16384 : 2048;
  shape.recompute = arguments.Has("recompute");
  shape.optimizer = !arguments.Has("no-optimizer");
  const std::string gradients = arguments.Get("gradients");
  if (gradients != "float32" && gradients != "bfloat16") {
    return absl::InvalidArgumentError("--gradients " + gradients + ": expected float32 or bfloat16");
  }
  shape.gradients = gradients == "bfloat16" ? DType::kBF16 : DType::kF32;
  if (shape.gradients == DType::kBF16 && !on_cuda) return absl::InvalidArgumentError("--gradients bfloat16: expected a GPU");
  ASSIGN_OR_RETURN(shape.ahead, ParseAhead(arguments.Get("ahead")));
  return shape;
}

absl::StatusOr<std::vector<int64_t>> ParseBatches(const Arguments& arguments, int64_t group) {
  std::vector<int64_t> batches;
  for (const absl::string_view part : absl::StrSplit(arguments.Get("batch"), ',')) {
    int64_t batch = 0;
    if (!absl::SimpleAtoi(part, &batch) || batch < 1 || batch > (1 << 20)) {
      return absl::InvalidArgumentError(absl::StrCat("--batch ", arguments.Get("batch"), ": expected numbers from 1 to ", 1 << 20, ", separated by commas"));
    }
    if (batch % group != 0) return absl::InvalidArgumentError(absl::StrCat("--batch ", batch, ": expected a multiple of --group ", group));
    batches.push_back(batch);
  }
  return batches;
}

absl::Status CheckContext(const std::string& what, const BenchShape& shape, int64_t context) {
  if (what == "train") {
    if (shape.length > context) return absl::InvalidArgumentError(absl::StrCat("--length: ", shape.length, ", expected 2..", context));
  } else if (shape.prompt + shape.new_tokens > context) {
    return absl::InvalidArgumentError(
        absl::StrCat("--prompt and --new-tokens: ", shape.prompt + shape.new_tokens, " tokens, the model's context is ", context));
  }
  return absl::OkStatus();
}

// Bytes of a GPU that the check and the ceilings take, before the model is there.
constexpr size_t kBeforeTheModel = size_t{3} << 30;

absl::Status BenchModels(const Arguments& arguments, const std::string& what, ThreadPool& threads) {
  LoadOptions options;
  ASSIGN_OR_RETURN(options.device, Annotate(FindDevice(arguments.Get("device")), "--device"));
  const bool on_cuda = options.device.is_cuda();
  if (on_cuda) options.dtype = DType::kBF16;
  ASSIGN_OR_RETURN(BenchShape shape, ParseShape(arguments, on_cuda));
  ASSIGN_OR_RETURN(const std::vector<int64_t> batches, ParseBatches(arguments, shape.group));
  ASSIGN_OR_RETURN(const int64_t tokens, arguments.GetInt("tokens", 1, int64_t{1} << 40));
  const std::string path = arguments.Get("model");
  ASSIGN_OR_RETURN(const ModelConfig config, ReadConfig(path));
  const bool exactness = what == "exactness";
  kernels::Ceilings ceilings;
  if (!exactness) {  // while the device is empty
    RETURN_IF_ERROR(CheckContext(what, shape, config.max_position_embeddings));
    if (on_cuda && cuda::Memory(options.device.index).free < kBeforeTheModel) {
      return absl::ResourceExhaustedError(absl::StrFormat("%s has %.2f GB free, the check and the ceilings need %.2f GB: nvidia-smi shows who has the rest",
                                                          Name(options.device), static_cast<double>(cuda::Memory(options.device.index).free) / 1e9,
                                                          static_cast<double>(kBeforeTheModel) / 1e9));
    }
    Stream stream(threads, options.device);
    RETURN_IF_ERROR(CheckAgainstCpu(config, options.dtype, options.device, threads, {shape.gradients, shape.recompute, shape.ahead}));
    ceilings = kernels::MeasureCeilings(stream, options.dtype);
    std::printf("ceilings of %s: copy %.4g GB/s, product of %ld x %ld x %ld in %s %.4g TFLOP/s\n", Name(options.device).c_str(), ceilings.copy / 1e9,
                static_cast<long>(ceilings.product_size), static_cast<long>(ceilings.product_size), static_cast<long>(ceilings.product_size),
                Name(options.dtype), ceilings.product / 1e12);
  }
  ASSIGN_OR_RETURN(LoadedModel loaded, BenchModel(path, config, options, threads));
  if (exactness) return BenchExactness(loaded, threads, {tokens, shape.length, shape.batch_tokens});
  for (int64_t batch : batches) {
    shape.batch = batch;
    RETURN_IF_ERROR(what == "step"    ? BenchStep(loaded, threads, shape, ceilings)
                    : what == "train" ? BenchTrain(loaded, threads, shape, ceilings)
                                      : BenchRollout(loaded, threads, shape, ceilings));
  }
  return absl::OkStatus();
}

absl::Status Run(const Arguments& arguments) {
  const std::string what = arguments.positional(0);
  if (!absl::c_linear_search(kBenchmarks, what)) {
    return absl::InvalidArgumentError(absl::StrCat("bench ", what, ": expected one of ", absl::StrJoin(kBenchmarks, ", ")));
  }
  RETURN_IF_ERROR(CheckOptions(arguments, what));
  ASSIGN_OR_RETURN(const int64_t num_threads, arguments.GetInt("threads", 0, 4096));
  if (what == "kernels") {
    kernels::BenchOptions options;
    options.threads = static_cast<int>(num_threads);
    options.filter = arguments.Get("filter");
    return kernels::BenchKernels(options);
  }
  ThreadPool threads(static_cast<int>(num_threads));
  return BenchModels(arguments, what, threads);
}

}  // namespace

const Command kBench = {
    "bench",
    "NAME",
    "measure: kernels, train, rollout, step, exactness",
    "Each benchmark checks its result first: train, rollout and step the model's layers, cut down, against the CPU. scripts/bench_reference.py runs the "
    "same models in PyTorch and prints the ratio.",
    CommandOptions(),
    Run,
};

}  // namespace grouper::cli
