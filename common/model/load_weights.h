// Weights from stored tensors (safetensors, GGUF) into a Model: names matched, shapes checked, dequantised, converted;
// threads share the work.
//
// Every missing, unknown and mis-shaped tensor, and every storage type that cannot be read, is named in one
// InvalidArgument. A value that is not finite is an error naming the tensor.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/checkpoint/stored_tensor.h"
#include "common/model/model.h"

namespace grouper {

// One stored tensor under the name that the model has for it.
struct NamedTensor {
  std::string name;  // Hugging Face name
  const StoredTensor* stored = nullptr;
  int64_t rotated_heads =
      0;  // > 0: rows of this many heads lie in interleaved pairs and go to half-split ones (llama.cpp's q and k)
  const StoredTensor* scale = nullptr;  // FP8: one float for each block; value = fp8 * scale
  std::shared_ptr<const void> owner = nullptr;  // keeps `stored` alive when it is not a file's own
};

struct Fp8Blocks {
  int64_t rows = 128, columns = 128;
};

// `source` names the file in errors. WeightsChanged is left to the caller.
absl::Status LoadWeights(const std::vector<NamedTensor>& tensors, const std::string& source, Fp8Blocks blocks,
                         Model& model, ThreadPool& threads);

// The tensors of a Hugging Face checkpoint that concern `config`: rotary buffers, multi-token prediction layers (with a
// notice) and a tied head's copy are left aside; FP8 weights find their scales.
std::vector<NamedTensor> HuggingFaceTensors(const ModelConfig& config, absl::Span<const StoredTensor> tensors,
                                            const std::string& source);

}  // namespace grouper
