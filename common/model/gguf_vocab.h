// The vocabulary that a GGUF file carries.
#pragma once

#include "absl/status/statusor.h"
#include "common/checkpoint/gguf.h"
#include "common/text/tokenizer.h"

namespace grouper {

// The tokenizer.ggml.* keys and the chat template. A key of another type, or ids beyond the vocabulary's size, are
// errors naming the key.
absl::StatusOr<GgufVocab> ReadGgufVocab(const GgufFile& file);

}  // namespace grouper
