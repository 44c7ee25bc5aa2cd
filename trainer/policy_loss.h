// The policy objective of one sequence: its value and its slope in each token's log-probability. Everything in double.
//
// With logp of the current policy, old = rollout_logprobs, ratio = exp(logp - old), advantage A, and a weight w (the reduction's share of a token):
//   ppo_clip  w max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high))                            (GRPO, DAPO's clip-higher)
//   gspo      the same with ratio := s = exp(mean_t(logp - old)) for all tokens, gradient through the mean   (arXiv 2507.18071, TRL's form)
//   cispo     -w A sg(clip(ratio, 1 - clip_low, 1 + clip_high)) logp                                   (arXiv 2506.13585, offset caps as verl, slime)
//   KL        + w kl_coef (e^d - d - 1), d = ref_logprob - logp                                        (k3, Schulman 2020)
//             with ref_logprob under the reference at the same temperature, unfiltered: the KL of what was sampled from against the reference
//
// docs/algorithms.md compares with other systems.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"

namespace grouper {

enum class PolicyLoss { kPpoClip, kGspo, kCispo };
enum class LossReduction { kTokenMean, kSequenceMean, kConstant };

PolicyLoss ParsePolicyLoss(const std::string& name);        // "ppo_clip", "gspo", "cispo"
LossReduction ParseLossReduction(const std::string& name);  // "token_mean", "sequence_mean", "constant"

struct PolicyLossOptions {
  PolicyLoss loss = PolicyLoss::kPpoClip;
  double clip_low = 0.2, clip_high = 0.2, kl_coef = 0;
};

// One sequence's tokens in the loss.
struct SequenceTerms {
  double advantage = 0;
  double weight = 0;  // of each of its tokens, see TokenWeight
  absl::Span<const float> logprobs, rollout_logprobs, ref_logprobs;  // ref empty: no KL
};

struct LossSums {
  double loss = 0;
  double kl = 0;  // sum of k3 over tokens
  int64_t clipped_low = 0, clipped_high = 0, tokens = 0;
};

// Adds to `sums`; slopes[t] = d(loss)/d(logprobs[t]) (=).
void SequenceLoss(const PolicyLossOptions& options, const SequenceTerms& terms, LossSums& sums, absl::Span<float> slopes);

// The weight of a token of a sequence of `length` tokens in the loss:
//   token_mean     1 / all tokens of the batch            (DAPO)
//   sequence_mean  1 / (sequences * length)                (GRPO as published)
//   constant       1 / (sequences * max_new_tokens)        (Dr. GRPO)
double TokenWeight(LossReduction reduction, int64_t length, int64_t batch_tokens, int64_t batch_sequences, int64_t max_new_tokens);

}  // namespace grouper
