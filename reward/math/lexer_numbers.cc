// Lexer, second half: numbers in all the ways that people write them.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "reward/math/lexer.h"

namespace grouper::math {
namespace {

using absl::string_view;

bool AllDigits(string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
}

// Digits in the block that the decimals of "0.1666..." end with again and again: the shortest block that stands there
// three times, or twice where it is longer than one digit or all there is. 0: there is none.
size_t Period(string_view decimals) {
  for (size_t length = 1; length <= 20 && 2 * length <= decimals.size(); ++length) {
    const string_view block = decimals.substr(decimals.size() - length);
    size_t times = 1;
    while ((times + 1) * length <= decimals.size() &&
           decimals.substr(decimals.size() - (times + 1) * length, length) == block)
      ++times;
    if (times >= 3 || (times == 2 && (length > 1 || decimals.size() == 2))) return length;
  }
  return 0;
}

}  // namespace

// A separator between groups of three digits at `at`: its length, or nothing. `comma`: a plain comma, which may
// separate list items too.
std::optional<size_t> Lexer::GroupSeparator(size_t at, bool* comma) const {
  const string_view rest = text_.substr(at);
  *comma = false;
  for (const string_view separator : {"{,}\\!", "{,\\!}", "{\\,}", "{\\;}", "{\\ }", "{,}", "'", "\u2019", ",\\!",
                                      "\\!", "\\,", "\\ ", "\\;", "~", " ", "\u00A0", "\u2009", "\u202F", ","}) {
    if (!absl::StartsWith(rest, separator)) continue;
    string_view digits = rest.substr(separator.size());
    if (separator.back() == '!') digits = absl::StripLeadingAsciiWhitespace(digits);  // "32,\! 349"
    if (digits.size() < 3 || !AllDigits(digits.substr(0, 3)) ||
        (digits.size() > 3 && absl::ascii_isdigit(static_cast<unsigned char>(digits[3])))) {
      continue;
    }
    *comma = separator == ",";
    if (separator == " " || separator == "~" || separator == "\\ ") {
      // "1 000", but not the mixed number "1 100/101".
      const string_view after = absl::StripLeadingAsciiWhitespace(digits.substr(3));
      if (absl::StartsWith(after, "/")) return std::nullopt;
    }
    return static_cast<size_t>(digits.data() - rest.data());
  }
  return std::nullopt;
}

Token Lexer::Number() {
  const size_t begin = at_;
  std::string digits;
  bool plain = true;
  const size_t longest_before = longest_decimal_;
  const auto take_digits = [&] {
    while (at_ < text_.size() && absl::ascii_isdigit(static_cast<unsigned char>(text_[at_])))
      digits.push_back(text_[at_++]);
  };
  take_digits();
  const size_t first_group = digits.size();
  // Thousands groups.
  if (first_group >= 1 && first_group <= 3 && digits[0] != '0') {
    bool comma;
    while (std::optional<size_t> separator = GroupSeparator(at_, &comma)) {
      if (comma) {
        saw_ambiguous_comma_ = true;
        if (!join_commas_) break;
      }
      at_ += *separator;
      take_digits();
      plain = false;
    }
    // "1.000.000": points as separators, when there are at least two.
    const auto point_group = [&](size_t at) {
      const string_view rest = text_.substr(at);
      return rest.size() >= 4 && rest[0] == '.' && AllDigits(rest.substr(1, 3)) &&
             (rest.size() == 4 || !absl::ascii_isdigit(static_cast<unsigned char>(rest[4])));
    };
    if (plain && point_group(at_) && point_group(at_ + 4)) {
      while (point_group(at_)) {
        ++at_;
        take_digits();
      }
      plain = false;
    }
  }
  Token token;
  token.kind = Tok::kNumber;
  int64_t scale = 0;
  if (at_ < text_.size() && text_[at_] == '.' && at_ + 1 < text_.size() &&
      absl::ascii_isdigit(static_cast<unsigned char>(text_[at_ + 1]))) {
    ++at_;
    const size_t whole = digits.size();
    take_digits();
    scale = static_cast<int64_t>(digits.size() - whole);
    plain = false;
    const size_t zeros = std::min(digits.find_first_not_of('0'), digits.size());
    longest_decimal_ = std::max(longest_decimal_, digits.size() - zeros);
  } else if (at_ < text_.size() && text_[at_] == '.' && !digits.empty()) {
    // "17." at the end, or before something that is not a digit: a full stop, or TeX's "0.\overline{3}", or "0.(3)".
    const string_view rest = text_.substr(at_ + 1);
    if (absl::StartsWith(rest, "\\overline{") || absl::StartsWith(rest, "\\bar{") || absl::StartsWith(rest, "\\dot{") ||
        (rest.size() > 2 && rest[0] == '(' && AllDigits(rest.substr(1, std::min(rest.find(')'), rest.size()) - 1)))) {
      ++at_;
      plain = false;
    }
  } else if (digits.empty() && text_[at_] == '.') {  // ".\overline{3}"
    ++at_;
    digits.push_back('0');
    plain = false;
  }
  if (digits.size() > kMaxDigits) return Make(Tok::kBad, 0);
  // "1,000" is never the list 1, 0.
  if (!join_commas_ && plain && digits.size() > 1 && digits[0] == '0' && begin > 0 && text_[begin - 1] == ',')
    return Make(Tok::kBad, 0);
  // A repeating tail: \overline{03} stands for 03/99, shifted.
  Rational repeating;
  if (!plain || scale > 0) {
    for (const string_view command : {"\\overline{", "\\bar{", "\\dot{", "("}) {
      string_view rest = text_.substr(at_);
      if (!absl::ConsumePrefix(&rest, command)) continue;
      if (command == "(" && text_[at_ - 1] != '.') continue;
      const size_t close = rest.find(command == "(" ? ')' : '}');
      if (close == string_view::npos || close == 0 || close > 60 || !AllDigits(rest.substr(0, close))) continue;
      const BigInt nines = Pow(10, static_cast<uint32_t>(close)) - 1;
      repeating = Rational(BigInt::FromDecimal(rest.substr(0, close)), nines * Pow(10, static_cast<uint32_t>(scale)));
      at_ += command.size() + close + 1;
      break;
    }
  }
  // 0.333..., 0.1666\\ldots, 0.4545...: what is repeated at the end goes on.
  for (const string_view dots : {"\\ldots", "\\dots", "\\cdots", "...", "\u2026"}) {
    const string_view rest = absl::StripLeadingAsciiWhitespace(text_.substr(at_));
    if (scale == 0 || !repeating.IsZero() || !absl::StartsWith(rest, dots)) continue;
    const size_t period = Period(string_view(digits).substr(digits.size() - static_cast<size_t>(scale)));
    if (period == 0) return Make(Tok::kBad, 1);
    const BigInt nines = Pow(10, static_cast<uint32_t>(period)) - 1;
    repeating = Rational(BigInt::FromDecimal(string_view(digits).substr(digits.size() - period)),
                         nines * Pow(10, static_cast<uint32_t>(scale)));
    at_ = static_cast<size_t>(rest.data() - text_.data()) + dots.size();
    longest_decimal_ = longest_before;
    break;
  }
  // 1E5, 2.5e-10. A lone e is Euler's number: "2e - 1" has none of these forms.
  int64_t exponent = 0;
  if (repeating.IsZero() && at_ + 1 < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
    size_t i = at_ + 1;
    const bool negative = text_[i] == '-', sign = negative || text_[i] == '+';
    i += sign;
    size_t end = i;
    while (end < text_.size() && end < i + 5 && absl::ascii_isdigit(static_cast<unsigned char>(text_[end]))) ++end;
    if (end > i && (!sign || text_[at_] == 'E' || end - i >= 2 || scale > 0) &&
        (end == text_.size() || !absl::ascii_isalnum(static_cast<unsigned char>(text_[end])))) {
      for (size_t k = i; k < end; ++k) exponent = exponent * 10 + (text_[k] - '0');
      if (negative) exponent = -exponent;
      at_ = end;
      plain = false;
    }
  }
  if (std::abs(exponent) > static_cast<int64_t>(kMaxDigits)) return Make(Tok::kBad, 0);
  if (digits.empty()) return Make(Tok::kBad, 1);
  token.digits = text_.substr(begin, at_ - begin);
  const int64_t shift = exponent - scale;
  BigInt value = BigInt::FromDecimal(digits);
  if (shift >= 0) {
    token.value = Rational(shift == 0 ? std::move(value) : value * Pow(10, static_cast<uint32_t>(shift)));
  } else {
    token.value = Rational(std::move(value), Pow(10, static_cast<uint32_t>(-shift)));
  }
  if (!repeating.IsZero()) token.value = token.value + repeating;
  token.integer = plain;
  return token;
}

// 2BC_{16}: digits beyond 9 are capital letters. Nothing when it is no such number; the lexer then has not moved.
std::optional<Token> Lexer::BaseLiteral() {
  constexpr size_t kMaxBaseDigits = 64;
  size_t end = at_;
  bool letter = false;
  while (end < text_.size() && end - at_ < kMaxBaseDigits &&
         (absl::ascii_isdigit(static_cast<unsigned char>(text_[end])) ||
          absl::ascii_isupper(static_cast<unsigned char>(text_[end])))) {
    letter |= absl::ascii_isupper(static_cast<unsigned char>(text_[end++]));
  }
  if (!letter || end - at_ < 2 || end >= text_.size() || text_[end] != '_') return std::nullopt;
  const string_view digits = text_.substr(at_, end - at_);
  string_view rest = text_.substr(end + 1);
  const bool brace = absl::ConsumePrefix(&rest, "{");
  if (rest.size() < 2 || !AllDigits(rest.substr(0, 2)) || (brace && (rest.size() < 3 || rest[2] != '}')))
    return std::nullopt;
  const int base = (rest[0] - '0') * 10 + (rest[1] - '0');
  if (base < 11 || base > 36) return std::nullopt;
  BigInt value = 0;
  for (const char c : digits) {
    const int digit = absl::ascii_isdigit(static_cast<unsigned char>(c)) ? c - '0' : c - 'A' + 10;
    if (digit >= base) return std::nullopt;
    value = value * BigInt(base) + BigInt(digit);
  }
  Token token = Make(Tok::kNumber, digits.size() + 1 + (brace ? 4 : 2));
  token.value = Rational(std::move(value));
  return token;
}

// (1011)_2, (2BC)_{16}: the brackets belong to the number.
std::optional<Token> Lexer::BracketedBaseLiteral() {
  constexpr size_t kMaxBaseDigits = 64;
  const size_t close = text_.substr(0, std::min(text_.size(), at_ + kMaxBaseDigits + 2)).find(')', at_);
  if (close == string_view::npos || close == at_ + 1 || close + 2 >= text_.size() || text_[close + 1] != '_')
    return std::nullopt;
  const string_view digits = absl::StripAsciiWhitespace(text_.substr(at_ + 1, close - at_ - 1));
  string_view rest = text_.substr(close + 2);
  const size_t before = rest.size();
  const bool brace = absl::ConsumePrefix(&rest, "{");
  int base = 0;
  size_t base_digits = 0;
  while (base_digits < 2 && base_digits < rest.size() &&
         absl::ascii_isdigit(static_cast<unsigned char>(rest[base_digits]))) {
    base = base * 10 + (rest[base_digits++] - '0');
    if (!brace) break;  // TeX's "_16" is _1 and 6
  }
  rest.remove_prefix(base_digits);
  if (base < 2 || base > 36 || (brace && !absl::ConsumePrefix(&rest, "}")) || digits.empty()) return std::nullopt;
  if (!brace && !rest.empty() && absl::ascii_isdigit(static_cast<unsigned char>(rest[0]))) return std::nullopt;
  BigInt value = 0;
  for (const char c : digits) {
    const int digit = absl::ascii_isdigit(static_cast<unsigned char>(c))   ? c - '0'
                      : absl::ascii_isupper(static_cast<unsigned char>(c)) ? c - 'A' + 10
                                                                           : 99;
    if (digit >= base) return std::nullopt;
    value = value * BigInt(base) + BigInt(digit);
  }
  Token token = Make(Tok::kNumber, close + 2 - at_ + (before - rest.size()));
  token.value = Rational(std::move(value));
  return token;
}

}  // namespace grouper::math
