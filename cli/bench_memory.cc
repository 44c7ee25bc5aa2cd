#include "cli/bench_memory.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/memory_plan.h"
#include "common/model/kv_pool.h"
#include "common/model/pass_memory.h"
#include "common/tensor/cuda.h"
#include "rollout/engine.h"
#include "trainer/optimizer.h"
#include "trainer/training_pass.h"

namespace grouper::cli {
namespace {

// Kernels as they are loaded, and what allocations are rounded up by.
constexpr int64_t kMargin = int64_t{256} << 20;

void AddTraining(BenchKind kind, const Model& model, const BenchShape& shape, int64_t length, MemoryUse& use) {
  const Device device = model.device();
  const bool narrow = shape.gradients == DType::kBF16;
  use.parts.push_back({narrow ? "gradients, bfloat16" : "gradients, float", static_cast<int64_t>(Gradients::Bytes(model, device, shape.gradients)),
                       narrow || !device.is_cuda() ? "" : "--gradients bfloat16"});
  if (shape.optimizer) {
    use.parts.push_back({model.dtype() == DType::kBF16 ? "AdamW: m, v, float weights" : "AdamW: m, v", static_cast<int64_t>(OptimizerState::Bytes(model, device)),
                         kind == BenchKind::kTrain ? "--no-optimizer" : ""});
  }
  const TrainingPass::Options options = {.micro_batch_tokens = shape.batch_tokens, .recompute = shape.recompute};
  const int64_t tokens = std::max(length, std::min(shape.batch_tokens / length, shape.batch) * length);
  const TrainingPass::Memory pass = TrainingPass::MemoryFor(model, device, options, true, tokens, std::max<int64_t>(1, tokens / length), length);
  use.parts.push_back({"a micro-batch",
                       static_cast<int64_t>(HeldBytes(pass.activations + pass.logits, device) + pass.keys_and_values + HeldBytes(pass.scratch, device)),
                       shape.recompute ? "a smaller --batch-tokens" : "a smaller --batch-tokens, --recompute"});
}

void AddEngine(const Model& model, const BenchShape& shape, MemoryUse& use) {
  const ModelConfig& config = model.config();
  const Device device = model.device();
  const auto page = static_cast<int64_t>(KvPool::BytesPerPage(config, model.dtype()));
  EngineOptions options;
  options.max_sequences = static_cast<int32_t>(shape.batch);
  options.max_batch_tokens = static_cast<int32_t>(shape.batch_tokens);
  PassSize size = Engine::LargestPass(config, options);
  // The engine's cache is as large as a third of what is free where that is enough for one context; the host takes what is written.
  const int64_t context = (config.max_position_embeddings + kernels::kPageTokens - 1) / kernels::kPageTokens + 1;
  int64_t cache = context * page;
  if (device.is_cuda()) {
    cache = std::clamp((use.limit - use.total()) / 3, cache, cache * shape.batch);
  } else {
    size.longest = shape.prompt + shape.new_tokens;
    cache = shape.batch * (size.longest / kernels::kPageTokens + 1) * page;
  }
  use.parts.push_back({"keys and values", cache, device.is_cuda() ? "" : "a smaller --batch"});
  const PassBytes pass = ForwardBytes(config, model.dtype(), device, size);
  use.parts.push_back({"a pass of the engine", static_cast<int64_t>(HeldBytes(pass.arena, device) + HeldBytes(pass.scratch, device)),
                       "a smaller --batch or --batch-tokens"});
}

}  // namespace

absl::Status CheckBenchMemory(BenchKind kind, const Model& model, const BenchShape& shape) {
  const MachineMemory machine = MeasureMachine(model);
  MemoryUse use;
  use.where = Name(model.device());
  use.limit = (model.device().is_cuda() ? machine.device_free : machine.host_limit - machine.host_resident) - kMargin;
  if (kind != BenchKind::kRollout) AddTraining(kind, model, shape, kind == BenchKind::kTrain ? shape.length : shape.prompt + shape.new_tokens, use);
  if (kind != BenchKind::kTrain) AddEngine(model, shape, use);
  if (use.total() <= use.limit) return absl::OkStatus();
  std::vector<std::string> parts;
  for (const MemoryUse::Part& part : use.parts) {
    if (part.bytes < use.total() / 100) continue;
    parts.push_back(absl::StrFormat("%s %.2f GB%s", part.what, static_cast<double>(part.bytes) / 1e9, part.field.empty() ? "" : " (" + part.field + ")"));
  }
  return absl::ResourceExhaustedError(absl::StrFormat("beside the model's weights the benchmark would take %.2f GB of %s, which has %.2f GB for it; mostly %s",
                                                      static_cast<double>(use.total()) / 1e9, use.where, static_cast<double>(std::max<int64_t>(0, use.limit)) / 1e9,
                                                      absl::StrJoin(parts, "; ")));
}

}  // namespace grouper::cli
