// What the names in GGUF's tokenizer.ggml.pre stand for, as parts of a tokenizer.json.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/base/json.h"

namespace grouper::text {

struct GgufPre {
  json::OrderedJson normalizer;  // null: none
  json::OrderedJson pre_tokenizer;
  bool ignore_merges = false;
};

// nullopt for a name that we do not know.
std::optional<GgufPre> FindGgufPre(const std::string& name);

// The name under which llama.cpp splits text as this tokenizer.json does; nullopt when there is none.
std::optional<std::string> GgufPreOf(const json::OrderedJson& tokenizer);

// Pieces of a tokenizer.json.
json::OrderedJson ByteLevel(bool use_regex);
json::OrderedJson Sequence(const char* key, std::vector<json::OrderedJson> items);

}  // namespace grouper::text
