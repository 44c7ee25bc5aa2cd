// Group-relative advantages without a critic (GRPO, arXiv 2402.03300, section 4.1; Dr. GRPO, arXiv 2503.20783).
//
//   group:  A_i = (r_i - mean_g) / (std_g + 1e-4)      batch:  std over the whole batch      none:  A_i = r_i - mean_g
//
// Standard deviations have ddof 1. Completions without a reward leave the statistics and have advantage 0. A group whose rewards are all
// equal (by ==, not by a small std) gets exactly 0, and so does a group with one scored completion. Rewards so far apart that a mean or std
// overflows give NaN.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace grouper {

enum class AdvantageStd { kGroup, kBatch, kNone };

// "group", "batch", "none" (CheckRecipe has refused everything else).
AdvantageStd ParseAdvantageStd(const std::string& name);

// rewards[g][i]: nullopt when the completion has no reward. Result has the same shape.
std::vector<std::vector<double>> Advantages(const std::vector<std::vector<std::optional<double>>>& rewards, AdvantageStd std);

// True when at least two completions have a reward and two of these rewards differ: the group can teach something.
bool HasSignal(const std::vector<std::optional<double>>& rewards);

}  // namespace grouper
