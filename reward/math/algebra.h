// Exact scalars: quotients of sums of terms   c * a1^r1 * a2^r2 * ...   with rational c and rational exponents r over
// "atoms".
//
//   atom       variable, pi, e, i, a prime under a root, or an opaque function value such as sin(x) or a nested root
//   term       12 * 2^(1/2) * x^3
//   Scalar     (sum of terms) / (sum of terms)
//
// Roots of distinct primes, i, pi, e and variables satisfy no relation but i^2 = -1 and p^(n/q) carrying whole powers
// into c (Besicovitch 1940 for the roots; for pi and e it is assumed, as everybody does). So with these atoms alone a
// sum is zero exactly when it has no terms: equality is decided, not estimated. Only where an opaque atom remains is
// the difference evaluated, in long double at several points.
//
// Work is bounded: numbers by kMaxDigits, sums by kMaxTerms, everything by a budget of term operations. Past a bound
// the Algebra is exhausted(), and nothing that it says counts as equal. Not thread-safe; one Algebra a comparison.
#pragma once

#include <complex>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "reward/math/rational.h"

namespace grouper::math {

struct Exponent {
  int32_t n = 1, d = 1;  // lowest terms, d > 0
  friend bool operator==(const Exponent& a, const Exponent& b) { return a.n == b.n && a.d == b.d; }
};

struct Factor {
  int32_t atom;
  Exponent exponent;  // never 0
};
using Monomial = absl::InlinedVector<Factor, 2>;  // by ascending atom

struct Term {
  Monomial monomial;
  Rational coefficient;  // never 0
};
using Sum = std::vector<Term>;  // by ascending monomial, no two alike

struct Scalar {
  Sum numerator;    // empty: 0
  Sum denominator;  // empty: 1
};

enum class Verdict { kEqual, kDifferent, kUnknown };

class Algebra {
 public:
  static constexpr size_t kMaxTerms = 400;
  // A difference with an opaque atom counts as 0 below this share of its largest term, at every sample point.
  static constexpr long double kTolerance = 1e-13L;

  // budget: term operations until exhausted().
  explicit Algebra(size_t budget = 12000) : budget_(budget) {}

  static Scalar FromRational(Rational value);
  Scalar Variable(absl::string_view name);
  Scalar Pi();
  Scalar E();
  Scalar I();
  // A function of scalars that the engine knows only by value: name is one of the list in algebra.cc (sin, ln, abs,
  // ...).
  Scalar Opaque(const std::string& name, const std::vector<Scalar>& arguments);

  Scalar Add(const Scalar& a, const Scalar& b);
  Scalar Subtract(const Scalar& a, const Scalar& b) { return Add(a, Negate(b)); }
  Scalar Negate(const Scalar& a);
  Scalar Multiply(const Scalar& a, const Scalar& b);
  Scalar Divide(const Scalar& a, const Scalar& b);  // undefined() for b = 0
  Scalar Power(const Scalar& base, const Scalar& exponent);
  Scalar Root(const Scalar& base, int32_t degree);
  // Natural logarithm; of a positive rational as a sum over its primes.
  Scalar Ln(const Scalar& a);
  // sin, cos, tan, ...: exact at multiples of pi / 12, opaque elsewhere. floor, ceil, abs, factorial: exact for
  // rationals.
  Scalar Function(const std::string& name, const Scalar& argument);

  Verdict IsZero(const Scalar& a);
  Verdict Equal(const Scalar& a, const Scalar& b) { return IsZero(Subtract(a, b)); }
  // a = c * b for a rational c that is not 0; *sign receives c's sign.
  Verdict Proportional(const Scalar& a, const Scalar& b, int* sign);

  // The value when it has no atoms.
  static bool IsRational(const Scalar& a, Rational* value);
  bool HasVariables(const Scalar& a) const;
  bool HasVariable(const Scalar& a, absl::string_view name) const;
  // True when `a` is one variable, alone.
  bool IsVariable(const Scalar& a, std::string* name) const;
  // A product of distinct variables without a coefficient: x, AB, f(x) read as f*x.
  bool IsVariableProduct(const Scalar& a, std::string* name = nullptr) const;
  // Distinct variables added and subtracted, without coefficients: m + n - k.
  bool IsSumOfVariables(const Scalar& a) const;
  // A quotient of products of variables with capital letters: NO / BO, a ratio of lengths.
  bool IsRatioOfLengths(const Scalar& a) const;
  // c |inner| for a positive rational c, which goes inside.
  bool IsAbs(const Scalar& a, Scalar* inner);
  // slope * variable + rest for one variable, a rational slope that is not 0 and a rest without variables.
  bool IsLinear(const Scalar& a, std::string* name, Scalar* slope, Scalar* rest) const;
  // Real value of a constant; false when it has variables or is not real and finite.
  bool ToReal(const Scalar& a, long double* value);

  bool exhausted() const { return exhausted_; }
  bool undefined() const { return undefined_; }
  // Remembers that a decimal with so many significant digits was read: agreement in value alone is then not trusted.
  void NoteDecimal(size_t digits) { longest_decimal_ = std::max(longest_decimal_, digits); }

 private:
  using Complex = std::complex<long double>;
  enum class AtomKind : uint8_t { kVariable, kPi, kE, kI, kPrime, kOpaque };
  struct Atom {
    AtomKind kind;
    std::string name;  // variable, function
    BigInt prime;
    std::vector<Scalar> arguments;
    bool has_variables = false;
  };

  bool Turn(const Term& term, bool imaginary, Rational* turn) const;
  Scalar SinOfTurn(const Rational& turn);
  int32_t Intern(AtomKind kind, const std::string& key, Atom atom);
  int32_t PrimeAtom(const BigInt& prime);
  Scalar AtomScalar(int32_t atom);
  bool Spend(size_t operations);
  Sum AddSums(const Sum& a, const Sum& b);
  Sum MultiplySums(const Sum& a, const Sum& b);
  Term MultiplyTerms(const Term& a, const Term& b);
  // Carries whole powers of primes and i into the coefficient.
  void Reduce(Term& term);
  void MultiplyFactor(Term& term, int32_t atom, Exponent exponent);
  Scalar MakeQuotient(Sum numerator, Sum denominator);
  Scalar RationalPower(const Scalar& base, Exponent exponent);
  bool TermPower(const Term& base, Exponent exponent, Term* result);
  // Primes of |value|'s numerator (positive exponents) and denominator; a factor beyond trial division counts as a
  // prime.
  std::vector<std::pair<BigInt, int32_t>> Factorise(const Rational& value);
  std::string Key(const Scalar& a) const;
  static void AppendKey(const Sum& sum, std::string* key);
  bool SumHas(const Sum& sum, bool (*test)(const Atom&)) const;
  Complex Value(const Sum& sum, int sample, long double* magnitude);
  Complex Value(const Scalar& a, int sample);
  Complex AtomValue(int32_t atom, int sample);

  std::deque<Atom> atoms_;  // references stay good while atoms are added
  std::unordered_map<std::string, int32_t> index_;
  size_t budget_;
  size_t longest_decimal_ = 0;
  int value_depth_ = 0;
  bool exhausted_ = false, undefined_ = false;
};

}  // namespace grouper::math
