// Weights from stored tensors into a Model, converted to its type; threads share the work.
#pragma once

#include <string>
#include <vector>

#include "common/model/stored_weights.h"

namespace grouper {

// WeightsChanged is left to the caller.
absl::Status LoadWeights(const StoredWeights& weights, Model& model, ThreadPool& threads);

// The same for tensors in memory.
absl::Status LoadWeights(const std::vector<NamedTensor>& tensors, const std::string& source, Fp8Blocks blocks,
                         Model& model, ThreadPool& threads);

}  // namespace grouper
