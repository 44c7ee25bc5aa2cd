#include "reward/math/parser.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "reward/math/units.h"

namespace grouper::math {
namespace {

using absl::string_view;
using Kind = Value::Kind;

constexpr int64_t kMaxBinomial = 1000;
constexpr size_t kMaxMatrixCells = 400;

bool IsRelation(Tok kind) {
  return kind == Tok::kEqual || kind == Tok::kLess || kind == Tok::kGreater || kind == Tok::kLessEqual || kind == Tok::kGreaterEqual ||
         kind == Tok::kNotEqual || kind == Tok::kApprox || kind == Tok::kIn;
}

// Two or three letters that are a word and not a product of variables.
bool IsEnglish(string_view word) {
  static constexpr string_view kWords[] = {"is", "it", "of", "to", "we", "so", "an", "as", "at", "be", "by", "do", "go", "he", "if", "me", "my", "no", "on",
                                           "up", "us", "the", "are", "was", "for", "has", "yes", "not", "now", "you", "all", "one", "two", "six", "ten",
                                           "can", "get", "its", "our", "any", "let", "odd", "sum", "set", "may", "red", "his", "her", "she", "who", "how", "but",
                                           "had", "put", "see", "say", "way", "too", "use", "mod", "gcd", "lcm", "max", "min", "sun", "mon", "day", "out", "off", "new", "old"};
  return std::find(std::begin(kWords), std::end(kWords), absl::AsciiStrToLower(word)) != std::end(kWords);
}

std::string WithoutSpace(string_view text) {
  std::string out;
  for (const char c : text) {
    if (!absl::ascii_isspace(static_cast<unsigned char>(c)) && c != '$') out.push_back(c);
  }
  return out;
}

}  // namespace

void Parser::Advance() {
  before_ = lexer_;
  token_ = lexer_.Next();
}

bool Parser::Take(Tok kind) {
  if (!At(kind)) return false;
  Advance();
  return true;
}

Value Parser::FromScalar(Scalar scalar) {
  Value value;
  value.scalar = std::move(scalar);
  return value;
}

std::optional<Value> Parser::Parse() {
  if (lexer_.text().size() > kMaxAnswerBytes) return std::nullopt;
  Advance();
  Result value = Sequence();
  if (!value) return std::nullopt;
  while (At(Tok::kBad) && token_.name == ".") Advance();  // a full stop
  if (!At(Tok::kEnd) || algebra_.undefined()) return std::nullopt;
  algebra_.NoteDecimal(lexer_.longest_decimal());
  return value;
}

bool Parser::EndsItem() const {
  switch (token_.kind) {
    case Tok::kEnd: case Tok::kComma: case Tok::kSemicolon: case Tok::kAnd: case Tok::kOr: case Tok::kCloseRound: case Tok::kCloseSquare:
    case Tok::kCloseBrace: case Tok::kCloseSet: case Tok::kCell: case Tok::kRow: case Tok::kEnvironmentEnd:
      return true;
    case Tok::kBad: return token_.name == ".";
    default: return IsRelation(token_.kind);
  }
}

// Items by ',' inside items by ';': "p=5, q=2; p=7, q=2". A single item stays what it is.
std::optional<Value> Parser::Sequence() {
  std::vector<Value> outer, inner;
  bool any_or = false, semicolons = false;
  const auto close_inner = [&] {
    if (inner.size() == 1) {
      outer.push_back(std::move(inner[0]));
    } else {
      Value list;
      list.kind = Kind::kList;
      list.items = std::move(inner);
      outer.push_back(std::move(list));
    }
    inner.clear();
  };
  size_t count = 0;
  while (true) {
    Result item = Item();
    if (!item || ++count > kMaxItems) return std::nullopt;
    inner.push_back(std::move(*item));
    if (At(Tok::kComma) || At(Tok::kAnd) || At(Tok::kOr)) {
      any_or |= At(Tok::kOr);
      const bool comma = At(Tok::kComma);
      Advance();
      if (comma && (At(Tok::kAnd) || At(Tok::kOr))) {
        any_or |= At(Tok::kOr);
        Advance();
      }
      if (comma && At(Tok::kEnd)) break;  // "1, 2,": the comma of the sentence
      continue;
    }
    if (!At(Tok::kSemicolon)) break;
    Advance();
    semicolons = true;
    close_inner();
  }
  if (!semicolons) {
    if (inner.size() == 1) return std::move(inner[0]);
    Value list;
    list.kind = Kind::kList;
    list.items = std::move(inner);
    list.alternatives = any_or;
    return list;
  }
  close_inner();
  Value list;
  list.kind = Kind::kList;
  list.items = std::move(outer);
  list.alternatives = any_or;
  return list;
}

std::optional<Value> Parser::Item() {
  if (++depth_ > kMaxDepth) return std::nullopt;
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{depth_};
  const size_t begin = before_.position();
  Result first = Union();
  if (!first) return std::nullopt;
  if (!IsRelation(token_.kind)) return first;
  Value relation;
  relation.kind = Kind::kRelation;
  relation.text = WithoutSpace(lexer_.text().substr(begin, before_.position() - begin));
  relation.items.push_back(std::move(*first));
  while (IsRelation(token_.kind)) {
    relation.ops.push_back(token_.kind);
    Advance();
    Result next = Union();
    if (!next || relation.items.size() > 16) return std::nullopt;
    relation.items.push_back(std::move(*next));
  }
  if (relation.ops.back() == Tok::kIn) {
    return relation.items.size() == 2 ? Result(std::move(relation.items[1])) : std::nullopt;  // x \in S says S
  }
  return relation;
}

std::optional<Value> Parser::Union() {
  Result first = Ratio();
  if (first && first->kind == Kind::kReals && Take(Tok::kWithout)) return RealsWithout();
  if (!first || !At(Tok::kUnion)) return first;
  Value result;
  result.kind = Kind::kUnion;
  result.items.push_back(std::move(*first));
  while (Take(Tok::kUnion)) {
    Result next = Ratio();
    if (!next || result.items.size() > kMaxItems) return std::nullopt;
    result.items.push_back(std::move(*next));
  }
  if (std::all_of(result.items.begin(), result.items.end(), [](const Value& part) { return part.kind == Kind::kSet; })) {
    Value set;  // \{1\} \cup \{2, 3\}
    set.kind = Kind::kSet;
    for (Value& part : result.items) std::move(part.items.begin(), part.items.end(), std::back_inserter(set.items));
    return set;
  }
  return result;
}

// \mathbb{R} \setminus \{0, 1\}: the open intervals between the points.
std::optional<Value> Parser::RealsWithout() {
  Result points = Ratio();
  if (!points || points->kind != Kind::kSet || points->items.empty() || points->items.size() > 32) return std::nullopt;
  std::vector<std::pair<long double, Value>> ends;
  for (Value& point : points->items) {
    long double value;
    if (point.kind != Kind::kScalar || !algebra_.ToReal(point.scalar, &value)) return std::nullopt;
    ends.emplace_back(value, std::move(point));
  }
  std::stable_sort(ends.begin(), ends.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  Value result;
  result.kind = Kind::kUnion;
  Value low = FromScalar(algebra_.Negate(algebra_.Variable("\\infty")));
  for (size_t i = 0; i <= ends.size(); ++i) {
    Value interval;
    interval.kind = Kind::kTuple;
    interval.open = '(';
    interval.close = ')';
    interval.items.push_back(std::move(low));
    interval.items.push_back(i < ends.size() ? ends[i].second : FromScalar(algebra_.Variable("\\infty")));
    if (i < ends.size()) low = std::move(ends[i].second);
    result.items.push_back(std::move(interval));
  }
  return result;
}

std::optional<Value> Parser::Ratio() {
  Result first = Sum();
  if (!first || !At(Tok::kColon)) return first;
  Value ratio;
  ratio.kind = Kind::kTuple;
  ratio.open = ratio.close = ':';
  ratio.items.push_back(std::move(*first));
  while (Take(Tok::kColon)) {
    Result next = Sum();
    if (!next || ratio.items.size() > 8) return std::nullopt;
    ratio.items.push_back(std::move(*next));
  }
  return ratio;
}

std::optional<Value> Parser::Sum() {
  if (++depth_ > kMaxDepth) return std::nullopt;
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{depth_};
  Result total;
  while (true) {
    bool negative = false, sign = false;
    while (At(Tok::kPlus) || At(Tok::kMinus) || At(Tok::kPlusMinus) || At(Tok::kMinusPlus)) {
      sign = true;
      if (At(Tok::kMinus)) negative = !negative;
      if (At(Tok::kPlusMinus) || At(Tok::kMinusPlus)) {
        saw_plus_minus_ = true;
        if (minus_first_ == At(Tok::kPlusMinus)) negative = !negative;
      }
      Advance();
    }
    if (total && !sign) return total;
    Result term = Term();
    if (!term) return std::nullopt;
    if (negative) {
      if (term->kind == Kind::kMatrix) {
        for (Value& cell : term->items) cell.scalar = algebra_.Negate(cell.scalar);
      } else if (term->kind == Kind::kScalar) {
        term->scalar = algebra_.Negate(term->scalar);
      } else {
        return std::nullopt;
      }
    }
    if (!total) {
      total = std::move(term);
    } else {
      if (total->kind != Kind::kScalar || term->kind != Kind::kScalar || total->percent != term->percent) return std::nullopt;
      total->scalar = algebra_.Add(total->scalar, term->scalar);
      if (total->unit.empty()) total->unit = term->unit;
    }
    if (algebra_.exhausted() || algebra_.undefined()) return std::nullopt;
    if (!(At(Tok::kPlus) || At(Tok::kMinus) || At(Tok::kPlusMinus) || At(Tok::kMinusPlus))) return total;
  }
}

bool Parser::StartsFactor() const {
  switch (token_.kind) {
    case Tok::kNumber: case Tok::kName: case Tok::kFunction: case Tok::kFrac: case Tok::kBinom: case Tok::kSqrt: case Tok::kRoot: case Tok::kOpenRound:
    case Tok::kOpenSquare: case Tok::kOpenBrace: case Tok::kOpenSet: case Tok::kOpenAngle: case Tok::kFloorOpen: case Tok::kCeilOpen: case Tok::kBegin:
    case Tok::kOverline: case Tok::kWord: case Tok::kText: case Tok::kBoxed: case Tok::kCurrency: case Tok::kReals: case Tok::kEmptySet:
      return true;
    case Tok::kBar: return bars_ == 0;
    default: return false;
  }
}

// Words after a number. False (and nothing consumed that matters) when they are no unit that ends the item.
bool Parser::Unit(Value* value) {
  if (algebra_.HasVariables(value->scalar)) return false;
  std::string words;
  bool any = false;
  while (true) {
    if (At(Tok::kText) || At(Tok::kWord) || (At(Tok::kName) && (token_.upright || any) && token_.name.size() == 1)) {
      absl::StrAppend(&words, words.empty() ? "" : " ", token_.name);
      any = true;
      Advance();
      if (At(Tok::kPower)) {
        Advance();
        const bool brace = Take(Tok::kOpenBrace);
        if (!At(Tok::kNumber) || !token_.integer) return false;
        absl::StrAppend(&words, "^", token_.digits);
        Advance();
        if (brace && !Take(Tok::kCloseBrace)) return false;
      }
    } else if ((At(Tok::kSlash) || At(Tok::kTimes)) && any) {
      Advance();
    } else {
      break;
    }
  }
  if (!any || !EndsItem()) return false;
  value->unit = CanonicalUnit(words);
  return true;
}

std::optional<Value> Parser::Product(Value a, Value b) {
  if (a.kind == Kind::kScalar && b.kind == Kind::kScalar) {
    a.scalar = algebra_.Multiply(a.scalar, b.scalar);
    if (a.unit.empty()) a.unit = b.unit;
    a.percent |= b.percent;
    return a;
  }
  if (a.kind == Kind::kScalar && b.kind == Kind::kMatrix) std::swap(a, b);
  if (a.kind == Kind::kMatrix && b.kind == Kind::kScalar) {
    for (Value& cell : a.items) cell.scalar = algebra_.Multiply(cell.scalar, b.scalar);
    return a;
  }
  if (a.kind != Kind::kMatrix || b.kind != Kind::kMatrix || a.columns != b.rows) return std::nullopt;
  Value product;
  product.kind = Kind::kMatrix;
  product.rows = a.rows;
  product.columns = b.columns;
  if (a.rows * b.columns > kMaxMatrixCells) return std::nullopt;
  for (size_t r = 0; r < a.rows; ++r) {
    for (size_t c = 0; c < b.columns; ++c) {
      Scalar sum;
      for (size_t k = 0; k < a.columns; ++k) {
        sum = algebra_.Add(sum, algebra_.Multiply(a.items[r * a.columns + k].scalar, b.items[k * b.columns + c].scalar));
      }
      product.items.push_back(FromScalar(std::move(sum)));
    }
  }
  return product;
}

std::optional<Value> Parser::Term() {
  bool currency = false;
  while (Take(Tok::kCurrency)) currency = true;
  if (currency && (At(Tok::kMinus) || At(Tok::kPlus))) {  // $-5
    const bool negative = At(Tok::kMinus);
    Advance();
    Result term = Term();
    if (term && negative) term->scalar = algebra_.Negate(term->scalar);
    return term;
  }
  if (!StartsFactor()) return std::nullopt;
  bool number = At(Tok::kNumber);  // the factor just read ends in a digit
  bool integer = number && token_.integer;
  Result product = FactorWithPowers();
  if (!product) return std::nullopt;
  if (currency && product->unit.empty()) product->unit = "dollar";
  bool has_value = product->kind == Kind::kScalar;
  while (true) {
    if (algebra_.exhausted() || algebra_.undefined()) return std::nullopt;
    if (has_value && Take(Tok::kCurrency)) continue;
    if (has_value && Take(Tok::kPercent)) {  // after a mixed number
      product->percent = true;
      continue;
    }
    // A unit ends the term.
    const bool unit_word = At(Tok::kText) || (At(Tok::kWord) && (IsUnitWord(token_.name) || token_.name.size() > 3 || IsEnglish(token_.name))) ||
                           (At(Tok::kName) && token_.upright && number && token_.name != "e" && token_.name != "i");
    if (unit_word && has_value) {
      if (!Unit(&*product)) return std::nullopt;
      return product;
    }
    Tok op = Tok::kTimes;
    bool implicit = true;
    if (At(Tok::kTimes) || At(Tok::kDivide) || At(Tok::kSlash)) {
      op = token_.kind;
      implicit = false;
      Advance();
      if (Take(Tok::kPlus)) {
      } else if (At(Tok::kMinus)) {  // 2 \cdot -3
        Advance();
        if (product->kind != Kind::kScalar) return std::nullopt;
        product->scalar = algebra_.Negate(product->scalar);
      }
      if (!StartsFactor()) return std::nullopt;
    } else if (!StartsFactor()) {
      return product;
    }
    if (implicit && number && At(Tok::kNumber)) {
      // "7 3/4" and "1\u00BD" are mixed numbers; other digits beside digits are no product.
      if (!integer || product->kind != Kind::kScalar) return std::nullopt;
      Rational part = token_.value;
      if (token_.integer) {
        if (!token_.space_before) return std::nullopt;
        Advance();
        if (!Take(Tok::kSlash) || !At(Tok::kNumber) || !token_.integer || token_.value.IsZero()) return std::nullopt;
        part = part / token_.value;
      }
      if (Compare(part, Rational(1)) >= 0) return std::nullopt;
      Advance();
      product->scalar = algebra_.Add(product->scalar, Algebra::FromRational(part));
      number = integer = false;
      continue;
    }
    if (implicit && integer && At(Tok::kFrac)) {
      Result fraction = Fraction();
      if (!fraction) return std::nullopt;
      Rational part;
      const bool proper = Algebra::IsRational(fraction->scalar, &part) && part.Sign() > 0 && Compare(part, Rational(1)) < 0;
      if (proper && product->kind == Kind::kScalar) {
        product->scalar = algebra_.Add(product->scalar, fraction->scalar);
      } else {
        product = Product(std::move(*product), std::move(*fraction));
      }
      if (!product) return std::nullopt;
      number = integer = false;
      continue;
    }
    const bool next_number = At(Tok::kNumber);
    const bool next_integer = next_number && token_.integer;
    Result factor = FactorWithPowers();
    if (!factor) return std::nullopt;
    if (op == Tok::kTimes) {
      product = Product(std::move(*product), std::move(*factor));
      if (!product) return std::nullopt;
    } else {
      if (product->kind != Kind::kScalar || factor->kind != Kind::kScalar) return std::nullopt;
      product->scalar = algebra_.Divide(product->scalar, factor->scalar);
      product->percent |= factor->percent;
    }
    number = next_number;
    integer = next_integer && !implicit && op == Tok::kTimes;
  }
}

std::optional<Value> Parser::Exponent(bool* degree) {
  if (token_.name == "superscript") {
    token_ = lexer_.Superscript();
    if (!At(Tok::kNumber)) return std::nullopt;
    Value value = FromScalar(Algebra::FromRational(token_.value));
    Advance();
    return value;
  }
  Advance();  // ^
  if (Take(Tok::kDegree)) {
    *degree = true;
    return FromScalar({});
  }
  if (At(Tok::kOpenBrace)) {
    Advance();
    if (Take(Tok::kDegree)) {
      *degree = true;
      if (!Take(Tok::kCloseBrace)) return std::nullopt;
      return FromScalar({});
    }
    Result exponent = Sum();
    if (!exponent || !Take(Tok::kCloseBrace)) return std::nullopt;
    return exponent;
  }
  bool negative = false;
  while (At(Tok::kMinus) || At(Tok::kPlus)) {
    negative ^= At(Tok::kMinus);
    Advance();
  }
  if (!StartsFactor()) return std::nullopt;
  Result exponent = FactorWithPowers();  // right-associative
  if (exponent && negative) exponent->scalar = algebra_.Negate(exponent->scalar);
  return exponent;
}

std::optional<Value> Parser::FactorWithPowers() {
  if (++depth_ > kMaxDepth) return std::nullopt;
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{depth_};
  Result base = Base();
  while (base) {
    if (algebra_.exhausted() || algebra_.undefined()) return std::nullopt;
    bool degree = false;
    if (At(Tok::kPower)) {
      Result exponent = Exponent(&degree);
      if (!exponent || exponent->kind != Kind::kScalar) return std::nullopt;
      if (!degree) {
        if (base->kind != Kind::kScalar) return std::nullopt;
        base->scalar = algebra_.Power(base->scalar, exponent->scalar);
      }
    } else if (At(Tok::kFactorial)) {
      Advance();
      if (base->kind != Kind::kScalar) return std::nullopt;
      base->scalar = algebra_.Function("factorial", base->scalar);
    } else if (At(Tok::kPercent)) {
      Advance();
      if (base->kind != Kind::kScalar) return std::nullopt;
      base->percent = true;
    } else if (At(Tok::kDegree)) {
      Advance();
      degree = true;
    } else {
      return base;
    }
    if (degree) {
      if (base->kind != Kind::kScalar) return std::nullopt;
      if (in_angle_ > 0) {
        base->scalar = algebra_.Multiply(base->scalar, algebra_.Divide(algebra_.Pi(), Algebra::FromRational(180)));
      }
      // 20^\circ C, 20^\circ\text{F}.
      if (At(Tok::kName) && (token_.name == "C" || token_.name == "F")) {
        Lexer ahead = lexer_;
        if (ahead.Next().kind == Tok::kEnd) Advance();
      }
    }
  }
  return base;
}

std::optional<Value> Parser::Base() {
  switch (token_.kind) {
    case Tok::kNumber: return Number();
    case Tok::kName: return Name();
    case Tok::kFunction: return FunctionCall();
    case Tok::kFrac: return Fraction();
    case Tok::kBinom: return Binomial();
    case Tok::kSqrt:
    case Tok::kRoot: return SquareRoot();
    case Tok::kOpenRound: case Tok::kOpenSquare: case Tok::kOpenBrace: case Tok::kOpenSet: case Tok::kOpenAngle: case Tok::kFloorOpen:
    case Tok::kCeilOpen: case Tok::kBar:
      return Bracketed();
    case Tok::kBegin: return Matrix();
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
    case Tok::kCurrency: Advance(); return Base();
    case Tok::kOverline: {
      Advance();
      if (!At(Tok::kOpenBrace)) return std::nullopt;
      std::string name = "overline ";
      Advance();
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
      if (token_.name.size() > 3 || IsEnglish(token_.name)) {
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
        product = algebra_.Multiply(product, letter == "e" ? algebra_.E() : letter == "i" ? algebra_.I() : algebra_.Variable(letter));
      }
      // A power belongs to the last letter: xy^2.
      const string_view last = token_.name.substr(token_.name.size() - 1);
      Advance();
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
    while (At(Tok::kNumber) || At(Tok::kName) || At(Tok::kWord) || At(Tok::kText) || At(Tok::kPlus) || At(Tok::kMinus) || At(Tok::kComma)) {
      absl::StrAppend(&text, At(Tok::kNumber) ? token_.digits : At(Tok::kPlus) ? "+" : At(Tok::kMinus) ? "-" : At(Tok::kComma) ? "," : token_.name);
      Advance();
    }
    if (!Take(Tok::kCloseBrace)) return "";
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
  if (!At(Tok::kSubscript)) return FromScalar(Algebra::FromRational(number.value));
  // digits_base: the value in that base.
  Advance();
  const std::string text = SubscriptText();
  if (!number.integer || text.empty() || text.size() > 2) return std::nullopt;
  int64_t base = 0;
  for (const char c : text) {
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
    Result value = Sum();
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
  Rational n, k;
  int64_t a, b;
  if (!Algebra::IsRational(top->scalar, &n) || !Algebra::IsRational(bottom->scalar, &k)) {
    return FromScalar(algebra_.Opaque("binomial", {top->scalar, bottom->scalar}));
  }
  if (!n.IsInteger() || !k.IsInteger() || !n.numerator().ToInt64(&a) || !k.numerator().ToInt64(&b) || a < 0 || a > kMaxBinomial || b < 0) {
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
    if (!At(Tok::kNumber) || !token_.integer || !token_.value.numerator().ToInt64(&n) || n < 1 || n > 100) return std::nullopt;
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
  if (At(Tok::kOpenRound)) {
    argument = Bracketed();
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
  const int bars = bars_;
  bars_ = 0;
  struct Restore {
    int& bars;
    int old;
    ~Restore() { bars = old; }
  } restore{bars_, bars};
  if (open == Tok::kFloorOpen || open == Tok::kCeilOpen) {
    Result inner = Sum();
    if (!inner || inner->kind != Kind::kScalar || !Take(open == Tok::kFloorOpen ? Tok::kFloorClose : Tok::kCeilClose)) return std::nullopt;
    return FromScalar(algebra_.Function(open == Tok::kFloorOpen ? "floor" : "ceil", inner->scalar));
  }
  if (open == Tok::kOpenSet) {
    Value set;
    set.kind = Kind::kSet;
    if (Take(Tok::kCloseSet)) return set;
    bars_ = 1;  // a bar here means "such that"
    Result inner = Sequence();
    if (!inner) return std::nullopt;
    if (At(Tok::kSuchThat) || At(Tok::kBar)) {  // \{ x | x > 2 \} says x > 2
      Advance();
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
  if (matrix.rows == 0 || columns != 0) return std::nullopt;
  return matrix;
}

}  // namespace grouper::math
