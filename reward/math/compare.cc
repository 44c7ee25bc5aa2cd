#include "reward/math/compare.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "reward/math/units.h"

namespace grouper::math {
namespace {

using Kind = Value::Kind;

constexpr int kMaxCompareDepth = 32;
constexpr size_t kMaxUnordered = 64;
constexpr long double kApproximation = 0.01L;  // how far "a \\approx b" may be off and still be one answer

bool IsInequality(Tok op) {
  return op == Tok::kLess || op == Tok::kGreater || op == Tok::kLessEqual || op == Tok::kGreaterEqual;
}

Tok Flip(Tok op) {
  switch (op) {
    case Tok::kLess: return Tok::kGreater;
    case Tok::kGreater: return Tok::kLess;
    case Tok::kLessEqual: return Tok::kGreaterEqual;
    case Tok::kGreaterEqual: return Tok::kLessEqual;
    default: return op;
  }
}

bool IsListLike(const Value& value) {
  return value.kind == Kind::kList || value.kind == Kind::kSet || value.kind == Kind::kBraced;
}

// "f(2)", "g^{-1}(3)": a function at a place, read as a product by the parser.
bool IsCall(absl::string_view left) {
  if (left.size() < 4 || left.back() != ')' || absl::string_view("fghFGHpqPQ").find(left[0]) == absl::string_view::npos)
    return false;
  left.remove_prefix(1);
  if (!absl::ConsumePrefix(&left, "^{-1}")) absl::ConsumePrefix(&left, "'");
  return left[0] == '(' && left.find(')') + 1 == left.size();
}

// "f(x)", "a_n", "S_{n}": what an equation defines, whose right side is then the whole answer.
bool NamesFunction(absl::string_view left) {
  if (left.size() < 3 || !absl::ascii_isalpha(static_cast<unsigned char>(left[0]))) return false;
  if (left[1] == '_') return left.substr(2) == "n" || left.substr(2) == "{n}";
  if (left.size() == 9 && left.substr(1, 5) == "^{-1}")  // f^{-1}(x)
    return absl::ascii_isalpha(static_cast<unsigned char>(left[7])) && IsCall(left);
  return left.size() == 4 && left[1] == '(' && absl::ascii_isalpha(static_cast<unsigned char>(left[2])) &&
         left[3] == ')' && IsCall(left);
}

Verdict And(Verdict a, Verdict b) {
  if (a == Verdict::kDifferent || b == Verdict::kDifferent) return Verdict::kDifferent;
  return a == Verdict::kUnknown || b == Verdict::kUnknown ? Verdict::kUnknown : Verdict::kEqual;
}

}  // namespace

// Two constants that an '=' joins and that differ; a decimal may be the other's rounded value.
bool Comparison::Contradict(const Value& left, const Value& right) const {
  if (algebra_.HasVariables(left.scalar) || algebra_.HasVariables(right.scalar) || left.percent != right.percent ||
      algebra_.Equal(left.scalar, right.scalar) == Verdict::kEqual) {
    return false;
  }
  long double a, b;
  Rational rounded;
  if (!algebra_.ToReal(left.scalar, &a) || !algebra_.ToReal(right.scalar, &b)) return !algebra_.exhausted();
  const bool decimal = Algebra::IsRational(right.scalar, &rounded) && !rounded.IsInteger();
  return !decimal || std::abs(a - b) > kApproximation * std::abs(a);
}

const Value* Comparison::Assigned(const Value& relation, bool constant) const {
  if (relation.kind != Kind::kRelation || relation.ops.back() != Tok::kEqual) return nullptr;
  for (const Tok op : relation.ops) {
    if (op != Tok::kEqual) return nullptr;
  }
  const Value& right = relation.items.back();
  if (relation.items.size() == 2 && right.kind == Kind::kScalar && algebra_.IsVariableProduct(right.scalar) &&
      algebra_.HasVariables(right.scalar) && relation.items[0].kind == Kind::kScalar &&
      !algebra_.HasVariables(relation.items[0].scalar)) {
    return &relation.items[0];  // 5 = x
  }
  // A chain "x = 2 + 3 = 5" says its last member, whatever the steps before it; "2 + 2 = 5" says nothing.
  for (size_t i = 0; i + 1 < relation.items.size(); ++i) {
    const Value& left = relation.items[i];
    if (i == 0 && left.kind == Kind::kScalar && right.kind == Kind::kScalar && Contradict(left, right)) return nullptr;
    if (i > 0) {
      if (left.kind != Kind::kScalar) return nullptr;
      std::string name;  // "x = 3 / x = 4"
      const Scalar& first = relation.items[0].scalar;
      if (algebra_.IsVariable(first, &name) && algebra_.HasVariable(left.scalar, name)) return nullptr;
      continue;
    }
    if (left.kind == Kind::kScalar) {
      if (!algebra_.IsVariableProduct(left.scalar)) {
        // "2 + 3 = 5": a computation, if it is right; the caller compares the last member.
        Scalar inner;
        std::string names;  // |AB| = 1
        const bool length =
            algebra_.IsAbs(left.scalar, &inner) && algebra_.IsVariableProduct(inner, &names) && names.size() > 1;
        const bool sum =
            !constant && relation.items.size() == 2 && algebra_.IsSumOfVariables(left.scalar);  // m + n = 41
        if (algebra_.HasVariables(left.scalar) && !length && !sum && !IsCall(relation.text) &&
            !algebra_.IsRatioOfLengths(left.scalar))
          return nullptr;
        continue;
      }
      std::string name;
      if (right.kind == Kind::kScalar && algebra_.IsVariable(left.scalar, &name) &&
          algebra_.HasVariable(right.scalar, name))
        return nullptr;
    } else if (left.kind == Kind::kTuple) {  // (x, y) = (1, 2)
      for (const Value& item : left.items) {
        std::string name;
        if (item.kind != Kind::kScalar || !algebra_.IsVariable(item.scalar, &name)) return nullptr;
      }
    } else if (left.kind != Kind::kText) {
      return nullptr;
    }
  }
  if (constant && !NamesFunction(relation.text)) {
    if (right.kind == Kind::kScalar && algebra_.HasVariables(right.scalar)) return nullptr;
  }
  return &right;
}

bool Comparison::PlainList(const Value& list, std::vector<Value>* items, std::vector<std::string>* written) const {
  if (!IsListLike(list)) return false;
  size_t assigned = 0;
  std::vector<std::string>& names = *written;
  for (const Value& item : list.items) {
    const Value* value = Assigned(item, false);
    if (value != nullptr) {
      ++assigned;
      if (std::find(names.begin(), names.end(), item.text) == names.end()) names.push_back(item.text);
    }
    items->push_back(value != nullptr ? *value : item);
  }
  if (assigned == 0) return true;
  // Either every item is assigned, or only the first: "n = 1, 2, 3".
  return assigned == list.items.size() || (assigned == 1 && Assigned(list.items[0], false) != nullptr);
}

Verdict Comparison::Scalars(const Value& gold, const Value& answer) {
  if (!UnitsAgree(gold.unit, answer.unit)) return Verdict::kDifferent;
  const bool mixed = gold.percent != answer.percent;
  const std::string& other_unit = (gold.percent ? answer : gold).unit;
  if (mixed && !other_unit.empty() && other_unit != "percent") return Verdict::kDifferent;  // 12 dollars and 12%
  if (mixed && percent_ != Percent::kUnit) {
    // One side carries the sign: X% = X / 100.
    const Scalar hundredth = Algebra::FromRational(Rational(1, 100));
    const Scalar a = gold.percent ? algebra_.Multiply(gold.scalar, hundredth) : gold.scalar;
    const Scalar b = answer.percent ? algebra_.Multiply(answer.scalar, hundredth) : answer.scalar;
    const Verdict verdict = algebra_.Equal(a, b);
    if (verdict != Verdict::kDifferent || percent_ == Percent::kFraction) return verdict;
  }
  return algebra_.Equal(gold.scalar, answer.scalar);
}

Verdict Comparison::Ordered(const std::vector<Value>& gold, const std::vector<Value>& answer) {
  if (gold.size() != answer.size()) return Verdict::kDifferent;
  Verdict all = Verdict::kEqual;
  for (size_t i = 0; i < gold.size() && all != Verdict::kDifferent; ++i) all = And(all, Equal(gold[i], answer[i]));
  return all;
}

// Every gold element has its own match, and what the answer has beyond them repeats an element. Equality is an
// equivalence, so the first match is as good as any.
Verdict Comparison::Unordered(const std::vector<Value>& gold, const std::vector<Value>& answer) {
  if (gold.size() > answer.size()) return Verdict::kDifferent;
  if (answer.size() > kMaxUnordered) return Ordered(gold, answer);
  std::vector<bool> used(answer.size(), false);
  bool unknown = false;
  for (const Value& wanted : gold) {
    bool found = false;
    for (size_t k = 0; k < answer.size() && !found; ++k) {
      if (used[k]) continue;
      const Verdict verdict = Equal(wanted, answer[k]);
      unknown |= verdict == Verdict::kUnknown;
      if (verdict == Verdict::kEqual) found = used[k] = true;
    }
    if (!found) return unknown ? Verdict::kUnknown : Verdict::kDifferent;
  }
  for (size_t k = 0; k < answer.size(); ++k) {
    const auto repeats = [&](const Value& wanted) { return Equal(wanted, answer[k]) == Verdict::kEqual; };
    if (!used[k] && std::none_of(gold.begin(), gold.end(), repeats)) return Verdict::kDifferent;
  }
  return Verdict::kEqual;
}

Verdict Comparison::Rows(const Value& matrix, const Value& tuple) {
  if (tuple.open == '<' && matrix.columns == 1) return Ordered(matrix.items, tuple.items);
  if (tuple.open != '[' || tuple.close != ']' || tuple.items.size() != matrix.rows) return Verdict::kDifferent;
  std::vector<Value> cells;
  for (const Value& row : tuple.items) {
    if (row.kind != Kind::kTuple || row.open != '[' || row.close != ']' || row.items.size() != matrix.columns)
      return Verdict::kDifferent;
    cells.insert(cells.end(), row.items.begin(), row.items.end());
  }
  return Ordered(matrix.items, cells);
}

Verdict Comparison::Relations(const Value& gold, const Value& answer) {
  // An equation "left = right" as left - right; of a chain the last two members, unless the chain is an inequality.
  if (gold.items.size() == 2 && answer.items.size() == 2) {
    Tok a = gold.ops[0], b = answer.ops[0];
    for (const Value* side : {&gold.items[0], &gold.items[1], &answer.items[0], &answer.items[1]}) {
      if (side->kind != Kind::kScalar) {
        if (a != b) return Verdict::kDifferent;
        const Verdict straight = Ordered(gold.items, answer.items);
        if (straight != Verdict::kDifferent || a != Tok::kEqual) return straight;
        const Value* x = Assigned(gold, true);
        const Value* y = Assigned(answer, true);
        return x != nullptr && y != nullptr && gold.text == answer.text ? Equal(*x, *y) : Verdict::kDifferent;
      }
    }
    const Scalar x = algebra_.Subtract(gold.items[0].scalar, gold.items[1].scalar);
    const Scalar y = algebra_.Subtract(answer.items[0].scalar, answer.items[1].scalar);
    if (!algebra_.HasVariables(x) && !algebra_.HasVariables(y)) {  // "2 + 3 = 5": what they come to
      return a == b ? Ordered(gold.items, answer.items) : Verdict::kDifferent;
    }
    int sign = 1;
    const Verdict verdict = algebra_.Proportional(x, y, &sign);
    if (verdict != Verdict::kEqual) return verdict;
    return a == (sign < 0 ? Flip(b) : b) ? Verdict::kEqual : Verdict::kDifferent;
  }
  const Value* x = Assigned(gold, false);
  const Value* y = Assigned(answer, false);
  if (x != nullptr && y != nullptr && gold.text == answer.text) return Equal(*x, *y);
  if (gold.ops == answer.ops) {
    const Verdict straight = Ordered(gold.items, answer.items);
    if (straight != Verdict::kDifferent) return straight;
  }
  return Intervals(gold, answer);
}

Verdict Comparison::Equal(const Value& gold, const Value& answer) {
  if (depth_ >= kMaxCompareDepth || algebra_.exhausted()) return Verdict::kUnknown;
  ++depth_;
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{depth_};

  if (gold.kind == Kind::kText || answer.kind == Kind::kText) {
    return gold.kind == answer.kind && gold.text == answer.text ? Verdict::kEqual : Verdict::kDifferent;
  }
  if (gold.kind == Kind::kScalar && answer.kind == Kind::kScalar) return Scalars(gold, answer);
  if (gold.kind == Kind::kRelation && answer.kind == Kind::kRelation) {
    const Verdict verdict = Relations(gold, answer);
    if (verdict != Verdict::kDifferent) return verdict;
    return IsInequality(gold.ops[0]) || IsInequality(answer.ops[0]) ? Intervals(gold, answer) : verdict;
  }
  // An inequality, a union or the reals against any form of intervals.
  if (IsRealSetForm(gold) || IsRealSetForm(answer)) {
    const Verdict verdict = Intervals(gold, answer);
    if (verdict != Verdict::kDifferent || gold.kind != Kind::kList || answer.kind != Kind::kList) return verdict;
  }

  if (IsListLike(gold) && IsListLike(answer)) {
    std::vector<Value> a, b;
    std::vector<std::string> x, y;
    const bool plain_gold = PlainList(gold, &a, &x), plain_answer = PlainList(answer, &b, &y);
    const bool plain = plain_gold && plain_answer;
    const bool ordered_a = x.size() > 1, ordered_b = y.size() > 1;
    if (!plain || (ordered_a && ordered_b)) {
      const Verdict verdict = Unordered(gold.items, answer.items);
      if (verdict != Verdict::kDifferent || !plain) return verdict;
      return Verdict::kDifferent;
    }
    if (!ordered_a && !ordered_b) return Unordered(a, b);
    // Values of several unknowns, x = 3 and y = 4, are no set and no values of one unknown; x_1 = 3, x_2 = 4 may be.
    const std::vector<std::string>&many = ordered_a ? x : y, &one = ordered_a ? y : x;
    const bool roots = std::all_of(many.begin(), many.end(), [&](const std::string& name) {
      return name.size() > 2 && name[1] == '_' && name[0] == (one.empty() ? many : one)[0][0];
    });
    if (roots && (!one.empty() || gold.kind == Kind::kSet || answer.kind == Kind::kSet)) return Unordered(a, b);
    if (!one.empty() || gold.kind == Kind::kSet || answer.kind == Kind::kSet) return Verdict::kDifferent;
    return Ordered(a, b);
  }
  // "p=5, q=2" in a list of solutions is the tuple (5, 2).
  const auto assignments = [&](const Value& list, const Value& tuple) {
    std::vector<Value> items;
    std::vector<std::string> names;
    return tuple.kind == Kind::kTuple && tuple.open == '(' && tuple.close == ')' && list.kind == Kind::kList &&
                   PlainList(list, &items, &names) && names.size() > 1 && items.size() == list.items.size()
               ? Ordered(tuple.items, items)
               : Verdict::kDifferent;
  };
  if (gold.kind == Kind::kTuple && answer.kind == Kind::kTuple) {
    const bool same_brackets = gold.open == answer.open && gold.close == answer.close;
    // Of a clock's time, "PM" is more than a unit.
    if (gold.open == ':' && !gold.items.back().unit.empty() && !answer.items.back().unit.empty() &&
        gold.items.back().unit != answer.items.back().unit) {
      return Verdict::kDifferent;
    }
    // Of two elements, brackets tell open from closed ends; of more, [1, 2, 3] is a list like (1, 2, 3).
    const auto mixed = [](const Value& v) { return (v.open == '(') != (v.close == ')'); };
    if (!same_brackets &&
        (gold.items.size() == 2 || mixed(gold) || mixed(answer) || gold.open == ':' || answer.open == ':'))
      return Verdict::kDifferent;
    return Ordered(gold.items, answer.items);
  }
  if (gold.kind == Kind::kTuple && answer.kind == Kind::kBraced)
    return gold.open == ':' ? Verdict::kDifferent : Ordered(gold.items, answer.items);
  if (gold.kind == Kind::kBraced && answer.kind == Kind::kTuple)
    return answer.open == ':' ? Verdict::kDifferent : Ordered(gold.items, answer.items);
  if (gold.kind == Kind::kList && answer.kind == Kind::kTuple) return assignments(gold, answer);
  if (gold.kind == Kind::kTuple && answer.kind == Kind::kList) return assignments(answer, gold);
  if (gold.kind == Kind::kMatrix && answer.kind == Kind::kMatrix) {
    if (gold.rows != answer.rows || gold.columns != answer.columns) return Verdict::kDifferent;
    return Ordered(gold.items, answer.items);
  }
  // [[1, 2], [3, 4]] and, for a column, <1, 2>.
  if (gold.kind == Kind::kMatrix && answer.kind == Kind::kTuple) return Rows(gold, answer);
  if (gold.kind == Kind::kTuple && answer.kind == Kind::kMatrix) return Rows(answer, gold);
  // "5/9 \approx 0.556" says the exact value and, beside it, what it is about; "x \approx 0.556" says the rounded
  // value.
  if (answer.kind == Kind::kRelation && answer.ops.back() == Tok::kApprox && answer.items.size() == 2 &&
      answer.items[0].kind == Kind::kScalar && answer.items[1].kind == Kind::kScalar) {
    std::string name;
    if (algebra_.IsVariable(answer.items[0].scalar, &name)) return Equal(gold, answer.items[1]);
    long double exact, rounded;
    if (!algebra_.ToReal(answer.items[0].scalar, &exact) || !algebra_.ToReal(answer.items[1].scalar, &rounded))
      return Verdict::kDifferent;
    if (std::abs(exact - rounded) > kApproximation * std::abs(exact)) return Verdict::kDifferent;
    const Verdict verdict = Equal(gold, answer.items[0]);
    return verdict == Verdict::kDifferent ? Equal(gold, answer.items[1]) : verdict;
  }
  // "1/2 or 0.5" says one number twice.
  if (gold.kind == Kind::kScalar && answer.kind == Kind::kList && answer.alternatives) {
    Verdict all = Verdict::kEqual;
    for (size_t i = 0; i < answer.items.size() && all != Verdict::kDifferent; ++i)
      all = And(all, Equal(gold, answer.items[i]));
    return all;
  }
  // A set or list of one is its element.
  if (gold.kind == Kind::kSet && gold.items.size() == 1) return Equal(gold.items[0], answer);
  if (answer.kind == Kind::kSet && answer.items.size() == 1) return Equal(gold, answer.items[0]);
  // x = 5 and 5 are one answer; an answer may name what it defines, a gold equation asks for the equation.
  if (answer.kind == Kind::kRelation) {
    if (const Value* value = Assigned(answer, false)) return Equal(gold, *value);
  } else if (gold.kind == Kind::kRelation) {
    if (const Value* value = Assigned(gold, true)) return Equal(*value, answer);
  }
  return Verdict::kDifferent;
}

}  // namespace grouper::math
