// Integers of any size, exact. Values below 4 * 10^18 live in one word; larger ones as base-10^9 limbs, so that reading
// and printing decimal text is linear. Schoolbook algorithms: callers bound the number of digits (kMaxDigits in
// reward/math/limits.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace grouper::math {

class BigInt {
 public:
  BigInt() = default;
  BigInt(int64_t value);  // NOLINT: integers convert

  // REQUIRES: digits are ASCII digits, at least one.
  static BigInt FromDecimal(absl::string_view digits);

  bool IsZero() const { return limbs_.empty() && small_ == 0; }
  bool IsOne() const { return limbs_.empty() && small_ == 1; }
  int Sign() const;
  bool IsOdd() const;
  size_t NumDigits() const;  // decimal digits, at least 1
  // True and *value set when it fits.
  bool ToInt64(int64_t* value) const;
  long double ToLongDouble() const;  // inf when too large
  std::string ToString() const;

  BigInt operator-() const;
  BigInt Abs() const { return Sign() < 0 ? -*this : *this; }
  friend BigInt operator+(const BigInt& a, const BigInt& b);
  friend BigInt operator-(const BigInt& a, const BigInt& b);
  friend BigInt operator*(const BigInt& a, const BigInt& b);
  // Truncates toward zero; the remainder has the dividend's sign. REQUIRES: divisor is not zero.
  static void DivMod(const BigInt& dividend, const BigInt& divisor, BigInt* quotient, BigInt* remainder);
  friend int Compare(const BigInt& a, const BigInt& b);
  friend bool operator==(const BigInt& a, const BigInt& b) { return Compare(a, b) == 0; }
  friend bool operator!=(const BigInt& a, const BigInt& b) { return Compare(a, b) != 0; }
  friend bool operator<(const BigInt& a, const BigInt& b) { return Compare(a, b) < 0; }

 private:
  using Limbs = std::vector<uint32_t>;  // base 10^9, least significant first, no leading zero limb
  static Limbs ToLimbs(const BigInt& value);
  static BigInt FromLimbs(Limbs limbs, bool negative);

  int64_t small_ = 0;      // the value when limbs_ is empty; |small_| < 4 * 10^18
  bool negative_ = false;  // sign when limbs_ is not empty
  Limbs limbs_;
};

BigInt Gcd(BigInt a, BigInt b);  // non-negative
BigInt Pow(const BigInt& base, uint32_t exponent);

}  // namespace grouper::math
