// `grouper bench train`, `rollout` and `step`: a model's speed on random tokens.
//
// Each line has a time, tokens a second, and of what the work needs (bench_work.h) the operations or bytes a second, with their part of what this
// machine did with a large product or copy (kernels/ceilings.h). ResourceExhausted before any work: it does not fit (bench_memory.h).
//
// REQUIRES: sequences that fit the model's context, a batch that is a multiple of the group.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "common/base/thread_pool.h"
#include "common/model/model_directory.h"
#include "kernels/ceilings.h"
#include "rollout/engine.h"

namespace grouper::cli {

struct BenchShape {
  int64_t batch = 0, length = 0, group = 1, prompt = 0, new_tokens = 0, batch_tokens = 0;
  bool recompute = false, optimizer = true;
  DType gradients = DType::kF32;
  EngineOptions::Ahead ahead = EngineOptions::Ahead::kOnCuda;
};

// Optimizer steps on shape.batch sequences of shape.length tokens; without an optimizer forward and backward alone. Checked first: gradients'
// norm does not depend on the cut into micro-batches.
absl::Status BenchTrain(LoadedModel& loaded, ThreadPool& threads, const BenchShape& shape, const kernels::Ceilings& ceilings);
// shape.batch completions, shape.group of a prompt. Checked: every round samples the same tokens.
absl::Status BenchRollout(LoadedModel& loaded, ThreadPool& threads, const BenchShape& shape, const kernels::Ceilings& ceilings);
// A GRPO step: samples as above, then one update on them with random advantages; rewards, data and services are left out. Checked: the
// trainer's log-probabilities are the sampler's.
absl::Status BenchStep(LoadedModel& loaded, ThreadPool& threads, const BenchShape& shape, const kernels::Ceilings& ceilings);

}  // namespace grouper::cli
