// Parser, second half: what a factor may begin with. The grammar is in parser.h.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "reward/math/parser.h"

namespace grouper::math {
namespace {

using absl::string_view;
using Kind = Value::Kind;

constexpr int64_t kMaxBinomial = 1000;
constexpr size_t kMaxMatrixCells = 400;

// "six", as a base is sometimes written; 0 for other words.
int64_t BaseWord(string_view word) {
  static constexpr string_view kBases[] = {"two",   "three", "four", "five",   "six",   "seven",
                                           "eight", "nine",  "ten",  "eleven", "twelve"};
  const auto* const found = std::find(std::begin(kBases), std::end(kBases), word);
  return found == std::end(kBases) ? 0 : found - std::begin(kBases) + 2;
}

}  // namespace

std::optional<Value> Parser::Base() {
  switch (token_.kind) {
    case Tok::kNumber: return Number();
    case Tok::kName: return Name();
    case Tok::kFunction: return FunctionCall();
    case Tok::kFrac: return Fraction();
    case Tok::kBinom: return Binomial();
    case Tok::kSqrt:
    case Tok::kRoot: return SquareRoot();
    case Tok::kOpenRound:
    case Tok::kOpenSquare:
    case Tok::kOpenBrace:
    case Tok::kOpenSet:
    case Tok::kOpenAngle:
    case Tok::kFloorOpen:
    case Tok::kCeilOpen:
    case Tok::kBar: return Bracketed();
    case Tok::kBegin: return token_.name == "cases" ? System() : Matrix();
    case Tok::kReals: {
      Advance();
      Value value;
      value.kind = Kind::kReals;
      return value;
    }
    case Tok::kEmptySet: {
      Advance();
      Value value;
      value.kind = Kind::kSet;
      return value;
    }
    case Tok::kBoxed: Advance(); return Base();
    case Tok::kCurrency: {
      const std::string currency(token_.name);
      Advance();
      Result amount = Base();
      if (amount && amount->unit.empty()) amount->unit = currency;
      return amount;
    }
    case Tok::kOverline: {
      std::string name(token_.name.empty() ? "overline " : token_.name);
      Advance();
      if (At(Tok::kName)) {  // \vec a
        absl::StrAppend(&name, token_.name);
        Advance();
        return FromScalar(algebra_.Variable(name));
      }
      if (!Take(Tok::kOpenBrace)) return std::nullopt;
      while (At(Tok::kName) || At(Tok::kWord) || At(Tok::kNumber)) {
        absl::StrAppend(&name, At(Tok::kNumber) ? token_.digits : token_.name);
        Advance();
      }
      if (!Take(Tok::kCloseBrace)) return std::nullopt;
      return FromScalar(algebra_.Variable(name));
    }
    case Tok::kText: {
      Value value;
      value.kind = Kind::kText;
      value.text = absl::AsciiStrToLower(token_.name);
      Advance();
      if (!EndsItem()) return std::nullopt;
      return value;
    }
    case Tok::kWord: {
      // In a fraction, capitals are points: \frac{NO}{BO}.
      const bool points = in_fraction_ > 0 && std::all_of(token_.name.begin(), token_.name.end(),
                                                          [](unsigned char c) { return absl::ascii_isupper(c); });
      if (!points && (token_.name.size() > 3 || IsEnglishWord(token_.name))) {
        Value value;
        value.kind = Kind::kText;
        value.text = absl::AsciiStrToLower(token_.name);
        Advance();
        if (!EndsItem()) return std::nullopt;
        return value;
      }
      // "xy" is a product of variables.
      Scalar product = Algebra::FromRational(1);
      for (size_t i = 0; i < token_.name.size(); ++i) {
        const string_view letter = token_.name.substr(i, 1);
        product = algebra_.Multiply(product, letter == "e"   ? algebra_.E()
                                             : letter == "i" ? algebra_.I()
                                                             : algebra_.Variable(letter));
      }
      // A power belongs to the last letter: xy^2.
      const string_view last = token_.name.substr(token_.name.size() - 1);
      Advance();
      if (At(Tok::kNumber) && !token_.space_before) return std::nullopt;  // "xy2"
      if (At(Tok::kPower)) {
        const Scalar atom = last == "e" ? algebra_.E() : last == "i" ? algebra_.I() : algebra_.Variable(last);
        bool degree = false;
        Result exponent = Exponent(&degree);
        if (!exponent || degree || exponent->kind != Kind::kScalar) return std::nullopt;
        product = algebra_.Multiply(algebra_.Divide(product, atom), algebra_.Power(atom, exponent->scalar));
      }
      return FromScalar(std::move(product));
    }
    default: return std::nullopt;
  }
}

// What stands after '_': a letter, digits, or a brace group of them.
std::string Parser::SubscriptText() {
  std::string text;
  if (Take(Tok::kOpenBrace)) {
    if (At(Tok::kOpenRound)) {  // 110_{(2)}
      Advance();
      if (At(Tok::kNumber)) text = std::string(token_.digits);
      Advance();
      return Take(Tok::kCloseRound) && Take(Tok::kCloseBrace) ? text : "";
    }
    if ((At(Tok::kText) || At(Tok::kWord)) && token_.name == "base") Advance();  // 110_{\text{base }2}
    const bool wrapped = Take(Tok::kOpenBrace);                                  // 110_{\text{2}}
    while (At(Tok::kNumber) || At(Tok::kName) || At(Tok::kWord) || At(Tok::kText) || At(Tok::kPlus) ||
           At(Tok::kMinus) || At(Tok::kComma)) {
      absl::StrAppend(&text, At(Tok::kNumber)  ? token_.digits
                             : At(Tok::kPlus)  ? "+"
                             : At(Tok::kMinus) ? "-"
                             : At(Tok::kComma) ? ","
                                               : token_.name);
      Advance();
    }
    if (!Take(Tok::kCloseBrace) || (wrapped && !Take(Tok::kCloseBrace))) return "";
    return text;
  }
  if (At(Tok::kNumber)) {
    text = std::string(token_.digits);
  } else if (At(Tok::kName) || At(Tok::kText)) {
    text = std::string(token_.name);
  }
  if (!text.empty()) Advance();
  return text;
}

std::optional<Value> Parser::Number() {
  const Token number = token_;
  Advance();
  std::string text;
  if ((At(Tok::kText) || At(Tok::kWord)) && (token_.name == "base" || token_.name == "in base")) {  // 110 base 2
    Advance();
    if (!At(Tok::kNumber)) return std::nullopt;
    text = std::string(token_.digits);
    Advance();
  } else if (At(Tok::kSubscript)) {  // digits_base: the value in that base
    Advance();
    text = SubscriptText();
  } else {
    // 110 (base 2), 110 \text{ (base 2)}, 110 \text{ base 2}
    Lexer ahead = lexer_;
    Tok first = token_.kind;
    const bool brace = first == Tok::kOpenBrace;
    Token next = ahead.Next();
    if (brace) first = next.kind;
    const bool round = first == Tok::kOpenRound;
    if (brace && round) next = ahead.Next();
    if ((!brace && !round) || next.name != "base") return FromScalar(Algebra::FromRational(number.value));
    for (int token = 0; token < 1 + brace + round; ++token) Advance();
    if (At(Tok::kNumber)) {
      text = std::string(token_.digits);
    } else if (At(Tok::kWord)) {
      text = absl::AsciiStrToLower(token_.name);
    }
    Advance();
    if ((round && !Take(Tok::kCloseRound)) || (brace && !Take(Tok::kCloseBrace))) return std::nullopt;
  }
  int64_t base = BaseWord(text);
  if (!number.integer || text.empty() || (base == 0 && text.size() > 2)) return std::nullopt;
  for (const char c : base > 0 ? std::string() : text) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return std::nullopt;
    base = base * 10 + (c - '0');
  }
  if (base < 2 || base > 36 || number.digits.size() > 200) return std::nullopt;
  BigInt value = 0;
  for (const char c : number.digits) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c)) || c - '0' >= base) return std::nullopt;
    value = value * base + BigInt(c - '0');
  }
  return FromScalar(Algebra::FromRational(Rational(std::move(value))));
}

std::optional<Value> Parser::Name() {
  std::string name(token_.name);
  Advance();
  if (Take(Tok::kSubscript)) {
    const std::string subscript = SubscriptText();
    if (subscript.empty()) return std::nullopt;
    absl::StrAppend(&name, "_", subscript);
  } else if (At(Tok::kNumber) && token_.integer && !token_.space_before && name.size() == 1 && name != "e" &&
             name != "i") {
    absl::StrAppend(&name, "_", token_.digits);  // x1 is x_1, and never x times 1
    Advance();
  }
  while (Take(Tok::kPrime)) name.push_back('\'');
  if (name == "pi") return FromScalar(algebra_.Pi());
  if (name == "e") return FromScalar(algebra_.E());
  if (name == "i") return FromScalar(algebra_.I());
  return FromScalar(algebra_.Variable(name));
}

std::optional<Value> Parser::TexArgument() {
  lexer_ = before_;  // read the token again, as TeX does: one digit
  const Lexer start = lexer_;
  token_ = lexer_.NextDigit();
  before_ = start;
  if (At(Tok::kOpenBrace)) {
    Advance();
    ++in_fraction_;
    Result value = Sum();
    --in_fraction_;
    if (!value || value->kind != Kind::kScalar || !Take(Tok::kCloseBrace)) return std::nullopt;
    return value;
  }
  if (At(Tok::kNumber)) {
    Value value = FromScalar(Algebra::FromRational(token_.value));
    Advance();
    return value;
  }
  if (At(Tok::kName) || At(Tok::kSqrt) || At(Tok::kOpenRound) || At(Tok::kFrac)) return Base();
  return std::nullopt;
}

std::optional<Value> Parser::Fraction() {
  Advance();
  Result top = TexArgument();
  if (!top || top->kind != Kind::kScalar) return std::nullopt;
  Result bottom = TexArgument();
  if (!bottom || bottom->kind != Kind::kScalar) return std::nullopt;
  Value value = FromScalar(algebra_.Divide(top->scalar, bottom->scalar));
  value.unit = top->unit;
  return value;
}

std::optional<Value> Parser::Binomial() {
  Advance();
  Result top = TexArgument();
  if (!top) return std::nullopt;
  Result bottom = TexArgument();
  if (!bottom) return std::nullopt;
  return Choose(top->scalar, bottom->scalar);
}

// {a \over b}, {n \choose k}: the second half, up to the closing brace.
std::optional<Value> Parser::Infix(Value top) {
  const bool choose = At(Tok::kChoose);
  Advance();
  Result bottom = Sum();
  if (!bottom || top.kind != Kind::kScalar || bottom->kind != Kind::kScalar) return std::nullopt;
  if (choose) return Choose(top.scalar, bottom->scalar);
  return FromScalar(algebra_.Divide(top.scalar, bottom->scalar));
}

std::optional<Value> Parser::Choose(const Scalar& top, const Scalar& bottom) {
  constexpr int64_t kMaxPolynomial = 12;
  Rational n, k;
  int64_t a, b;
  const bool constant_k = Algebra::IsRational(bottom, &k) && k.IsInteger() && k.numerator().ToInt64(&b);
  if (!Algebra::IsRational(top, &n)) {
    if (!constant_k || b < 0 || b > kMaxPolynomial) return FromScalar(algebra_.Opaque("binomial", {top, bottom}));
    Scalar product = Algebra::FromRational(1);  // n (n - 1) ... / k!
    for (int64_t i = 0; i < b; ++i) {
      product = algebra_.Multiply(product, algebra_.Add(top, Algebra::FromRational(Rational(-i))));
      product = algebra_.Divide(product, Algebra::FromRational(Rational(i + 1)));
    }
    return FromScalar(std::move(product));
  }
  if (!Algebra::IsRational(bottom, &k)) return FromScalar(algebra_.Opaque("binomial", {top, bottom}));
  if (!n.IsInteger() || !k.IsInteger() || !n.numerator().ToInt64(&a) || !k.numerator().ToInt64(&b) || a < 0 ||
      a > kMaxBinomial || b < 0) {
    return std::nullopt;
  }
  if (b > a) return FromScalar({});
  BigInt value = 1, rest;
  for (int64_t i = 1; i <= std::min(b, a - b); ++i) BigInt::DivMod(value * BigInt(a - i + 1), BigInt(i), &value, &rest);
  return FromScalar(Algebra::FromRational(Rational(std::move(value))));
}

std::optional<Value> Parser::SquareRoot() {
  int32_t degree = 2;
  if (At(Tok::kRoot)) degree = token_.name == "3" ? 3 : 4;
  Advance();
  if (At(Tok::kOpenSquare)) {
    Advance();
    int64_t n;
    if (!At(Tok::kNumber) || !token_.integer || !token_.value.numerator().ToInt64(&n) || n < 1 || n > 100)
      return std::nullopt;
    degree = static_cast<int32_t>(n);
    Advance();
    if (!Take(Tok::kCloseSquare)) return std::nullopt;
  }
  if (!StartsFactor()) return std::nullopt;
  Result radicand = At(Tok::kOpenBrace) || At(Tok::kOpenRound) ? Bracketed() : Base();
  if (!radicand || radicand->kind != Kind::kScalar) return std::nullopt;
  Value value = FromScalar(algebra_.Root(radicand->scalar, degree));
  value.unit = radicand->unit;
  return value;
}

std::optional<Value> Parser::FunctionCall() {
  const string_view name = token_.name;
  Advance();
  Result base, power;
  bool degree = false;
  while (At(Tok::kSubscript) || At(Tok::kPower)) {
    if (Take(Tok::kSubscript)) {
      if (base || name != "log") return std::nullopt;
      base = At(Tok::kOpenBrace) ? Bracketed() : TexArgument();
      if (!base || base->kind != Kind::kScalar) return std::nullopt;
    } else {
      if (power) return std::nullopt;
      power = Exponent(&degree);
      if (!power || degree || power->kind != Kind::kScalar) return std::nullopt;
    }
  }
  const bool angle = name == "sin" || name == "cos" || name == "tan" || name == "cot" || name == "sec" || name == "csc";
  in_angle_ += angle;
  Result argument;
  Lexer ahead = lexer_;
  if (At(Tok::kOpenRound) || (At(Tok::kOpenBrace) && ahead.Next().kind == Tok::kOpenRound)) {
    argument = Bracketed();  // \log(3)^2 and \log{(3)}^2 are squares of logarithms
  } else if (StartsFactor() && !At(Tok::kFunction)) {
    // \sin 2x: factors without a sign between them, up to the next function.
    argument = FactorWithPowers();
    while (argument && (At(Tok::kNumber) || At(Tok::kName) || At(Tok::kFrac) || At(Tok::kSqrt))) {
      Result next = FactorWithPowers();
      if (!next) return std::nullopt;
      argument = Product(std::move(*argument), std::move(*next));
    }
    // \sin 30^\circ/2 is rare; \ln x/2 is (ln x)/2: the loop above stops at the slash.
  } else if (At(Tok::kFunction)) {
    argument = FunctionCall();
  } else if (At(Tok::kMinus)) {
    Advance();
    argument = StartsFactor() ? FactorWithPowers() : std::nullopt;
    if (argument) argument->scalar = algebra_.Negate(argument->scalar);
  }
  in_angle_ -= angle;
  if (!argument || argument->kind != Kind::kScalar) return std::nullopt;
  Scalar value;
  if (name == "cbrt") {
    value = algebra_.Root(argument->scalar, 3);
  } else if (base) {
    value = algebra_.Divide(algebra_.Ln(argument->scalar), algebra_.Ln(base->scalar));
  } else if (power && name != "log" && name != "ln") {
    Rational p;
    if (Algebra::IsRational(power->scalar, &p) && p == Rational(-1)) {  // \sin^{-1} is the inverse function
      value = algebra_.Function(absl::StrCat("arc", name), argument->scalar);
      power.reset();
    } else {
      value = algebra_.Function(std::string(name), argument->scalar);
    }
  } else {
    value = algebra_.Function(std::string(name), argument->scalar);
  }
  if (power) value = algebra_.Power(value, power->scalar);
  return FromScalar(std::move(value));
}

std::optional<Value> Parser::Bracketed() {
  const Tok open = token_.kind;
  Advance();
  if (open == Tok::kBar) {
    ++bars_;
    Result inner = Sum();
    --bars_;
    if (!inner || inner->kind != Kind::kScalar || !Take(Tok::kBar)) return std::nullopt;
    return FromScalar(algebra_.Function("abs", inner->scalar));
  }
  struct Restore {
    Parser& parser;
    const int bars = parser.bars_;
    const bool colon_ends = parser.colon_ends_;
    ~Restore() {
      parser.bars_ = bars;
      parser.colon_ends_ = colon_ends;
    }
  } restore{*this};
  bars_ = 0;
  colon_ends_ = false;
  if (open == Tok::kFloorOpen || open == Tok::kCeilOpen) {
    Result inner = Sum();
    if (!inner || inner->kind != Kind::kScalar || !Take(open == Tok::kFloorOpen ? Tok::kFloorClose : Tok::kCeilClose))
      return std::nullopt;
    return FromScalar(algebra_.Function(open == Tok::kFloorOpen ? "floor" : "ceil", inner->scalar));
  }
  if (open == Tok::kOpenSet) {
    Value set;
    set.kind = Kind::kSet;
    if (Take(Tok::kCloseSet)) return set;
    if (At(Tok::kBegin)) return System();  // \left\{ \begin{array}{l} ... \end{array} \right.
    bars_ = 1;                             // a bar here means "such that", and so does a colon after the variable
    Lexer ahead = lexer_;
    const Tok second = ahead.Next().kind;
    colon_ends_ = At(Tok::kName) && (second == Tok::kColon || second == Tok::kIn);
    Result inner = Sequence();
    if (!inner) return std::nullopt;
    if (At(Tok::kSuchThat) || At(Tok::kBar) || (At(Tok::kColon) && colon_ends_)) {  // \{ x | x > 2 \} says x > 2
      std::string name;
      const bool plain =
          inner->kind == Kind::kReals || (inner->kind == Kind::kScalar && algebra_.IsVariable(inner->scalar, &name));
      if (!plain) return std::nullopt;  // \{ 2x | x > 2 \} is another set
      Advance();
      colon_ends_ = false;
      Result condition = Sequence();
      if (!condition || !Take(Tok::kCloseSet)) return std::nullopt;
      return condition;
    }
    if (!Take(Tok::kCloseSet)) return std::nullopt;
    if (inner->kind == Kind::kList) {
      set.items = std::move(inner->items);
    } else {
      set.items.push_back(std::move(*inner));
    }
    return set;
  }
  Result inner = Sequence();
  if (!inner) return std::nullopt;
  char close = 0;
  if (open == Tok::kOpenBrace) {
    if (At(Tok::kOver) || At(Tok::kChoose)) {
      inner = Infix(std::move(*inner));
      if (!inner) return std::nullopt;
    }
    if (!Take(Tok::kCloseBrace)) return std::nullopt;
    if (inner->kind == Kind::kList) inner->kind = Kind::kBraced;
    return inner;
  }
  if (open == Tok::kOpenAngle) {
    if (!Take(Tok::kCloseAngle)) return std::nullopt;
    close = '>';
  } else if (Take(Tok::kCloseRound)) {
    close = ')';
  } else if (Take(Tok::kCloseSquare)) {
    close = ']';
  } else if (Take(Tok::kOpenSquare)) {  // [1, 2[
    if (inner->kind != Kind::kList || inner->items.size() != 2) return std::nullopt;
    close = ')';
  } else {
    return std::nullopt;
  }
  const char left = open == Tok::kOpenRound ? '(' : open == Tok::kOpenSquare ? '[' : '<';
  if (inner->kind != Kind::kList) {
    if ((left == '(') != (close == ')')) return std::nullopt;
    return inner;  // grouping
  }
  if (inner->alternatives) return std::nullopt;
  inner->kind = Kind::kTuple;
  inner->open = left;
  inner->close = close;
  return inner;
}

// x = 1 \\ y = 2 in an environment: the list of its rows.
std::optional<Value> Parser::System() {
  const bool array = token_.name == "array", aligned = token_.name == "aligned" || token_.name == "align";
  if (!array && !aligned && token_.name != "cases" && token_.name != "gathered") return std::nullopt;
  Advance();
  if (array && At(Tok::kOpenBrace)) {  // the column format
    for (int i = 0; i < 64 && !At(Tok::kCloseBrace) && !At(Tok::kEnd); ++i) Advance();
    if (!Take(Tok::kCloseBrace)) return std::nullopt;
  }
  Value list;
  list.kind = Kind::kList;
  list.conjunction = true;
  while (!Take(Tok::kEnvironmentEnd)) {
    Result row = Item();
    if (!row || row->kind != Kind::kRelation || list.items.size() >= kMaxItems) return std::nullopt;
    list.items.push_back(std::move(*row));
    if (!Take(Tok::kComma)) Take(Tok::kSemicolon);
    if (!Take(Tok::kRow) && !At(Tok::kEnvironmentEnd)) return std::nullopt;
  }
  if (list.items.empty()) return std::nullopt;
  if (list.items.size() == 1) return std::move(list.items[0]);
  return list;
}

std::optional<Value> Parser::Matrix() {
  const string_view name = token_.name;
  Advance();
  const bool array = name == "array";
  if (!absl::EndsWith(name, "matrix") && !array) return std::nullopt;
  if (array && At(Tok::kOpenBrace)) {  // the column format
    for (int i = 0; i < 64 && !At(Tok::kCloseBrace) && !At(Tok::kEnd); ++i) Advance();
    if (!Take(Tok::kCloseBrace)) return std::nullopt;
  }
  Value matrix;
  matrix.kind = Kind::kMatrix;
  size_t columns = 0;
  const int bars = bars_;
  bars_ = 1;
  while (true) {
    if (Take(Tok::kEnvironmentEnd)) break;
    Result cell = Sum();
    if (!cell || cell->kind != Kind::kScalar || matrix.items.size() >= kMaxMatrixCells) return std::nullopt;
    matrix.items.push_back(std::move(*cell));
    ++columns;
    if (Take(Tok::kCell)) continue;
    if (matrix.rows == 0) matrix.columns = columns;
    if (columns != matrix.columns) return std::nullopt;
    ++matrix.rows;
    columns = 0;
    if (Take(Tok::kRow)) continue;
    if (!Take(Tok::kEnvironmentEnd)) return std::nullopt;
    break;
  }
  bars_ = bars;
  if (matrix.rows == 0 || columns != 0 || name == "Vmatrix") return std::nullopt;
  if (name == "vmatrix") return Determinant(matrix);
  return matrix;
}

// |a b; c d| is a number. By Laplace's rule along the first row, up to 4 x 4.
std::optional<Value> Parser::Determinant(const Value& matrix) {
  const size_t n = matrix.rows;
  if (n != matrix.columns || n > 4) return std::nullopt;
  if (n == 1) return matrix.items[0];
  Scalar sum;
  for (size_t skip = 0; skip < n; ++skip) {
    Value minor;
    minor.rows = minor.columns = n - 1;
    for (size_t r = 1; r < n; ++r) {
      for (size_t c = 0; c < n; ++c) {
        if (c != skip) minor.items.push_back(matrix.items[r * n + c]);
      }
    }
    const Result part = Determinant(minor);
    if (!part || algebra_.exhausted()) return std::nullopt;
    const Scalar term = algebra_.Multiply(matrix.items[skip].scalar, part->scalar);
    sum = skip % 2 == 0 ? algebra_.Add(sum, term) : algebra_.Subtract(sum, term);
  }
  return FromScalar(std::move(sum));
}

}  // namespace grouper::math
