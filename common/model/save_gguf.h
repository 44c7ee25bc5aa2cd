// A model as one GGUF file for llama.cpp and its kin: weights, metadata, vocabulary, chat template.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/file.h"
#include "common/model/weight_rows.h"
#include "common/text/tokenizer.h"

namespace grouper {

// type: "F32", "F16", "BF16", "Q8_0", "Q4_0" or "Q4_K", for matrices; vectors, and routers, stay F32. Under Q4_0 and Q4_K the embedding and the head are
// Q8_0; a matrix whose rows do not hold whole blocks of the type is Q8_0 (32) or else F16.
//
// Families: those of gguf_model.h; Unimplemented naming the architecture for others, and naming the field for what GGUF cannot say. `path` must not exist.
// Its directory is made when it is not there. Written to `path` + kUnfinishedModel, synced, renamed; an error removes what was written.
absl::Status SaveGguf(FileSystem& fs, const WeightRows& weights, const Tokenizer& tokenizer, const std::vector<int32_t>& stop_token_ids, const std::string& path,
                      const std::string& type);

}  // namespace grouper
