// Algebra: logarithms, angles, factorials and the other functions, exact where their value is a known scalar.
#include "reward/math/algebra.h"

namespace grouper::math {
namespace {

constexpr int64_t kMaxFactorial = 500;

}  // namespace

Scalar Algebra::Ln(const Scalar& a) {
  Rational value;
  if (IsRational(a, &value)) {
    if (value.Sign() <= 0) {
      undefined_ = true;
      return {};
    }
    Scalar sum;
    for (const auto& [prime, count] : Factorise(value)) {
      sum = Add(sum, Multiply(FromRational(count), Opaque("ln", {FromRational(Rational(prime))})));
    }
    return sum;
  }
  if (a.denominator.empty() && a.numerator.size() == 1) {
    // ln(c * prod a^r) = ln c + sum r ln a, for positive atoms.
    const Term& term = a.numerator[0];
    bool positive = term.coefficient.Sign() > 0;
    for (const Factor& factor : term.monomial) {
      const AtomKind kind = atoms_[static_cast<size_t>(factor.atom)].kind;
      positive &= kind == AtomKind::kE || kind == AtomKind::kPrime || kind == AtomKind::kPi;
    }
    if (positive) {
      Scalar sum = Ln(FromRational(term.coefficient));
      for (const Factor& factor : term.monomial) {
        const Atom& atom = atoms_[static_cast<size_t>(factor.atom)];
        Scalar part = FromRational(1);
        if (atom.kind == AtomKind::kPrime) part = Opaque("ln", {FromRational(Rational(atom.prime))});
        if (atom.kind == AtomKind::kPi) part = Opaque("ln", {Pi()});
        sum = Add(sum, Multiply(FromRational(Rational(factor.exponent.n, factor.exponent.d)), part));
      }
      return sum;
    }
  }
  return Opaque("ln", {a});
}

Scalar Algebra::Function(const std::string& name, const Scalar& argument) {
  Rational value;
  const bool rational = IsRational(argument, &value);
  if (name == "ln") return Ln(argument);
  if (name == "log10" || name == "log") return Divide(Ln(argument), Ln(FromRational(10)));
  if (name == "exp") return Power(E(), argument);
  if (rational) {
    if (name == "abs") return FromRational(value.Sign() < 0 ? -value : value);
    if (name == "floor" || name == "ceil") {
      BigInt quotient, rest;
      BigInt::DivMod(value.numerator(), value.denominator(), &quotient, &rest);
      if (name == "floor" && rest.Sign() < 0) quotient = quotient - 1;
      if (name == "ceil" && rest.Sign() > 0) quotient = quotient + 1;
      return FromRational(Rational(quotient));
    }
    if (name == "factorial") {
      int64_t n;
      if (!value.IsInteger() || value.Sign() < 0) {
        undefined_ = true;
        return {};
      }
      if (value.numerator().ToInt64(&n) && n <= kMaxFactorial) {
        if (!Spend(static_cast<size_t>(n) * 4 + 1)) return {};
        BigInt product = 1;
        for (int64_t k = 2; k <= n; ++k) product = product * k;
        return FromRational(Rational(product));
      }
    }
    if (name == "doublefactorial" && value.IsInteger() && value.Sign() >= 0) {
      int64_t n;
      if (!value.numerator().ToInt64(&n) || n > kMaxFactorial || !Spend(static_cast<size_t>(n) * 4 + 1))
        return Opaque(name, {argument});
      BigInt product = 1;
      for (; n > 1; n -= 2) product = product * n;
      return FromRational(Rational(product));
    }
    if (value.IsZero()) {
      if (name == "sin" || name == "tan" || name == "arcsin" || name == "arctan" || name == "sinh" || name == "tanh")
        return {};
      if (name == "cos" || name == "sec" || name == "cosh") return FromRational(1);
    }
  }
  Rational turn;
  if (argument.denominator.empty() && argument.numerator.size() == 1 && Turn(argument.numerator[0], false, &turn)) {
    const Scalar sine = SinOfTurn(turn), cosine = SinOfTurn(turn + Rational(1, 2));
    if (name == "sin") return sine;
    if (name == "cos") return cosine;
    if (name == "tan") return Divide(sine, cosine);
    if (name == "cot") return Divide(cosine, sine);
    if (name == "sec") return Divide(FromRational(1), cosine);
    if (name == "csc") return Divide(FromRational(1), sine);
  }
  return Opaque(name, {argument});
}

// Whether `term` is r pi (i r pi when imaginary); *turn is then r.
bool Algebra::Turn(const Term& term, bool imaginary, Rational* turn) const {
  if (term.monomial.size() != (imaginary ? 2u : 1u)) return false;
  for (const Factor& factor : term.monomial) {
    const AtomKind kind = atoms_[static_cast<size_t>(factor.atom)].kind;
    if (!(factor.exponent == Exponent{1, 1}) || (kind != AtomKind::kPi && !(imaginary && kind == AtomKind::kI)))
      return false;
  }
  *turn = term.coefficient;
  return true;
}

// sin(turn * pi): in roots for multiples of 15 degrees, opaque elsewhere.
Scalar Algebra::SinOfTurn(const Rational& turn) {
  const Rational twelfths = turn * Rational(12);
  BigInt quotient, rest;
  BigInt::DivMod(twelfths.numerator(), BigInt(24), &quotient, &rest);
  int64_t k;
  if (!twelfths.IsInteger() || !rest.ToInt64(&k)) {
    const Scalar angle = Multiply(FromRational(turn), Pi());
    return angle.numerator.empty() ? Scalar{} : Opaque("sin", {angle});
  }
  k = (k + 24) % 24;
  const bool negative = k >= 12;
  if (negative) k -= 12;
  if (k > 6) k = 12 - k;
  const auto root = [&](int64_t n) { return Root(FromRational(n), 2); };
  const auto quarter = [&](const Scalar& value) { return Divide(value, FromRational(4)); };
  Scalar sine;
  switch (k) {
    case 0: return {};
    case 1: sine = quarter(Subtract(root(6), root(2))); break;
    case 2: sine = FromRational(Rational(1, 2)); break;
    case 3: sine = Divide(root(2), FromRational(2)); break;
    case 4: sine = Divide(root(3), FromRational(2)); break;
    case 5: sine = quarter(Add(root(6), root(2))); break;
    default: sine = FromRational(1); break;
  }
  return negative ? Negate(sine) : sine;
}

}  // namespace grouper::math
