// Scans of long texts for bytes of a kind. A completion may be a megabyte of anything, and every place where an answer
// may stand is a pass over it: where nothing is found a pass goes 64 bytes at a time, by comparisons without branches
// that compilers make vectors of.

#pragma once

#include <algorithm>
#include <cstddef>

#include "absl/strings/string_view.h"

namespace grouper {
namespace bytes_internal {

inline constexpr size_t kBlock = 64, kNear = 16;

template <typename Is>
bool AnyInBlock(const char* block, Is is) {
  unsigned char any = 0;
  for (size_t i = 0; i < kBlock; ++i) any |= static_cast<unsigned char>(is(block[i]));
  return any != 0;
}

}  // namespace bytes_internal

// The first place at or after `from` of a byte for which `is` (char -> bool, without branches: `|`, not `||`) is true,
// or npos. Near by it is looked for byte by byte: hits may be as dense as bytes.
template <typename Is>
size_t FindByte(absl::string_view text, size_t from, Is is) {
  using namespace bytes_internal;
  size_t i = from;
  for (; i < text.size() && i < from + kNear; ++i) {
    if (is(text[i])) return i;
  }
  while (i + kBlock <= text.size() && !AnyInBlock(text.data() + i, is)) i += kBlock;
  for (; i < text.size(); ++i) {
    if (is(text[i])) return i;
  }
  return absl::string_view::npos;
}

// The last such place before `end` (at most text.size()), or npos.
template <typename Is>
size_t FindByteBefore(absl::string_view text, size_t end, Is is) {
  using namespace bytes_internal;
  size_t i = end;
  for (; i > 0 && i + kNear > end; --i) {
    if (is(text[i - 1])) return i - 1;
  }
  while (i >= kBlock && !AnyInBlock(text.data() + i - kBlock, is)) i -= kBlock;
  for (; i > 0; --i) {
    if (is(text[i - 1])) return i - 1;
  }
  return absl::string_view::npos;
}

// The last place of `word` (two bytes or more) in the text, or npos. absl's own rfind goes byte by byte.
inline size_t FindLast(absl::string_view text, absl::string_view word) {
  using namespace bytes_internal;
  if (text.size() < word.size()) return absl::string_view::npos;
  const char first = word[0], second = word[1];
  size_t i = text.size() - word.size() + 1;  // where it may begin: before i
  while (i > 0) {
    if (i >= kBlock && !AnyInBlock(text.data() + i - kBlock, [first](char c) { return c == first; })) {
      i -= kBlock;
      continue;
    }
    for (const size_t stop = i - std::min(i, kBlock); i > stop; --i) {
      if (text[i - 1] == first && text[i] == second && text.substr(i - 1, word.size()) == word) return i - 1;
    }
  }
  return absl::string_view::npos;
}

}  // namespace grouper
