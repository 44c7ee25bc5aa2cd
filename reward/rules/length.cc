// Rules over the number of sampled tokens: DAPO's soft overlong penalty, the cosine reward, Kimi k1.5's group reward.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

class OverlongRule : public Rule {
 public:
  OverlongRule(uint32_t limit, uint32_t buffer) : limit_(limit), buffer_(buffer) {}

  // DAPO eq. 13: 0 for len <= L - C; ((L - C) - len) / C for L - C < len <= L; -1 beyond.
  RuleResult Score(const RuleInput& input) const override {
    const uint32_t limit = limit_ != 0 ? limit_ : input.max_new_tokens;
    if (limit == 0) return RuleResult::NotApplicable("max_new_tokens is unknown");
    if (buffer_ > limit)
      return RuleResult::NotApplicable(absl::StrCat("the buffer ", buffer_, " exceeds the limit ", limit));
    const double length = input.num_tokens, start = limit - buffer_;
    return RuleResult::Scored(std::max(-1.0, std::min(0.0, (start - length) / buffer_)));
  }

 private:
  const uint32_t limit_, buffer_;
};

// Index of the rule that decides what is right.
absl::StatusOr<size_t> FindCorrect(const std::string& name, const std::vector<std::string>& earlier) {
  if (name.empty()) return absl::InvalidArgumentError("correct: required, the name of a rule above");
  const auto it = std::find(earlier.begin(), earlier.end(), name);
  if (it == earlier.end())
    return absl::InvalidArgumentError(absl::StrCat("correct: no rule \"", name, "\" above this one"));
  return static_cast<size_t>(it - earlier.begin());
}

class CosineLengthRule : public Rule {
 public:
  CosineLengthRule(const v1::CosineLengthRule& config, size_t correct)
      : correct_(correct),
        min_wrong_(config.has_min_wrong() ? config.min_wrong() : -1),
        max_wrong_(config.has_max_wrong() ? config.max_wrong() : -0.5),
        min_right_(config.has_min_right() ? config.min_right() : 0.5),
        max_right_(config.has_max_right() ? config.max_right() : 1),
        max_length_(static_cast<uint32_t>(config.max_length())) {}

  RuleResult Score(const RuleInput& input) const override {
    const uint32_t limit = max_length_ != 0 ? max_length_ : input.max_new_tokens;
    if (limit == 0) return RuleResult::NotApplicable("max_new_tokens is unknown");
    const RuleResult& correct = input.earlier[correct_];
    if (correct.status != v1::RULE_STATUS_SCORED) return RuleResult::NotApplicable("the answer was not judged");
    const bool right = correct.score > 0;
    const double progress = std::min(1.0, static_cast<double>(input.num_tokens) / limit);
    // At length 0 the cosine is 1: the right answer's best, the wrong answer's worst.
    const double at_end = right ? min_right_ : max_wrong_, at_start = right ? max_right_ : min_wrong_;
    return RuleResult::Scored(at_end + 0.5 * (at_start - at_end) * (1 + std::cos(std::numbers::pi * progress)));
  }

 private:
  const size_t correct_;
  const double min_wrong_, max_wrong_, min_right_, max_right_;
  const uint32_t max_length_;
};

class GroupLengthRule : public Rule {
 public:
  explicit GroupLengthRule(size_t correct) : correct_(correct) {}

  bool sees_group() const override { return true; }
  RuleResult Score(const RuleInput& input) const override {
    RuleResult result;
    ScoreGroup(absl::MakeConstSpan(&input, 1), absl::MakeSpan(&result, 1));
    return result;
  }

  void ScoreGroup(absl::Span<const RuleInput> group, absl::Span<RuleResult> results) const override {
    uint32_t shortest = UINT32_MAX, longest = 0;
    for (const RuleInput& input : group) {
      shortest = std::min(shortest, input.num_tokens);
      longest = std::max(longest, input.num_tokens);
    }
    for (size_t i = 0; i < group.size(); ++i) {
      const RuleResult& correct = group[i].earlier[correct_];
      if (correct.status != v1::RULE_STATUS_SCORED) {
        results[i] = RuleResult::NotApplicable("the answer was not judged");
        continue;
      }
      double lambda = 0;
      if (longest > shortest) lambda = 0.5 - static_cast<double>(group[i].num_tokens - shortest) / (longest - shortest);
      results[i] = RuleResult::Scored(correct.score > 0 ? lambda : std::min(0.0, lambda));
    }
  }

 private:
  const size_t correct_;
};

}  // namespace

RuleOr CreateOverlongRule(const v1::OverlongRule& config) {
  if (config.limit() < 0)
    return absl::InvalidArgumentError(absl::StrCat("limit: ", config.limit(), ", expected 0 or more"));
  if (config.buffer() <= 0 || (config.limit() > 0 && config.buffer() > config.limit())) {
    return absl::InvalidArgumentError(
        absl::StrCat("buffer: ", config.buffer(), ", expected more than 0 and at most the limit"));
  }
  return std::make_unique<OverlongRule>(static_cast<uint32_t>(config.limit()), static_cast<uint32_t>(config.buffer()));
}

RuleOr CreateCosineLengthRule(const v1::CosineLengthRule& config, const std::vector<std::string>& earlier) {
  ASSIGN_OR_RETURN(const size_t correct, FindCorrect(config.correct(), earlier));
  if (config.max_length() < 0) return absl::InvalidArgumentError("max_length: expected 0 or more");
  for (const double value : {config.min_wrong(), config.max_wrong(), config.min_right(), config.max_right()}) {
    if (!IsScore(value))
      return absl::InvalidArgumentError("min_wrong, max_wrong, min_right, max_right: expected finite numbers, at most 1e30 in magnitude");
  }
  return std::make_unique<CosineLengthRule>(config, correct);
}

RuleOr CreateGroupLengthRule(const v1::GroupLengthRule& config, const std::vector<std::string>& earlier) {
  ASSIGN_OR_RETURN(const size_t correct, FindCorrect(config.correct(), earlier));
  return std::make_unique<GroupLengthRule>(correct);
}

}  // namespace grouper
