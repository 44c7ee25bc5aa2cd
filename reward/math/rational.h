// Exact fractions in lowest terms, and decimal text read exactly.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "reward/math/bigint.h"

namespace grouper::math {

// Longest integer, in decimal digits, that the engine computes with; more makes a value "too large", never slow.
inline constexpr size_t kMaxDigits = 1500;

class Rational {
 public:
  Rational() : denominator_(1) {}
  Rational(int64_t value) : numerator_(value), denominator_(1) {}            // NOLINT: integers convert
  Rational(BigInt value) : numerator_(std::move(value)), denominator_(1) {}  // NOLINT
  // REQUIRES: denominator is not zero.
  Rational(BigInt numerator, BigInt denominator);

  const BigInt& numerator() const { return numerator_; }
  const BigInt& denominator() const { return denominator_; }  // positive
  bool IsZero() const { return numerator_.IsZero(); }
  bool IsOne() const { return numerator_.IsOne() && denominator_.IsOne(); }
  bool IsInteger() const { return denominator_.IsOne(); }
  int Sign() const { return numerator_.Sign(); }
  size_t NumDigits() const { return numerator_.NumDigits() + denominator_.NumDigits(); }
  long double ToLongDouble() const;
  std::string ToString() const;  // "-3", "7/2"

  Rational operator-() const;
  friend Rational operator+(const Rational& a, const Rational& b);
  friend Rational operator-(const Rational& a, const Rational& b);
  friend Rational operator*(const Rational& a, const Rational& b);
  friend Rational operator/(const Rational& a, const Rational& b);  // REQUIRES: b is not zero
  friend int Compare(const Rational& a, const Rational& b);
  friend bool operator==(const Rational& a, const Rational& b) {
    return a.numerator_ == b.numerator_ && a.denominator_ == b.denominator_;
  }

 private:
  BigInt numerator_, denominator_;
};

// Integer power, the exponent may be negative. Nothing when the result would exceed kMaxDigits, or for 0 to a negative
// power.
std::optional<Rational> Power(const Rational& base, int64_t exponent);

// digits ['.' digits] [('e'|'E') sign digits], no sign, no separators, at least one digit. Nothing for other text, more
// than kMaxDigits digits, or an exponent beyond +-kMaxDigits.
std::optional<Rational> ParseDecimal(absl::string_view text);

// What people write for one number: white space, currency sign, sign, thousands commas in groups of three, decimal
// text, "a/b", a trailing percent sign or full stop. Nothing for other text.
std::optional<Rational> ParseNumber(absl::string_view text);

}  // namespace grouper::math
