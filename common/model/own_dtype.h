// The type in which a model is written when nobody names one: its own, or the narrowest that loses nothing of it.
//
// The type of most of its weights decides (by their number; BF16, FP8, F16, or wider). When one of the others does not hold what that type
// can say, such as a router that was trained and stored in F32 beside BF16 matrices, all is written as float32. FP8 times the scale of its block is
// rounded to bfloat16, as DeepSeek's own conversion does: seven bits of fraction for FP8's three. ggml's quantised types become float32, which holds
// them exactly; bfloat16 changes what they say (SmolLM2's greedy text, docs/models.md).
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/model/stored_weights.h"

namespace grouper {

// For SaveHuggingFace: "bfloat16" from BF16 and FP8, "float32" from all else (bfloat16 has fewer digits than F16).
absl::StatusOr<std::string> OwnHuggingFaceDType(const StoredWeights& weights);

// For SaveGguf: "BF16" from BF16 and FP8, "F16" from F16, "F32" from all else. Matrices alone count: vectors, and routers, stay F32.
absl::StatusOr<std::string> OwnGgufType(const StoredWeights& weights);

}  // namespace grouper
