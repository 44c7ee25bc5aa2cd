// What `grouper bench train`, `rollout` and `step` will take of memory: refused before anything is taken when it is more than there is.
#pragma once

#include "absl/status/status.h"
#include "cli/bench_speed.h"
#include "common/model/model.h"

namespace grouper::cli {

enum class BenchKind { kTrain, kRollout, kStep };

// With the model there and nothing else. ResourceExhausted: how much of what, how much is free, and the options that change it.
absl::Status CheckBenchMemory(BenchKind kind, const Model& model, const BenchShape& shape);

}  // namespace grouper::cli
