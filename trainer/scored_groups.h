// Groups of finished samples with their rewards: what the rollout and reward services made of some prompts. Used by training and evaluation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/stage.h"

namespace grouper {

struct ScoredGroup {
  DataRow row;
  PromptEncoder::Prompt prompt;
  uint64_t serial = 0;
  std::vector<v1::Sample> samples;            // by sample_index
  std::vector<std::string> completions;       // what the rules saw
  std::vector<v1::CompletionScore> scores;    // of each sample
  std::vector<std::optional<double>> rewards() const;  // none where there is none, or it is not finite
};

struct ScoredGroups {
  std::vector<ScoredGroup> groups;
  std::vector<std::string> rule_names;
  std::vector<double> rule_weights;
  absl::Duration rollout_time, reward_time, sync_time;
  // What was not finite, in words: logits while sampling (then nothing is scored and there are no groups), or rewards. Empty: nothing was.
  // Such a batch must not be trained on, and is no measurement.
  std::string not_finite;
};

struct PromptRequest {
  DataRow row;
  PromptEncoder::Prompt prompt;
  uint64_t serial = 0;
};

// Where rules failed on completions and none has a reward: which rule, on how many, and the first one's reason, in words. Else empty.
std::string NoRewards(const std::vector<const ScoredGroup*>& groups, const std::vector<std::string>& rule_names);

// Publishes the weights when they changed, samples `group_size` completions for each prompt, and scores them. `noise_stage` keys the sampling
// noise (SampleId.stage). retry_failed: completions whose reward failed are scored again, up to 3 times. at_stop: of both.
absl::StatusOr<ScoredGroups> SampleAndScore(StageContext& context, std::vector<PromptRequest> prompts, int group_size,
                                            const v1::Sampling& sampling, uint32_t noise_stage, bool retry_failed, AtStop at_stop);

// The text that the rules see: prefill and the sampled tokens' text, special tokens kept, without the terminal stop token.
std::string CompletionText(const PromptEncoder::Prompt& prompt, const v1::Sample& sample, const Tokenizer& tokenizer);

// Stop token ids: the model's, and those named in the recipe. Error for a name that the tokenizer lacks.
absl::StatusOr<std::vector<int32_t>> StopTokenIds(const LoadedModel& loaded, const v1::Sampling& sampling);

}  // namespace grouper
