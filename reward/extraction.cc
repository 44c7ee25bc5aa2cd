#include "reward/extraction.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "reward/bytes.h"

namespace grouper {
namespace {

using absl::string_view;

struct PlaceName {
  Place place;
  const char* name;
};
constexpr PlaceName kPlaceNames[] = {
    {Place::kAnswerTag, "answer_tag"}, {Place::kBoxed, "boxed"},        {Place::kHash, "hash"},
    {Place::kAnswerIs, "answer_is"},   {Place::kLastMath, "last_math"}, {Place::kLastNumber, "last_number"},
    {Place::kWhole, "whole"},
};

Extracted Found(Place place, string_view text) { return {true, place, absl::StripAsciiWhitespace(text)}; }

string_view FirstLine(string_view text) { return text.substr(0, std::min(text.find('\n'), text.find('\r'))); }

Extracted AnswerTag(string_view text) {
  constexpr string_view kOpen = "<answer>", kClose = "</answer>";
  const size_t close = FindLast(text, kClose);
  if (close == string_view::npos) return {};
  const size_t open = FindLast(text.substr(0, close), kOpen);
  if (open == string_view::npos) return {};
  const size_t begin = open + kOpen.size();
  return Found(Place::kAnswerTag, text.substr(begin, close - begin));
}

// A box that never closes is no answer, and an earlier one is not what the completion ends with.
Extracted LastBox(string_view text) {
  const std::vector<size_t> boxes = FindBoxes(text, 1);
  if (boxes.empty()) return {};
  const Box box = BoxAt(text, boxes.back());
  if (!box.found) return {};
  return Found(Place::kBoxed, box.content);
}

Extracted Hash(string_view text) {
  const size_t at = FindLast(text, "####");
  if (at == string_view::npos) return {};
  const string_view line = absl::StripAsciiWhitespace(FirstLine(text.substr(at + 4)));
  if (line.empty()) return {};
  return Found(Place::kHash, line);
}

// Where a sentence ends: a full stop, '!' or '?' followed by white space or nothing, outside of $...$ and braces; or
// the line's end. A stop after "a.m" style abbreviations is rare enough to be left to the comparison.
string_view Sentence(string_view text) {
  int depth = 0;
  bool math = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\') {
      ++i;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}') {
      --depth;
    } else if (c == '$') {
      math = !math;
    } else if (c == '\n' && !math && depth <= 0) {
      return text.substr(0, i);
    } else if ((c == '.' || c == '!' || c == '?') && !math && depth <= 0) {
      const size_t next = i + 1;
      if (next == text.size() || absl::ascii_isspace(text[next]) || text[next] == '*') return text.substr(0, i);
    }
  }
  return text;
}

bool IsWordByte(char c) { return absl::ascii_isalnum(c) || c == '_' || static_cast<unsigned char>(c) >= 0x80; }

// Skips what stands between a marker and the answer: white space, Markdown emphasis, a colon.
string_view SkipDecoration(string_view text) {
  size_t i = 0;
  while (i < text.size() && (absl::ascii_isspace(text[i]) || text[i] == '*' || text[i] == ':' || text[i] == '_')) ++i;
  return text.substr(i);
}

constexpr string_view kAnswerInChinese = "\u7B54\u6848";

string_view ChineseSentence(string_view text) { return text.substr(0, text.find("\u3002")); }

// Bytes with which a marker may begin.
bool BeginsMarker(char c) {
  const char lower = static_cast<char>(c | 0x20);
  return (lower == 'a') | (lower == 'o') | (lower == 'c') | (c == kAnswerInChinese[0]);
}

// A look at two bytes more, before whole words are compared: "answer", "ans", "option", "choice", "A:".
bool GoesOnAsMarker(string_view text) {
  if (text.size() < 2) return false;
  if (text[1] == ':') return true;
  if (text.size() < 3) return false;
  const char second = absl::ascii_tolower(text[1]), third = absl::ascii_tolower(text[2]);
  return (second == 'n' && third == 's') || (second == 'p' && third == 't') || (second == 'h' && third == 'o');
}

Extracted AnswerIs(string_view text) {
  // The marker that ends last wins. Candidates begin with 'a' of "answer" or 'A' of "A:" at a line's start.
  for (size_t i = text.size(); (i = FindByteBefore(text, i, BeginsMarker)) != string_view::npos;) {
    const char c = text[i];
    string_view rest = text.substr(i);
    size_t length = 0;
    if (c == kAnswerInChinese[0] && absl::StartsWith(rest, kAnswerInChinese)) {
      for (const string_view verb : {"\u662F", "\u4E3A", "\uFF1A", ":"}) {  // is, is, colon
        if (absl::StartsWith(rest.substr(kAnswerInChinese.size()), verb))
          length = kAnswerInChinese.size() + verb.size();
      }
      if (length == 0) continue;
      const string_view answer =
          absl::StripAsciiWhitespace(ChineseSentence(Sentence(SkipDecoration(rest.substr(length)))));
      if (!answer.empty()) return Found(Place::kAnswerIs, answer);
      continue;
    }
    if (i > 0 && IsWordByte(text[i - 1])) continue;
    if (!GoesOnAsMarker(rest)) continue;
    const size_t noun = absl::StartsWithIgnoreCase(rest, "answer") || absl::StartsWithIgnoreCase(rest, "option") ||
                                absl::StartsWithIgnoreCase(rest, "choice")
                            ? 6
                            : 0;
    if (noun > 0) {
      string_view tail = rest.substr(noun);
      if (absl::StartsWithIgnoreCase(tail, "s")) tail.remove_prefix(1);
      while (!tail.empty() && (tail[0] == '*' || tail[0] == ' ' || tail[0] == '\t')) tail.remove_prefix(1);
      for (const string_view verb :
           {"is", "are", "equals", "would be", "will be", "must be", "should be", "was", ":", "=", "\uFF1A", "\n"}) {
        const bool word = absl::ascii_isalpha(verb[0]);
        if (absl::ascii_toupper(c) != 'A' && verb != "is")
          continue;  // "the correct option is (B)", but no "Option: ..."
        if (absl::StartsWithIgnoreCase(tail, verb) &&
            (!word || tail.size() == verb.size() || !IsWordByte(tail[verb.size()]))) {
          length = rest.size() - tail.size() + verb.size();
          break;
        }
      }
    } else if (absl::StartsWithIgnoreCase(rest, "ans:") || absl::StartsWithIgnoreCase(rest, "ans.:")) {
      length = rest.find(':') + 1;
    } else if (c == 'A' && absl::StartsWith(rest, "A:") && (i == 0 || text[i - 1] == '\n')) {
      length = 2;
    }
    if (length == 0) continue;
    const string_view answer = absl::StripAsciiWhitespace(Sentence(SkipDecoration(rest.substr(length))));
    if (answer.empty()) continue;
    return Found(Place::kAnswerIs, absl::StripSuffix(absl::StripSuffix(answer, "**"), "*"));
  }
  return {};
}

Extracted LastMath(string_view text) {
  // Forward scan; the last closed span wins. '$' spans do not nest and an escaped \$ is money.
  string_view last;
  bool open_ended[2] = {false, false};  // no \) or no \] from here on: it is not looked for again
  const auto opens = [](char c) { return (c == '\\') | (c == '$'); };
  for (size_t i = 0; (i = FindByte(text, i, opens)) != string_view::npos; ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      const char c = text[i + 1];
      if ((c == '(' || c == '[') && !open_ended[c == '[']) {
        const size_t close = FindClose(text, c == '(' ? ')' : ']', i + 2);
        if (close == string_view::npos) {
          open_ended[c == '['] = true;
          ++i;
          continue;
        }
        last = text.substr(i + 2, close - i - 2);
        i = close + 1;
      } else {
        ++i;
      }
    } else if (text[i] == '$') {
      const bool display = i + 1 < text.size() && text[i + 1] == '$';
      const size_t begin = i + (display ? 2 : 1);
      size_t close = begin;
      while (close < text.size() && text[close] != '$') close += text[close] == '\\' ? 2 : 1;
      if (close >= text.size()) break;
      last = text.substr(begin, close - begin);
      i = close + (display && close + 1 < text.size() && text[close + 1] == '$' ? 1 : 0);
    }
  }
  const Extracted found = Found(Place::kLastMath, last);
  return found.text.empty() ? Extracted{} : found;
}

// The last maximal number: sign, digits with commas, a fraction. The scan runs backwards from the last digit.
Extracted LastNumber(string_view text) {
  const auto is_digit = [](char c) { return (c >= '0') & (c <= '9'); };
  const auto is_other = [](char c) { return (c < '0') | (c > '9'); };
  const size_t last = FindByteBefore(text, text.size(), is_digit);
  if (last == string_view::npos) return {};
  const size_t end = last + 1;
  size_t begin = last;
  while (begin > 0) {
    const size_t other = FindByteBefore(text, begin, is_other);
    begin = other == string_view::npos ? 0 : other + 1;
    if (begin == 0) break;
    const char c = text[begin - 1];
    if ((c == '.' || c == ',') && begin >= 2 && absl::ascii_isdigit(text[begin - 2])) {
      --begin;
    } else if (c == '.' && (begin < 2 || !IsWordByte(text[begin - 2]))) {
      --begin;  // ".5"
      break;
    } else {
      break;
    }
  }
  const bool money = begin > 0 && text[begin - 1] == '$';
  const size_t sign = begin - (money ? 1 : 0);
  if (sign > 0 && (text[sign - 1] == '-' || text[sign - 1] == '+') &&
      (sign < 2 || (!IsWordByte(text[sign - 2]) && text[sign - 2] != ')'))) {
    return Found(Place::kLastNumber, text.substr(sign - 1, end - sign + 1));
  }
  return Found(Place::kLastNumber, text.substr(begin, end - begin));
}

}  // namespace

absl::StatusOr<std::vector<Place>> ParsePlaces(const v1::Extraction& extraction, std::vector<Place> defaults) {
  if (extraction.places().empty()) return defaults;
  std::vector<Place> places;
  for (int i = 0; i < extraction.places_size(); ++i) {
    const auto* known = std::find_if(std::begin(kPlaceNames), std::end(kPlaceNames),
                                     [&](const PlaceName& p) { return extraction.places(i) == p.name; });
    if (known == std::end(kPlaceNames)) {
      return absl::InvalidArgumentError(
          absl::StrCat("extraction.places[", i, "]: \"", extraction.places(i),
                       "\", expected one of answer_tag, boxed, hash, answer_is, last_math, last_number, whole"));
    }
    places.push_back(known->place);
  }
  return places;
}

absl::string_view AfterThink(string_view text) {
  constexpr string_view kClose = "</think>";
  const size_t close = FindLast(text, kClose);
  const size_t open = FindLast(text, "<think>");
  if (close != string_view::npos && (open == string_view::npos || open < close))
    return text.substr(close + kClose.size());
  if (open != string_view::npos) return text.substr(text.size());
  return text;
}

Extracted ExtractFrom(string_view text, Place place) {
  switch (place) {
    case Place::kAnswerTag: return AnswerTag(text);
    case Place::kBoxed: return LastBox(text);
    case Place::kHash: return Hash(text);
    case Place::kAnswerIs: return AnswerIs(text);
    case Place::kLastMath: return LastMath(text);
    case Place::kLastNumber: return LastNumber(text);
    case Place::kWhole: {
      const Extracted whole = Found(Place::kWhole, text);
      return whole.text.empty() ? Extracted{} : whole;
    }
  }
  return {};
}

Extracted Extract(string_view completion, const std::vector<Place>& places) {
  const string_view text = AfterThink(completion);
  for (const Place place : places) {
    const Extracted found = ExtractFrom(text, place);
    if (found.found) return found;
  }
  return {};
}

size_t FindClose(string_view text, char bracket, size_t from) {
  const size_t begin = from;
  while (from < text.size()) {
    const void* const found = std::memchr(text.data() + from, bracket, text.size() - from);
    if (found == nullptr) break;
    const size_t at = static_cast<size_t>(static_cast<const char*>(found) - text.data());
    if (at > begin && text[at - 1] == '\\') return at - 1;
    from = at + 1;
  }
  return string_view::npos;
}

std::vector<size_t> FindBoxes(string_view text, size_t limit) {
  std::vector<size_t> boxes;
  const auto is_backslash = [](char c) { return c == '\\'; };
  size_t i = text.size();
  while (boxes.size() < limit && (i = FindByteBefore(text, i, is_backslash)) != string_view::npos) {
    if (i + 1 == text.size() || (text[i + 1] != 'b' && text[i + 1] != 'f')) continue;
    const string_view rest = text.substr(i + 1);
    const size_t name = absl::StartsWith(rest, "boxed") ? 5 : absl::StartsWith(rest, "fbox") ? 4 : 0;
    if (name == 0 || (rest.size() > name && absl::ascii_isalpha(rest[name]))) continue;
    boxes.push_back(i);
  }
  std::reverse(boxes.begin(), boxes.end());
  return boxes;
}

Box BoxAt(string_view text, size_t begin) {
  size_t i = begin + (absl::StartsWith(text.substr(begin), "\\boxed") ? 6 : 5);
  while (i < text.size() && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n')) ++i;
  if (i >= text.size()) return {};
  if (text[i] != '{') {
    size_t end = i;
    while (end < text.size() && text[end] != '$' && !absl::ascii_isspace(text[end])) ++end;
    if (end == i) return {};
    return {true, text.substr(i, end - i), end};
  }
  int64_t depth = 0;
  for (size_t j = i; j < text.size(); ++j) {
    if (text[j] == '\\') {
      ++j;  // \{ and \} do not group
    } else if (text[j] == '{') {
      ++depth;
    } else if (text[j] == '}' && --depth == 0) {
      return {true, text.substr(i + 1, j - i - 1), j + 1};
    }
  }
  return {};
}

}  // namespace grouper
