// Sets of real numbers, exactly: intervals, points and what unions, intersections and differences make of them.
//
//   a RealSet is its boundary points p1 < p2 < ... and, for each of them and for each open gap between them, whether it
//   belongs:   (-inf, p1)  p1  (p1, p2)  p2  ...  (pn, inf)
//
// A point that neither begins nor ends anything is dropped, so that two sets are equal exactly when their points and
// flags are. Points are compared exactly where the algebra can; two that it calls different but that lie too close to
// be ordered make the operation fail.
#pragma once

#include <optional>
#include <vector>

#include "reward/math/algebra.h"

namespace grouper::math {

class RealSet {
 public:
  static constexpr size_t kMaxPoints = 128;

  static RealSet All() { return RealSet(true); }
  static RealSet Empty() { return RealSet(false); }
  // The points between low and high, null: unbounded. Nothing when an end is no real constant, low > high, or for (a,
  // a].
  static std::optional<RealSet> Interval(Algebra& algebra, const Scalar* low, bool low_closed, const Scalar* high,
                                         bool high_closed);

  enum class Operation { kUnion, kIntersection, kWithout };
  static std::optional<RealSet> Combine(Algebra& algebra, const RealSet& a, Operation operation, const RealSet& b);
  static Verdict Equal(Algebra& algebra, const RealSet& a, const RealSet& b);
  bool IsEmpty() const { return points_.empty() && !in_gap_[0]; }

 private:
  struct Point {
    Scalar exact;
    long double value;
  };
  explicit RealSet(bool all) : in_gap_{all} {}
  // -1, 0, 1; nothing when the two cannot be ordered.
  static std::optional<int> Order(Algebra& algebra, const Point& a, const Point& b);
  void Add(Point point, bool in_point, bool in_gap_after);

  std::vector<Point> points_;
  std::vector<bool> in_point_;  // one a point
  std::vector<bool> in_gap_;    // one more than points
};

}  // namespace grouper::math
