// What a Tokenizer is made of. Private to common/text.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/text/added_tokens.h"
#include "common/text/decoder.h"
#include "common/text/model.h"
#include "common/text/normalizer.h"
#include "common/text/post_processor.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/string_pool.h"
#include "common/text/tokenizer.h"
#include "common/text/tokenizer_config.h"
#include "common/text/vocabulary.h"

namespace grouper {

struct Tokenizer::Parts {
  text::Vocabulary vocabulary;  // the model's, without added tokens
  text::AddedTokens added;
  text::Normalizer normalizer;
  text::PreTokenizer pre_tokenizer;
  std::unique_ptr<const text::Model> model;
  text::PostProcessor post_processor;
  text::Decoder decoder;
  text::TokenizerConfig config;

  int32_t vocab_size = 0;
  text::StringPool token_bytes;          // by id
  std::vector<bool> special;             // by id
  std::vector<bool> skipped;             // by id: left out by Decode(skip_special)

  std::string json;  // tokenizer.json

  absl::string_view TokenOf(int32_t id) const;
  absl::string_view DecodeForm(int32_t id) const;
  bool Has(int32_t id) const;
};

namespace text {

// Reads and checks a tokenizer.json. `name` stands for the file in errors.
absl::StatusOr<std::unique_ptr<Tokenizer::Parts>> PartsFromJson(absl::string_view json_text, const std::string& name);

}  // namespace text
}  // namespace grouper
