#include "reward/math/bigint.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace grouper::math {
namespace {

constexpr uint64_t kBase = 1000000000;
constexpr int64_t kSmallLimit = 4000000000000000000;  // one word below, limbs from here: one representation a value

using Limbs = std::vector<uint32_t>;

void Trim(Limbs& limbs) {
  while (!limbs.empty() && limbs.back() == 0) limbs.pop_back();
}

int CompareMagnitude(const Limbs& a, const Limbs& b) {
  if (a.size() != b.size()) return a.size() < b.size() ? -1 : 1;
  for (size_t i = a.size(); i-- > 0;) {
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return 0;
}

Limbs AddMagnitude(const Limbs& a, const Limbs& b) {
  Limbs sum;
  sum.reserve(std::max(a.size(), b.size()) + 1);
  uint64_t carry = 0;
  for (size_t i = 0; i < std::max(a.size(), b.size()) || carry; ++i) {
    uint64_t value = carry + (i < a.size() ? a[i] : 0) + (i < b.size() ? b[i] : 0);
    carry = value >= kBase;
    if (carry) value -= kBase;
    sum.push_back(static_cast<uint32_t>(value));
  }
  return sum;
}

// REQUIRES: a >= b.
Limbs SubtractMagnitude(const Limbs& a, const Limbs& b) {
  Limbs difference = a;
  int64_t borrow = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    int64_t value = static_cast<int64_t>(a[i]) - borrow - (i < b.size() ? b[i] : 0);
    borrow = value < 0;
    if (borrow) value += kBase;
    difference[i] = static_cast<uint32_t>(value);
  }
  Trim(difference);
  return difference;
}

Limbs MultiplyMagnitude(const Limbs& a, const Limbs& b) {
  Limbs product(a.size() + b.size(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    uint64_t carry = 0;
    for (size_t j = 0; j < b.size() || carry; ++j) {
      const uint64_t value = product[i + j] + carry + (j < b.size() ? uint64_t{a[i]} * b[j] : 0);
      product[i + j] = static_cast<uint32_t>(value % kBase);
      carry = value / kBase;
    }
  }
  Trim(product);
  return product;
}

uint32_t DivideBySmall(Limbs& a, uint32_t divisor) {
  uint64_t remainder = 0;
  for (size_t i = a.size(); i-- > 0;) {
    const uint64_t value = remainder * kBase + a[i];
    a[i] = static_cast<uint32_t>(value / divisor);
    remainder = value % divisor;
  }
  Trim(a);
  return static_cast<uint32_t>(remainder);
}

// Knuth, TAOCP vol. 2, 4.3.1, algorithm D, in base 10^9.
void DivideMagnitude(const Limbs& dividend, const Limbs& divisor, Limbs* quotient, Limbs* remainder) {
  if (CompareMagnitude(dividend, divisor) < 0) {
    quotient->clear();
    *remainder = dividend;
    return;
  }
  if (divisor.size() == 1) {
    *quotient = dividend;
    const uint32_t rest = DivideBySmall(*quotient, divisor[0]);
    remainder->clear();
    if (rest) remainder->push_back(rest);
    return;
  }
  const uint32_t scale = static_cast<uint32_t>(kBase / (divisor.back() + uint64_t{1}));
  Limbs u = MultiplyMagnitude(dividend, {scale}), v = MultiplyMagnitude(divisor, {scale});
  const size_t n = v.size();
  u.resize(std::max(u.size(), dividend.size()) + 1, 0);
  const size_t m = u.size() - n;
  quotient->assign(m, 0);
  for (size_t j = m; j-- > 0;) {
    const uint64_t top = uint64_t{u[j + n]} * kBase + u[j + n - 1];
    uint64_t q = top / v[n - 1], r = top % v[n - 1];
    while (q >= kBase || q * v[n - 2] > r * kBase + u[j + n - 2]) {
      --q;
      r += v[n - 1];
      if (r >= kBase) break;
    }
    int64_t borrow = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint64_t product = q * v[i];
      int64_t value = static_cast<int64_t>(u[i + j]) - borrow - static_cast<int64_t>(product % kBase);
      borrow = static_cast<int64_t>(product / kBase);
      if (value < 0) {
        const int64_t steps = (-value + kBase - 1) / kBase;
        value += steps * kBase;
        borrow += steps;
      }
      u[i + j] = static_cast<uint32_t>(value);
    }
    int64_t top_value = static_cast<int64_t>(u[j + n]) - borrow;
    if (top_value < 0) {  // q was one too large: add the divisor back
      --q;
      uint64_t carry = 0;
      for (size_t i = 0; i < n; ++i) {
        uint64_t value = uint64_t{u[i + j]} + v[i] + carry;
        carry = value >= kBase;
        if (carry) value -= kBase;
        u[i + j] = static_cast<uint32_t>(value);
      }
      top_value += static_cast<int64_t>(carry);
    }
    u[j + n] = static_cast<uint32_t>(top_value);
    (*quotient)[j] = static_cast<uint32_t>(q);
  }
  Trim(*quotient);
  u.resize(n);
  Trim(u);
  DivideBySmall(u, scale);
  *remainder = std::move(u);
}

}  // namespace

BigInt::BigInt(int64_t value) {
  if (value > -kSmallLimit && value < kSmallLimit) {
    small_ = value;
    return;
  }
  negative_ = value < 0;
  uint64_t magnitude = negative_ ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  for (; magnitude; magnitude /= kBase) limbs_.push_back(static_cast<uint32_t>(magnitude % kBase));
}

BigInt BigInt::FromDecimal(absl::string_view digits) {
  CHECK(!digits.empty());
  if (digits.size() <= 18) {
    int64_t value = 0;
    for (const char c : digits) value = value * 10 + (c - '0');
    return BigInt(value);
  }
  Limbs limbs;
  limbs.reserve(digits.size() / 9 + 1);
  for (size_t end = digits.size(); end > 0;) {
    const size_t begin = end > 9 ? end - 9 : 0;
    uint32_t limb = 0;
    for (size_t i = begin; i < end; ++i) limb = limb * 10 + static_cast<uint32_t>(digits[i] - '0');
    limbs.push_back(limb);
    end = begin;
  }
  return FromLimbs(std::move(limbs), false);
}

BigInt::Limbs BigInt::ToLimbs(const BigInt& value) {
  if (!value.limbs_.empty()) return value.limbs_;
  Limbs limbs;
  for (uint64_t m = static_cast<uint64_t>(std::abs(value.small_)); m; m /= kBase)
    limbs.push_back(static_cast<uint32_t>(m % kBase));
  return limbs;
}

BigInt BigInt::FromLimbs(Limbs limbs, bool negative) {
  Trim(limbs);
  BigInt result;
  if (limbs.size() <= 2 || (limbs.size() == 3 && limbs[2] < 4)) {  // below kSmallLimit
    int64_t value = 0;
    for (size_t i = limbs.size(); i-- > 0;) value = value * static_cast<int64_t>(kBase) + limbs[i];
    result.small_ = negative ? -value : value;
    return result;
  }
  result.negative_ = negative;
  result.limbs_ = std::move(limbs);
  return result;
}

int BigInt::Sign() const {
  if (!limbs_.empty()) return negative_ ? -1 : 1;
  return small_ > 0 ? 1 : small_ < 0 ? -1 : 0;
}

bool BigInt::IsOdd() const { return limbs_.empty() ? small_ & 1 : limbs_[0] & 1; }

size_t BigInt::NumDigits() const {
  if (limbs_.empty()) {
    size_t digits = 1;
    for (uint64_t m = static_cast<uint64_t>(std::abs(small_)); m >= 10; m /= 10) ++digits;
    return digits;
  }
  size_t digits = 9 * (limbs_.size() - 1);
  for (uint32_t top = limbs_.back(); top; top /= 10) ++digits;
  return digits;
}

bool BigInt::ToInt64(int64_t* value) const {
  if (!limbs_.empty()) return false;
  *value = small_;
  return true;
}

long double BigInt::ToLongDouble() const {
  if (limbs_.empty()) return static_cast<long double>(small_);
  long double value = 0;
  for (size_t i = limbs_.size(); i-- > 0;) value = value * static_cast<long double>(kBase) + limbs_[i];
  return negative_ ? -value : value;
}

std::string BigInt::ToString() const {
  if (limbs_.empty()) return absl::StrCat(small_);
  std::string text = absl::StrCat(negative_ ? "-" : "", limbs_.back());
  for (size_t i = limbs_.size() - 1; i-- > 0;) absl::StrAppend(&text, absl::Dec(limbs_[i], absl::kZeroPad9));
  return text;
}

BigInt BigInt::operator-() const {
  BigInt result = *this;
  result.small_ = -small_;
  result.negative_ = !negative_;
  return result;
}

int Compare(const BigInt& a, const BigInt& b) {
  if (a.limbs_.empty() && b.limbs_.empty()) return a.small_ < b.small_ ? -1 : a.small_ > b.small_;
  const int sign_a = a.Sign(), sign_b = b.Sign();
  if (sign_a != sign_b) return sign_a < sign_b ? -1 : 1;
  if (a.limbs_.empty()) return -sign_a;  // same sign, b is larger in magnitude
  if (b.limbs_.empty()) return sign_a;
  return sign_a * CompareMagnitude(a.limbs_, b.limbs_);
}

BigInt operator+(const BigInt& a, const BigInt& b) {
  if (a.limbs_.empty() && b.limbs_.empty()) return BigInt(a.small_ + b.small_);  // cannot overflow
  const BigInt::Limbs x = BigInt::ToLimbs(a), y = BigInt::ToLimbs(b);
  const bool negative_a = a.Sign() < 0, negative_b = b.Sign() < 0;
  if (negative_a == negative_b) return BigInt::FromLimbs(AddMagnitude(x, y), negative_a);
  if (CompareMagnitude(x, y) >= 0) return BigInt::FromLimbs(SubtractMagnitude(x, y), negative_a);
  return BigInt::FromLimbs(SubtractMagnitude(y, x), negative_b);
}

BigInt operator-(const BigInt& a, const BigInt& b) { return a + -b; }

BigInt operator*(const BigInt& a, const BigInt& b) {
  int64_t product;
  if (a.limbs_.empty() && b.limbs_.empty() && !__builtin_mul_overflow(a.small_, b.small_, &product))
    return BigInt(product);
  return BigInt::FromLimbs(MultiplyMagnitude(BigInt::ToLimbs(a), BigInt::ToLimbs(b)), (a.Sign() < 0) != (b.Sign() < 0));
}

void BigInt::DivMod(const BigInt& dividend, const BigInt& divisor, BigInt* quotient, BigInt* remainder) {
  CHECK(!divisor.IsZero());
  if (dividend.limbs_.empty() && divisor.limbs_.empty()) {
    const int64_t q = dividend.small_ / divisor.small_, r = dividend.small_ % divisor.small_;
    *quotient = BigInt(q);
    *remainder = BigInt(r);
    return;
  }
  Limbs q, r;
  DivideMagnitude(ToLimbs(dividend), ToLimbs(divisor), &q, &r);
  const bool negative = dividend.Sign() < 0, opposite = negative != (divisor.Sign() < 0);
  *quotient = FromLimbs(std::move(q), opposite);
  *remainder = FromLimbs(std::move(r), negative);
}

BigInt Gcd(BigInt a, BigInt b) {
  a = a.Abs();
  b = b.Abs();
  int64_t x, y;
  while (!b.IsZero()) {
    if (a.ToInt64(&x) && b.ToInt64(&y)) return BigInt(std::gcd(x, y));
    BigInt quotient, remainder;
    BigInt::DivMod(a, b, &quotient, &remainder);
    a = std::move(b);
    b = std::move(remainder);
  }
  return a;
}

BigInt Pow(const BigInt& base, uint32_t exponent) {
  BigInt result = 1, square = base;
  for (; exponent; exponent >>= 1) {
    if (exponent & 1) result = result * square;
    if (exponent > 1) square = square * square;
  }
  return result;
}

}  // namespace grouper::math
