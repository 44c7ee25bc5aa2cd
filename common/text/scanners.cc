#include "common/text/scanners.h"

#include "absl/strings/str_replace.h"
#include "common/text/unicode_class.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

// One character: its classes and where the next one begins.
struct Char {
  uint32_t code_point = 0;
  uint16_t mask = 0;
  size_t next = 0;
};

Char CharAt(absl::string_view text, size_t pos) {
  int length;
  const uint32_t c = CodePointAt(text, pos, &length);
  return {c, ClassOf(c), pos + length};
}

bool IsNewline(uint32_t c) { return c == '\r' || c == '\n'; }

// The end of the run of characters for which `in(mask)`, from `pos`.
template <typename In>
size_t RunEnd(absl::string_view text, size_t pos, In in) {
  while (pos < text.size()) {
    const Char c = CharAt(text, pos);
    if (!in(c.mask)) break;
    pos = c.next;
  }
  return pos;
}

size_t NewlinesEnd(absl::string_view text, size_t pos) {
  while (pos < text.size() && IsNewline(static_cast<unsigned char>(text[pos]))) ++pos;
  return pos;
}

// \s*[\r\n]+|\s+(?!\S)|\s+  (the first alternative only `with_newlines`) at a whitespace character.
size_t WhitespaceEnd(absl::string_view text, size_t pos, bool with_newlines) {
  size_t end = pos;
  size_t last_begin = pos;       // of the run's last character
  size_t after_newline = pos;    // past the run's last newline
  while (end < text.size()) {
    const Char c = CharAt(text, end);
    if ((c.mask & kSpace) == 0) break;
    last_begin = end;
    end = c.next;
    if (IsNewline(c.code_point)) after_newline = end;
  }
  if (with_newlines && after_newline > pos) return after_newline;
  if (end == text.size() || last_begin == pos) return end;
  return last_begin;  // the last one goes with the word that follows
}

// 's 't 're 've 'm 'll 'd at `pos`; the length, or 0. Without case, U+017F (long s) is an s.
template <bool kAnyCase>
size_t ContractionLength(absl::string_view text, size_t pos) {
  if (text[pos] != '\'' || pos + 1 >= text.size()) return 0;
  auto lower = [&](size_t i) -> char {
    if (i >= text.size()) return 0;
    const char c = text[i];
    return kAnyCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = lower(pos + 1);
  const char second = lower(pos + 2);
  switch (first) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return second == 'e' ? 3 : 0;
    case 'l':
      return second == 'l' ? 3 : 0;
    case '\xC5':
      return kAnyCase && second == '\xBF' ? 3 : 0;
    default:
      return 0;
  }
}

size_t Gpt2MatchEnd(absl::string_view text, size_t pos) {
  if (const size_t length = ContractionLength<false>(text, pos)) return pos + length;
  Char c = CharAt(text, pos);
  size_t run = c.next;
  if (c.code_point == ' ' && run < text.size()) {  // ` ?` before a run
    const Char next = CharAt(text, run);
    if ((next.mask & kSpace) == 0) {
      c = next;
      run = next.next;
    }
  }
  if (c.mask & kSpace) return WhitespaceEnd(text, pos, false);
  if (c.mask & kLetter) return RunEnd(text, run, [](uint16_t mask) { return (mask & kLetter) != 0; });
  if (c.mask & kNumber) return RunEnd(text, run, [](uint16_t mask) { return (mask & kNumber) != 0; });
  return RunEnd(text, run, [](uint16_t mask) { return (mask & (kSpace | kLetter | kNumber)) == 0; });
}

// The family of Llama 3 and Qwen2: words of `kWordMask` with one leading character that is no letter, number or newline.
template <uint16_t kWordMask, int kMaxDigits>
size_t Llama3MatchEnd(absl::string_view text, size_t pos) {
  if (const size_t length = ContractionLength<true>(text, pos)) return pos + length;
  const Char c = CharAt(text, pos);
  const auto in_word = [](uint16_t mask) { return (mask & kWordMask) != 0; };
  const bool has_next = c.next < text.size();
  const Char next = has_next ? CharAt(text, c.next) : Char();
  const bool may_lead = !IsNewline(c.code_point) && (c.mask & (kLetter | kNumber)) == 0;
  if (may_lead && in_word(next.mask)) return RunEnd(text, next.next, in_word);
  if (in_word(c.mask)) return RunEnd(text, c.next, in_word);
  if (c.mask & kNumber) {
    size_t end = c.next;
    for (int digits = 1; digits < kMaxDigits && end < text.size(); ++digits) {
      const Char digit = CharAt(text, end);
      if ((digit.mask & kNumber) == 0) break;
      end = digit.next;
    }
    return end;
  }
  const auto is_other = [](uint16_t mask) { return (mask & (kSpace | kNumber | kWordMask)) == 0; };
  if (is_other(c.mask)) return NewlinesEnd(text, RunEnd(text, c.next, is_other));
  if (c.code_point == ' ' && has_next && is_other(next.mask)) return NewlinesEnd(text, RunEnd(text, next.next, is_other));
  return WhitespaceEnd(text, pos, true);
}

// The ends of UPPER*LOWER+ and of UPPER+LOWER* at `pos`, `pos` where there is no match. Letters without case and marks are both. In UPPER*LOWER+
// the run of upper ones gives back as little as it must: up to the last that is a lower one too.
struct CasedWord {
  size_t mixed_end;
  size_t upper_end;
};
template <bool kWithoutHan>
CasedWord FindCasedWord(absl::string_view text, size_t pos) {
  const auto is_upper = [](uint16_t mask) { return (mask & kUpperLike) != 0 && !(kWithoutHan && (mask & kHan) != 0); };
  const auto is_lower = [](uint16_t mask) { return (mask & kLowerLike) != 0 && !(kWithoutHan && (mask & kHan) != 0); };
  size_t uppers_end = pos, after_last_both = pos;
  while (uppers_end < text.size()) {
    const Char c = CharAt(text, uppers_end);
    if (!is_upper(c.mask)) break;
    uppers_end = c.next;
    if (is_lower(c.mask)) after_last_both = uppers_end;
  }
  const size_t lowers_end = RunEnd(text, uppers_end, is_lower);
  return {lowers_end > uppers_end ? lowers_end : after_last_both, uppers_end > pos ? lowers_end : pos};
}

// The family of GPT-4o and Llama 4; with kKimi that of Kimi and Moonlight, whose words have no Han characters and which cut those out before.
template <bool kKimi>
size_t O200kMatchEnd(absl::string_view text, size_t pos) {
  const Char c = CharAt(text, pos);
  if (kKimi && (c.mask & kHan) != 0) return RunEnd(text, c.next, [](uint16_t mask) { return (mask & kHan) != 0; });
  const bool has_next = c.next < text.size();
  const Char next = has_next ? CharAt(text, c.next) : Char();
  const auto in_word = [](uint16_t mask) { return (mask & (kUpperLike | kLowerLike)) != 0 && !(kKimi && (mask & kHan) != 0); };
  const bool may_lead = !IsNewline(c.code_point) && (c.mask & (kLetter | kNumber)) == 0;
  size_t word_end = pos;
  if (may_lead && has_next && in_word(next.mask)) {
    const CasedWord word = FindCasedWord<kKimi>(text, c.next);
    if (word.mixed_end > c.next) {
      word_end = word.mixed_end;
    } else if (in_word(c.mask)) {  // a mark: UPPER*LOWER+ without a leading character comes before UPPER+LOWER* with one
      word_end = FindCasedWord<kKimi>(text, pos).mixed_end;
    } else {
      word_end = word.upper_end;
    }
  } else if (in_word(c.mask)) {
    const CasedWord word = FindCasedWord<kKimi>(text, pos);
    word_end = word.mixed_end > pos ? word.mixed_end : word.upper_end;
  }
  if (word_end > pos) return word_end + (word_end < text.size() ? ContractionLength<true>(text, word_end) : 0);
  if (c.mask & kNumber) {
    size_t end = c.next;
    for (int digits = 1; digits < 3 && end < text.size(); ++digits) {
      const Char digit = CharAt(text, end);
      if ((digit.mask & kNumber) == 0) break;
      end = digit.next;
    }
    return end;
  }
  const auto is_other = [](uint16_t mask) { return (mask & (kSpace | kLetter | kNumber)) == 0; };
  const auto trailing_end = [&](size_t end) {
    while (end < text.size() && (IsNewline(static_cast<unsigned char>(text[end])) || (!kKimi && text[end] == '/'))) ++end;
    return end;
  };
  if (is_other(c.mask)) return trailing_end(RunEnd(text, c.next, is_other));
  if (c.code_point == ' ' && has_next && is_other(next.mask)) return trailing_end(RunEnd(text, next.next, is_other));
  return WhitespaceEnd(text, pos, true);
}

// The third Split of DeepSeek-V3. `pos` itself: no match begins here.
size_t DeepSeek3MatchEnd(absl::string_view text, size_t pos) {
  const auto in_word = [](uint16_t mask) { return (mask & (kLetter | kMark)) != 0; };
  const auto is_sign = [](uint16_t mask) { return (mask & (kPunctuation | kSymbol)) != 0; };
  const auto is_ascii_letter = [](uint32_t c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
  const Char c = CharAt(text, pos);
  const bool has_next = c.next < text.size();
  const Char next = has_next ? CharAt(text, c.next) : Char();
  if (c.code_point < 0x80 && is_sign(c.mask) && is_ascii_letter(next.code_point)) {
    size_t end = next.next;
    while (end < text.size() && is_ascii_letter(static_cast<unsigned char>(text[end]))) ++end;
    return end;
  }
  const bool may_lead = !IsNewline(c.code_point) && (c.mask & (kLetter | kPunctuation | kSymbol)) == 0;
  if (may_lead && in_word(next.mask)) return RunEnd(text, next.next, in_word);
  if (in_word(c.mask)) return RunEnd(text, c.next, in_word);
  if (is_sign(c.mask)) return NewlinesEnd(text, RunEnd(text, c.next, is_sign));
  if (c.code_point == ' ' && has_next && is_sign(next.mask)) return NewlinesEnd(text, RunEnd(text, next.next, is_sign));
  if (c.mask & kSpace) return WhitespaceEnd(text, pos, true);
  return pos;
}

template <size_t (*kMatchEnd)(absl::string_view, size_t)>
void Scan(absl::string_view text, std::vector<Match>* matches) {
  size_t pos = 0;
  while (pos < text.size()) {
    const size_t end = kMatchEnd(text, pos);
    if (end == pos) {
      pos = CharAt(text, pos).next;
      continue;
    }
    matches->push_back({pos, end});
    pos = end;
  }
}

template <int kMaxDigits>
size_t NumbersEnd(absl::string_view text, size_t pos) {
  for (int digits = 0; digits < kMaxDigits && pos < text.size(); ++digits) {
    const Char c = CharAt(text, pos);
    if ((c.mask & kNumber) == 0) break;
    pos = c.next;
  }
  return pos;
}

size_t CjkEnd(absl::string_view text, size_t pos) {
  while (pos < text.size()) {
    const Char c = CharAt(text, pos);
    const uint32_t v = c.code_point;
    if (!((v >= 0x4E00 && v <= 0x9FA5) || (v >= 0x3040 && v <= 0x30FF))) break;
    pos = c.next;
  }
  return pos;
}

size_t AnyButNewlineEnd(absl::string_view text, size_t pos) {
  return text[pos] == '\n' ? pos : CharAt(text, pos).next;
}

}  // namespace

Scanner FindScanner(absl::string_view regex) {
  const std::string canonical = absl::StrReplaceAll(regex, {{"\r", "\\r"}, {"\n", "\\n"}});
  if (canonical == kGpt2Regex) return Scan<Gpt2MatchEnd>;
  if (canonical == kLlama3Regex) return Scan<Llama3MatchEnd<kLetter, 3>>;
  if (canonical == kQwen2Regex) return Scan<Llama3MatchEnd<kLetter, 1>>;
  if (canonical == kQwen35Regex) return Scan<Llama3MatchEnd<kLetter | kMark, 1>>;
  if (canonical == kO200kRegex) return Scan<O200kMatchEnd<false>>;
  if (canonical == kKimiRegex) return Scan<O200kMatchEnd<true>>;
  if (canonical == kDeepSeek3Regex) return Scan<DeepSeek3MatchEnd>;
  if (canonical == kDeepSeek3Cjk) return Scan<CjkEnd>;
  if (canonical == R"(\p{N}{1,3})") return Scan<NumbersEnd<3>>;
  if (canonical == R"(\p{N})") return Scan<NumbersEnd<1>>;
  if (canonical == ".") return Scan<AnyButNewlineEnd>;
  return nullptr;
}

}  // namespace grouper::text
