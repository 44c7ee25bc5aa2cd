#include "reward/math/rational.h"

#include <cmath>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/check.h"

namespace grouper::math {

Rational::Rational(BigInt numerator, BigInt denominator)
    : numerator_(std::move(numerator)), denominator_(std::move(denominator)) {
  CHECK(!denominator_.IsZero());
  if (denominator_.Sign() < 0) {
    numerator_ = -numerator_;
    denominator_ = -denominator_;
  }
  if (denominator_.IsOne()) return;
  const BigInt divisor = Gcd(numerator_, denominator_);
  if (divisor.IsOne()) return;
  BigInt rest;
  BigInt::DivMod(BigInt(numerator_), divisor, &numerator_, &rest);
  BigInt::DivMod(BigInt(denominator_), divisor, &denominator_, &rest);
}

long double Rational::ToLongDouble() const {
  const long double n = numerator_.ToLongDouble(), d = denominator_.ToLongDouble();
  if (std::isfinite(n) && std::isfinite(d)) return n / d;
  // Both beyond 10^4932: scale by the digits. Only the leading digits matter.
  const auto leading = [](const BigInt& v, int64_t* exponent) {
    const std::string digits = v.Abs().ToString();
    *exponent = static_cast<int64_t>(digits.size());
    return BigInt::FromDecimal(absl::string_view(digits).substr(0, 36)).ToLongDouble() *
           powl(10.0L, -static_cast<long double>(std::min<size_t>(36, digits.size()))) * (v.Sign() < 0 ? -1 : 1);
  };
  int64_t en, ed;
  const long double mn = leading(numerator_, &en), md = leading(denominator_, &ed);
  return mn / md * powl(10.0L, static_cast<long double>(en - ed));
}

std::string Rational::ToString() const {
  return IsInteger() ? numerator_.ToString() : absl::StrCat(numerator_.ToString(), "/", denominator_.ToString());
}

Rational Rational::operator-() const {
  Rational result = *this;
  result.numerator_ = -result.numerator_;
  return result;
}

Rational operator+(const Rational& a, const Rational& b) {
  if (a.IsInteger() && b.IsInteger()) return Rational(a.numerator_ + b.numerator_);
  return Rational(a.numerator_ * b.denominator_ + b.numerator_ * a.denominator_, a.denominator_ * b.denominator_);
}
Rational operator-(const Rational& a, const Rational& b) { return a + -b; }
Rational operator*(const Rational& a, const Rational& b) {
  if (a.IsInteger() && b.IsInteger()) return Rational(a.numerator_ * b.numerator_);
  return Rational(a.numerator_ * b.numerator_, a.denominator_ * b.denominator_);
}
Rational operator/(const Rational& a, const Rational& b) {
  return Rational(a.numerator_ * b.denominator_, a.denominator_ * b.numerator_);
}
int Compare(const Rational& a, const Rational& b) {
  return Compare(a.numerator_ * b.denominator_, b.numerator_ * a.denominator_);
}

std::optional<Rational> Power(const Rational& base, int64_t exponent) {
  if (exponent == 0) return Rational(1);
  if (base.IsZero()) {
    if (exponent < 0) return std::nullopt;
    return Rational(0);
  }
  const BigInt magnitude = base.numerator().Abs();
  if (magnitude.IsOne() && base.IsInteger()) return Rational(base.Sign() < 0 && (exponent & 1) ? -1 : 1);
  const uint64_t n = exponent < 0 ? 0 - static_cast<uint64_t>(exponent) : static_cast<uint64_t>(exponent);
  // Digits of the larger part, minus one, times n is a lower bound of the result's.
  const size_t digits = std::max(base.numerator().NumDigits(), base.denominator().NumDigits());
  if (n > 4 * kMaxDigits || digits * n > 4 * kMaxDigits) return std::nullopt;
  const uint32_t e = static_cast<uint32_t>(n);
  BigInt top = Pow(base.numerator(), e), bottom = Pow(base.denominator(), e);
  if (top.NumDigits() > kMaxDigits || bottom.NumDigits() > kMaxDigits) return std::nullopt;
  if (exponent < 0) std::swap(top, bottom);
  return Rational(std::move(top), std::move(bottom));
}

std::optional<Rational> ParseDecimal(absl::string_view text) {
  std::string digits;
  size_t i = 0;
  for (; i < text.size() && absl::ascii_isdigit(text[i]); ++i) {
    if (digits.size() >= kMaxDigits) return std::nullopt;
    digits.push_back(text[i]);
  }
  int64_t scale = 0;
  if (i < text.size() && text[i] == '.') {
    for (++i; i < text.size() && absl::ascii_isdigit(text[i]); ++i, ++scale) {
      if (digits.size() >= kMaxDigits) return std::nullopt;
      digits.push_back(text[i]);
    }
  }
  if (digits.empty()) return std::nullopt;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    const bool negative = i < text.size() && text[i] == '-';
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    if (i == text.size()) return std::nullopt;
    int64_t exponent = 0;
    for (; i < text.size() && absl::ascii_isdigit(text[i]); ++i) {
      exponent = exponent * 10 + (text[i] - '0');
      if (exponent > static_cast<int64_t>(kMaxDigits)) return std::nullopt;
    }
    scale -= negative ? -exponent : exponent;
  }
  if (i != text.size() || std::abs(scale) > 2 * static_cast<int64_t>(kMaxDigits)) return std::nullopt;
  BigInt value = BigInt::FromDecimal(digits);
  if (scale <= 0) return Rational(scale == 0 ? std::move(value) : value * Pow(10, static_cast<uint32_t>(-scale)));
  return Rational(std::move(value), Pow(10, static_cast<uint32_t>(scale)));
}

namespace {

// Removes commas that stand before every group of three digits; false when a comma stands elsewhere.
bool RemoveThousandsCommas(absl::string_view text, std::string* plain) {
  const size_t whole = std::min(text.find_first_of(".eE"), text.size());
  const size_t first = text.find(',');
  if (first == absl::string_view::npos) {
    plain->assign(text.begin(), text.end());
    return true;
  }
  if (first == 0 || first > 3 || first >= whole) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      plain->push_back(text[i]);
      continue;
    }
    if (i >= whole || (i - first) % 4 != 0 || i + 3 >= text.size() + 0) return false;
    if (i + 4 < whole && text[i + 4] != ',') return false;
  }
  return (whole - first) % 4 == 0;
}

std::optional<Rational> ParseSigned(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  bool negative = false;
  for (bool sign = false, money = false; !text.empty();) {
    if (!sign && (text[0] == '-' || text[0] == '+')) {
      negative = text[0] == '-';
      sign = true;
      text.remove_prefix(1);
    } else if (!sign && absl::ConsumePrefix(&text, "\u2212")) {
      negative = sign = true;
    } else if (!money && (absl::ConsumePrefix(&text, "\\$") || absl::ConsumePrefix(&text, "$") ||
                          absl::ConsumePrefix(&text, "\u20ac") || absl::ConsumePrefix(&text, "\u00a3"))) {
      money = true;
    } else if (text[0] == ' ') {
      text.remove_prefix(1);
    } else {
      break;
    }
  }
  if (text.size() > 2 * kMaxDigits) return std::nullopt;
  std::string plain;
  if (!RemoveThousandsCommas(text, &plain)) return std::nullopt;
  std::optional<Rational> value = ParseDecimal(plain);
  if (value && negative) value = -*value;
  return value;
}

}  // namespace

std::optional<Rational> ParseNumber(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (text.size() > 1 && text.front() == '$' && text.back() == '$')
    text = text.substr(1, text.size() - 2);  // TeX's, not money
  for (bool changed = true; changed;) {
    changed = absl::ConsumeSuffix(&text, "\\%") || absl::ConsumeSuffix(&text, "%") ||
              (text.size() > 1 && absl::ConsumeSuffix(&text, "."));
    text = absl::StripTrailingAsciiWhitespace(text);
  }
  const size_t slash = text.find('/');
  if (slash == absl::string_view::npos) return ParseSigned(text);
  const std::optional<Rational> top = ParseSigned(text.substr(0, slash)), bottom = ParseSigned(text.substr(slash + 1));
  if (!top || !bottom || bottom->IsZero()) return std::nullopt;
  return *top / *bottom;
}

}  // namespace grouper::math
