#include "kernels/moe_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAll = ~0u;

__device__ __forceinline__ float Infinity() { return __int_as_float(0x7f800000); }

struct Router {
  int experts, top_k, groups, topk_groups;
  bool sigmoid, group_max, normalise;
  float factor;
};
Router RouterOf(const RouterConfig& c) {
  return {c.num_experts,
          c.top_k,
          c.num_groups,
          c.topk_groups,
          c.scoring == RouterConfig::Scoring::kSigmoid,
          c.group_score == RouterConfig::GroupScore::kMax,
          c.norm_topk_prob,
          static_cast<float>(c.routed_scaling_factor)};
}

// A warp's row of scores: softmax or sigmoid of the logits.
__device__ void ScoreExperts(const Router& c, const float* logits, float* scores, int lane) {
  if (c.sigmoid) {
    for (int e = lane; e < c.experts; e += kWarp) scores[e] = Sigmoid(logits[e]);
    __syncwarp();
    return;
  }
  float high = -Infinity();  // NaN loses
  for (int e = lane; e < c.experts; e += kWarp) high = logits[e] > high ? logits[e] : high;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kAll, high, step);
    high = other > high ? other : high;
  }
  for (int e = lane; e < c.experts; e += kWarp) scores[e] = Exp(logits[e] - high);
  __syncwarp();
  // Lanes l, l + 8, ... sum the same elements.
  float sum = 0;
  for (int e = lane % kRowThreads; e < c.experts; e += kRowThreads) sum = sum + scores[e];
  sum = ReduceLanes(sum);
  __syncwarp();
  for (int e = lane; e < c.experts; e += kWarp) scores[e] = scores[e] / sum;
  __syncwarp();
}

// Marks all but the best topk_groups groups with -inf in `choice`. `group_scores` [groups].
__device__ void KeepBestGroups(const Router& c, float* choice, float* group_scores, int lane) {
  if (c.groups == c.topk_groups) return;
  const int size = c.experts / c.groups;
  for (int g = lane; g < c.groups; g += kWarp) {
    float first = -Infinity(), second = -Infinity();
    for (int e = g * size; e < (g + 1) * size; ++e) {
      if (choice[e] > first) {
        second = first;
        first = choice[e];
      } else if (choice[e] > second) {
        second = choice[e];
      }
    }
    group_scores[g] = c.group_max || size == 1 ? first : first + second;
  }
  __syncwarp();
  for (int g = lane; g < c.groups; g += kWarp) {
    int better = 0;
    for (int other = 0; other < c.groups; ++other)
      better += group_scores[other] > group_scores[g] || (group_scores[other] == group_scores[g] && other < g);
    if (better < c.topk_groups) continue;
    for (int e = g * size; e < (g + 1) * size; ++e) choice[e] = -Infinity();
  }
  __syncwarp();
}

// Of the ids that are not taken: the lowest one if its choice is NaN, else the largest choice, lower ids first.
__device__ int BestExpert(const Router& c, const float* choice, const uint8_t* taken, int lane) {
  int lowest = c.experts, best = c.experts;
  float most = 0;
  for (int e = lane; e < c.experts; e += kWarp) {
    if (taken[e]) continue;
    lowest = min(lowest, e);
    const float x = choice[e];
    if (x == x && (best == c.experts || x > most)) {
      best = e;
      most = x;
    }
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    lowest = min(lowest, __shfl_xor_sync(kAll, lowest, step));
    const int other = __shfl_xor_sync(kAll, best, step);
    const float value = __shfl_xor_sync(kAll, most, step);
    if (other == c.experts) continue;
    if (best == c.experts || value > most || (value == most && other < best)) {
      best = other;
      most = value;
    }
  }
  return choice[lowest] == choice[lowest] ? best : lowest;
}

// A warp routes a token. Shared: choice, scores [experts], groups' scores [groups], taken [experts].
__global__ void __launch_bounds__(kWarp) RouteToken(Router c, const float* logits, int64_t logits_stride, const float* bias,
                                                    int32_t* ids, int64_t ids_stride, float* weights, int64_t weights_stride,
                                                    float* all_scores, int64_t scores_stride) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(float, shared);
  float* const choice = shared;
  float* const scores = choice + c.experts;
  float* const group_scores = scores + c.experts;
  uint8_t* const taken = reinterpret_cast<uint8_t*>(group_scores + c.groups);
  const int64_t token = blockIdx.x;
  const int lane = threadIdx.x;
  ScoreExperts(c, logits + token * logits_stride, scores, lane);
  for (int e = lane; e < c.experts; e += kWarp) {
    all_scores[token * scores_stride + e] = scores[e];
    choice[e] = bias == nullptr ? scores[e] : scores[e] + bias[e];
    taken[e] = 0;
  }
  __syncwarp();
  KeepBestGroups(c, choice, group_scores, lane);
  int32_t* const id = ids + token * ids_stride;
  float* const weight = weights + token * weights_stride;
  float sum = 0;
  for (int k = 0; k < c.top_k; ++k) {
    const int best = BestExpert(c, choice, taken, lane);
    sum = sum + scores[best];
    __syncwarp();
    if (lane == 0) {
      taken[best] = 1;
      id[k] = best;
      weight[k] = scores[best];
    }
    __syncwarp();
  }
  const float divisor = c.normalise ? sum + 1e-20f : 1.0f;
  for (int k = lane; k < c.top_k; k += kWarp) weight[k] = weight[k] / divisor * c.factor;
}

// A warp a token; its first lane walks the slots.
__global__ void __launch_bounds__(kBlockThreads)
    RouteTokenBackward(Router c, const float* scores, int64_t scores_stride, const int32_t* ids, int64_t ids_stride,
                       const float* dweights, int64_t dweights_stride, float* dlogits, int64_t dlogits_stride, int64_t tokens) {
  KernelBegin();
  const int64_t token = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (token >= tokens) return;  // whole warps
  const float* const score = scores + token * scores_stride;
  const int32_t* const id = ids + token * ids_stride;
  const float* const dweight = dweights + token * dweights_stride;
  float* const dlogit = dlogits + token * dlogits_stride;
  for (int e = lane; e < c.experts; e += kWarp) dlogit[e] = 0;
  __syncwarp();
  float total = 0;
  if (lane == 0) {
    if (c.normalise) {
      float sum = 0, dot = 0;
      for (int k = 0; k < c.top_k; ++k) {
        sum = sum + score[id[k]];
        dot = dot + dweight[k] * score[id[k]];
      }
      sum = sum + 1e-20f;
      for (int k = 0; k < c.top_k; ++k) dlogit[id[k]] = c.factor * (dweight[k] - dot / sum) / sum;
    } else {
      for (int k = 0; k < c.top_k; ++k) dlogit[id[k]] = c.factor * dweight[k];
    }
    for (int k = 0; k < c.top_k; ++k) {
      const float s = score[id[k]], d = dlogit[id[k]];
      if (c.sigmoid) {
        dlogit[id[k]] = d * (s * (1.0f - s));
      } else {
        total = total + d * s;
      }
    }
  }
  __syncwarp();
  if (c.sigmoid) return;
  total = __shfl_sync(kAll, total, 0);
  for (int e = lane; e < c.experts; e += kWarp) dlogit[e] = score[e] * (dlogit[e] - total);
}

constexpr int kSortThreads = 1024, kSortWarps = kSortThreads / kWarp;

// Block e finds expert e's rows: how many slots have a lower expert, then the places of its own, ascending.
__global__ void __launch_bounds__(kSortThreads)
    SortSlots(const int32_t* ids, int64_t ids_stride, int top_k, int64_t slots, int32_t* offsets, int32_t* token, int32_t* row_of) {
  KernelBegin();
  __shared__ int counts[kSortWarps];
  const int expert = static_cast<int>(blockIdx.x), lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto id_of = [&](int64_t slot) { return ids[slot / top_k * ids_stride + slot % top_k]; };
  int below = 0;
  for (int64_t slot = threadIdx.x; slot < slots; slot += kSortThreads) below += id_of(slot) < expert;
  for (int step = kWarp / 2; step > 0; step /= 2) below += __shfl_xor_sync(kAll, below, step);
  if (lane == 0) counts[warp] = below;
  __syncthreads();
  int next = 0;
  for (int w = 0; w < kSortWarps; ++w) next += counts[w];
  __syncthreads();
  if (threadIdx.x == 0) {
    offsets[expert] = next;
    if (blockIdx.x + 1 == gridDim.x) offsets[gridDim.x] = static_cast<int32_t>(slots);
  }
  for (int64_t first = 0; first < slots; first += kSortThreads) {
    const int64_t slot = first + threadIdx.x;
    const bool mine = slot < slots && id_of(slot) == expert;
    const unsigned votes = __ballot_sync(kAll, mine);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < kSortWarps; ++w) {
      if (w == warp) before = all;
      all += counts[w];
    }
    if (mine) {
      const int32_t row = next + before + __popc(votes & ((1u << lane) - 1));
      token[row] = static_cast<int32_t>(slot / top_k);
      row_of[slot] = row;
    }
    next += all;
    __syncthreads();
  }
}

// One column, or eight.
template <int kEach, typename S>
__device__ __forceinline__ void LoadColumns(const S* p, float (&x)[kEach]) {
  static_assert(kEach == 1 || kEach == 8);
  if constexpr (kEach == 8) {
    LoadEight(p, 8, true, x);
  } else {
    x[0] = LoadFloat(p);
  }
}
template <int kEach, typename S>
__device__ __forceinline__ void StoreColumns(S* p, const float (&x)[kEach]) {
  if constexpr (kEach == 8) {
    StoreEight(p, 8, true, x);
  } else {
    StoreFloat(p, x[0]);
  }
}

// Adds a token's experts' rows to `sums`, kEach columns from `column` on, in the order of its slots: add(k, element, sum). Eight rows come at a time.
template <int kEach, typename S, typename Add>
__device__ __forceinline__ void AddExpertRows(const int32_t* row_of, int64_t token, int top_k, const DeviceRows<S>& rows, int64_t column,
                                              float (&sums)[kEach], Add add) {
  struct alignas(kEach == 1 ? alignof(S) : 16) Columns {
    S x[kEach];
  };
  constexpr int kAhead = 8;
  for (int first = 0; first < top_k; first += kAhead) {
    Columns ahead[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k < top_k) ahead[k] = *reinterpret_cast<const Columns*>(rows[row_of[token * top_k + first + k]] + column);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k >= top_k) break;
#pragma unroll
      for (int i = 0; i < kEach; ++i) sums[i] = add(first + k, LoadFloat(ahead[k].x + i), sums[i]);
    }
  }
}

// Block (x, y): token x, columns of part y, kEach a thread: eight where rows allow that.
template <typename S, int kEach>
__global__ void __launch_bounds__(kBlockThreads)
    CombineRows(const int32_t* row_of, int top_k, DeviceRows<S> expert_out, const float* weights, int64_t weights_stride,
                DeviceRows<S> y, int64_t width, bool accumulate) {
  KernelBegin();
  const int64_t token = blockIdx.x, column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kEach;
  if (column >= width) return;
  S* const out = y[token] + column;
  float sums[kEach];
  if (accumulate) {
    LoadColumns(out, sums);
  } else {
#pragma unroll
    for (float& sum : sums) sum = 0;
  }
  AddExpertRows(row_of, token, top_k, expert_out, column, sums,
                [&](int k, float x, float sum) { return fmaf(weights[token * weights_stride + k], x, sum); });
  StoreColumns(out, sums);
}

// Eight threads a slot.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    CombineRowsBackward(const int32_t* row_of, int top_k, DeviceRows<S> dy, DeviceRows<S> expert_out, const float* weights,
                        int64_t weights_stride, DeviceRows<S> d_expert_out, float* dweights, int64_t dweights_stride,
                        int64_t slots, int64_t width) {
  KernelBegin();
  const int64_t slot = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) / kRowThreads;
  const int lane = threadIdx.x % kRowThreads;
  const bool mine = slot < slots;
  const int64_t token = mine ? slot / top_k : 0, k = mine ? slot % top_k : 0, row = mine ? row_of[slot] : 0;
  float dot = 0;
  if (mine) {
    const float weight = weights[token * weights_stride + k];
    const S* const g = dy[token];
    const S* const out = expert_out[row];
    S* const d_out = d_expert_out[row];
#pragma unroll 8
    for (int64_t i = lane; i < width; i += kRowThreads) {
      const float x = LoadFloat(g + i);
      dot = fmaf(x, LoadFloat(out + i), dot);
      StoreFloat(d_out + i, weight * x);
    }
  }
  dot = ReduceLanes(dot);
  if (mine && lane == 0) dweights[token * dweights_stride + k] = dot;
}

// The same where rows are whole eights: a thread moves eight columns, and the eight that share a slot exchange what they have by way of shared
// memory, so that each has its lane's of the sum.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    CombineEightsBackward(const int32_t* row_of, int top_k, DeviceRows<S> dy, DeviceRows<S> expert_out, const float* weights,
                          int64_t weights_stride, DeviceRows<S> d_expert_out, float* dweights, int64_t dweights_stride, int64_t slots, int width) {
  KernelBegin();
  constexpr int kStep = 8 * kRowThreads, kPitch = kStep + 8;  // columns; without bank conflicts
  __shared__ __align__(16) float gs[kBlockThreads / kRowThreads][kPitch], outs[kBlockThreads / kRowThreads][kPitch];
  const int64_t slot = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) / kRowThreads;
  const int lane = threadIdx.x % kRowThreads, place = threadIdx.x / kRowThreads;
  const bool mine = slot < slots;
  const int64_t token = mine ? slot / top_k : 0, k = mine ? slot % top_k : 0, row = mine ? row_of[slot] : 0;
  const float weight = mine ? weights[token * weights_stride + k] : 0;
  const S* const g = dy[token];
  const S* const out = expert_out[row];
  S* const d_out = d_expert_out[row];
  float dot = 0, x[8] = {}, y[8] = {};
  const auto load = [&](int column) {
    const bool there = mine && column < width;
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = y[i] = 0;
    if (there) LoadEight(g + column, 8, true, x);
    if (there) LoadEight(out + column, 8, true, y);
  };
  load(8 * lane);
  for (int first = 0; first < width; first += kStep) {
    const int column = first + 8 * lane;
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      *reinterpret_cast<float4*>(&gs[place][8 * lane + i]) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
      *reinterpret_cast<float4*>(&outs[place][8 * lane + i]) = make_float4(y[i], y[i + 1], y[i + 2], y[i + 3]);
    }
    if (mine && column < width) {
#pragma unroll
      for (float& value : x) value = weight * value;
      StoreEight(d_out + column, 8, true, x);
    }
    load(column + kStep);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kStep; i += kRowThreads) {
      if (first + i < width) dot = fmaf(gs[place][i + lane], outs[place][i + lane], dot);
    }
    __syncwarp();
  }
  dot = ReduceLanes(dot);
  if (mine && lane == 0) dweights[token * dweights_stride + k] = dot;
}

template <typename S, int kEach>
__global__ void __launch_bounds__(kBlockThreads)
    ScatterRows(const int32_t* row_of, int top_k, DeviceRows<S> d_rows, DeviceRows<S> dx, int64_t width) {
  KernelBegin();
  const int64_t token = blockIdx.x, column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kEach;
  if (column >= width) return;
  S* const out = dx[token] + column;
  float sums[kEach];
  LoadColumns(out, sums);
  AddExpertRows(row_of, token, top_k, d_rows, column, sums, [](int, float x, float sum) { return sum + x; });
  StoreColumns(out, sums);
}

// A thread an expert.
__global__ void __launch_bounds__(kBlockThreads) AddRowCounts(const int32_t* offsets, int experts, int32_t* load) {
  KernelBegin();
  const int e = static_cast<int>(blockIdx.x * kBlockThreads + threadIdx.x);
  if (e < experts) load[e] += offsets[e + 1] - offsets[e];
}

// One warp: a router's few hundred experts.
__global__ void __launch_bounds__(kWarp) MoveBias(const int32_t* load, int experts, double rate, float* bias) {
  KernelBegin();
  long long total = 0;
  for (int e = threadIdx.x; e < experts; e += kWarp) total += load[e];
  for (int step = kWarp / 2; step > 0; step /= 2) total += __shfl_xor_sync(kAll, total, step);
  for (int e = threadIdx.x; e < experts; e += kWarp) {
    const long long scaled = static_cast<long long>(load[e]) * experts;
    const double step = total > scaled ? rate : total < scaled ? -rate : 0;
    bias[e] = static_cast<float>(static_cast<double>(bias[e]) + step);
  }
}

// launch(each, grid, threads), `each` a constant: how many columns of a token's row a thread has.
template <typename Launch>
void ByColumns(const Tensor& tokens, bool eights, Launch launch) {
  const auto rows = static_cast<unsigned>(tokens.dim(0));
  if (!eights) return launch(std::integral_constant<int, 1>(), dim3(rows, BlocksFor(tokens.dim(1))), static_cast<unsigned>(kBlockThreads));
  const int64_t threads = tokens.dim(1) / 8, block = std::min<int64_t>((threads + 31) / 32 * 32, kBlockThreads);
  launch(std::integral_constant<int, 8>(), dim3(rows, static_cast<unsigned>((threads + block - 1) / block)), static_cast<unsigned>(block));
}

}  // namespace

void Route(Stream& stream, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
           const Tensor& expert_ids, const Tensor& weights, const Tensor& scores) {
  if (logits.dim(0) == 0) return;
  const size_t shared = sizeof(float) * static_cast<size_t>(2 * config.num_experts + config.num_groups) +
                        static_cast<size_t>(config.num_experts);
  CHECK_LE(shared, size_t{48} << 10) << config.num_experts << " experts are more than the router's shared memory holds";
  LaunchKernel(stream, static_cast<unsigned>(logits.dim(0)), kWarp, shared, RouteToken, RouterOf(config), logits.data<float>(),
               logits.stride(0), bias.empty() ? nullptr : bias.data<float>(), expert_ids.data<int32_t>(), expert_ids.stride(0),
               weights.data<float>(), weights.stride(0), scores.data<float>(), scores.stride(0));
}

void RouteBackward(Stream& stream, const RouterConfig& config, const Tensor& scores, const Tensor& expert_ids,
                   const Tensor& dweights, const Tensor& dlogits) {
  const int64_t tokens = scores.dim(0);
  if (tokens == 0) return;
  LaunchKernel(stream, BlocksFor(tokens * kWarp), kBlockThreads, 0, RouteTokenBackward, RouterOf(config), scores.data<float>(),
               scores.stride(0), expert_ids.data<int32_t>(), expert_ids.stride(0), dweights.data<float>(), dweights.stride(0),
               dlogits.data<float>(), dlogits.stride(0), tokens);
}

void SortByExpert(Stream& stream, const Tensor& expert_ids, const ExpertOrder& order) {
  const int64_t experts = order.offsets.dim(0) - 1;
  LaunchKernel(stream, static_cast<unsigned>(experts), kSortThreads, 0, SortSlots, expert_ids.data<int32_t>(), expert_ids.stride(0),
               static_cast<int>(expert_ids.dim(1)), expert_ids.size(), order.offsets.data<int32_t>(), order.token.data<int32_t>(),
               order.row_of.data<int32_t>());
}

void CombineExperts(Stream& stream, const ExpertOrder& order, const Tensor& expert_out, const Tensor& weights,
                    const Tensor& y, bool accumulate) {
  if (y.size() == 0) return;
  ByDeviceStorage(y.dtype(), [&](auto s) {
    using S = decltype(s);
    ByColumns(y, RowsOfEights(expert_out) && RowsOfEights(y), [&](auto each, dim3 grid, unsigned threads) {
      LaunchKernel(stream, grid, threads, 0, CombineRows<S, each()>, order.row_of.data<int32_t>(), static_cast<int>(weights.dim(1)),
                   RowsOnDevice<S>(expert_out), weights.data<float>(), weights.stride(0), RowsOnDevice<S>(y), y.dim(1), accumulate);
    });
  });
}

void CombineExpertsBackward(Stream& stream, const ExpertOrder& order, const Tensor& dy, const Tensor& expert_out,
                            const Tensor& weights, const Tensor& d_expert_out, const Tensor& dweights) {
  const int64_t slots = weights.size();
  if (slots == 0) return;
  ByDeviceStorage(dy.dtype(), [&](auto s) {
    using S = decltype(s);
    const auto launch = [&](auto* kernel, auto width) {
      LaunchKernel(stream, BlocksFor(slots * kRowThreads), kBlockThreads, 0, kernel, order.row_of.data<int32_t>(), static_cast<int>(weights.dim(1)),
                   RowsOnDevice<S>(dy), RowsOnDevice<S>(expert_out), weights.data<float>(), weights.stride(0), RowsOnDevice<S>(d_expert_out),
                   dweights.data<float>(), dweights.stride(0), slots, width);
    };
    const bool eights = RowsOfEights(dy) && RowsOfEights(expert_out) && RowsOfEights(d_expert_out);
    eights ? launch(CombineEightsBackward<S>, static_cast<int>(dy.dim(1))) : launch(CombineRowsBackward<S>, dy.dim(1));
  });
}

void ScatterExpertRows(Stream& stream, const ExpertOrder& order, const Tensor& d_rows, int top_k, const Tensor& dx) {
  if (dx.size() == 0) return;
  ByDeviceStorage(dx.dtype(), [&](auto s) {
    using S = decltype(s);
    ByColumns(dx, RowsOfEights(d_rows) && RowsOfEights(dx), [&](auto each, dim3 grid, unsigned threads) {
      LaunchKernel(stream, grid, threads, 0, ScatterRows<S, each()>, order.row_of.data<int32_t>(), top_k, RowsOnDevice<S>(d_rows),
                   RowsOnDevice<S>(dx), dx.dim(1));
    });
  });
}

void AddExpertLoad(Stream& stream, const Tensor& offsets, const Tensor& load) {
  LaunchKernel(stream, BlocksFor(load.dim(0)), kBlockThreads, 0, AddRowCounts, offsets.data<int32_t>(), static_cast<int>(load.dim(0)),
               load.data<int32_t>());
}

void UpdateExpertBias(Stream& stream, const Tensor& load, double rate, const Tensor& bias) {
  CHECK(bias.dtype() == DType::kF32) << Name(bias.dtype());
  LaunchKernel(stream, 1, kWarp, 0, MoveBias, load.data<int32_t>(), static_cast<int>(load.dim(0)), rate, bias.data<float>());
}

}  // namespace grouper::kernels::cuda
