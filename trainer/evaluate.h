// Evaluation on held-out rows: share of right answers, greedy or over k samples.
//
//   accuracy     mean over problems of the share of right samples (pass@1)
//   pass_at_k    share of problems with at least one right sample among `samples`
//   majority     share of problems whose most frequent extracted answer is right (ties: the one seen first)
//
// "Right" is a score of at least 1 from one rule. A completion that the rule could not score leaves its problem's statistics; a problem without any
// scored completion is counted in `unscored` only.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/scored_groups.h"

namespace grouper {

struct Interval {
  double low = 0, high = 1;
};
// Wilson's score interval at 95 % for `right` of `n` (Wilson 1927). n == 0: [0, 1].
Interval WilsonInterval(double right, int64_t n);

struct EvaluationResult {
  int64_t problems = 0, unscored = 0;
  int samples = 1;
  double accuracy = 0, pass_at_k = 0, majority = 0;
  Interval interval;  // of accuracy, problems as the unit
  ScoredGroups groups;  // for per-problem records
  int rule = -1;        // index of the rule that decides in groups.rule_names; -1: there are no groups
};

// Name of the rule that decides: `name` (eval.rule) when it is given, else that of the recipe's rule with the greatest weight (the last of
// equals). Empty when a remote service scores and the recipe has neither: then it is the greatest weight of the service's rules.
absl::StatusOr<std::string> DecidingRule(const v1::Reward& reward, const std::string& name);

// Index of the rule of that name among those that scored; for an empty name the one with the greatest weight (the last of equals).
// FailedPrecondition when the service has no such rule, naming both. REQUIRES, for an empty name: at least one rule, as many weights as names.
absl::StatusOr<int> FindDecidingRule(const v1::Reward& reward, const std::string& name, const std::vector<std::string>& rule_names,
                                     const std::vector<double>& rule_weights);

// Whether Evaluate would find what it needs: the deciding rule, the stop tokens, a prompt in each row that it would take. `check_row` is the rules'
// opinion of a row; rows that they cannot score are reported.
absl::Status CheckEvaluation(const StageContext& context, const std::vector<DataRow>& rows, const v1::Evaluation& config,
                             const std::function<absl::Status(const json::Json&)>& check_row);

// Internal, naming the model: a logit or a reward was not finite. FailedPrecondition: the reward service lacks the rule that decides. Cancelled: a
// stop was asked for; what was under way is dropped at once.
absl::StatusOr<EvaluationResult> Evaluate(StageContext& context, const std::vector<DataRow>& rows, const v1::Evaluation& config);

}  // namespace grouper
