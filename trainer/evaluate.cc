#include "trainer/evaluate.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"

namespace grouper {
namespace {

// Evaluation noise never meets training noise: the upper half of the stage numbers is evaluation's.
constexpr uint32_t kEvaluationStage = 0x80000000u;

size_t CountTaken(const std::vector<DataRow>& rows, const v1::Evaluation& config) {
  return config.max_problems() > 0 ? std::min<size_t>(rows.size(), static_cast<size_t>(config.max_problems())) : rows.size();
}

// Whether a score of 1 is possible and means right: not of what only shapes a reward.
bool CanSayRight(const v1::Rule& rule) {
  return !rule.has_overlong() && !rule.has_repetition() && !rule.has_group_length() && !rule.has_cosine_length();
}

}  // namespace

Interval WilsonInterval(double right, int64_t n) {
  if (n <= 0) return {};
  constexpr double z = 1.959963984540054;
  const double count = static_cast<double>(n), p = right / count;
  const double center = (p + z * z / (2 * count)) / (1 + z * z / count);
  const double half = z / (1 + z * z / count) * std::sqrt(p * (1 - p) / count + z * z / (4 * count * count));
  return {std::max(0.0, center - half), std::min(1.0, center + half)};
}

absl::StatusOr<std::string> DecidingRule(const v1::Reward& reward, const std::string& name) {
  const bool remote = !reward.address().empty();
  if (name.empty()) {
    const v1::Rule* best = nullptr;
    double best_weight = 0;
    for (const v1::Rule& rule : reward.rules()) {
      const double weight = RuleWeight(rule);
      if (!CanSayRight(rule) || (best != nullptr && weight < best_weight)) continue;
      best = &rule;
      best_weight = weight;
    }
    if (best != nullptr) return RuleName(*best);
    if (remote) return name;
    if (!reward.rules().empty()) return absl::InvalidArgumentError("reward.rules: only shaping rules, which never score 1; expected one that says what is right");
    return absl::InvalidArgumentError("reward.rules: none, expected one that says what is right");
  }
  const auto& rules = reward.rules();
  if (remote || std::any_of(rules.begin(), rules.end(), [&](const v1::Rule& rule) { return RuleName(rule) == name; })) return name;
  return absl::InvalidArgumentError(absl::StrCat("eval.rule: no rule \"", name, "\" in reward.rules"));
}

absl::StatusOr<int> FindDecidingRule(const v1::Reward& reward, const std::string& name, const std::vector<std::string>& rule_names,
                                     const std::vector<double>& rule_weights) {
  if (name.empty()) {
    size_t best = 0;
    for (size_t i = 1; i < rule_names.size(); ++i) {
      if (rule_weights[i] >= rule_weights[best]) best = i;
    }
    return static_cast<int>(best);
  }
  const auto it = std::find(rule_names.begin(), rule_names.end(), name);
  if (it != rule_names.end()) return static_cast<int>(it - rule_names.begin());
  return absl::FailedPreconditionError(absl::StrCat("eval.rule: rule \"", name, "\" decides what is right, but the reward service ", reward.address(),
                                                    " has the rules \"", absl::StrJoin(rule_names, "\", \""),
                                                    "\": name one of them in eval.rule, or let the service score by rules with that name"));
}

absl::Status CheckEvaluation(const StageContext& context, const std::vector<DataRow>& rows, const v1::Evaluation& config,
                             const std::function<absl::Status(const json::Json&)>& check_row) {
  RETURN_IF_ERROR(DecidingRule(context.recipe.reward(), config.rule()).status());
  RETURN_IF_ERROR(Annotate(StopTokenIds(context.loaded, config.sampling()).status(), "eval"));
  const size_t count = CountTaken(rows, config);
  int64_t unscorable = 0;
  UnknownTokens unknown;
  absl::Status first;
  for (size_t i = 0; i < count; ++i) {
    RETURN_IF_ERROR(context.encoder.EncodePrompt(rows[i], &unknown).status());
    const absl::Status scorable = Annotate(check_row(rows[i].columns), rows[i].source);
    if (scorable.ok()) continue;
    if (first.ok()) first = scorable;
    ++unscorable;
  }
  const v1::Data& data = context.config().data();
  unknown.Warn(data.eval().empty() ? "the generator's held-out rows" : data.eval());
  if (unscorable > 0 && unscorable == static_cast<int64_t>(count)) return Annotate(first, "no held-out row can be scored");
  if (unscorable > 0) LOG(WARNING) << unscorable << " of " << count << " held-out rows cannot be scored by some rule, the first: " << first.message();
  return absl::OkStatus();
}

absl::StatusOr<EvaluationResult> Evaluate(StageContext& context, const std::vector<DataRow>& rows, const v1::Evaluation& config) {
  EvaluationResult result;
  result.samples = config.samples();
  ASSIGN_OR_RETURN(const std::string deciding, DecidingRule(context.recipe.reward(), config.rule()));
  std::vector<PromptRequest> prompts;
  const size_t count = CountTaken(rows, config);
  for (size_t i = 0; i < count; ++i) {
    PromptRequest prompt;
    prompt.row = rows[i];
    ASSIGN_OR_RETURN(prompt.prompt, context.encoder.EncodePrompt(rows[i]));
    if (static_cast<int64_t>(prompt.prompt.token_ids.size()) >= context.loaded.model->config().max_position_embeddings) {
      LOG(WARNING) << rows[i].source << ": the prompt leaves no room in the context; left out of the evaluation";
      ++result.unscored;
      continue;
    }
    prompt.serial = i;
    prompts.push_back(std::move(prompt));
  }
  ASSIGN_OR_RETURN(result.groups, SampleAndScore(context, std::move(prompts), config.samples(), config.sampling(),
                                                 kEvaluationStage | static_cast<uint32_t>(context.index), /*retry_failed=*/true, AtStop::kCancel));
  if (!result.groups.not_finite.empty()) {
    const v1::ModelSource& model = context.recipe.model();
    return absl::InternalError(absl::StrCat("evaluation of model ", model.path().empty() ? model.config() : model.path(), ": not finite: ",
                                            result.groups.not_finite));
  }
  if (!result.groups.groups.empty()) {
    ASSIGN_OR_RETURN(result.rule, FindDecidingRule(context.recipe.reward(), deciding, result.groups.rule_names, result.groups.rule_weights));
  }
  double accuracy = 0, any = 0, majority = 0;
  for (const ScoredGroup& group : result.groups.groups) {
    int64_t right = 0, scored = 0;
    std::map<std::string, std::pair<int64_t, bool>> votes;  // extracted answer -> votes, right?
    std::vector<std::string> seen;
    for (const v1::CompletionScore& score : group.scores) {
      const v1::RuleResult& rule = score.rules(result.rule);
      if (rule.status() != v1::RULE_STATUS_SCORED) continue;
      ++scored;
      right += rule.score() >= 1;
      auto [vote, fresh] = votes.try_emplace(rule.extracted(), 0, rule.score() >= 1);
      if (fresh) seen.push_back(rule.extracted());
      ++vote->second.first;
    }
    if (scored == 0) {
      ++result.unscored;
      continue;
    }
    ++result.problems;
    accuracy += static_cast<double>(right) / static_cast<double>(scored);
    any += right > 0;
    const std::string* winner = &seen[0];
    for (const std::string& answer : seen) {
      if (votes[answer].first > votes[*winner].first) winner = &answer;
    }
    majority += votes[*winner].second;
  }
  if (result.problems == 0 && !result.groups.groups.empty()) {
    std::vector<const ScoredGroup*> groups;
    for (const ScoredGroup& group : result.groups.groups) groups.push_back(&group);
    const std::string why = NoRewards(groups, result.groups.rule_names);
    return absl::FailedPreconditionError(absl::StrCat("no held-out problem could be scored by rule ", result.groups.rule_names[static_cast<size_t>(result.rule)],
                                                      why.empty() ? "" : "; ", why));
  }
  if (result.problems > 0) {
    result.interval = WilsonInterval(accuracy, result.problems);
    result.accuracy = accuracy / static_cast<double>(result.problems);
    result.pass_at_k = any / static_cast<double>(result.problems);
    result.majority = majority / static_cast<double>(result.problems);
  }
  return result;
}

}  // namespace grouper
