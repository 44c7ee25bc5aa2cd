// Filtered distributions on the CPU. A row is one thread's work: widen and scale the logits, put -inf where a filter
// drops an id, then maximum and sum of exponentials over all ids in one fixed order. Sampling, scoring and the gradient
// share that routine, or its maximum and sum, so they share its bits.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/math.h"
#include "kernels/philox_lanes.h"
#include "kernels/rows.h"
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
  std::vector<T> values;  // scratch of the filters
  std::vector<int32_t> order;

  T Logprob(int64_t i) const { return (z[i] - maximum) - log_sum; }
};

// Largest of n >= 0 numbers; -inf when there are none.
template <typename T>
T Maximum(const T* z, int64_t n) {
  const T infinity = std::numeric_limits<T>::infinity();
  Vec<T> high = Vec<T>::Broadcast(-infinity);
  ForEachVector(n, [&](int64_t i, int64_t m) { high = Max(FillTail(VecLoad(z + i, m), m, -infinity), high); });
  return ReduceMax(high);
}

// sum of term(i, m) over vectors of m ids at i, each with zeros beyond m: 8 lanes by id, blocks of 512 ids one after
// another (a single chain over 150k ids would lose five bits), then the fixed tree.
template <typename T, typename F>
T SumOverIds(int64_t n, F term) {
  constexpr int64_t kBlock = 512;
  Vec<T> total = Vec<T>::Zero();
  for (int64_t block = 0; block < n; block += kBlock) {
    Vec<T> sum = Vec<T>::Zero();
    ForEachVector(std::min(kBlock, n - block), [&](int64_t i, int64_t m) { sum = sum + term(block + i, m); });
    total = total + sum;
  }
  return ReduceAdd(total);
}

// sum exp(z - maximum).
template <typename T>
T SumOfExponentials(const std::vector<T>& z, T maximum) {
  const Vec<T> shift = Vec<T>::Broadcast(maximum);
  return SumOverIds<T>(static_cast<int64_t>(z.size()), [&](int64_t i, int64_t m) {
    const Vec<T> p = Exp(VecLoad(z.data() + i, m) - shift);
    return m == kLanes ? p : FillTail(p, m, 0);
  });
}

// Drops what is below `threshold`, and of those equal to it the ids above `last`.
template <typename T>
void DropBelow(T threshold, int64_t last, std::vector<T>& z) {
  const Vec<T> floor = Vec<T>::Broadcast(threshold), dropped = Vec<T>::Broadcast(-std::numeric_limits<T>::infinity());
  const int64_t n = static_cast<int64_t>(z.size()), ties = last + 1;
  T* after = z.data() + ties;
  ForEachVector(ties, [&](int64_t i, int64_t m) {
    const Vec<T> x = VecLoad(z.data() + i, m);
    VecStore(z.data() + i, SelectGreater(floor, x, dropped, x), m);
  });
  ForEachVector(n - ties, [&](int64_t i, int64_t m) {
    const Vec<T> x = VecLoad(after + i, m);
    VecStore(after + i, SelectGreater(x, floor, x, dropped), m);
  });
}

// Keeps the k largest; among equals the lower ids. Only ids that reach the k-th largest of the maxima of 64-id blocks
// can be among them, and those are few when k is small.
template <typename T>
void KeepTopK(int64_t k, Distribution<T>& d) {
  const int64_t n = static_cast<int64_t>(d.z.size());
  if (k <= 0 || k >= n) return;
  T bound = -std::numeric_limits<T>::infinity();
  if (const int64_t blocks = n / 64; k <= blocks / 4) {
    d.values.resize(static_cast<size_t>(blocks));
    for (int64_t b = 0; b < blocks; ++b) d.values[b] = Maximum(d.z.data() + b * 64, 64);
    std::nth_element(d.values.begin(), d.values.begin() + (k - 1), d.values.end(), std::greater<T>());
    bound = d.values[static_cast<size_t>(k - 1)];
  }
  d.values.resize(static_cast<size_t>(n));
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    d.values[count] = d.z[i];
    count += d.z[i] >= bound;
  }
  std::nth_element(d.values.begin(), d.values.begin() + (k - 1), d.values.begin() + count, std::greater<T>());
  const T threshold = d.values[static_cast<size_t>(k - 1)];
  int64_t equal = k - std::count_if(d.values.begin(), d.values.begin() + count, [&](T z) { return z > threshold; });
  int64_t last = -1;
  while (equal > 0) equal -= d.z[++last] == threshold;
  DropBelow(threshold, last, d.z);
}

// A probability, relative to the largest, as an integer: sums of up to 2^20 of them fit, and are the same in any order.
template <typename T>
uint64_t Mass(T p) {
  return static_cast<uint64_t>(static_cast<int64_t>(p * static_cast<T>(0x1p43)));
}

// What a prefix must hold of `total` > 0.
uint64_t NucleusTarget(float top_p, uint64_t total) {
  const uint64_t target = static_cast<uint64_t>(std::ceil(static_cast<double>(top_p) * static_cast<double>(total)));
  return std::clamp<uint64_t>(target, 1, total);
}

// Keeps the shortest prefix in descending order (among equals lower ids first) whose probability reaches top_p. For
// large vocabularies, bins of 1/64 nat by distance from the maximum find the bin in which that prefix ends; only that
// one is sorted, and only as far as needed.
template <typename T>
void KeepTopP(float top_p, Distribution<T>& d) {
  if (top_p >= 1) return;
  const int64_t n = static_cast<int64_t>(d.z.size());
  const int bins = n <= 1024 ? 1 : 2048;
  const T maximum = Maximum(d.z.data(), n);
  if (!(maximum > -std::numeric_limits<T>::infinity())) return;
  const Vec<T> shift = Vec<T>::Broadcast(maximum);
  d.values.resize(static_cast<size_t>(n));
  d.order.resize(static_cast<size_t>(n));
  ForEachVector(
      n, [&](int64_t i, int64_t m) { VecStore(d.values.data() + i, Exp(VecLoad(d.z.data() + i, m) - shift), m); });
  const T farthest = static_cast<T>(bins - 1);
  for (int64_t i = 0; i < n; ++i) {
    const T distance = (maximum - d.z[i]) * 64;
    d.order[i] = static_cast<int32_t>(distance < farthest ? distance : farthest);
  }
  uint64_t mass[2048];
  std::fill_n(mass, bins, 0);
  for (int64_t i = 0; i < n; ++i) mass[d.order[i]] += Mass(d.values[i]);
  uint64_t total = 0, reached = 0;
  for (int b = 0; b < bins; ++b) total += mass[b];
  const uint64_t target = NucleusTarget(top_p, total);
  int bin = 0;
  while (reached + mass[bin] < target) reached += mass[bin++];

  // From here `order` holds the ids of that bin, ascending.
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool inside = d.order[i] == bin;
    d.order[count] = static_cast<int32_t>(i);
    count += inside;
  }
  auto before = [&](int32_t a, int32_t b) { return d.z[a] > d.z[b] || (d.z[a] == d.z[b] && a < b); };
  const auto ids = d.order.begin();
  int64_t sorted = 0, kept = 0;
  while (reached < target) {
    if (kept == sorted) {
      const int64_t next = std::min(count, std::max<int64_t>(64, 4 * sorted));
      std::nth_element(ids + sorted, ids + (next - 1), ids + count, before);
      std::sort(ids + sorted, ids + next, before);
      sorted = next;
    }
    reached += Mass(d.values[d.order[kept++]]);
  }
  const int32_t last = d.order[kept - 1];
  DropBelow(d.z[last], last, d.z);
}

// The lowest id among the largest logits; -1 when the row has NaN or +inf logits, or nothing but -inf.
template <typename S>
int32_t Argmax(const S* logits, int64_t n) {
  using T = Compute<S>;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  int32_t best = -1;
  T value = -infinity;
  for (int64_t i = 0; i < n; ++i) {
    const T x = static_cast<T>(logits[i]);
    if (!(x < infinity)) return -1;
    if (x > value) {
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
  ForEachVector(n, [&](int64_t i, int64_t m) { VecStore(d.z.data() + i, VecLoad(logits + i, m) / temperature, m); });
  bool finite = true;
  for (T z : d.z) finite &= z < std::numeric_limits<T>::infinity();
  if (!finite) return false;
  KeepTopK(filter.top_k, d);
  KeepTopP(filter.top_p, d);
  d.maximum = Maximum(d.z.data(), n);
  if (!(d.maximum > -std::numeric_limits<T>::infinity())) return false;
  d.sum = SumOfExponentials(d.z, d.maximum);
  d.log_sum = ScalarLog(d.sum);
  return true;
}

// Uniform on (0, 1) from 32 bits, then -log(-log1p(-u)). A u that rounds to 1 gives -inf and never wins; small u keep
// all their bits.
Vec<float> Gumbel(U32x8 bits) {
  const Vec<float> high = {__builtin_convertvector((I32x8)(bits >> 16), F32x8)};
  const Vec<float> low = {__builtin_convertvector((I32x8)(bits & 0xffffu), F32x8)};
  const Vec<float> u =
      Fma(high, Vec<float>::Broadcast(0x1p-16f), (low + Vec<float>::Broadcast(0.5f)) * Vec<float>::Broadcast(0x1p-32f));
  return -Log(-Log1p(-u));
}

// The noise of 32 ids, in order.
void BlockNoise(const PhiloxLanes& random, float noise[32]) {
  const F32x8 a = Gumbel(random.word[0]).v, b = Gumbel(random.word[1]).v, c = Gumbel(random.word[2]).v,
              d = Gumbel(random.word[3]).v;
  // Id 4 l + w is lane l of word w: a transposition.
  const F32x8 ab0 = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13),
              ab1 = __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
  const F32x8 cd0 = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13),
              cd1 = __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
  const F32x8 q0 = __builtin_shufflevector(ab0, cd0, 0, 1, 8, 9, 4, 5, 12, 13),
              q1 = __builtin_shufflevector(ab0, cd0, 2, 3, 10, 11, 6, 7, 14, 15);
  const F32x8 q2 = __builtin_shufflevector(ab1, cd1, 0, 1, 8, 9, 4, 5, 12, 13),
              q3 = __builtin_shufflevector(ab1, cd1, 2, 3, 10, 11, 6, 7, 14, 15);
  Store(noise, {__builtin_shufflevector(q0, q1, 0, 1, 2, 3, 8, 9, 10, 11)});
  Store(noise + 8, {__builtin_shufflevector(q2, q3, 0, 1, 2, 3, 8, 9, 10, 11)});
  Store(noise + 16, {__builtin_shufflevector(q0, q1, 4, 5, 6, 7, 12, 13, 14, 15)});
  Store(noise + 24, {__builtin_shufflevector(q2, q3, 4, 5, 6, 7, 12, 13, 14, 15)});
}

// Bits above entry t leave the noise below t: g <= -log(u).
struct NoiseBounds {
  static constexpr int kMost = 23;  // the largest noise is -log(-log1p(-2^-33)) = 22.87
  uint32_t bits[kMost + 1];
  NoiseBounds() {
    for (int t = 0; t <= kMost; ++t) bits[t] = static_cast<uint32_t>(std::min(std::exp(-t) * 0x1p32, 0x1p32 - 1));
  }
};

uint32_t Smallest(const PhiloxLanes& random) {
  const U32x8 ab = random.word[0] < random.word[1] ? random.word[0] : random.word[1];
  const U32x8 cd = random.word[2] < random.word[3] ? random.word[2] : random.word[3];
  const U32x8 lanes = ab < cd ? ab : cd;
  uint32_t smallest = lanes[0];
  for (int i = 1; i < 8; ++i) smallest = std::min(smallest, lanes[i]);
  return smallest;
}

// argmax of z_i + g_i, the lowest id among equals. The block of 32 ids with the largest z goes first. Of the others
// most cannot win, and stop early: where the best z is too far below the best sum so far for any noise, or for the
// block's smallest uniform number.
template <typename T>
int32_t GumbelArgmax(const Distribution<T>& d, const SampleRequest& request) {
  static const NoiseBounds bounds;
  constexpr int64_t kBlock = 32;
  const int64_t n = static_cast<int64_t>(d.z.size());
  const T infinity = std::numeric_limits<T>::infinity();
  int64_t best = -1;
  T best_value = -infinity;
  // `gap`: noise that the block needs at least, with a margin for rounding.
  const auto draw = [&](int64_t block, int64_t count, T gap) {
    const PhiloxLanes random =
        PhiloxEight(request.key, static_cast<uint32_t>(block / 4), request.position, request.sample_index, 0);
    if (gap >= 1 && Smallest(random) > bounds.bits[static_cast<int>(gap)]) return;
    float noise[kBlock];
    T value[kBlock];
    std::fill_n(value, kBlock, -infinity);
    BlockNoise(random, noise);
    for (int64_t i = 0; i < count; ++i) value[i] = d.z[block + i] + static_cast<T>(noise[i]);
    if (Maximum(value, kBlock) < best_value) return;
    for (int64_t i = 0; i < count; ++i) {
      if (value[i] > best_value || (value[i] == best_value && block + i < best)) {
        best_value = value[i];
        best = block + i;
      }
    }
  };
  const int64_t top = std::find(d.z.begin(), d.z.end(), d.maximum) - d.z.begin();
  draw(top / kBlock * kBlock, std::min(kBlock, n - top / kBlock * kBlock), 0);
  for (int64_t block = 0; block < n; block += kBlock) {
    const int64_t count = std::min(kBlock, n - block);
    const T most = Maximum(d.z.data() + block, count);
    if (!(most > -infinity) || block == top / kBlock * kBlock) continue;
    const T rounding = static_cast<T>(1e-6) * (std::abs(best_value) + std::abs(most)) + static_cast<T>(0.01);
    const T gap = best_value - most - rounding;
    if (!(gap >= NoiseBounds::kMost)) draw(block, count, gap);
  }
  return static_cast<int32_t>(best < 0 ? top : best);  // all noise was -inf
}

}  // namespace

template <typename S>
void Sample(Stream& stream, const Tensor& logits, const std::vector<SampleRequest>& requests,
            std::vector<SampledToken>& tokens) {
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
        token.token = GumbelArgmax(d, request);
        if (token.token >= 0) token.logprob = static_cast<float>(d.Logprob(token.token));
      }
    }
  });
}

template <typename S>
void TokenLogprobs(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                   const int32_t* tokens, const Tensor& logprobs, const Tensor& entropies, const Tensor& statistics) {
  using T = Compute<S>;
  const int64_t n = logits.dim(1), grain = std::max<int64_t>(1, 256 / std::max<int64_t>(n, 1));
  stream.threads.ParallelFor(logits.dim(0), grain, [&](int64_t begin, int64_t end) {
    static thread_local Distribution<T> d;
    for (int64_t r = begin; r < end; ++r) {
      const SamplingFilter& filter = filters[static_cast<size_t>(r)];
      const T infinity = std::numeric_limits<T>::infinity();
      T logprob, entropy = 0;
      bool gradient = false;
      if (filter.temperature == 0) {
        logprob = Argmax(logits.row<S>(r), n) == tokens[r] ? 0 : -infinity;
      } else if (!Prepare(logits.row<S>(r), n, filter, d)) {
        logprob = entropy = std::numeric_limits<T>::quiet_NaN();
      } else {
        logprob = d.Logprob(tokens[r]);
        gradient = d.z[tokens[r]] > -infinity;
        if (!entropies.empty()) {
          // H = log sum - sum p (z - maximum); a dropped id has p = 0 and a clamped difference.
          const Vec<T> shift = Vec<T>::Broadcast(d.maximum), floor = Vec<T>::Broadcast(static_cast<T>(-1e30));
          const T total = SumOverIds<T>(n, [&](int64_t i, int64_t m) {
            const Vec<T> x = Max(VecLoad(d.z.data() + i, m) - shift, floor);
            return FillTail(Exp(x), m, 0) * x;
          });
          entropy = d.log_sum - total / d.sum;
        }
      }
      logprobs.data<T>()[r] = logprob;
      if (!entropies.empty()) entropies.data<T>()[r] = entropy;
      if (statistics.empty()) continue;
      statistics.row<T>(r)[0] = gradient ? d.maximum : 0;
      statistics.row<T>(r)[1] = gradient ? d.sum : 0;
    }
  });
}

template <typename S>
void TokenLogprobsBackward(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                           const int32_t* tokens, const Tensor& dlogprobs, const Tensor& dlogits, const Tensor& statistics) {
  using T = Compute<S>;
  const int64_t n = logits.dim(1), grain = std::max<int64_t>(1, 256 / std::max<int64_t>(n, 1));
  stream.threads.ParallelFor(logits.dim(0), grain, [&](int64_t begin, int64_t end) {
    static thread_local Distribution<T> d;
    for (int64_t r = begin; r < end; ++r) {
      const SamplingFilter& filter = filters[static_cast<size_t>(r)];
      const T g = dlogprobs.data<T>()[r];
      S* out = dlogits.row<S>(r);
      const T temperature = static_cast<T>(filter.temperature);
      T maximum = 0, sum = 0, z_token = 0;
      const bool known = !statistics.empty() && filter.top_k <= 0 && filter.top_p >= 1;
      bool flows = g != 0 && filter.temperature > 0;
      if (flows && known) {
        maximum = statistics.row<T>(r)[0], sum = statistics.row<T>(r)[1];
        flows = sum > 0;
        z_token = static_cast<T>(logits.row<S>(r)[tokens[r]]) / temperature;
      } else if (flows) {
        flows = Prepare(logits.row<S>(r), n, filter, d) && d.z[tokens[r]] > -std::numeric_limits<T>::infinity();
        maximum = d.maximum, sum = d.sum;
        if (flows) z_token = d.z[tokens[r]];
      }
      if (!flows) {
        std::fill_n(out, n, S(Compute<S>(0)));
        continue;
      }
      // dL/dz_i = g (1[i = token] - p_i), then through the temperature.
      const T slope = g / temperature;
      const Vec<T> shift = Vec<T>::Broadcast(maximum), scale = Vec<T>::Broadcast(-(slope / sum));
      if (known) {
        const S* const row = logits.row<S>(r);
        const Vec<T> divisor = Vec<T>::Broadcast(temperature);
        ForEachVector(
            n, [&](int64_t i, int64_t m) { VecStore(out + i, Exp(VecLoad(row + i, m) / divisor - shift) * scale, m); });
      } else {
        ForEachVector(
            n, [&](int64_t i, int64_t m) { VecStore(out + i, Exp(VecLoad(d.z.data() + i, m) - shift) * scale, m); });
      }
      const T p_token = [&] {
        const Vec<T> x = Exp(Vec<T>::Broadcast(z_token - maximum));
        return x[0] / sum;
      }();
      out[tokens[r]] = static_cast<S>(slope * (1 - p_token));
    }
  });
}

#define GROUPER_INSTANTIATE(S)                                                                                       \
  template void Sample<S>(Stream&, const Tensor&, const std::vector<SampleRequest>&, std::vector<SampledToken>&);    \
  template void TokenLogprobs<S>(Stream&, const Tensor&, const std::vector<SamplingFilter>&, const int32_t*,         \
                                 const Tensor&, const Tensor&, const Tensor&);                                       \
  template void TokenLogprobsBackward<S>(Stream&, const Tensor&, const std::vector<SamplingFilter>&, const int32_t*, \
                                         const Tensor&, const Tensor&, const Tensor&);
GROUPER_INSTANTIATE(float)
GROUPER_INSTANTIATE(double)
GROUPER_INSTANTIATE(bf16)
#undef GROUPER_INSTANTIATE

}  // namespace grouper::kernels::cpu
