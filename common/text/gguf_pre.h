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

// The names that GgufPreOf may give, for messages: "gpt-2, smollm, ...".
std::string GgufPreNames();

// What SentencePiece's kind does with spaces: each becomes U+2581, and with `prefix` one stands before the text.
json::OrderedJson SentencePieceNormalizer(bool prefix);
// Which of the two this tokenizer.json has; nullopt: another, or a pre_tokenizer.
std::optional<bool> SentencePiecePrefixOf(const json::OrderedJson& tokenizer);

// Pieces of a tokenizer.json.
json::OrderedJson ByteLevel(bool use_regex);
json::OrderedJson Sequence(const char* key, std::vector<json::OrderedJson> items);

}  // namespace grouper::text
