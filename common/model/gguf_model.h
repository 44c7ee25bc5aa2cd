// A GGUF file as llama.cpp writes it -> our config, names and vocabulary. Architectures: llama, qwen2, qwen3.
//
// llama.cpp stores Llama's q and k with the rotary pairs interleaved; LoadWeights puts them back
// (NamedTensor::rotated_heads).
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/checkpoint/gguf.h"
#include "common/model/config.h"
#include "common/model/load_weights.h"

namespace grouper {

// Metadata that would change results and that we do not support is an error naming the key.
absl::StatusOr<ModelConfig> GgufConfig(const GgufFile& file);

// Tensors under Hugging Face names; a name that we do not know stays as it is (LoadWeights then refuses it).
std::vector<NamedTensor> GgufTensors(const ModelConfig& config, const GgufFile& file);

}  // namespace grouper
