#include "common/text/utf8.h"

#include <cstring>

namespace grouper::text {
namespace {

// Table 3-7 of the Unicode standard: how many continuation bytes follow a lead byte, and the range of the first of them.
struct Lead {
  int continuations = -1;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
};

Lead LeadOf(unsigned char byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {2, 0x80, 0xBF};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {3, 0x80, 0xBF};
  if (byte == 0xF4) return {3, 0x80, 0x8F};
  return {};
}

}  // namespace

bool IsOneCodePoint(absl::string_view text) {
  if (text.empty()) return false;
  int length;
  CodePointAt(text, 0, &length);
  return static_cast<size_t>(length) == text.size();
}

void AppendCodePoint(uint32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    out->push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

size_t ValidPrefix(absl::string_view text) {
  const char* p = text.data();
  const size_t size = text.size();
  size_t i = 0;
  while (i < size) {
    if (i + 8 <= size) {
      uint64_t word;
      std::memcpy(&word, p + i, 8);
      if ((word & 0x8080808080808080ull) == 0) {
        i += 8;
        continue;
      }
    }
    const unsigned char byte = static_cast<unsigned char>(p[i]);
    if (byte < 0x80) {
      ++i;
      continue;
    }
    const Lead lead = LeadOf(byte);
    if (lead.continuations < 0 || size - i <= static_cast<size_t>(lead.continuations)) return i;
    const unsigned char second = static_cast<unsigned char>(p[i + 1]);
    if (second < lead.low || second > lead.high) return i;
    for (int k = 2; k <= lead.continuations; ++k) {
      if ((static_cast<unsigned char>(p[i + k]) & 0xC0) != 0x80) return i;
    }
    i += 1 + lead.continuations;
  }
  return size;
}

IllFormedPart IllFormedAt(absl::string_view text, size_t pos) {
  IllFormedPart part;
  const Lead lead = LeadOf(static_cast<unsigned char>(text[pos]));
  if (lead.continuations < 0) return part;
  for (int k = 1; k <= lead.continuations; ++k) {
    if (pos + k == text.size()) {
      part.incomplete = true;
      return part;
    }
    const unsigned char byte = static_cast<unsigned char>(text[pos + k]);
    const unsigned char low = k == 1 ? lead.low : 0x80;
    const unsigned char high = k == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return part;
    part.length = k + 1;
  }
  return part;
}

size_t AppendLossy(absl::string_view text, bool keep_incomplete, std::string* out) {
  size_t pos = 0;
  while (pos < text.size()) {
    const size_t valid = ValidPrefix(text.substr(pos));
    out->append(text.data() + pos, valid);
    pos += valid;
    if (pos == text.size()) break;
    const IllFormedPart part = IllFormedAt(text, pos);
    if (part.incomplete && keep_incomplete) break;
    out->append(kReplacement);
    pos += part.length;
  }
  return pos;
}

}  // namespace grouper::text
