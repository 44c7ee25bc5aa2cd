#include "reward/math/algebra.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace grouper::math {
namespace {

constexpr int32_t kMaxExponent = 1 << 20;
constexpr int32_t kTrialDivision = 2000;
constexpr size_t kTrustedDecimalDigits = 12;
constexpr int kSamples = 4;

Exponent MakeExponent(int64_t n, int64_t d, bool* overflow) {
  const int64_t g = std::gcd(n, d);
  if (g > 1) {
    n /= g;
    d /= g;
  }
  if (std::abs(n) > kMaxExponent || d > kMaxExponent) {
    *overflow = true;
    return {};
  }
  return {static_cast<int32_t>(n), static_cast<int32_t>(d)};
}

int CompareMonomials(const Monomial& a, const Monomial& b) {
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    if (a[i].atom != b[i].atom) return a[i].atom < b[i].atom ? -1 : 1;
    const int64_t x = int64_t{a[i].exponent.n} * b[i].exponent.d, y = int64_t{b[i].exponent.n} * a[i].exponent.d;
    if (x != y) return x < y ? -1 : 1;
  }
  return a.size() < b.size() ? -1 : a.size() > b.size();
}

bool IsOne(const Sum& sum) {
  return sum.empty() || (sum.size() == 1 && sum[0].monomial.empty() && sum[0].coefficient.IsOne());
}

const Sum& OneSum() {
  static const Sum* const one = new Sum{{Monomial{}, Rational(1)}};
  return *one;
}
const Sum& Denominator(const Scalar& a) { return a.denominator.empty() ? OneSum() : a.denominator; }

}  // namespace

// --- atoms ----------------------------------------------------------------------------------------

int32_t Algebra::Intern(AtomKind kind, const std::string& key, Atom atom) {
  const auto [it, added] = index_.emplace(key, static_cast<int32_t>(atoms_.size()));
  if (added) {
    atom.kind = kind;
    atoms_.push_back(std::move(atom));
  }
  return it->second;
}

int32_t Algebra::PrimeAtom(const BigInt& prime) {
  Atom atom;
  atom.prime = prime;
  return Intern(AtomKind::kPrime, absl::StrCat("#", prime.ToString()), std::move(atom));
}

Scalar Algebra::AtomScalar(int32_t atom) { return {{{Monomial{{atom, {1, 1}}}, Rational(1)}}, {}}; }

Scalar Algebra::FromRational(Rational value) {
  if (value.IsZero()) return {};
  return {{{Monomial{}, std::move(value)}}, {}};
}

Scalar Algebra::Variable(absl::string_view name) {
  Atom atom;
  atom.name = std::string(name);
  atom.has_variables = true;
  return AtomScalar(Intern(AtomKind::kVariable, absl::StrCat("v", name), std::move(atom)));
}
Scalar Algebra::Pi() { return AtomScalar(Intern(AtomKind::kPi, "pi", {})); }
Scalar Algebra::E() { return AtomScalar(Intern(AtomKind::kE, "e", {})); }
Scalar Algebra::I() { return AtomScalar(Intern(AtomKind::kI, "i", {})); }

Scalar Algebra::Opaque(const std::string& name, const std::vector<Scalar>& arguments) {
  std::string key = absl::StrCat("f", name, "(");
  Atom atom;
  atom.name = name;
  for (const Scalar& argument : arguments) {
    absl::StrAppend(&key, Key(argument), ";");
    atom.has_variables |= HasVariables(argument);
  }
  if (!Spend(key.size() / 8 + 1)) return {};
  atom.arguments = arguments;
  return AtomScalar(Intern(AtomKind::kOpaque, key, std::move(atom)));
}

void Algebra::AppendKey(const Sum& sum, std::string* key) {
  for (const Term& term : sum) {
    absl::StrAppend(key, term.coefficient.ToString());
    for (const Factor& factor : term.monomial)
      absl::StrAppend(key, "*", factor.atom, "^", factor.exponent.n, "/", factor.exponent.d);
    absl::StrAppend(key, "+");
  }
}

std::string Algebra::Key(const Scalar& a) const {
  std::string key;
  AppendKey(a.numerator, &key);
  if (!a.denominator.empty()) {
    key.push_back('|');
    AppendKey(a.denominator, &key);
  }
  return key;
}

bool Algebra::Spend(size_t operations) {
  if (exhausted_ || operations > budget_) {
    exhausted_ = true;
    return false;
  }
  budget_ -= operations;
  return true;
}

// --- sums -----------------------------------------------------------------------------------------

Sum Algebra::AddSums(const Sum& a, const Sum& b) {
  if (!Spend(a.size() + b.size() + 1)) return {};
  Sum sum;
  sum.reserve(a.size() + b.size());
  size_t i = 0, j = 0;
  while (i < a.size() || j < b.size()) {
    const int order = i == a.size() ? 1 : j == b.size() ? -1 : CompareMonomials(a[i].monomial, b[j].monomial);
    if (order < 0) {
      sum.push_back(a[i++]);
    } else if (order > 0) {
      sum.push_back(b[j++]);
    } else {
      Rational c = a[i].coefficient + b[j].coefficient;
      if (c.NumDigits() > 2 * kMaxDigits) exhausted_ = true;
      if (!c.IsZero()) sum.push_back({a[i].monomial, std::move(c)});
      ++i;
      ++j;
    }
  }
  if (sum.size() > kMaxTerms) exhausted_ = true;
  return sum;
}

void Algebra::MultiplyFactor(Term& term, int32_t atom, Exponent exponent) {
  auto it = std::lower_bound(term.monomial.begin(), term.monomial.end(), atom,
                             [](const Factor& factor, int32_t wanted) { return factor.atom < wanted; });
  if (it == term.monomial.end() || it->atom != atom) {
    term.monomial.insert(it, {atom, exponent});
    return;
  }
  it->exponent = MakeExponent(int64_t{it->exponent.n} * exponent.d + int64_t{exponent.n} * it->exponent.d,
                              int64_t{it->exponent.d} * exponent.d, &exhausted_);
  if (it->exponent.n == 0) term.monomial.erase(it);
}

void Algebra::Reduce(Term& term) {
  for (size_t k = 0; k < term.monomial.size();) {
    Factor& factor = term.monomial[k];
    const Atom& atom = atoms_[static_cast<size_t>(factor.atom)];
    Exponent& e = factor.exponent;
    if (atom.kind == AtomKind::kI && e.d == 1) {
      const int32_t r = ((e.n % 4) + 4) % 4;
      if (r >= 2) term.coefficient = -term.coefficient;
      e.n = r % 2;
    } else if (atom.kind == AtomKind::kPrime) {
      const int32_t whole = e.n >= 0 ? e.n / e.d : -((-e.n + e.d - 1) / e.d);
      if (whole != 0) {
        const std::optional<Rational> power = math::Power(Rational(atom.prime), whole);
        if (!power) {
          exhausted_ = true;
          return;
        }
        term.coefficient = term.coefficient * *power;
        e.n -= whole * e.d;
      }
    }
    if (e.n == 0) {
      term.monomial.erase(term.monomial.begin() + static_cast<ptrdiff_t>(k));
    } else {
      ++k;
    }
  }
  if (term.coefficient.NumDigits() > 2 * kMaxDigits) exhausted_ = true;
}

Term Algebra::MultiplyTerms(const Term& a, const Term& b) {
  Term product{a.monomial, a.coefficient * b.coefficient};
  if (b.monomial.empty()) return product;
  for (const Factor& factor : b.monomial) MultiplyFactor(product, factor.atom, factor.exponent);
  Reduce(product);
  return product;
}

Sum Algebra::MultiplySums(const Sum& a, const Sum& b) {
  if (a.empty() || b.empty()) return {};
  if (IsOne(a)) return b;
  if (IsOne(b)) return a;
  size_t cost = 0;  // big coefficients cost more
  for (const Term& term : a) cost += 1 + term.coefficient.NumDigits() / 64;
  size_t cost_b = 0;
  for (const Term& term : b) cost_b += 1 + term.coefficient.NumDigits() / 64;
  if (!Spend(cost * cost_b)) return {};
  Sum product;
  product.reserve(a.size() * b.size());
  for (const Term& x : a) {
    for (const Term& y : b) product.push_back(MultiplyTerms(x, y));
    if (exhausted_) return {};
  }
  std::sort(product.begin(), product.end(),
            [](const Term& x, const Term& y) { return CompareMonomials(x.monomial, y.monomial) < 0; });
  Sum merged;
  for (Term& term : product) {
    if (!merged.empty() && CompareMonomials(merged.back().monomial, term.monomial) == 0) {
      merged.back().coefficient = merged.back().coefficient + term.coefficient;
    } else {
      if (!merged.empty() && merged.back().coefficient.IsZero()) merged.pop_back();
      merged.push_back(std::move(term));
    }
  }
  if (!merged.empty() && merged.back().coefficient.IsZero()) merged.pop_back();
  if (merged.size() > kMaxTerms) exhausted_ = true;
  return merged;
}

// --- scalars --------------------------------------------------------------------------------------

Scalar Algebra::MakeQuotient(Sum numerator, Sum denominator) {
  if (exhausted_) return {};
  if (numerator.empty()) return {};
  if (denominator.size() == 1) {
    // A single term divides exactly.
    Term inverse{{}, Rational(1) / denominator[0].coefficient};
    for (const Factor& factor : denominator[0].monomial)
      inverse.monomial.push_back({factor.atom, {-factor.exponent.n, factor.exponent.d}});
    Reduce(inverse);
    return {MultiplySums(numerator, {inverse}), {}};
  }
  return {std::move(numerator), std::move(denominator)};
}

Scalar Algebra::Add(const Scalar& a, const Scalar& b) {
  if (a.denominator.empty() && b.denominator.empty()) return {AddSums(a.numerator, b.numerator), {}};
  return MakeQuotient(AddSums(MultiplySums(a.numerator, Denominator(b)), MultiplySums(b.numerator, Denominator(a))),
                      MultiplySums(Denominator(a), Denominator(b)));
}

Scalar Algebra::Negate(const Scalar& a) {
  Scalar result = a;
  for (Term& term : result.numerator) term.coefficient = -term.coefficient;
  return result;
}

Scalar Algebra::Multiply(const Scalar& a, const Scalar& b) {
  if (a.denominator.empty() && b.denominator.empty()) return {MultiplySums(a.numerator, b.numerator), {}};
  return MakeQuotient(MultiplySums(a.numerator, b.numerator), MultiplySums(Denominator(a), Denominator(b)));
}

Scalar Algebra::Divide(const Scalar& a, const Scalar& b) {
  if (IsZero(b) != Verdict::kDifferent) {
    undefined_ = true;
    return {};
  }
  return MakeQuotient(MultiplySums(a.numerator, Denominator(b)), MultiplySums(Denominator(a), b.numerator));
}

std::vector<std::pair<BigInt, int32_t>> Algebra::Factorise(const Rational& value) {
  std::vector<std::pair<BigInt, int32_t>> primes;
  const auto add = [&](BigInt rest, int32_t sign) {
    rest = rest.Abs();
    for (int32_t p = 2; p <= kTrialDivision && !rest.IsOne(); p += p == 2 ? 1 : 2) {
      int64_t small;
      if (rest.ToInt64(&small) && int64_t{p} * p > small) break;  // what is left is prime
      int32_t count = 0;
      while (true) {
        BigInt quotient, remainder;
        BigInt::DivMod(rest, p, &quotient, &remainder);
        if (!remainder.IsZero()) break;
        rest = std::move(quotient);
        ++count;
      }
      if (count > 0) primes.push_back({BigInt(p), sign * count});
      if (!Spend(1 + rest.NumDigits() / 16)) return;
    }
    if (rest.IsOne()) return;
    // A square of a large prime is the one composite that answers have.
    const long double root = std::round(std::sqrt(rest.ToLongDouble()));
    if (root < 1e18L) {
      const BigInt r = static_cast<int64_t>(root);
      if (r * r == rest) {
        primes.push_back({r, 2 * sign});
        return;
      }
    }
    primes.push_back({rest, sign});
  };
  add(value.numerator(), 1);
  add(value.denominator(), -1);
  return primes;
}

// base^exponent for one term; false when that is not a term again.
bool Algebra::TermPower(const Term& base, Exponent exponent, Term* result) {
  *result = {{}, Rational(1)};
  if (exponent.d == 1) {
    const std::optional<Rational> power = math::Power(base.coefficient, exponent.n);
    if (!power) return false;
    result->coefficient = *power;
  } else {
    Rational coefficient = base.coefficient;
    if (coefficient.Sign() < 0) {
      coefficient = -coefficient;
      if (exponent.d % 2 == 1) {  // the real root
        if (exponent.n % 2 != 0) result->coefficient = Rational(-1);
      } else if (exponent.d == 2) {
        const Scalar i = I();
        MultiplyFactor(*result, i.numerator[0].monomial[0].atom, {exponent.n, 1});
      } else {
        return false;
      }
    }
    if (!coefficient.IsOne()) {
      for (const auto& [prime, count] : Factorise(coefficient)) {
        MultiplyFactor(*result, PrimeAtom(prime), MakeExponent(int64_t{count} * exponent.n, exponent.d, &exhausted_));
      }
    }
  }
  for (const Factor& factor : base.monomial) {
    const Atom& atom = atoms_[static_cast<size_t>(factor.atom)];
    // sqrt(x^2) is |x|, and a root of i is another number: only positive atoms and first powers go through a root.
    const bool positive = atom.kind == AtomKind::kPi || atom.kind == AtomKind::kE || atom.kind == AtomKind::kPrime;
    if (exponent.d != 1 && !positive) {
      if (atom.kind == AtomKind::kI || atom.kind == AtomKind::kOpaque) return false;
      if (factor.exponent.d == 1 && factor.exponent.n % 2 == 0 && exponent.d % 2 == 0) return false;
    }
    MultiplyFactor(
        *result, factor.atom,
        MakeExponent(int64_t{factor.exponent.n} * exponent.n, int64_t{factor.exponent.d} * exponent.d, &exhausted_));
  }
  Reduce(*result);
  return !exhausted_;
}

Scalar Algebra::RationalPower(const Scalar& base, Exponent exponent) {
  if (exponent.n == 0) return FromRational(1);
  if (base.numerator.empty()) {
    if (exponent.n < 0) undefined_ = true;
    return {};
  }
  if (base.denominator.empty() && base.numerator.size() == 1) {
    Term result;
    if (TermPower(base.numerator[0], exponent, &result)) return {{std::move(result)}, {}};
    if (exhausted_) return {};
  }
  if (exponent.d == 1 && std::abs(exponent.n) <= 64) {
    Scalar result = FromRational(1), square = base;
    for (int32_t n = std::abs(exponent.n); n; n >>= 1) {
      if (n & 1) result = Multiply(result, square);
      if (n > 1) square = Multiply(square, square);
      if (exhausted_) return {};
    }
    return exponent.n > 0 ? result : Divide(FromRational(1), result);
  }
  // Opaque root or power of a primitive sum; its content goes through the root exactly.
  Scalar primitive = base, content = FromRational(1);
  if (base.denominator.empty() && exponent.d != 1) {
    BigInt top = 0, bottom = 1;
    for (const Term& term : base.numerator) {
      top = Gcd(top, term.coefficient.numerator());
      const BigInt& d = term.coefficient.denominator();
      BigInt quotient, rest;
      BigInt::DivMod(d, Gcd(bottom, d), &quotient, &rest);
      bottom = bottom * quotient;
      if (bottom.NumDigits() > kMaxDigits) {
        exhausted_ = true;
        return {};
      }
    }
    const Rational common(top, bottom);
    Term root;
    if (TermPower({{}, common}, exponent, &root)) {
      content = {{root}, {}};
      for (Term& term : primitive.numerator) term.coefficient = term.coefficient / common;
    }
    if (exhausted_) return {};
  }
  const Scalar power = Opaque("power", {primitive, FromRational(Rational(exponent.n, exponent.d))});
  return Multiply(content, power);
}

Scalar Algebra::Root(const Scalar& base, int32_t degree) {
  if (degree <= 0) {
    undefined_ = true;
    return {};
  }
  return RationalPower(base, {1, degree});
}

Scalar Algebra::Power(const Scalar& base, const Scalar& exponent) {
  if (exhausted_) return {};
  Rational value;
  if (IsRational(exponent, &value)) {
    int64_t n, d;
    if (value.numerator().ToInt64(&n) && value.denominator().ToInt64(&d) && std::abs(n) <= kMaxExponent &&
        d <= kMaxExponent) {
      return RationalPower(base, {static_cast<int32_t>(n), static_cast<int32_t>(d)});
    }
    return Opaque("power", {base, exponent});
  }
  // a^(t1 + t2 + ...) = product of (a^m_k)^c_k, over the primes of a where a is a positive rational. With an imaginary
  // m_k, (a^m)^(n/d) is another number than a^(m n/d): only n leaves the exponent then.
  Rational a;
  const bool rational_base = IsRational(base, &a) && a.Sign() > 0;
  const bool atom_base = base.denominator.empty() && base.numerator.size() == 1 &&
                         base.numerator[0].coefficient.IsOne() && base.numerator[0].monomial.size() == 1 &&
                         base.numerator[0].monomial[0].exponent == Exponent{1, 1};
  const bool euler = atom_base && atoms_[static_cast<size_t>(base.numerator[0].monomial[0].atom)].kind == AtomKind::kE;
  if (!exponent.denominator.empty() || (!rational_base && !atom_base)) return Opaque("power", {base, exponent});
  if (rational_base && a.IsOne()) return FromRational(1);
  std::vector<std::pair<Scalar, int32_t>> bases;
  if (rational_base) {
    for (const auto& [prime, count] : Factorise(a)) bases.push_back({FromRational(Rational(prime)), count});
  } else {
    bases.push_back({base, 1});
  }
  Scalar result = FromRational(1);
  for (const Term& term : exponent.numerator) {
    int64_t n, d;
    if (!term.coefficient.numerator().ToInt64(&n) || !term.coefficient.denominator().ToInt64(&d) ||
        std::abs(n) > kMaxExponent || d > kMaxExponent) {
      return Opaque("power", {base, exponent});
    }
    if (Rational turn; euler && Turn(term, true, &turn)) {
      result = Multiply(result, Add(SinOfTurn(turn + Rational(1, 2)), Multiply(I(), SinOfTurn(turn))));
      continue;
    }
    for (const auto& [b, count] : bases) {
      if (term.monomial.empty()) {
        result = Multiply(result, RationalPower(b, MakeExponent(n * count, d, &exhausted_)));
        continue;
      }
      const bool real =
          !SumHas({term}, [](const Atom& atom) { return atom.kind == AtomKind::kI || atom.kind == AtomKind::kOpaque; });
      const Scalar power = Opaque("power", {b, {{{term.monomial, Rational(1, real ? 1 : d)}}, {}}});
      if (exhausted_) return {};
      Term factor{{}, Rational(1)};
      MultiplyFactor(factor, power.numerator[0].monomial[0].atom, MakeExponent(n * count, real ? d : 1, &exhausted_));
      result = Multiply(result, {{factor}, {}});
    }
    if (exhausted_) return {};
  }
  return result;
}

// --- questions ------------------------------------------------------------------------------------

bool Algebra::SumHas(const Sum& sum, bool (*test)(const Atom&)) const {
  for (const Term& term : sum) {
    for (const Factor& factor : term.monomial) {
      if (test(atoms_[static_cast<size_t>(factor.atom)])) return true;
    }
  }
  return false;
}

bool Algebra::IsRational(const Scalar& a, Rational* value) {
  if (!a.denominator.empty() || a.numerator.size() > 1) return false;
  if (a.numerator.empty()) {
    *value = Rational(0);
    return true;
  }
  if (!a.numerator[0].monomial.empty()) return false;
  *value = a.numerator[0].coefficient;
  return true;
}

bool Algebra::HasVariables(const Scalar& a) const {
  const auto test = [](const Atom& atom) { return atom.has_variables; };
  return SumHas(a.numerator, test) || SumHas(a.denominator, test);
}

bool Algebra::HasVariable(const Scalar& a, absl::string_view name) const {
  for (const Sum* sum : {&a.numerator, &a.denominator}) {
    for (const Term& term : *sum) {
      for (const Factor& factor : term.monomial) {
        const Atom& atom = atoms_[static_cast<size_t>(factor.atom)];
        if (atom.kind == AtomKind::kVariable && atom.name == name) return true;
        for (const Scalar& argument : atom.arguments) {
          if (HasVariable(argument, name)) return true;
        }
      }
    }
  }
  return false;
}

bool Algebra::IsVariable(const Scalar& a, std::string* name) const {
  if (!a.denominator.empty() || a.numerator.size() != 1) return false;
  const Term& term = a.numerator[0];
  if (!term.coefficient.IsOne() || term.monomial.size() != 1 || !(term.monomial[0].exponent == Exponent{1, 1}))
    return false;
  const Atom& atom = atoms_[static_cast<size_t>(term.monomial[0].atom)];
  if (atom.kind != AtomKind::kVariable) return false;
  *name = atom.name;
  return true;
}

bool Algebra::IsVariableProduct(const Scalar& a, std::string* name) const {
  if (!a.denominator.empty() || a.numerator.size() != 1) return false;
  const Term& term = a.numerator[0];
  if (!term.coefficient.IsOne() || term.monomial.empty()) return false;
  for (const Factor& factor : term.monomial) {
    if (!(factor.exponent == Exponent{1, 1})) return false;
    const Atom& atom = atoms_[static_cast<size_t>(factor.atom)];
    if (atom.kind == AtomKind::kOpaque || atom.kind == AtomKind::kPrime || atom.kind == AtomKind::kPi) return false;
    if (name != nullptr) absl::StrAppend(name, name->empty() ? "" : " ", atom.name);
  }
  return true;
}

bool Algebra::IsSumOfVariables(const Scalar& a) const {
  if (!a.denominator.empty() || a.numerator.size() < 2) return false;
  return std::all_of(a.numerator.begin(), a.numerator.end(), [&](const Term& term) {
    return (term.coefficient.IsOne() || (-term.coefficient).IsOne()) && term.monomial.size() == 1 &&
           term.monomial[0].exponent == Exponent{1, 1} &&
           atoms_[static_cast<size_t>(term.monomial[0].atom)].kind == AtomKind::kVariable;
  });
}

bool Algebra::IsRatioOfLengths(const Scalar& a) const {
  if (!a.denominator.empty() || a.numerator.size() != 1 || !a.numerator[0].coefficient.IsOne()) return false;
  bool below = false;
  for (const Factor& factor : a.numerator[0].monomial) {
    const Atom& atom = atoms_[static_cast<size_t>(factor.atom)];
    if (factor.exponent.d != 1 || atom.kind != AtomKind::kVariable || atom.name[0] < 'A' || atom.name[0] > 'Z')
      return false;
    below |= factor.exponent.n < 0;
  }
  return below;
}

bool Algebra::IsAbs(const Scalar& a, Scalar* inner) {
  if (!a.denominator.empty() || a.numerator.size() != 1) return false;
  const Term& term = a.numerator[0];
  if (term.monomial.size() != 1 || !(term.monomial[0].exponent == Exponent{1, 1}) || term.coefficient.Sign() < 0)
    return false;
  const Atom& atom = atoms_[static_cast<size_t>(term.monomial[0].atom)];
  if (atom.kind != AtomKind::kOpaque || atom.name != "abs") return false;
  *inner = Multiply(FromRational(term.coefficient), atom.arguments[0]);
  return true;
}

bool Algebra::IsLinear(const Scalar& a, std::string* name, Scalar* slope, Scalar* rest) const {
  if (!a.denominator.empty()) return false;
  bool found = false;
  for (const Term& term : a.numerator) {
    if (!HasVariables({{term}, {}})) {
      rest->numerator.push_back(term);
      continue;
    }
    const Scalar bare{{{term.monomial, Rational(1)}}, {}};
    if (found || !IsVariable(bare, name)) return false;
    found = true;
    *slope = FromRational(term.coefficient);
  }
  return found;
}

Verdict Algebra::IsZero(const Scalar& a) {
  if (exhausted_) return Verdict::kUnknown;
  if (a.numerator.empty()) return Verdict::kEqual;
  if (!SumHas(a.numerator, [](const Atom& atom) { return atom.kind == AtomKind::kOpaque; })) return Verdict::kDifferent;
  const bool constant = !HasVariables({a.numerator, {}});
  int evaluated = 0;
  for (int sample = 0; sample < (constant ? 1 : kSamples); ++sample) {
    long double magnitude = 0;
    const Complex value = Value(a.numerator, sample, &magnitude);
    if (exhausted_) return Verdict::kUnknown;
    if (!std::isfinite(value.real()) || !std::isfinite(value.imag()) || !std::isfinite(magnitude) || magnitude == 0)
      continue;
    ++evaluated;
    if (std::abs(value) > kTolerance * magnitude) return Verdict::kDifferent;
  }
  if (evaluated == 0 || longest_decimal_ > kTrustedDecimalDigits) return Verdict::kUnknown;
  return Verdict::kEqual;
}

Verdict Algebra::Proportional(const Scalar& a, const Scalar& b, int* sign) {
  if (a.numerator.empty() || b.numerator.empty()) {
    return a.numerator.empty() && b.numerator.empty() ? Verdict::kEqual : Verdict::kDifferent;
  }
  // c is the ratio of the coefficients of one monomial that both have.
  const Scalar x{a.numerator, {}}, y{b.numerator, {}};
  if (!a.denominator.empty() || !b.denominator.empty()) {
    const Scalar quotient = Divide(a, b);
    Rational c;
    if (IsRational(quotient, &c) && !c.IsZero()) {
      *sign = c.Sign();
      return Verdict::kEqual;
    }
  }
  for (const Term& term : y.numerator) {
    if (CompareMonomials(term.monomial, x.numerator[0].monomial) != 0) continue;
    const Rational c = x.numerator[0].coefficient / term.coefficient;
    *sign = c.Sign();
    return Equal(a, Multiply(FromRational(c), b));
  }
  return Verdict::kDifferent;
}

}  // namespace grouper::math
