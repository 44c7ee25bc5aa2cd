#include "reward/math/real_set.h"

#include <cmath>

namespace grouper::math {

std::optional<int> RealSet::Order(Algebra& algebra, const Point& a, const Point& b) {
  Rational x, y;
  if (Algebra::IsRational(a.exact, &x) && Algebra::IsRational(b.exact, &y)) {
    const int order = Compare(x, y);
    return order < 0 ? -1 : order > 0;
  }
  const Verdict verdict = algebra.Equal(a.exact, b.exact);
  if (verdict == Verdict::kEqual) return 0;
  const long double scale = std::max({std::abs(a.value), std::abs(b.value), 1e-9L});
  if (verdict == Verdict::kUnknown || std::abs(a.value - b.value) < 1e-14L * scale) return std::nullopt;
  return a.value < b.value ? -1 : 1;
}

// Appends a point beyond all others; one that changes nothing is left out.
void RealSet::Add(Point point, bool in_point, bool in_gap_after) {
  if (in_gap_.back() == in_point && in_point == in_gap_after) return;
  points_.push_back(std::move(point));
  in_point_.push_back(in_point);
  in_gap_.push_back(in_gap_after);
}

std::optional<RealSet> RealSet::Interval(Algebra& algebra, const Scalar* low, bool low_closed, const Scalar* high,
                                         bool high_closed) {
  Point a, b;
  if (low != nullptr) {
    if (!algebra.ToReal(*low, &a.value)) return std::nullopt;
    a.exact = *low;
  }
  if (high != nullptr) {
    if (!algebra.ToReal(*high, &b.value)) return std::nullopt;
    b.exact = *high;
  }
  RealSet set(low == nullptr);
  if (low != nullptr && high != nullptr) {
    const std::optional<int> order = Order(algebra, a, b);
    if (!order || *order > 0) return std::nullopt;
    if (*order == 0) {
      if (!low_closed || !high_closed) return std::nullopt;
      set.Add(std::move(a), true, false);
      return set;
    }
  }
  if (low != nullptr) set.Add(std::move(a), low_closed, true);
  if (high != nullptr) set.Add(std::move(b), high_closed, false);
  return set;
}

std::optional<RealSet> RealSet::Combine(Algebra& algebra, const RealSet& a, Operation operation, const RealSet& b) {
  const auto in = [&](bool x, bool y) {
    return operation == Operation::kUnion ? x || y : operation == Operation::kIntersection ? x && y : x && !y;
  };
  RealSet set(in(a.in_gap_[0], b.in_gap_[0]));
  size_t i = 0, j = 0;  // points passed of each
  while (i < a.points_.size() || j < b.points_.size()) {
    int order = i == a.points_.size() ? 1 : -1;
    if (i < a.points_.size() && j < b.points_.size()) {
      const std::optional<int> known = Order(algebra, a.points_[i], b.points_[j]);
      if (!known) return std::nullopt;
      order = *known;
    }
    const bool at_a = order <= 0, at_b = order >= 0;
    const Point& point = at_a ? a.points_[i] : b.points_[j];
    const bool in_a = at_a ? a.in_point_[i] : a.in_gap_[i], in_b = at_b ? b.in_point_[j] : b.in_gap_[j];
    i += at_a;
    j += at_b;
    set.Add(point, in(in_a, in_b), in(a.in_gap_[i], b.in_gap_[j]));
    if (set.points_.size() > kMaxPoints) return std::nullopt;
  }
  return set;
}

Verdict RealSet::Equal(Algebra& algebra, const RealSet& a, const RealSet& b) {
  if (a.points_.size() != b.points_.size() || a.in_point_ != b.in_point_ || a.in_gap_ != b.in_gap_)
    return Verdict::kDifferent;
  Verdict all = Verdict::kEqual;
  for (size_t k = 0; k < a.points_.size(); ++k) {
    const Verdict verdict = algebra.Equal(a.points_[k].exact, b.points_[k].exact);
    if (verdict == Verdict::kDifferent) return verdict;
    if (verdict == Verdict::kUnknown) all = verdict;
  }
  return all;
}

}  // namespace grouper::math
