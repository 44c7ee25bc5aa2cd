#include "reward/math/parser.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "reward/math/units.h"

namespace grouper::math {
namespace {

using absl::string_view;
using Kind = Value::Kind;

constexpr size_t kMaxMatrixCells = 400;

bool IsRelation(Tok kind) {
  return kind == Tok::kEqual || kind == Tok::kLess || kind == Tok::kGreater || kind == Tok::kLessEqual ||
         kind == Tok::kGreaterEqual || kind == Tok::kNotEqual || kind == Tok::kApprox || kind == Tok::kIn;
}

std::string WithoutSpace(string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (absl::ascii_isspace(static_cast<unsigned char>(c)) || c == '$' || c == '~') continue;
    string_view rest = text.substr(i);
    if (c == '\\' && rest.size() > 1 && string_view(" ,;:!").find(rest[1]) != string_view::npos) {
      ++i;
      continue;
    }
    const size_t before = rest.size();
    if (absl::ConsumePrefix(&rest, "\\qquad") || absl::ConsumePrefix(&rest, "\\quad") ||
        absl::ConsumePrefix(&rest, "\\displaystyle")) {
      i += before - rest.size() - 1;
      continue;
    }
    out.push_back(c);
  }
  return out;
}

int64_t ScaleWord(string_view word) {
  const std::string lower = absl::AsciiStrToLower(word);
  return lower == "hundred"    ? 100
         : lower == "thousand" ? 1000
         : lower == "million"  ? 1000000
         : lower == "billion"  ? 1000000000
         : lower == "trillion" ? 1000000000000
                               : 0;
}

// "4 is wrong", "4 if it rains": a sentence about a number is no unit.
bool SaysMoreThanUnit(string_view words) {
  static constexpr string_view kWords[] = {
      "is",    "isn't",   "are",           "aren't",    "was",   "not",  "no",      "wrong",    "incorrect",
      "false", "if",      "but",           "never",     "maybe", "nor",  "perhaps", "possibly", "could",
      "might", "would",   "approximately", "roughly",   "about", "plus", "minus",   "times",    "at",
      "than",  "squared", "cubed",         "factorial", "or",    "and",  "either",  "approx"};
  for (const string_view word : absl::StrSplit(words, ' ', absl::SkipEmpty())) {
    if (std::find(std::begin(kWords), std::end(kWords), absl::AsciiStrToLower(word)) != std::end(kWords)) return true;
  }
  return false;
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
  if (value && (At(Tok::kOver) || At(Tok::kChoose)))
    value = Infix(std::move(*value));  // TeX gives it the whole formula
  if (!value) return std::nullopt;
  while (At(Tok::kBad) && token_.name == ".") Advance();  // a full stop
  if (!At(Tok::kEnd) || algebra_.undefined()) return std::nullopt;
  if (lost_variable_ && value->kind != Kind::kRelation &&
      (value->kind != Kind::kScalar || !algebra_.HasVariables(value->scalar))) {
    return std::nullopt;
  }
  algebra_.NoteDecimal(lexer_.longest_decimal());
  return value;
}

bool Parser::EndsItem() const {
  switch (token_.kind) {
    case Tok::kEnd:
    case Tok::kComma:
    case Tok::kSemicolon:
    case Tok::kAnd:
    case Tok::kOr:
    case Tok::kCloseRound:
    case Tok::kCloseSquare:
    case Tok::kCloseBrace:
    case Tok::kCloseSet:
    case Tok::kCell:
    case Tok::kRow:
    case Tok::kEnvironmentEnd: return true;
    case Tok::kBad: return token_.name == ".";
    default: return IsRelation(token_.kind);
  }
}

// Items by ',' inside items by ';': "p=5, q=2; p=7, q=2". A single item stays what it is.
std::optional<Value> Parser::Sequence() {
  std::vector<Value> outer, inner;
  bool any_or = false, any_and = false, semicolons = false;
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
      any_and |= At(Tok::kAnd);
      const bool comma = At(Tok::kComma);
      Advance();
      if (comma && (At(Tok::kAnd) || At(Tok::kOr))) {
        any_or |= At(Tok::kOr);
        any_and |= At(Tok::kAnd);
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
    list.conjunction = any_and;
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

// Sets and intervals joined by \cup ("U" between intervals), \cap and \setminus, from left to right; \mathbb{R} - S.
std::optional<Value> Parser::Union() {
  const auto take_operation = [&](const Value& left) -> std::optional<Tok> {
    const Tok op = token_.kind;
    const bool set = left.kind == Kind::kTuple || left.kind == Kind::kSet || left.kind == Kind::kReals;
    if (op == Tok::kUnion || op == Tok::kIntersection || (op == Tok::kWithout && set)) {
      Advance();
      return op;
    }
    if (left.kind == Kind::kTuple && op == Tok::kName && token_.name == "U") {
      Advance();
      return Tok::kUnion;
    }
    if (left.kind == Kind::kReals && Take(Tok::kMinus)) return Tok::kWithout;
    return std::nullopt;
  };
  const auto operand = [&] { return At(Tok::kCloseSquare) ? ReversedInterval() : Ratio(); };
  // Beside a union in plain text, braces are a set's: [1, 2] ∪ {5}. In TeX they group.
  const auto as_set = [](Value value) {
    if (value.kind == Kind::kBraced) {
      value.kind = Kind::kSet;
    } else if (value.kind == Kind::kScalar) {
      Value set;
      set.kind = Kind::kSet;
      set.items.push_back(std::move(value));
      return set;
    }
    return value;
  };
  bool braces = At(Tok::kOpenBrace);
  Result first = operand();
  if (!first) return first;
  bool plain = token_.name == "plain";
  std::optional<Tok> op = take_operation(*first);
  if (!op) return first;
  if (braces && plain) first = as_set(std::move(*first));
  Value result;
  result.kind = Kind::kUnion;
  result.items.push_back(std::move(*first));
  for (; op; plain = token_.name == "plain", op = take_operation(result.items.back())) {
    result.ops.push_back(*op);
    braces = At(Tok::kOpenBrace);
    Result next = operand();
    if (!next || result.items.size() > kMaxItems) return std::nullopt;
    result.items.push_back(braces && plain ? as_set(std::move(*next)) : std::move(*next));
  }
  if (std::all_of(result.items.begin(), result.items.end(),
                  [](const Value& part) { return part.kind == Kind::kSet; }) &&
      std::all_of(result.ops.begin(), result.ops.end(), [](Tok each) { return each == Tok::kUnion; })) {
    Value set;  // \{1\} \cup \{2, 3\}
    set.kind = Kind::kSet;
    for (Value& part : result.items) std::move(part.items.begin(), part.items.end(), std::back_inserter(set.items));
    return set;
  }
  return result;
}

// ]1, 2], ]1, 2[: ISO 31-11 turns the bracket of an open end outwards.
std::optional<Value> Parser::ReversedInterval() {
  Advance();
  Value interval;
  interval.kind = Kind::kTuple;
  interval.open = '(';
  for (int end = 0; end < 2; ++end) {
    if (end == 1 && !Take(Tok::kComma) && !Take(Tok::kSemicolon)) return std::nullopt;
    Result value = Sum();
    if (!value) return std::nullopt;
    interval.items.push_back(std::move(*value));
  }
  interval.close = Take(Tok::kCloseSquare) ? ']' : ')';
  if (interval.close == ')' && !Take(Tok::kOpenSquare) && !Take(Tok::kCloseRound)) return std::nullopt;
  return interval;
}

std::optional<Value> Parser::Ratio() {
  Result first = Sum();
  if (!first || !At(Tok::kColon) || colon_ends_) return first;
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
      if (total->kind == Kind::kReals) return total;
    } else if (total->kind == Kind::kMatrix && term->kind == Kind::kMatrix && total->rows == term->rows &&
               total->columns == term->columns) {
      for (size_t k = 0; k < total->items.size(); ++k)
        total->items[k].scalar = algebra_.Add(total->items[k].scalar, term->items[k].scalar);
    } else {
      if (total->kind != Kind::kScalar || term->kind != Kind::kScalar || total->percent != term->percent)
        return std::nullopt;
      total->scalar = algebra_.Add(total->scalar, term->scalar);
      if (total->unit.empty()) total->unit = term->unit;
    }
    if (algebra_.exhausted() || algebra_.undefined()) return std::nullopt;
    if (!(At(Tok::kPlus) || At(Tok::kMinus) || At(Tok::kPlusMinus) || At(Tok::kMinusPlus))) return total;
  }
}

bool Parser::StartsFactor() const {
  switch (token_.kind) {
    case Tok::kNumber:
    case Tok::kName:
    case Tok::kFunction:
    case Tok::kFrac:
    case Tok::kBinom:
    case Tok::kSqrt:
    case Tok::kRoot:
    case Tok::kOpenRound:
    case Tok::kOpenBrace:
    case Tok::kOpenSet:
    case Tok::kOpenAngle:
    case Tok::kFloorOpen:
    case Tok::kCeilOpen:
    case Tok::kBegin:
    case Tok::kOverline:
    case Tok::kWord:
    case Tok::kText:
    case Tok::kBoxed:
    case Tok::kCurrency:
    case Tok::kReals:
    case Tok::kEmptySet: return true;
    case Tok::kBar: return bars_ == 0;
    case Tok::kOpenSquare: {  // not the end of [1, 2[
      Lexer ahead = lexer_;
      const Tok next = ahead.Next().kind;
      return next != Tok::kEnd && next != Tok::kUnion && next != Tok::kIntersection && next != Tok::kWithout &&
             next != Tok::kComma && next != Tok::kOr && next != Tok::kAnd && next != Tok::kCloseRound;
    }
    default: return false;
  }
}

// "m" before a superscript character: 12 m\u00B2. With a caret it may be a variable.
bool Parser::SquareMeters() const {
  if (!At(Tok::kName) || token_.name != "m") return false;
  Lexer ahead = lexer_;
  return ahead.Next().name == "superscript";
}

// Words after a number. False (and nothing consumed that matters) when they are no unit that ends the item.
bool Parser::Unit(Value* value) {
  if (algebra_.HasVariables(value->scalar)) return false;
  std::string words;
  bool any = false;
  while (true) {
    if (!any && (At(Tok::kText) || At(Tok::kWord)) && ScaleWord(token_.name) > 0) {  // 2.5 million dollars
      value->scalar = algebra_.Multiply(value->scalar, Algebra::FromRational(ScaleWord(token_.name)));
      Advance();
      if (EndsItem()) return true;
      continue;
    }
    if (At(Tok::kText) || At(Tok::kWord) || SquareMeters() ||
        (At(Tok::kName) && (token_.upright || any) && token_.name.size() == 1)) {
      if (SaysMoreThanUnit(token_.name)) return false;
      absl::StrAppend(&words, words.empty() ? "" : " ", token_.name);
      any = true;
      Advance();
      if (At(Tok::kPower)) {
        const bool superscript = token_.name == "superscript";
        if (superscript) token_ = lexer_.Superscript();
        if (!superscript) Advance();
        const bool brace = Take(Tok::kOpenBrace);
        if (!At(Tok::kNumber) || !token_.integer) return false;
        absl::StrAppend(&words, "^", token_.value.ToString());
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

// \frac{\text{miles}}{\text{hour}} after a number. False, and nothing consumed, when it is another fraction.
bool Parser::UnitFraction(Value* value) {
  Lexer ahead = lexer_;
  std::string words;
  for (const string_view joint : {"", " per "}) {
    if (ahead.Next().kind != Tok::kOpenBrace) return false;
    const Token name = ahead.Next();
    if (name.kind != Tok::kText || !IsUnitWord(name.name) || ahead.Next().kind != Tok::kCloseBrace) return false;
    absl::StrAppend(&words, joint, name.name);
  }
  for (int token = 0; token < 7; ++token) Advance();
  value->unit = CanonicalUnit(words);
  return EndsItem();
}

// 12 (mod 13), 12 \pmod{13}: the modulus is a unit of a residue. False, and nothing consumed, when there is none.
bool Parser::TakeModulus(Value* value) {
  Lexer ahead = lexer_;
  Token next = token_;
  int tokens = 0, brackets = 0;
  const auto read = [&] {
    next = ahead.Next();
    ++tokens;
  };
  if (At(Tok::kOpenRound)) {
    read();
    ++brackets;
  }
  if ((next.kind != Tok::kWord && next.kind != Tok::kText) || next.name != "mod") return false;
  read();
  if (next.kind == Tok::kOpenBrace) {
    read();
    ++brackets;
  }
  Rational residue;
  if (next.kind != Tok::kNumber || !next.integer || !Algebra::IsRational(value->scalar, &residue) ||
      !residue.IsInteger() || Compare(residue.Sign() < 0 ? -residue : residue, next.value) >= 0) {
    return false;
  }
  const Rational modulus = next.value;
  for (read(); brackets > 0; --brackets, read()) {
    if (next.kind != Tok::kCloseRound && next.kind != Tok::kCloseBrace) return false;
  }
  value->unit = absl::StrCat("mod ", modulus.ToString());
  for (; tokens > 0; --tokens) Advance();
  return EndsItem();
}

// ^\circ, ^{\circ}, \circ, and people's ^o. False, and nothing consumed, when something else stands here.
bool Parser::TakeDegree() {
  if (Take(Tok::kDegree)) return true;
  if (!At(Tok::kPower) || token_.name == "superscript") return false;
  Lexer ahead = lexer_;
  Token next = ahead.Next();
  const bool brace = next.kind == Tok::kOpenBrace;
  if (brace) next = ahead.Next();
  if (next.kind != Tok::kDegree && !(next.kind == Tok::kName && next.name == "o")) return false;
  if (brace && ahead.Next().kind != Tok::kCloseBrace) return false;
  for (int token = 0; token < (brace ? 4 : 2); ++token) Advance();
  return true;
}

std::optional<Value> Parser::Product(Value a, Value b) {
  if (a.kind == Kind::kScalar && b.kind == Kind::kScalar) {
    lost_variable_ |= (a.scalar.numerator.empty() && algebra_.HasVariables(b.scalar)) ||
                      (b.scalar.numerator.empty() && algebra_.HasVariables(a.scalar));
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
        sum =
            algebra_.Add(sum, algebra_.Multiply(a.items[r * a.columns + k].scalar, b.items[k * b.columns + c].scalar));
      }
      product.items.push_back(FromScalar(std::move(sum)));
    }
  }
  return product;
}

std::optional<Value> Parser::Term() {
  string_view currency;
  while (At(Tok::kCurrency)) {
    currency = token_.name;
    Advance();
  }
  if (!currency.empty() && (At(Tok::kMinus) || At(Tok::kPlus))) {  // $-5
    const bool negative = At(Tok::kMinus);
    Advance();
    Result term = Term();
    if (term && negative) term->scalar = algebra_.Negate(term->scalar);
    if (term && term->unit.empty()) term->unit = std::string(currency);
    return term;
  }
  if (!StartsFactor()) return std::nullopt;
  bool number = At(Tok::kNumber);  // the factor just read ends in a digit
  bool integer = number && token_.integer;
  Result product = FactorWithPowers();
  if (!product) return std::nullopt;
  if (closed_factor_) number = integer = false;
  if (product->unit.empty()) product->unit = std::string(currency);
  bool has_value = product->kind == Kind::kScalar;
  while (true) {
    if (algebra_.exhausted() || algebra_.undefined()) return std::nullopt;
    if (has_value && At(Tok::kCurrency)) {  // 5 \euro
      if (product->unit.empty()) product->unit = std::string(token_.name);
      Advance();
      continue;
    }
    if (has_value && TakeDegree()) {  // after a mixed number
      product->unit = "degree";
      continue;
    }
    if (has_value && At(Tok::kFrac) && UnitFraction(&*product)) return product;
    if (has_value && Take(Tok::kPercent)) {  // after a mixed number
      product->percent = true;
      continue;
    }
    if (has_value && TakeModulus(&*product)) return product;
    // A unit ends the term.
    const bool unit_word =
        At(Tok::kText) ||
        (At(Tok::kWord) && (IsUnitWord(token_.name) || token_.name.size() > 3 || IsEnglishWord(token_.name))) ||
        (At(Tok::kName) && token_.upright && has_value && IsUnitLetter(token_.name) &&
         !algebra_.HasVariables(product->scalar)) ||
        (number && SquareMeters());
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
    } else if (!StartsFactor() || (product->kind == Kind::kTuple && At(Tok::kName) && token_.name == "U")) {
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
      const bool proper =
          Algebra::IsRational(fraction->scalar, &part) && part.Sign() > 0 && Compare(part, Rational(1)) < 0;
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
    number = next_number && !closed_factor_;
    integer = next_integer && !implicit && op == Tok::kTimes && !closed_factor_;
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

// After a matrix: ^2, ^T, ^{-1} is left out.
std::optional<Value> Parser::MatrixPower(Value base) {
  constexpr int64_t kMaxMatrixPower = 8;
  Advance();
  const bool brace = Take(Tok::kOpenBrace);
  Result result;
  if (At(Tok::kName) && (token_.name == "T" || token_.name == "top")) {
    Value transposed = base;
    transposed.rows = base.columns;
    transposed.columns = base.rows;
    for (size_t r = 0; r < base.rows; ++r) {
      for (size_t c = 0; c < base.columns; ++c) transposed.items[c * base.rows + r] = base.items[r * base.columns + c];
    }
    result = std::move(transposed);
  } else if (int64_t n; At(Tok::kNumber) && token_.integer && base.rows == base.columns &&
                        token_.value.numerator().ToInt64(&n) && n >= 1 && n <= kMaxMatrixPower) {
    result = base;
    for (int64_t k = 1; k < n && result; ++k) result = Product(std::move(*result), base);
  }
  if (!result) return std::nullopt;
  Advance();
  if (brace && !Take(Tok::kCloseBrace)) return std::nullopt;
  return result;
}

std::optional<Value> Parser::FactorWithPowers() {
  if (++depth_ > kMaxDepth) return std::nullopt;
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{depth_};
  Result base = Base();
  bool closed = false;
  while (base) {
    if (algebra_.exhausted() || algebra_.undefined()) return std::nullopt;
    bool degree = false;
    closed_factor_ = closed;
    if (base->kind == Kind::kScalar && !algebra_.HasVariables(base->scalar) && TakeDegree()) {
      degree = true;
    } else if (At(Tok::kPower)) {
      Lexer ahead = lexer_;
      closed = token_.name != "superscript" && ahead.Next().kind == Tok::kOpenBrace;
      if (base->kind == Kind::kMatrix) {
        base = MatrixPower(std::move(*base));
        continue;
      }
      Result exponent = Exponent(&degree);
      if (!exponent || exponent->kind != Kind::kScalar) return std::nullopt;
      if (!degree) {
        if (base->kind != Kind::kScalar) return std::nullopt;
        base->scalar = algebra_.Power(base->scalar, exponent->scalar);
      }
    } else if (At(Tok::kFactorial)) {
      Advance();
      closed = true;
      if (base->kind != Kind::kScalar) return std::nullopt;
      const bool twice = Take(Tok::kFactorial);  // 5!! = 5 * 3 * 1
      base->scalar = algebra_.Function(twice ? "doublefactorial" : "factorial", base->scalar);
    } else if (At(Tok::kPercent)) {
      Advance();
      closed = false;
      if (base->kind != Kind::kScalar) return std::nullopt;
      base->percent = true;
    } else if (Take(Tok::kDegree)) {
      degree = true;
    } else if (Lexer ahead = lexer_; At(Tok::kOpenBrace) && ahead.Next().kind == Tok::kPower &&
                                     ahead.Next().kind == Tok::kDegree && ahead.Next().kind == Tok::kCloseBrace) {
      for (int token = 0; token < 4; ++token) Advance();  // 30{^\circ}
      degree = true;
    } else if (Lexer empty = lexer_; At(Tok::kOpenBrace) && empty.Next().kind == Tok::kCloseBrace) {
      Advance();  // 30{}^\circ
      Advance();
    } else {
      return base;
    }
    if (degree) {
      if (base->kind != Kind::kScalar) return std::nullopt;
      if (in_angle_ > 0) {
        base->scalar = algebra_.Multiply(base->scalar, algebra_.Divide(algebra_.Pi(), Algebra::FromRational(180)));
      } else {
        base->unit = "degree";
      }
      // 20^\circ C, 20^\circ\text{F}.
      if (At(Tok::kName) && (token_.name == "C" || token_.name == "F")) {
        Lexer ahead = lexer_;
        if (ahead.Next().kind == Tok::kEnd) {
          base->unit = absl::StrCat("degree ", token_.name);
          Advance();
        }
      }
    }
  }
  return base;
}

}  // namespace grouper::math
