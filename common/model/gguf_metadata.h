// The keys of a GGUF file that say what a model is, as llama.cpp's converter writes them; gguf_model.h reads them back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/checkpoint/gguf_writer.h"
#include "common/model/config.h"
#include "common/text/tokenizer.h"

namespace grouper {

// llama.cpp's name for an architecture of ours; Unimplemented for others.
absl::StatusOr<std::string> GgufArchitecture(const ModelConfig& config);

// general.* and ARCHITECTURE.*. Unimplemented, naming the field, for what llama.cpp has no key for or computes otherwise.
absl::Status AddGgufMetadata(GgufWriter& out, const std::string& architecture, const ModelConfig& config, uint32_t file_type);

// tokenizer.*
void AddGgufVocab(GgufWriter& out, const GgufVocab& vocab, const std::vector<int32_t>& stop_token_ids);

// Llama 3's scaling as a divisor for each rotary pair (rope_freqs.weight).
std::vector<float> Llama3Divisors(const ModelConfig& config);

}  // namespace grouper
