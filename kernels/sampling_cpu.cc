// Filtered distributions on the CPU. A row is one thread's work: widen and scale the logits, put -inf where a filter drops an id, then maximum
// and sum of exponentials over all ids in one fixed order. Sampling, scoring and the gradient share that routine, so they share its bits.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/math.h"
#include "kernels/philox_lanes.h"
#include "kernels/sampling.h"
#include "kernels/simd.h"

namespace grouper::kernels::cpu {
namespace {

inline float ScalarLog(float x) { return Log(x); }
inline double ScalarLog(double x) { return std::log(x); }

// One row's distribution: z [V] with -inf outside the filter; logprob(i) = (z[i] - maximum) - log_sum.
template <typename T>
struct Distribution {
  std::vector<T> z;
  T maximum = 0, sum = 0, log_sum = 0;
  std::vector<T> values;       // scratch of the filters
  std::vector<int32_t> order;

  T Logprob(int64_t i) const { return (z[i] - maximum) - log_sum; }
};

template <typename T>
T Maximum(const std::vector<T>& z) {
  const T infinity = std::numeric_limits<T>::infinity();
  const int64_t n = static_cast<int64_t>(z.size());
  Vec<T> high = Vec<T>::Broadcast(-infinity);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) high = Max(Load(z.data() + i), high);
  if (i < n) high = Max(FillTail(LoadPartial(z.data() + i, n - i), n - i, -infinity), high);
  return ReduceMax(high);
}

// sum exp(z - maximum), 8 lanes by id and the fixed tree.
template <typename T>
T SumOfExponentials(const std::vector<T>& z, T maximum) {
  const int64_t n = static_cast<int64_t>(z.size());
  const Vec<T> shift = Vec<T>::Broadcast(maximum);
  Vec<T> total = Vec<T>::Zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total = total + Exp(Load(z.data() + i) - shift);
  if (i < n) total = total + FillTail(Exp(LoadPartial(z.data() + i, n - i) - shift), n - i, 0);
  return ReduceAdd(total);
}

// Keeps the k largest; among equals the lower ids.
template <typename T>
void KeepTopK(int64_t k, Distribution<T>& d) {
  const int64_t n = static_cast<int64_t>(d.z.size());
  if (k <= 0 || k >= n) return;
  d.values = d.z;
  std::nth_element(d.values.begin(), d.values.begin() + (k - 1), d.values.end(), std::greater<T>());
  const T threshold = d.values[static_cast<size_t>(k - 1)];
  int64_t equal = k;
  for (T z : d.z) equal -= z > threshold;
  for (T& z : d.z) {
    if (z > threshold || (z == threshold && equal-- > 0)) continue;
    z = -std::numeric_limits<T>::infinity();
  }
}

// Keeps the shortest prefix in descending order (among equals lower ids first) whose probability reaches top_p.
template <typename T>
void KeepTopP(float top_p, Distribution<T>& d) {
  if (top_p >= 1) return;
  const T infinity = std::numeric_limits<T>::infinity();
  const T maximum = Maximum(d.z);
  const double target = static_cast<double>(top_p) * static_cast<double>(SumOfExponentials(d.z, maximum));
  d.order.clear();
  for (size_t i = 0; i < d.z.size(); ++i) {
    if (d.z[i] > -infinity) d.order.push_back(static_cast<int32_t>(i));
  }
  auto before = [&](int32_t a, int32_t b) { return d.z[a] > d.z[b] || (d.z[a] == d.z[b] && a < b); };
  // Sort as much of the head as it takes: the nucleus is usually short.
  size_t sorted = 0, kept = 0;
  double reached = 0;
  while (kept < d.order.size() && (kept == 0 || reached < target)) {
    if (kept == sorted) {
      const size_t next = std::min(d.order.size(), std::max<size_t>(64, 4 * sorted));
      std::nth_element(d.order.begin() + sorted, d.order.begin() + (next - 1), d.order.end(), before);
      std::sort(d.order.begin() + sorted, d.order.begin() + next, before);
      sorted = next;
    }
    const T difference = d.z[d.order[kept]] - maximum;
    if constexpr (std::is_same_v<T, float>) {
      reached += static_cast<double>(Exp(difference));
    } else {
      reached += std::exp(difference);
    }
    ++kept;
  }
  for (size_t i = kept; i < d.order.size(); ++i) d.z[d.order[i]] = -infinity;
}

// The lowest id among the largest logits; -1 when a logit is NaN.
template <typename S>
int32_t Argmax(const S* logits, int64_t n) {
  using T = Compute<S>;
  int32_t best = -1;
  T value = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T x = static_cast<T>(logits[i]);
    if (x != x) return -1;
    if (best < 0 || x > value) {
      best = static_cast<int32_t>(i);
      value = x;
    }
  }
  return best;
}

// REQUIRES: filter.temperature > 0. False when the row has NaN or +inf logits, or nothing but -inf.
template <typename S, typename T>
bool Prepare(const S* logits, int64_t n, const SamplingFilter& filter, Distribution<T>& d) {
  d.z.resize(static_cast<size_t>(n));
  const Vec<T> temperature = Vec<T>::Broadcast(static_cast<T>(filter.temperature));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(d.z.data() + i, Load(logits + i) / temperature);
  if (i < n) StorePartial(d.z.data() + i, LoadPartial(logits + i, n - i) / temperature, n - i);
  bool finite = true;
  for (T z : d.z) finite &= z < std::numeric_limits<T>::infinity();
  if (!finite) return false;
  KeepTopK(filter.top_k, d);
  KeepTopP(filter.top_p, d);
  d.maximum = Maximum(d.z);
  if (!(d.maximum > -std::numeric_limits<T>::infinity())) return false;
  d.sum = SumOfExponentials(d.z, d.maximum);
  d.log_sum = ScalarLog(d.sum);
  return true;
}

// Uniform on (0, 1) from 32 bits, then -log(-log1p(-u)). A u that rounds to 1 gives -inf and never wins; small u keep all their bits.
Vec<float> Gumbel(U32x8 bits) {
  const Vec<float> high = {__builtin_convertvector((I32x8)(bits >> 16), F32x8)};
  const Vec<float> low = {__builtin_convertvector((I32x8)(bits & 0xffffu), F32x8)};
  const Vec<float> u = Fma(high, Vec<float>::Broadcast(0x1p-16f), (low + Vec<float>::Broadcast(0.5f)) * Vec<float>::Broadcast(0x1p-32f));
  return -Log(-Log1p(-u));
}

// argmax of z_i + g_i, the lowest id among equals; blocks of 32 ids without a kept one draw nothing.
template <typename T>
int32_t GumbelArgmax(const std::vector<T>& z, const SampleRequest& request) {
  const int64_t n = static_cast<int64_t>(z.size());
  const T infinity = std::numeric_limits<T>::infinity();
  int32_t best = -1;
  T best_value = -infinity;
  for (int64_t block = 0; block < n; block += 32) {
    const int64_t count = std::min<int64_t>(32, n - block);
    bool any = false;
    for (int64_t i = 0; i < count; ++i) any |= z[block + i] > -infinity;
    if (!any) continue;
    const PhiloxLanes random =
        PhiloxEight(request.key, static_cast<uint32_t>(block / 4), request.position, request.sample_index, 0);
    float noise[4][8];
    for (int w = 0; w < 4; ++w) Store(noise[w], Gumbel(random.word[w]));
    for (int64_t i = 0; i < count; ++i) {
      const T value = z[block + i] + static_cast<T>(noise[i % 4][i / 4]);
      if (value > best_value) {
        best_value = value;
        best = static_cast<int32_t>(block + i);
      }
    }
  }
  return best;
}

}  // namespace

template <typename S>
void Sample(Stream& stream, const Tensor& logits, const std::vector<SampleRequest>& requests, std::vector<SampledToken>& tokens) {
  using T = Compute<S>;
  const int64_t n = logits.dim(1), grain = std::max<int64_t>(1, 256 / std::max<int64_t>(n, 1));
  stream.threads.ParallelFor(logits.dim(0), grain, [&](int64_t begin, int64_t end) {
    static thread_local Distribution<T> d;
    for (int64_t r = begin; r < end; ++r) {
      const SampleRequest& request = requests[static_cast<size_t>(r)];
      SampledToken& token = tokens[static_cast<size_t>(r)];
      token = {};
      if (request.filter.temperature == 0) {
        token.token = Argmax(logits.row<S>(r), n);
      } else if (Prepare(logits.row<S>(r), n, request.filter, d)) {
        token.token = GumbelArgmax(d.z, request);
        if (token.token >= 0) token.logprob = static_cast<float>(d.Logprob(token.token));
      }
    }
  });
}

template <typename S>
void TokenLogprobs(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters, const int32_t* tokens,
                   const Tensor& logprobs, const Tensor& entropies) {
  using T = Compute<S>;
  const int64_t n = logits.dim(1), grain = std::max<int64_t>(1, 256 / std::max<int64_t>(n, 1));
  stream.threads.ParallelFor(logits.dim(0), grain, [&](int64_t begin, int64_t end) {
    static thread_local Distribution<T> d;
    for (int64_t r = begin; r < end; ++r) {
      const SamplingFilter& filter = filters[static_cast<size_t>(r)];
      const T infinity = std::numeric_limits<T>::infinity();
      T logprob, entropy = 0;
      if (filter.temperature == 0) {
        logprob = Argmax(logits.row<S>(r), n) == tokens[r] ? 0 : -infinity;
      } else if (!Prepare(logits.row<S>(r), n, filter, d)) {
        logprob = entropy = std::numeric_limits<T>::quiet_NaN();
      } else {
        logprob = d.Logprob(tokens[r]);
        if (!entropies.empty()) {
          // H = log sum - sum p (z - maximum); a dropped id has p = 0 and a clamped difference.
          const Vec<T> shift = Vec<T>::Broadcast(d.maximum), floor = Vec<T>::Broadcast(static_cast<T>(-1e30));
          Vec<T> total = Vec<T>::Zero();
          for (int64_t i = 0; i < n; i += kLanes) {
            const int64_t m = std::min<int64_t>(kLanes, n - i);
            const Vec<T> x = Max(LoadPartial(d.z.data() + i, m) - shift, floor);
            total = Fma(FillTail(Exp(x), m, 0), x, total);
          }
          entropy = d.log_sum - ReduceAdd(total) / d.sum;
        }
      }
      logprobs.data<T>()[r] = logprob;
      if (!entropies.empty()) entropies.data<T>()[r] = entropy;
    }
  });
}

template <typename S>
void TokenLogprobsBackward(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters, const int32_t* tokens,
                           const Tensor& dlogprobs, const Tensor& dlogits) {
  using T = Compute<S>;
  const int64_t n = logits.dim(1), grain = std::max<int64_t>(1, 256 / std::max<int64_t>(n, 1));
  stream.threads.ParallelFor(logits.dim(0), grain, [&](int64_t begin, int64_t end) {
    static thread_local Distribution<T> d;
    for (int64_t r = begin; r < end; ++r) {
      const SamplingFilter& filter = filters[static_cast<size_t>(r)];
      const T g = dlogprobs.data<T>()[r];
      S* out = dlogits.row<S>(r);
      const bool flows = g != 0 && filter.temperature > 0 && Prepare(logits.row<S>(r), n, filter, d) &&
                         d.z[tokens[r]] > -std::numeric_limits<T>::infinity();
      if (!flows) {
        std::fill_n(out, n, S(Compute<S>(0)));
        continue;
      }
      // dL/dz_i = g (1[i = token] - p_i), then through the temperature.
      const T temperature = static_cast<T>(filter.temperature);
      const T slope = g / temperature;
      const Vec<T> shift = Vec<T>::Broadcast(d.maximum), scale = Vec<T>::Broadcast(-(slope / d.sum));
      for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t m = std::min<int64_t>(kLanes, n - i);
        const Vec<T> p = Exp(LoadPartial(d.z.data() + i, m) - shift);
        StorePartial(out + i, p * scale, m);
      }
      const T p_token = [&] {
        const Vec<T> x = Exp(Vec<T>::Broadcast(d.z[tokens[r]] - d.maximum));
        return x[0] / d.sum;
      }();
      out[tokens[r]] = static_cast<S>(slope * (1 - p_token));
    }
  });
}

#define GROUPER_INSTANTIATE(S)                                                                                                 \
  template void Sample<S>(Stream&, const Tensor&, const std::vector<SampleRequest>&, std::vector<SampledToken>&);              \
  template void TokenLogprobs<S>(Stream&, const Tensor&, const std::vector<SamplingFilter>&, const int32_t*, const Tensor&,    \
                                 const Tensor&);                                                                               \
  template void TokenLogprobsBackward<S>(Stream&, const Tensor&, const std::vector<SamplingFilter>&, const int32_t*, const Tensor&, \
                                         const Tensor&);
GROUPER_INSTANTIATE(float)
GROUPER_INSTANTIATE(double)
GROUPER_INSTANTIATE(bf16)
#undef GROUPER_INSTANTIATE

}  // namespace grouper::kernels::cpu
