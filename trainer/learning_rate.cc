#include "trainer/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace grouper {

double LearningRate(const v1::Optimizer& optimizer, int64_t step, int64_t steps) {
  const int64_t warmup = optimizer.warmup_steps();
  if (step < warmup) return optimizer.lr() * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double p = std::clamp(static_cast<double>(step - warmup) / static_cast<double>(std::max<int64_t>(1, steps - warmup)), 0.0, 1.0);
  const double r = optimizer.min_lr_ratio();
  if (optimizer.schedule() == "linear") return optimizer.lr() * (1 - (1 - r) * p);
  if (optimizer.schedule() == "cosine") return optimizer.lr() * (r + (1 - r) * (1 + std::cos(std::numbers::pi * p)) / 2);
  return optimizer.lr();
}

}  // namespace grouper
