// Where a tokenizer's pattern matches in a text: a literal, a set of characters, a known pre-tokenizer regex, or any regex (PCRE2).
//
// Regexes have Oniguruma's meaning, as in Hugging Face `tokenizers`. The regexes of well-known tokenizers are recognised by their text and
// run as hand-written scanners (scanners.h), about ten times as fast; any other runs on PCRE2 with JIT, Unicode properties, and match and
// depth limits, so that a hostile pattern ends with an error instead of never.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grouper::text {

struct Match {
  size_t begin;
  size_t end;  // past the last byte
};

// Immutable, thread-safe.
class Pattern {
 public:
  virtual ~Pattern() = default;

  // Sets *matches to all matches, in order, not overlapping. REQUIRES: `text` is valid UTF-8. False: the limits ended the search and
  // the matches after the last one are missing.
  virtual bool FindAll(absl::string_view text, std::vector<Match>* matches) const = 0;

  static std::shared_ptr<const Pattern> Literal(std::string literal);               // empty: matches nowhere
  static std::shared_ptr<const Pattern> OneOf(uint16_t char_classes);               // each character in the classes by itself
  static std::shared_ptr<const Pattern> WordsAndPunctuation();                      // \w+|[^\w\s]+
  static std::shared_ptr<const Pattern> Gpt2();                                     // ByteLevel's own regex
  static absl::StatusOr<std::shared_ptr<const Pattern>> Regex(std::string regex);
  static absl::StatusOr<std::shared_ptr<const Pattern>> Pcre2(std::string regex);   // never a scanner
};

// `text` with every match replaced by `content`.
std::string ReplaceAll(const Pattern& pattern, absl::string_view text, absl::string_view content);

}  // namespace grouper::text
