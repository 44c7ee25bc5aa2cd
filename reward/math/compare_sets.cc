// Comparison of sets of real numbers in all the ways that they are written: intervals, inequalities, unions, set
// differences, "or" and "and".
#include <algorithm>

#include "reward/math/compare.h"

namespace grouper::math {
namespace {

using Kind = Value::Kind;
using Operation = RealSet::Operation;

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

Value Interval(char open, Value low, Value high, char close) {
  Value interval;
  interval.kind = Kind::kTuple;
  interval.open = open;
  interval.close = close;
  interval.items.push_back(std::move(low));
  interval.items.push_back(std::move(high));
  return interval;
}

// One name for all parts of a condition; empty: none yet.
bool Join(std::string* name, const std::string& part) {
  if (name->empty()) *name = part;
  return part.empty() || *name == part;
}

}  // namespace

// "side op bound": the side is the variable alone, or |k x + c|.
std::optional<RealSet> Comparison::HalfLine(const Value& side, Tok op, const Value& bound, std::string* name) {
  const bool closed = op == Tok::kLessEqual || op == Tok::kGreaterEqual;
  const bool below = op == Tok::kLess || op == Tok::kLessEqual;
  if (side.kind != Kind::kScalar || bound.kind != Kind::kScalar || algebra_.HasVariables(bound.scalar) ||
      (!IsInequality(op) && op != Tok::kNotEqual && op != Tok::kEqual)) {
    return std::nullopt;
  }
  Scalar low = bound.scalar, high = bound.scalar, inner, slope, rest;
  bool outside = op == Tok::kNotEqual;
  // A product is one quantity: 0 < f(x) < 1.
  if (!algebra_.IsVariable(side.scalar, name) && !algebra_.IsVariableProduct(side.scalar, name)) {
    name->clear();
    long double radius;
    if (!algebra_.IsAbs(side.scalar, &inner) || !algebra_.IsLinear(inner, name, &slope, &rest) ||
        !algebra_.ToReal(bound.scalar, &radius) || !(radius > 0) || !IsInequality(op)) {
      return std::nullopt;
    }
    const Scalar center = algebra_.Negate(algebra_.Divide(rest, slope));
    Scalar reach = algebra_.Divide(bound.scalar, slope);
    if (long double signed_reach; !algebra_.ToReal(reach, &signed_reach)) {
      return std::nullopt;
    } else if (signed_reach < 0) {
      reach = algebra_.Negate(reach);
    }
    low = algebra_.Subtract(center, reach);
    high = algebra_.Add(center, reach);
    outside = !below;
  } else if (*name == "\\infty") {
    return std::nullopt;
  } else if (IsInequality(op)) {
    return below ? RealSet::Interval(algebra_, nullptr, false, &high, closed)
                 : RealSet::Interval(algebra_, &low, closed, nullptr, false);
  }
  const bool ends = outside ? !closed : closed || op == Tok::kEqual;
  const std::optional<RealSet> inside = RealSet::Interval(algebra_, &low, ends, &high, ends);
  if (!inside || !outside) return inside;
  return RealSet::Combine(algebra_, RealSet::All(), Operation::kWithout, *inside);
}

std::optional<RealSet> Comparison::AsRealSet(const Value& value, std::string* name) {
  const auto is_infinity = [&](const Value& end, bool negative) {
    std::string symbol;
    return end.kind == Kind::kScalar &&
           algebra_.IsVariable(negative ? algebra_.Negate(end.scalar) : end.scalar, &symbol) && symbol == "\\infty";
  };
  switch (value.kind) {
    case Kind::kReals: return RealSet::All();
    case Kind::kTuple: {
      if (value.items.size() != 2 || value.open == ':' || value.open == '<') return std::nullopt;
      const Value &low = value.items[0], &high = value.items[1];
      if (low.kind != Kind::kScalar || high.kind != Kind::kScalar) return std::nullopt;
      const bool from_infinity = is_infinity(low, true), to_infinity = is_infinity(high, false);
      if ((from_infinity && value.open == '[') || (to_infinity && value.close == ']')) return std::nullopt;
      return RealSet::Interval(algebra_, from_infinity ? nullptr : &low.scalar, value.open == '[',
                               to_infinity ? nullptr : &high.scalar, value.close == ']');
    }
    case Kind::kSet: {
      std::optional<RealSet> points = RealSet::Empty();
      for (const Value& item : value.items) {
        if (item.kind != Kind::kScalar) return std::nullopt;
        const std::optional<RealSet> point = RealSet::Interval(algebra_, &item.scalar, true, &item.scalar, true);
        if (!point) return point;
        points = RealSet::Combine(algebra_, *points, Operation::kUnion, *point);
        if (!points) return points;
      }
      return points;
    }
    case Kind::kUnion: {
      std::optional<RealSet> all = AsRealSet(value.items[0], name);
      for (size_t k = 1; k < value.items.size() && all; ++k) {
        const Tok op = value.ops[k - 1];
        const std::optional<RealSet> part = AsRealSet(value.items[k], name);
        if (!part) return part;
        all = RealSet::Combine(algebra_, *all,
                               op == Tok::kUnion          ? Operation::kUnion
                               : op == Tok::kIntersection ? Operation::kIntersection
                                                          : Operation::kWithout,
                               *part);
      }
      return all;
    }
    case Kind::kRelation: {  // a < x < b: each pair of neighbours
      std::optional<RealSet> all = RealSet::All();
      for (size_t k = 0; k < value.ops.size() && all; ++k) {
        const Value &left = value.items[k], &right = value.items[k + 1];
        std::string variable;
        std::optional<RealSet> half = HalfLine(left, value.ops[k], right, &variable);
        if (!half) half = HalfLine(right, Flip(value.ops[k]), left, &variable);
        if (!half && IsInequality(value.ops[k]) && right.kind == Kind::kScalar && left.kind == Kind::kScalar) {
          // "-\infty < x" and "x < \infty" bound nothing.
          const bool up = value.ops[k] == Tok::kLess;
          if ((up && is_infinity(right, false) && algebra_.IsVariable(left.scalar, &variable)) ||
              (up && is_infinity(left, true) && algebra_.IsVariable(right.scalar, &variable)) ||
              (value.ops[k] == Tok::kGreater && is_infinity(right, true) &&
               algebra_.IsVariable(left.scalar, &variable)) ||
              (value.ops[k] == Tok::kGreater && is_infinity(left, false) &&
               algebra_.IsVariable(right.scalar, &variable))) {
            half = RealSet::All();
          }
        }
        if (!half || !Join(name, variable)) return std::nullopt;
        all = RealSet::Combine(algebra_, *all, Operation::kIntersection, *half);
      }
      return all;
    }
    case Kind::kList: return AsCondition(value, name);
    default: return std::nullopt;
  }
}

// "x < -1 or x > 4", "x > 1 and x < 2", "x > 1, x < 2". Half-lines that have nothing in common, with commas between
// them, can only mean "or". A condition that says no more than one of its parts is a hedge and no set.
std::optional<RealSet> Comparison::AsCondition(const Value& list, std::string* name) {
  std::vector<RealSet> parts;
  for (const Value& item : list.items) {
    if (item.kind == Kind::kReals && !list.alternatives) continue;  // "x \in \mathbb{R}, x \neq 2"
    const Value& first = list.items[0];
    if (item.kind == Kind::kScalar && first.kind == Kind::kRelation && first.ops.size() == 1 &&
        first.ops[0] == Tok::kNotEqual) {  // "x \neq 1, 2"
      const std::optional<RealSet> part = HalfLine(first.items[0], Tok::kNotEqual, item, name);
      if (!part) return part;
      parts.push_back(*part);
      continue;
    }
    if (item.kind != Kind::kRelation && item.kind != Kind::kTuple && item.kind != Kind::kUnion) return std::nullopt;
    if (item.kind == Kind::kTuple && !list.alternatives) return std::nullopt;
    const std::optional<RealSet> part = AsRealSet(item, name);
    if (!part) return part;
    parts.push_back(*part);
  }
  if (parts.empty()) return std::nullopt;
  const auto join = [&](Operation operation) {
    std::optional<RealSet> all = parts[0];
    for (size_t k = 1; k < parts.size() && all; ++k) all = RealSet::Combine(algebra_, *all, operation, parts[k]);
    return all;
  };
  std::optional<RealSet> all = join(list.alternatives ? Operation::kUnion : Operation::kIntersection);
  if (all && all->IsEmpty() && !list.conjunction) all = join(Operation::kUnion);
  if (!all || parts.size() == 1) return all;
  for (const RealSet& part : parts) {
    if (RealSet::Equal(algebra_, part, *all) != Verdict::kDifferent) return std::nullopt;
  }
  return all;
}

bool Comparison::AsIntervals(const Value& value, std::vector<Value>* intervals) const {
  const auto infinity = [&](bool negative) {
    Value end;
    end.scalar = algebra_.Variable("\\infty");
    if (negative) end.scalar = algebra_.Negate(end.scalar);
    return end;
  };
  switch (value.kind) {
    case Kind::kReals: intervals->push_back(Interval('(', infinity(true), infinity(false), ')')); return true;
    case Kind::kTuple:
      if (value.items.size() != 2 || value.open == ':' || value.open == '<') return false;
      intervals->push_back(value);
      return true;
    case Kind::kUnion:
      if (std::any_of(value.ops.begin(), value.ops.end(), [](Tok op) { return op != Tok::kUnion; })) return false;
      for (const Value& part : value.items) {
        if (part.kind == Kind::kSet) {
          for (const Value& point : part.items) intervals->push_back(Interval('[', point, point, ']'));
        } else if (!AsIntervals(part, intervals)) {
          return false;
        }
      }
      return true;
    case Kind::kList:
      if (!value.alternatives) return false;
      for (const Value& part : value.items) {
        if (part.kind != Kind::kRelation || !AsIntervals(part, intervals)) return false;
      }
      return true;
    case Kind::kRelation: break;
    default: return false;
  }
  // x < 3, 3 > x, -1 <= x < 2, with the variable alone in one place.
  for (const Value& item : value.items) {
    if (item.kind != Kind::kScalar) return false;
  }
  std::string name;
  if (value.items.size() == 2 && IsInequality(value.ops[0])) {
    Tok op = value.ops[0];
    const Value* bound = &value.items[1];
    if (!algebra_.IsVariable(value.items[0].scalar, &name) || name == "\\infty") {
      if (!algebra_.IsVariable(value.items[1].scalar, &name) || name == "\\infty") return false;
      op = Flip(op);
      bound = &value.items[0];
    }
    if (algebra_.HasVariable(bound->scalar, name)) return false;
    const bool closed = op == Tok::kLessEqual || op == Tok::kGreaterEqual;
    if (op == Tok::kLess || op == Tok::kLessEqual) {
      intervals->push_back(Interval('(', infinity(true), *bound, closed ? ']' : ')'));
    } else {
      intervals->push_back(Interval(closed ? '[' : '(', *bound, infinity(false), ')'));
    }
    return true;
  }
  if (value.items.size() == 2 && value.ops[0] == Tok::kNotEqual && algebra_.IsVariable(value.items[0].scalar, &name)) {
    intervals->push_back(Interval('(', infinity(true), value.items[1], ')'));
    intervals->push_back(Interval('(', value.items[1], infinity(false), ')'));
    return true;
  }
  if (value.items.size() == 3 && IsInequality(value.ops[0]) && IsInequality(value.ops[1]) &&
      algebra_.IsVariable(value.items[1].scalar, &name) && name != "\\infty") {
    const bool up = value.ops[0] == Tok::kLess || value.ops[0] == Tok::kLessEqual;
    const bool up2 = value.ops[1] == Tok::kLess || value.ops[1] == Tok::kLessEqual;
    if (up != up2) return false;
    const Value& low = up ? value.items[0] : value.items[2];
    const Value& high = up ? value.items[2] : value.items[0];
    const Tok low_op = up ? value.ops[0] : value.ops[1], high_op = up ? value.ops[1] : value.ops[0];
    const auto closed = [](Tok op) { return op == Tok::kLessEqual || op == Tok::kGreaterEqual; };
    intervals->push_back(Interval(closed(low_op) ? '[' : '(', low, high, closed(high_op) ? ']' : ')'));
    return true;
  }
  return false;
}

Verdict Comparison::Intervals(const Value& gold, const Value& answer) {
  std::string x, y;
  if (const std::optional<RealSet> wanted = AsRealSet(gold, &x)) {
    const std::optional<RealSet> given = AsRealSet(answer, &y);
    if (given)
      return x.empty() || y.empty() || x == y ? RealSet::Equal(algebra_, *wanted, *given) : Verdict::kDifferent;
  }
  // Ends that are no constants: part by part.
  std::vector<Value> a, b;
  if (!AsIntervals(gold, &a) || !AsIntervals(answer, &b)) return Verdict::kDifferent;
  if (gold.kind == Kind::kRelation && answer.kind == Kind::kRelation && !x.empty() && !y.empty() && x != y)
    return Verdict::kDifferent;
  return Unordered(a, b);
}

// What can only be meant as a set of real numbers.
bool Comparison::IsRealSetForm(const Value& value) const {
  const auto is_condition = [](const Value& v) {
    return v.kind == Kind::kRelation && (IsInequality(v.ops[0]) || v.ops[0] == Tok::kNotEqual);
  };
  const auto is_interval = [&](const Value& v) {  // (-\infty, 2), [1, 3)
    if (v.kind != Kind::kTuple || v.items.size() != 2 || v.open == ':' || v.open == '<') return false;
    if ((v.open == '(') != (v.close == ')')) return true;
    return std::any_of(v.items.begin(), v.items.end(), [&](const Value& end) {
      return end.kind == Kind::kScalar && algebra_.HasVariable(end.scalar, "\\infty");
    });
  };
  if (value.kind == Kind::kUnion || value.kind == Kind::kReals || is_condition(value)) return true;
  if (value.kind != Kind::kList) return false;
  if (std::any_of(value.items.begin(), value.items.end(), is_condition)) return true;
  return value.alternatives && std::any_of(value.items.begin(), value.items.end(), is_interval);
}

}  // namespace grouper::math
