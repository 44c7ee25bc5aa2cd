#include "trainer/advantages.h"

#include <cmath>
#include <limits>

namespace grouper {
namespace {

constexpr double kEpsilon = 1e-4;

struct Moments {
  double mean = 0, std = 0;  // ddof 1
  int count = 0;
};

Moments MomentsOf(const std::vector<double>& values) {
  Moments m;
  m.count = static_cast<int>(values.size());
  for (double v : values) m.mean += v;
  if (m.count > 0) m.mean /= m.count;
  double squares = 0;
  for (double v : values) squares += (v - m.mean) * (v - m.mean);
  if (m.count > 1) m.std = std::sqrt(squares / (m.count - 1));
  return m;
}

std::vector<double> Scored(const std::vector<std::optional<double>>& rewards) {
  std::vector<double> scored;
  for (const std::optional<double>& reward : rewards) {
    if (reward) scored.push_back(*reward);
  }
  return scored;
}

}  // namespace

AdvantageStd ParseAdvantageStd(const std::string& name) {
  return name == "batch" ? AdvantageStd::kBatch : name == "none" ? AdvantageStd::kNone : AdvantageStd::kGroup;
}

bool HasSignal(const std::vector<std::optional<double>>& rewards) {
  const std::vector<double> scored = Scored(rewards);
  for (double reward : scored) {
    if (reward != scored[0]) return true;
  }
  return false;
}

std::vector<std::vector<double>> Advantages(const std::vector<std::vector<std::optional<double>>>& rewards, AdvantageStd std) {
  double batch_std = 0;
  if (std == AdvantageStd::kBatch) {
    std::vector<double> all;
    for (const auto& group : rewards) {
      for (double reward : Scored(group)) all.push_back(reward);
    }
    batch_std = MomentsOf(all).std;
  }
  std::vector<std::vector<double>> advantages;
  for (const auto& group : rewards) {
    std::vector<double> row(group.size(), 0);
    if (HasSignal(group)) {
      const Moments m = MomentsOf(Scored(group));
      const double divisor = std == AdvantageStd::kGroup ? m.std + kEpsilon : std == AdvantageStd::kBatch ? batch_std + kEpsilon : 1;
      for (size_t i = 0; i < group.size(); ++i) {
        // Over an infinite std all would be 0, as if the rewards were equal.
        if (group[i]) row[i] = std::isfinite(divisor) ? (*group[i] - m.mean) / divisor : std::numeric_limits<double>::quiet_NaN();
      }
    }
    advantages.push_back(std::move(row));
  }
  return advantages;
}

}  // namespace grouper
