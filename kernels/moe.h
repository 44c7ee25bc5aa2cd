// Mixture-of-experts routing and combination. The expert matrices themselves are GroupedLinear (linear.h).
//
// No token is ever dropped: there is no capacity.
#pragma once

#include <vector>

#include "common/tensor/stream.h"

namespace grouper::kernels {

struct RouterConfig {
  enum class Scoring { kSoftmax, kSigmoid };
  enum class GroupScore { kMax, kTop2Sum };
  int num_experts = 0;
  int top_k = 0;
  Scoring scoring = Scoring::kSoftmax;
  int num_groups = 1;  // experts are cut into equal groups; only the best topk_groups groups may be chosen from
  int topk_groups = 1;
  GroupScore group_score = GroupScore::kMax;  // DeepSeek-V2: max; V3: sum of the two best biased scores
  bool norm_topk_prob = false;                // divide the chosen scores by their sum (+ 1e-20)
  double routed_scaling_factor = 1;
};

// logits [T, E] float or double; bias [E] like logits, or empty: DeepSeek-V3's score correction, added to the scores
// for choosing only (arXiv 2412.19437, section 2.1.2). expert_ids [T, top_k] int32 (=): chosen experts, in descending
// order of biased score, ties to the lower id. weights [T, top_k] like logits (=): s / (sum s + 1e-20 when
// norm_topk_prob) * routed_scaling_factor with s the unbiased scores. scores [T, E] (=): softmax or sigmoid of the
// logits, kept for backward.
void Route(Stream& stream, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
           const Tensor& expert_ids, const Tensor& weights, const Tensor& scores);

// dlogits [T, E] (=) from dweights [T, top_k]; the choice itself has no gradient.
void RouteBackward(Stream& stream, const RouterConfig& config, const Tensor& scores, const Tensor& expert_ids,
                   const Tensor& dweights, const Tensor& dlogits);

// The rows of a batch sorted by expert, stable: within an expert, tokens ascending (then slots ascending). int32, where
// the ids are.
struct ExpertOrder {
  Tensor offsets;  // [E + 1]: expert e has sorted rows offsets[e] .. offsets[e + 1]
  Tensor token;    // [T * top_k]: sorted row -> token, the `gather` of GroupedLinear
  Tensor row_of;   // [T * top_k]: token * top_k + slot -> sorted row
};
// In `memory`, of the stream's device. Ids are Route's: below num_experts.
ExpertOrder SortByExpert(Stream& stream, const Tensor& expert_ids, int num_experts, Arena& memory);

// y [T, D] (= or +=) sum over slots k ascending of weights[t, k] * expert_out[row_of[t, k]]: one fma chain per element
// starting from 0 (or from y). expert_out [T * top_k, D].
void CombineExperts(Stream& stream, const ExpertOrder& order, const Tensor& expert_out, const Tensor& weights,
                    const Tensor& y, bool accumulate);

// d_expert_out [T * top_k, D] (=) = weight * dy; dweights [T, top_k] (=) = <dy, expert_out row>.
void CombineExpertsBackward(Stream& stream, const ExpertOrder& order, const Tensor& dy, const Tensor& expert_out,
                            const Tensor& weights, const Tensor& d_expert_out, const Tensor& dweights);

// dx [T, D] += sum over slots ascending of d_rows[row_of[t, k]]: gradient of the gather in front of the experts.
void ScatterExpertRows(Stream& stream, const ExpertOrder& order, const Tensor& d_rows, int top_k, const Tensor& dx);

// load [E] (I32) += each expert's rows in an order's offsets [E + 1].
void AddExpertLoad(Stream& stream, const Tensor& offsets, const Tensor& load);

// Aux-loss-free balancing (arXiv 2408.15664): bias[e] += rate * sign(mean(load) - load[e]). load [E] (I32): tokens per
// expert of a step.
void UpdateExpertBias(Stream& stream, const Tensor& load, double rate, const Tensor& bias);

}  // namespace grouper::kernels
