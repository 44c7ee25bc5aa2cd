// Routing and combination on the CPU. Each token is its own work; threads take ranges of tokens.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/moe.h"
#include "kernels/simd.h"

namespace grouper::kernels::cpu {
namespace {

constexpr int64_t kGrain = 64;  // tokens a thread takes at least

// score[e] = softmax or sigmoid of the logits.
template <typename T>
void ScoreExperts(const RouterConfig& config, const T* logits, T* scores) {
  const int64_t n = config.num_experts;
  const T infinity = std::numeric_limits<T>::infinity();
  if (config.scoring == RouterConfig::Scoring::kSigmoid) {
    for (int64_t e = 0; e < n; e += kLanes) {
      const int64_t m = std::min<int64_t>(kLanes, n - e);
      StorePartial(scores + e, Sigmoid(LoadPartial(logits + e, m)), m);
    }
    return;
  }
  Vec<T> high = Vec<T>::Broadcast(-infinity);
  for (int64_t e = 0; e < n; e += kLanes) {
    const int64_t m = std::min<int64_t>(kLanes, n - e);
    high = Max(FillTail(LoadPartial(logits + e, m), m, -infinity), high);
  }
  const Vec<T> shift = Vec<T>::Broadcast(ReduceMax(high));
  Vec<T> total = Vec<T>::Zero();
  for (int64_t e = 0; e < n; e += kLanes) {
    const int64_t m = std::min<int64_t>(kLanes, n - e);
    const Vec<T> p = FillTail(Exp(LoadPartial(logits + e, m) - shift), m, 0);
    StorePartial(scores + e, p, m);
    total = total + p;
  }
  const Vec<T> sum = Vec<T>::Broadcast(ReduceAdd(total));
  for (int64_t e = 0; e < n; e += kLanes) {
    const int64_t m = std::min<int64_t>(kLanes, n - e);
    StorePartial(scores + e, LoadPartial(scores + e, m) / sum, m);
  }
}

// Marks all but the best topk_groups groups with -inf in `choice`.
template <typename T>
void KeepBestGroups(const RouterConfig& config, std::vector<T>& choice, std::vector<T>& group_scores) {
  if (config.num_groups == config.topk_groups) return;
  const T infinity = std::numeric_limits<T>::infinity();
  const int size = config.num_experts / config.num_groups;
  group_scores.resize(static_cast<size_t>(config.num_groups));
  for (int g = 0; g < config.num_groups; ++g) {
    T first = -infinity, second = -infinity;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      if (choice[e] > first) {
        second = first;
        first = choice[e];
      } else if (choice[e] > second) {
        second = choice[e];
      }
    }
    group_scores[g] = config.group_score == RouterConfig::GroupScore::kMax || size == 1 ? first : first + second;
  }
  for (int g = 0; g < config.num_groups; ++g) {
    // Groups that come before g: a higher score, or an equal one and a lower id.
    int better = 0;
    for (int other = 0; other < config.num_groups; ++other) {
      better += group_scores[other] > group_scores[g] || (group_scores[other] == group_scores[g] && other < g);
    }
    if (better >= config.topk_groups) std::fill_n(choice.begin() + g * size, size, -infinity);
  }
}

}  // namespace

template <typename T>
void Route(Stream& stream, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
           const Tensor& expert_ids, const Tensor& weights, const Tensor& scores) {
  const T infinity = std::numeric_limits<T>::infinity();
  stream.threads.ParallelFor(logits.dim(0), kGrain, [&](int64_t begin, int64_t end) {
    std::vector<T> choice(static_cast<size_t>(config.num_experts)), group_scores;
    for (int64_t t = begin; t < end; ++t) {
      T* score = scores.row<T>(t);
      ScoreExperts(config, logits.row<T>(t), score);
      for (int e = 0; e < config.num_experts; ++e) choice[e] = bias.empty() ? score[e] : score[e] + bias.data<T>()[e];
      KeepBestGroups(config, choice, group_scores);
      int32_t* ids = expert_ids.row<int32_t>(t);
      T* weight = weights.row<T>(t);
      T sum = 0;
      for (int k = 0; k < config.top_k; ++k) {
        // NaN scores lose every comparison: fall back to the lowest id that is left, so that ids are always valid and
        // distinct.
        int best = -1;
        for (int e = 0; e < config.num_experts; ++e) {
          bool taken = false;
          for (int j = 0; j < k && choice[e] == -infinity; ++j) taken |= ids[j] == e;
          if (!taken && (best < 0 || choice[e] > choice[best])) best = e;
        }
        ids[k] = best;
        weight[k] = score[best];
        sum += score[best];
        choice[best] = -infinity;
      }
      const T divisor = config.norm_topk_prob ? sum + static_cast<T>(1e-20) : 1;
      for (int k = 0; k < config.top_k; ++k)
        weight[k] = weight[k] / divisor * static_cast<T>(config.routed_scaling_factor);
    }
  });
}

template <typename T>
void RouteBackward(Stream& stream, const RouterConfig& config, const Tensor& scores, const Tensor& expert_ids,
                   const Tensor& dweights, const Tensor& dlogits) {
  stream.threads.ParallelFor(scores.dim(0), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* score = scores.row<T>(t);
      const int32_t* ids = expert_ids.row<int32_t>(t);
      const T* dweight = dweights.row<T>(t);
      T* dlogit = dlogits.row<T>(t);
      const T factor = static_cast<T>(config.routed_scaling_factor);
      std::fill_n(dlogit, config.num_experts, T{0});  // first d(score), then d(logit)
      if (config.norm_topk_prob) {
        // weight_k = factor s_k / S:  ds_k = factor (dw_k - sum_j dw_j s_j / S) / S
        T sum = 0, dot = 0;
        for (int k = 0; k < config.top_k; ++k) {
          sum += score[ids[k]];
          dot += dweight[k] * score[ids[k]];
        }
        sum += static_cast<T>(1e-20);
        for (int k = 0; k < config.top_k; ++k) dlogit[ids[k]] = factor * (dweight[k] - dot / sum) / sum;
      } else {
        for (int k = 0; k < config.top_k; ++k) dlogit[ids[k]] = factor * dweight[k];
      }
      if (config.scoring == RouterConfig::Scoring::kSigmoid) {
        for (int k = 0; k < config.top_k; ++k) dlogit[ids[k]] *= score[ids[k]] * (1 - score[ids[k]]);
      } else {
        T dot = 0;
        for (int k = 0; k < config.top_k; ++k) dot += dlogit[ids[k]] * score[ids[k]];
        for (int e = 0; e < config.num_experts; ++e) dlogit[e] = score[e] * (dlogit[e] - dot);
      }
    }
  });
}

template <typename S>
void CombineExperts(Stream& stream, const ExpertOrder& order, const Tensor& expert_out, const Tensor& weights,
                    const Tensor& y, bool accumulate) {
  using T = Compute<S>;
  const int64_t top_k = weights.dim(1), width = y.dim(1);
  const int32_t* const row_of = order.row_of.data<int32_t>();
  stream.threads.ParallelFor(y.dim(0), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      S* out = y.row<S>(t);
      const T* weight = weights.row<T>(t);
      for (int64_t d = 0; d < width; d += kLanes) {
        const int64_t n = std::min<int64_t>(kLanes, width - d);
        Vec<T> acc = accumulate ? LoadPartial(out + d, n) : Vec<T>::Zero();
        for (int64_t k = 0; k < top_k; ++k) {
          const S* row = expert_out.row<S>(row_of[t * top_k + k]) + d;
          acc = Fma(Vec<T>::Broadcast(weight[k]), n == kLanes ? Load(row) : LoadPartial(row, n), acc);
        }
        n == kLanes ? Store(out + d, acc) : StorePartial(out + d, acc, n);
      }
    }
  });
}

template <typename S>
void CombineExpertsBackward(Stream& stream, const ExpertOrder& order, const Tensor& dy, const Tensor& expert_out,
                            const Tensor& weights, const Tensor& d_expert_out, const Tensor& dweights) {
  using T = Compute<S>;
  const int64_t top_k = weights.dim(1), width = dy.dim(1);
  const int32_t* const row_of = order.row_of.data<int32_t>();
  stream.threads.ParallelFor(dy.dim(0), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const S* g = dy.row<S>(t);
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t row = row_of[t * top_k + k];
        const S* out = expert_out.row<S>(row);
        S* d_out = d_expert_out.row<S>(row);
        const Vec<T> weight = Vec<T>::Broadcast(weights.row<T>(t)[k]);
        Vec<T> dot = Vec<T>::Zero();
        for (int64_t d = 0; d < width; d += kLanes) {
          const int64_t n = std::min<int64_t>(kLanes, width - d);
          const Vec<T> x = n == kLanes ? Load(g + d) : LoadPartial(g + d, n);
          dot = Fma(x, n == kLanes ? Load(out + d) : LoadPartial(out + d, n), dot);
          n == kLanes ? Store(d_out + d, weight * x) : StorePartial(d_out + d, weight * x, n);
        }
        dweights.row<T>(t)[k] = ReduceAdd(dot);
      }
    }
  });
}

template <typename S>
void ScatterExpertRows(Stream& stream, const ExpertOrder& order, const Tensor& d_rows, int top_k, const Tensor& dx) {
  using T = Compute<S>;
  const int64_t width = dx.dim(1);
  const int32_t* const row_of = order.row_of.data<int32_t>();
  stream.threads.ParallelFor(dx.dim(0), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      S* out = dx.row<S>(t);
      for (int64_t d = 0; d < width; d += kLanes) {
        const int64_t n = std::min<int64_t>(kLanes, width - d);
        Vec<T> acc = LoadPartial(out + d, n);
        for (int k = 0; k < top_k; ++k) {
          const S* row = d_rows.row<S>(row_of[t * top_k + k]) + d;
          acc = acc + (n == kLanes ? Load(row) : LoadPartial(row, n));
        }
        n == kLanes ? Store(out + d, acc) : StorePartial(out + d, acc, n);
      }
    }
  });
}

template void Route<float>(Stream&, const RouterConfig&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&);
template void Route<double>(Stream&, const RouterConfig&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                            const Tensor&);
template void RouteBackward<float>(Stream&, const RouterConfig&, const Tensor&, const Tensor&, const Tensor&,
                                   const Tensor&);
template void RouteBackward<double>(Stream&, const RouterConfig&, const Tensor&, const Tensor&, const Tensor&,
                                    const Tensor&);
#define GROUPER_INSTANTIATE(S)                                                                                      \
  template void CombineExperts<S>(Stream&, const ExpertOrder&, const Tensor&, const Tensor&, const Tensor&, bool);  \
  template void CombineExpertsBackward<S>(Stream&, const ExpertOrder&, const Tensor&, const Tensor&, const Tensor&, \
                                          const Tensor&, const Tensor&);                                            \
  template void ScatterExpertRows<S>(Stream&, const ExpertOrder&, const Tensor&, int, const Tensor&);
GROUPER_INSTANTIATE(float)
GROUPER_INSTANTIATE(double)
GROUPER_INSTANTIATE(bf16)
#undef GROUPER_INSTANTIATE

}  // namespace grouper::kernels::cpu
