// Algebra, second half: approximate values, for differences in which an opaque atom remains.
#include <cmath>
#include <complex>
#include <limits>
#include <numbers>

#include "reward/math/algebra.h"

namespace grouper::math {

Algebra::Complex Algebra::AtomValue(int32_t index, int sample) {
  constexpr long double kNan = std::numeric_limits<long double>::quiet_NaN();
  const Atom& atom = atoms_[static_cast<size_t>(index)];
  switch (atom.kind) {
    case AtomKind::kPi: return std::numbers::pi_v<long double>;
    case AtomKind::kE: return std::numbers::e_v<long double>;
    case AtomKind::kI: return Complex(0, 1);
    case AtomKind::kPrime: return atom.prime.ToLongDouble();
    case AtomKind::kVariable: {
      uint64_t hash = 0x9E3779B97F4A7C15u * static_cast<uint64_t>(sample + 1);
      for (const char c : atom.name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
      hash = (hash ^ (hash >> 29)) * 0xBF58476D1CE4E5B9u;
      hash ^= hash >> 32;
      const long double unit = static_cast<long double>(hash >> 11) / static_cast<long double>(uint64_t{1} << 53);
      const long double magnitude = 0.3L + 2.2L * unit;
      return sample % 2 == 1 ? -magnitude : magnitude;
    }
    case AtomKind::kOpaque: break;
  }
  if (value_depth_ >= 32 || !Spend(16)) return kNan;
  ++value_depth_;
  std::vector<Complex> x;
  for (const Scalar& argument : atom.arguments) x.push_back(Value(argument, sample));
  --value_depth_;
  const std::string& name = atom.name;
  if (std::abs(x[0]) > 1e9L && name != "power" && name != "ln" && name != "abs")
    return kNan;  // no digits left after the point
  if (name == "power") {
    const bool real = x[0].imag() == 0 && x[1].imag() == 0;
    if (real && x[0].real() < 0) {
      // The odd root of a negative number is the real one, as in TermPower.
      Rational e;
      int64_t n, d;
      if (IsRational(atom.arguments[1], &e) && e.numerator().ToInt64(&n) && e.denominator().ToInt64(&d) && d % 2 == 1) {
        const long double p = std::pow(-x[0].real(), x[1].real());
        return n % 2 == 0 ? p : -p;
      }
    }
    if (real && x[0].real() >= 0) return std::pow(x[0].real(), x[1].real());
    return std::pow(x[0], x[1]);
  }
  if (name == "ln") return x[0].imag() == 0 && x[0].real() > 0 ? Complex(std::log(x[0].real())) : std::log(x[0]);
  if (name == "abs") return std::abs(x[0]);
  if (name == "sin") return std::sin(x[0]);
  if (name == "cos") return std::cos(x[0]);
  if (name == "tan") return std::tan(x[0]);
  if (name == "cot") return 1.0L / std::tan(x[0]);
  if (name == "sec") return 1.0L / std::cos(x[0]);
  if (name == "csc") return 1.0L / std::sin(x[0]);
  if (name == "sinh") return std::sinh(x[0]);
  if (name == "cosh") return std::cosh(x[0]);
  if (name == "tanh") return std::tanh(x[0]);
  if (name == "arcsin") return std::asin(x[0]);
  if (name == "arccos") return std::acos(x[0]);
  if (name == "arctan") return std::atan(x[0]);
  if (name == "arcsinh") return std::asinh(x[0]);
  if (name == "arccosh") return std::acosh(x[0]);
  if (name == "arctanh") return std::atanh(x[0]);
  if (x[0].imag() == 0) {
    if (name == "floor") return std::floor(x[0].real());
    if (name == "ceil") return std::ceil(x[0].real());
    if (name == "factorial") return std::tgamma(x[0].real() + 1);
  }
  return kNan;
}

Algebra::Complex Algebra::Value(const Sum& sum, int sample, long double* magnitude) {
  Complex total = 0;
  for (const Term& term : sum) {
    Complex value = term.coefficient.ToLongDouble();
    for (const Factor& factor : term.monomial) {
      const Complex base = AtomValue(factor.atom, sample);
      const long double exponent = static_cast<long double>(factor.exponent.n) / factor.exponent.d;
      if (factor.exponent.d == 1 && std::abs(factor.exponent.n) <= 64) {
        Complex power = 1;
        for (int32_t k = 0; k < std::abs(factor.exponent.n); ++k) power *= base;
        value = factor.exponent.n > 0 ? value * power : value / power;
      } else if (base.imag() == 0 && base.real() >= 0) {
        value *= std::pow(base.real(), exponent);
      } else {
        value *= std::pow(base, exponent);
      }
    }
    total += value;
    if (magnitude != nullptr) *magnitude = std::max(*magnitude, std::abs(value));
  }
  return total;
}

Algebra::Complex Algebra::Value(const Scalar& a, int sample) {
  const Complex top = Value(a.numerator, sample, nullptr);
  return a.denominator.empty() ? top : top / Value(a.denominator, sample, nullptr);
}

bool Algebra::ToReal(const Scalar& a, long double* value) {
  if (HasVariables(a)) return false;
  const Complex z = Value(a, 0);
  if (exhausted_ || !std::isfinite(z.real()) || std::abs(z.imag()) > kTolerance * std::abs(z)) return false;
  *value = z.real();
  return true;
}

}  // namespace grouper::math
