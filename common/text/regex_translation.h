// Oniguruma's regular expressions (what a tokenizer.json's patterns mean in Hugging Face `tokenizers`) in PCRE2's words.
//
// What both engines read the same way passes unchanged. Rewritten: \s \S \w \W \d \D \b \B \v \uHHHH and POSIX brackets; \p{...} with the
// characters that Unicode got after the version in PCRE2 (unicode_newer.inc); classes inside classes, [a-z&&[^aeiou]], as lookaheads and
// alternatives of one character; {,n}; {n,m}+ and {n}? (a repeat of a repeat there, never possessive or lazy). What means something else in
// PCRE2 and cannot be said there is an error that names it: \K, \h, \X, \R, options other than i, (*VERB).
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grouper::text {

// For PCRE2 with UTF, UCP and MULTILINE. REQUIRES: `regex` is valid UTF-8. Whether the result is a regex at all is for pcre2_compile to say.
absl::StatusOr<std::string> TranslateRegex(absl::string_view regex);

}  // namespace grouper::text
