// Whether two answers are the same mathematical object. The gold decides what kind of object is asked for:
//
//   scalar     equal exactly (algebra.h); units and a degree sign may be missing on one side, and must agree where both
//              have them
//   tuple      same brackets, element by element in order; of two items also an interval: brackets matter
//   list, set  same elements in any order, each matched once; a tuple is no set
//   relation   equations equal up to a rational factor; inequalities up to a positive one; x = 5, 5 = x, f(2) = 5 and 5
//              are the same answer, and "f(x) = ..." says as much as the right side alone
//   real set   intervals, inequalities, unions and differences as sets of points (real_set.h), of one variable
//   matrix     same shape, entry by entry
//   text       same words, case ignored
//
// kUnknown when a bound was met on the way: never to be counted as right.
#pragma once

#include "reward/math/real_set.h"
#include "reward/math/value.h"

namespace grouper::math {

enum class Percent { kUnit, kFraction, kEither };

class Comparison {
 public:
  Comparison(Algebra* algebra, Percent percent) : algebra_(*algebra), percent_(percent) {}

  Verdict Equal(const Value& gold, const Value& answer);

 private:
  Verdict Scalars(const Value& gold, const Value& answer);
  Verdict Ordered(const std::vector<Value>& gold, const std::vector<Value>& answer);
  Verdict Unordered(const std::vector<Value>& gold, const std::vector<Value>& answer);
  Verdict Relations(const Value& gold, const Value& answer);
  Verdict Rows(const Value& matrix, const Value& tuple);
  Verdict Intervals(const Value& gold, const Value& answer);

  // The right side of "x = 5", "f(x) = x^2", "AB = 4": the left side only names it. `constant`: only when it has no
  // variables.
  bool Contradict(const Value& left, const Value& right) const;
  const Value* Assigned(const Value& relation, bool constant) const;
  // "x = 1, 2" and "x = 1, x = 2" as the plain list; names: what was assigned, each once, "p=5, q=2" has two.
  bool PlainList(const Value& list, std::vector<Value>* items, std::vector<std::string>* names) const;
  // Sets of real numbers (compare_sets.cc). *name: the variable of a condition, which two conditions must share.
  std::optional<RealSet> AsRealSet(const Value& value, std::string* name);
  std::optional<RealSet> AsCondition(const Value& list, std::string* name);
  std::optional<RealSet> HalfLine(const Value& side, Tok op, const Value& bound, std::string* name);
  bool IsRealSetForm(const Value& value) const;
  // Intervals of a tuple, union, inequality in one variable, list of such by "or", or the reals, with any ends.
  bool AsIntervals(const Value& value, std::vector<Value>* intervals) const;

  Algebra& algebra_;
  const Percent percent_;
  int depth_ = 0;
};

}  // namespace grouper::math
