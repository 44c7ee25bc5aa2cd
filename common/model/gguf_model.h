// A GGUF file as llama.cpp writes it -> our config, names and vocabulary. Architectures: llama, qwen2, qwen3, qwen3moe, deepseek2 (with
// expert_gating_func sigmoid it is DeepSeek-V3, else V2). Names: gguf_names.h.
//
// llama.cpp stores Llama's q and k with the rotary pairs interleaved; StoredWeights puts them back
// (NamedTensor::rotated_heads).
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/checkpoint/gguf.h"
#include "common/model/config.h"
#include "common/model/stored_weights.h"

namespace grouper {

// Metadata that would change results and that we do not support is an error naming the key. Llama 3's scaling is recovered from its divisors:
// parameters with low_freq_factor 1 that give the same ones.
absl::StatusOr<ModelConfig> GgufConfig(const GgufFile& file);

// Tensors under Hugging Face names: experts one by one, k_b and v_b joined to kv_b_proj (float32, owned by the result). A name that we do not
// know stays as it is (StoredWeights then refuses it). The result lives no longer than `file`.
std::vector<NamedTensor> GgufTensors(const ModelConfig& config, const GgufFile& file);

}  // namespace grouper
