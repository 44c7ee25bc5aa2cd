#include "trainer/scored_groups.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/failpoint.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace grouper {
namespace {

constexpr int kRewardRetries = 3;

bool RewardFailed(const v1::CompletionScore& score) {
  for (const v1::RuleResult& rule : score.rules()) {
    if (rule.status() == v1::RULE_STATUS_ERROR || rule.status() == v1::RULE_STATUS_TIMEOUT) return true;
  }
  return false;
}

v1::ScoreRequest MakeScoreRequest(const std::vector<ScoredGroup>& groups, const v1::Sampling& sampling) {
  v1::ScoreRequest request;
  request.set_request_id(groups.empty() ? 0 : groups[0].serial);
  request.set_max_new_tokens(static_cast<uint32_t>(sampling.max_new_tokens()));
  for (const ScoredGroup& group : groups) {
    v1::ScoreGroup* g = request.add_groups();
    g->set_group_serial(group.serial);
    g->set_prompt(group.prompt.text);
    g->set_row_json(json::Dump(group.row.columns));
    for (size_t i = 0; i < group.samples.size(); ++i) {
      const v1::Sample& sample = group.samples[i];
      v1::ScoreCompletion* completion = g->add_completions();
      completion->set_text(group.completions[i]);
      completion->set_truncated(sample.finish_reason() == v1::FINISH_REASON_LENGTH);
      for (int t = 0; t < sample.token_ids_size(); ++t) {
        if (sample.sampled(t)) completion->add_token_ids(sample.token_ids(t));
      }
      completion->set_num_tokens(static_cast<uint32_t>(completion->token_ids_size()));
    }
  }
  return request;
}

// "WHAT of 3 of 16 completions, the first: group 5 sample 0 (data.jsonl:7), DETAIL"
class Offenders {
 public:
  explicit Offenders(const char* what) : what_(what) {}
  void Add(const std::string& source, uint64_t serial, uint32_t sample, const std::string& detail) {
    if (count_++ == 0) first_ = absl::StrCat("group ", serial, " sample ", sample, " (", source, "), ", detail);
  }
  std::string Text(size_t all) const {
    return count_ == 0 ? "" : absl::StrCat(what_, " of ", count_, " of ", all, " completions, the first: ", first_);
  }

 private:
  const char* const what_;
  int64_t count_ = 0;
  std::string first_;
};

std::string NotFiniteLogits(const std::vector<PromptRequest>& prompts, const std::vector<std::vector<v1::Sample>>& samples) {
  Offenders found("the logits");
  size_t all = 0;
  for (size_t g = 0; g < samples.size(); ++g) {
    for (const v1::Sample& sample : samples[g]) {
      ++all;
      if (sample.finish_reason() != v1::FINISH_REASON_NOT_FINITE) continue;
      const int64_t token = std::count(sample.sampled().begin(), sample.sampled().end(), true);
      found.Add(prompts[g].row.source, prompts[g].serial, sample.id().sample_index(), absl::StrCat("token ", token, " of the completion"));
    }
  }
  return found.Text(all);
}

std::string NotFiniteRewards(const std::vector<ScoredGroup>& groups, const std::vector<std::string>& rule_names) {
  Offenders found("the rewards");
  size_t all = 0;
  for (const ScoredGroup& group : groups) {
    for (size_t i = 0; i < group.scores.size(); ++i) {
      ++all;
      const v1::CompletionScore& score = group.scores[i];
      if (!score.has_reward() || std::isfinite(score.reward())) continue;
      std::string detail = absl::StrCat("reward ", score.reward());
      for (int r = 0; r < score.rules_size(); ++r) {
        if (score.rules(r).status() != v1::RULE_STATUS_ERROR) continue;
        absl::StrAppend(&detail, ", rule ", rule_names[static_cast<size_t>(r)], ": ", score.rules(r).reason());
      }
      found.Add(group.row.source, group.serial, group.samples[i].id().sample_index(), detail);
    }
  }
  return found.Text(all);
}

}  // namespace

std::vector<std::optional<double>> ScoredGroup::rewards() const {
  std::vector<std::optional<double>> rewards;
  for (const v1::CompletionScore& score : scores) {
    rewards.push_back(score.has_reward() && std::isfinite(score.reward()) ? std::optional<double>(score.reward()) : std::nullopt);
  }
  return rewards;
}

std::string NoRewards(const std::vector<const ScoredGroup*>& groups, const std::vector<std::string>& rule_names) {
  size_t completions = 0, first_rule = 0, failures = 0;
  std::string first;
  for (const ScoredGroup* scored : groups) {
    const ScoredGroup& group = *scored;
    for (size_t i = 0; i < group.scores.size(); ++i) {
      ++completions;
      const v1::CompletionScore& score = group.scores[i];
      if (score.has_reward()) return "";
      for (int r = 0; r < score.rules_size(); ++r) {
        const v1::RuleResult& rule = score.rules(r);
        const bool failed = rule.status() == v1::RULE_STATUS_ERROR || rule.status() == v1::RULE_STATUS_TIMEOUT;
        if (!failed || (!first.empty() && static_cast<size_t>(r) != first_rule)) continue;
        if (first.empty()) {
          first_rule = static_cast<size_t>(r);
          first = absl::StrCat("group ", group.serial, " sample ", i, " (", group.row.source, "): ",
                               rule.reason().empty() ? "no reason given" : rule.reason());
        }
        ++failures;
      }
    }
  }
  if (first.empty()) return "";
  return absl::StrCat("no completion has a reward: rule ", rule_names[first_rule], " failed on ", failures, " of ", completions,
                      ", the first: ", first);
}

std::string CompletionText(const PromptEncoder::Prompt& prompt, const v1::Sample& sample, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (int t = 0; t < sample.token_ids_size(); ++t) {
    if (sample.sampled(t)) ids.push_back(sample.token_ids(t));
  }
  if (sample.finish_reason() == v1::FINISH_REASON_STOP_TOKEN) ids.pop_back();
  return prompt.prefill + tokenizer.Decode(ids, /*skip_special=*/false);
}

absl::StatusOr<std::vector<int32_t>> StopTokenIds(const LoadedModel& loaded, const v1::Sampling& sampling) {
  std::vector<int32_t> ids = loaded.stop_token_ids;
  for (const std::string& name : sampling.stop_tokens()) {
    const std::optional<int32_t> id = loaded.tokenizer->TokenId(name);
    if (!id) return absl::InvalidArgumentError(absl::StrCat("sampling.stop_tokens: the tokenizer has no token \"", name, "\""));
    ids.push_back(*id);
  }
  return ids;
}

absl::StatusOr<ScoredGroups> SampleAndScore(StageContext& context, std::vector<PromptRequest> prompts, int group_size,
                                            const v1::Sampling& sampling, uint32_t noise_stage, bool retry_failed, AtStop at_stop) {
  ScoredGroups result;
  absl::Time start = context.clock.Now();
  auto lap = [&] {
    const absl::Time now = context.clock.Now();
    const absl::Duration passed = now - start;
    start = now;
    return passed;
  };
  RETURN_IF_ERROR(context.publisher.Publish());
  result.sync_time = lap();

  ASSIGN_OR_RETURN(const std::vector<int32_t> stop_ids, StopTokenIds(context.loaded, sampling));
  std::vector<v1::GenerateRequest> requests;
  for (PromptRequest& prompt : prompts) {
    v1::GenerateRequest request;
    request.set_seed(context.recipe.seed());
    request.set_stage(noise_stage);
    request.set_group_serial(prompt.serial);
    for (int i = 0; i < group_size; ++i) request.add_sample_indices(static_cast<uint32_t>(i));
    *request.mutable_prompt_token_ids() = {prompt.prompt.token_ids.begin(), prompt.prompt.token_ids.end()};
    v1::SamplingParams* params = request.mutable_sampling();
    params->set_temperature(static_cast<float>(sampling.temperature()));
    params->set_top_k(static_cast<uint32_t>(sampling.top_k()));
    params->set_top_p(static_cast<float>(sampling.top_p()));
    params->set_max_new_tokens(static_cast<uint32_t>(sampling.max_new_tokens()));
    *params->mutable_stop_token_ids() = {stop_ids.begin(), stop_ids.end()};
    *params->mutable_stop_strings() = sampling.stop_strings();
    requests.push_back(std::move(request));
  }
  RETURN_IF_ERROR(failpoint::Hit("trainer.generate_sent"));
  int64_t sampled = 0;
  ASSIGN_OR_RETURN(std::vector<std::vector<v1::Sample>> samples, context.rollout.Generate(requests, [&](const v1::Sample& sample) {
    for (bool flag : sample.sampled()) sampled += flag;
    if (context.on_tokens) context.on_tokens(sampled);
  }, at_stop));
  result.not_finite = NotFiniteLogits(prompts, samples);
  if (!result.not_finite.empty()) {
    result.rollout_time = lap();
    return result;
  }
  for (size_t g = 0; g < prompts.size(); ++g) {
    RETURN_IF_ERROR(failpoint::Hit("trainer.group_finished"));
    ScoredGroup group;
    group.row = std::move(prompts[g].row);
    group.prompt = std::move(prompts[g].prompt);
    group.serial = prompts[g].serial;
    group.samples = std::move(samples[g]);
    for (const v1::Sample& sample : group.samples) {
      group.completions.push_back(CompletionText(group.prompt, sample, *context.loaded.tokenizer));
    }
    result.groups.push_back(std::move(group));
  }
  result.rollout_time = lap();

  for (int attempt = 0; attempt <= kRewardRetries; ++attempt) {
    ASSIGN_OR_RETURN(v1::ScoreResponse response, context.reward.Score(MakeScoreRequest(result.groups, sampling), at_stop));
    bool failed = false;
    for (size_t g = 0; g < result.groups.size(); ++g) {
      ScoredGroup& group = result.groups[g];
      v1::GroupScore& scores = *response.mutable_groups(static_cast<int>(g));
      if (group.scores.empty()) group.scores.resize(group.samples.size());
      for (size_t i = 0; i < group.samples.size(); ++i) {
        // A retry replaces failed scores only.
        if (attempt == 0 || RewardFailed(group.scores[i])) group.scores[i] = std::move(*scores.mutable_completions(static_cast<int>(i)));
        failed |= RewardFailed(group.scores[i]);
      }
    }
    result.rule_names.assign(response.rule_names().begin(), response.rule_names().end());
    result.rule_weights.assign(response.weights().begin(), response.weights().end());
    if (!failed || !retry_failed) break;
  }
  RETURN_IF_ERROR(failpoint::Hit("trainer.score_received"));
  result.not_finite = NotFiniteRewards(result.groups, result.rule_names);
  result.reward_time = lap();
  return result;
}

}  // namespace grouper
