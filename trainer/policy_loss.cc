#include "trainer/policy_loss.h"

#include <algorithm>
#include <cmath>

namespace grouper {

PolicyLoss ParsePolicyLoss(const std::string& name) {
  return name == "gspo" ? PolicyLoss::kGspo : name == "cispo" ? PolicyLoss::kCispo : PolicyLoss::kPpoClip;
}

LossReduction ParseLossReduction(const std::string& name) {
  return name == "sequence_mean" ? LossReduction::kSequenceMean
         : name == "constant"    ? LossReduction::kConstant
                                 : LossReduction::kTokenMean;
}

double TokenWeight(LossReduction reduction, int64_t length, int64_t batch_tokens, int64_t batch_sequences, int64_t max_new_tokens) {
  switch (reduction) {
    case LossReduction::kTokenMean: return 1.0 / static_cast<double>(std::max<int64_t>(1, batch_tokens));
    case LossReduction::kSequenceMean: return 1.0 / static_cast<double>(std::max<int64_t>(1, batch_sequences * length));
    case LossReduction::kConstant: return 1.0 / static_cast<double>(std::max<int64_t>(1, batch_sequences * max_new_tokens));
  }
  return 0;
}

void SequenceLoss(const PolicyLossOptions& options, const SequenceTerms& terms, LossSums& sums, absl::Span<float> slopes) {
  const size_t n = terms.logprobs.size();
  const double a = terms.advantage, w = terms.weight;
  const double low = 1 - options.clip_low, high = 1 + options.clip_high;
  double sequence_ratio = 1;
  if (options.loss == PolicyLoss::kGspo && n > 0) {
    double mean = 0;
    for (size_t t = 0; t < n; ++t) mean += static_cast<double>(terms.logprobs[t]) - static_cast<double>(terms.rollout_logprobs[t]);
    sequence_ratio = std::exp(mean / static_cast<double>(n));
  }
  for (size_t t = 0; t < n; ++t) {
    const double logp = terms.logprobs[t];
    const double ratio =
        options.loss == PolicyLoss::kGspo ? sequence_ratio : std::exp(logp - static_cast<double>(terms.rollout_logprobs[t]));
    const double clipped = std::clamp(ratio, low, high);
    double loss, slope;
    if (options.loss == PolicyLoss::kCispo) {
      loss = std::isfinite(logp) ? -a * clipped * logp : 0;
      slope = std::isfinite(logp) ? -a * clipped : 0;
    } else {
      // The pessimistic bound: where the clipped term is the larger one, the token has no slope. (Under gspo all n tokens hold the same term and
      // each logp moves the mean by 1/n, so the slope of their sum is the same number.)
      const double free = -a * ratio, held = -a * clipped;
      loss = std::max(free, held);
      slope = held > free ? 0 : -a * ratio;
    }
    if (a != 0 && ratio < low && (options.loss == PolicyLoss::kCispo || a < 0)) ++sums.clipped_low;
    if (a != 0 && ratio > high && (options.loss == PolicyLoss::kCispo || a > 0)) ++sums.clipped_high;
    // A token that has left the policy's own filter since it was sampled has log-probability -inf: its ratio is 0 and it has no slope.
    if (!terms.ref_logprobs.empty() && std::isfinite(logp)) {
      const double d = static_cast<double>(terms.ref_logprobs[t]) - logp;
      const double k3 = std::exp(d) - d - 1;
      sums.kl += k3;
      loss += options.kl_coef * k3;
      slope += options.kl_coef * (1 - std::exp(d));
    }
    sums.loss += w * loss;
    slopes[t] = static_cast<float>(w * slope);
    ++sums.tokens;
  }
}

}  // namespace grouper
