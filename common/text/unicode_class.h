// Which classes a code point is in, as Hugging Face `tokenizers` sees them: its regex engine's \p{L}, \p{M}, \p{N}, \p{P}, \p{S} and \s,
// and the sets of its Digits, Punctuation, Whitespace and StripAccents, and what its (older) normalization tables know. The table is committed (unicode_ranges.inc), so that ids do not
// depend on the system's Unicode version.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "common/text/utf8.h"

namespace grouper::text {

enum CharClass : uint16_t {
  kLetter = 1,
  kMark = 2,
  kNumber = 4,
  kPunctuation = 8,
  kSymbol = 16,
  kSpace = 32,
  kSplitPunctuation = 64,  // Punctuation
  kSplitNumber = 128,      // Digits
  kCombining = 256,        // StripAccents
  kWord = 512,             // \w of Whitespace and of single_word
  kUpperLike = 2048,       // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
  kLowerLike = 4096,       // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
  kHan = 8192,
  kNormalizing = 1024,     // known to the normalizers NFC, NFD, NFKC and NFKD; every other character passes them unchanged
};

// 0x110000 masks, one a code point.
const uint16_t* CharClassTable();

inline uint16_t ClassOf(uint32_t code_point) {
  static const uint16_t* const table = CharClassTable();
  return table[code_point];
}

}  // namespace grouper::text
