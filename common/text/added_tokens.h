// tokenizer.json's "added_tokens": tokens that are cut out of the text before anything else happens to it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/json.h"
#include "common/text/normalizer.h"
#include "common/text/vocabulary.h"

namespace grouper::text {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space on its left
  bool rstrip = false;
  bool normalized = false;   // looked for in the normalized text, as its normalized form
  bool special = false;
};

// Finds strings in a text: at each place the longest one, then on after it.
class StringMatcher {
 public:
  void Add(absl::string_view text, int32_t value);
  bool empty() const { return ends_.size() == 1; }
  // The next match at or after `pos`; false when there is none.
  bool Next(absl::string_view text, size_t pos, size_t* begin, size_t* end, int32_t* value) const;

 private:
  std::array<bool, 256> first_{};
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node
  std::vector<int32_t> ends_ = {-1};                  // node -> value, or -1
};

// A stretch of text, or an added token.
struct AddedSegment {
  absl::string_view text;
  int32_t id = -1;  // -1: text
};

class AddedTokens {
 public:
  // Reads the array and gives the tokens that the model's vocabulary lacks the ids that Hugging Face gives them; an id in the file that
  // differs is an error.
  static absl::StatusOr<AddedTokens> FromJson(const json::Json& json, const std::string& path, const Vocabulary& model_vocabulary,
                                              const Normalizer& normalizer);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  const AddedToken* Find(int32_t id) const;
  const AddedToken* Find(absl::string_view content) const;
  // How the decoder sees the token: its normalized form when it is looked for in that form.
  const std::string& DecodeForm(const AddedToken& token) const { return forms_[&token - tokens_.data()]; }

  // Cuts `text` at the tokens that are (`normalized`) or are not looked for in normalized text. Without `parse_special`, special ones
  // stay text.
  void Cut(absl::string_view text, bool normalized, bool parse_special, std::vector<AddedSegment>* segments) const;

 private:
  std::vector<AddedToken> tokens_;
  std::vector<std::string> forms_;
  absl::flat_hash_map<int32_t, size_t> by_id_;
  absl::flat_hash_map<std::string, size_t> by_content_;
  StringMatcher raw_;         // values index tokens_
  StringMatcher normalized_;
};

}  // namespace grouper::text
