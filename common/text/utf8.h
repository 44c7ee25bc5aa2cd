// UTF-8 code points (Unicode 15, section 3.9): decode, encode, repair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace grouper::text {

inline constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

// The code point at `text[pos]`, and its length in *length. REQUIRES: valid UTF-8 and pos < text.size().
inline uint32_t CodePointAt(absl::string_view text, size_t pos, int* length) {
  const unsigned char* p = reinterpret_cast<const unsigned char*>(text.data()) + pos;
  if (p[0] < 0x80) {
    *length = 1;
    return p[0];
  }
  if (p[0] < 0xE0) {
    *length = 2;
    return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
  }
  if (p[0] < 0xF0) {
    *length = 3;
    return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
  }
  *length = 4;
  return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

// The position of the code point before `pos`. REQUIRES: valid UTF-8 and 0 < pos <= text.size().
inline size_t PreviousPosition(absl::string_view text, size_t pos) {
  do {
    --pos;
  } while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

bool IsOneCodePoint(absl::string_view text);  // REQUIRES: valid UTF-8
void AppendCodePoint(uint32_t code_point, std::string* out);

// Length of the well-formed prefix of `text`.
size_t ValidPrefix(absl::string_view text);
inline bool IsValidUtf8(absl::string_view text) { return ValidPrefix(text) == text.size(); }

// What begins at the ill-formed position `pos` of `text`: the length of the maximal part that one U+FFFD replaces, and whether more bytes
// after the end of `text` could still make it well-formed.
struct IllFormedPart {
  size_t length = 1;
  bool incomplete = false;
};
IllFormedPart IllFormedAt(absl::string_view text, size_t pos);

// Appends `text` with each maximal ill-formed part replaced by U+FFFD. With `keep_incomplete`, an unfinished character at the end is
// left out. Returns how many bytes of `text` were used.
size_t AppendLossy(absl::string_view text, bool keep_incomplete, std::string* out);

}  // namespace grouper::text
