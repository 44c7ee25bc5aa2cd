// A row of logits as a team sees it: sampling_cpu.cc's Distribution on the device, step by step.
#pragma once

#include "kernels/sampling.h"
#include "kernels/sampling_teams.cuh"

namespace grouper::kernels::cuda {

template <typename S>
struct LogitRows {
  S* data;
  int64_t stride, rows;
  int ids, part_blocks;  // a block of the cluster has so many blocks of ids at most
};

// f(i, x) for this thread's share of p[0, count): x is an array of one logit or of 16 bytes of them, the first of which is p[i].
template <typename S, typename Team, typename F>
__device__ __forceinline__ void ForEachLogit(const S* p, int count, const Team& team, F f) {
  struct alignas(16) Vector {
    S x[16 / sizeof(S)];
  };
  constexpr int kVector = 16 / sizeof(S), kAhead = Team::kAhead, kScalarsAhead = 8, threads = Team::kThreads;
  int done = 0;
  if (reinterpret_cast<uintptr_t>(p) % 16 == 0) {
    const int vectors = count / kVector;
    for (int v = team.thread; v < vectors; v += kAhead * threads) {
      Vector raw[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (v + k * threads < vectors) raw[k] = reinterpret_cast<const Vector*>(p)[v + k * threads];
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (v + k * threads < vectors) f((v + k * threads) * kVector, raw[k].x);
      }
    }
    done = vectors * kVector;
  }
  for (int i = done + team.thread; i < count; i += kScalarsAhead * threads) {
    S raw[kScalarsAhead][1];
#pragma unroll
    for (int k = 0; k < kScalarsAhead; ++k) {
      if (i + k * threads < count) raw[k][0] = p[i + k * threads];
    }
#pragma unroll
    for (int k = 0; k < kScalarsAhead; ++k) {
      if (i + k * threads < count) f(i + k * threads, raw[k]);
    }
  }
}

// The largest of logits; NaN if one is.
template <typename S>
class MostLogit;
template <>
class MostLogit<float> {
 public:
  template <int kCount>
  __device__ void Add(const float (&x)[kCount]) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      nan_ |= x[k] != x[k];
      most_ = fmaxf(most_, x[k]);
    }
  }
  __device__ float Get() const { return nan_ ? __int_as_float(0x7fc00000) : most_; }

 private:
  float most_ = -Infinity();
  bool nan_ = false;
};
template <>
class MostLogit<__nv_bfloat16> {
 public:
  template <int kCount>
  __device__ void Add(const __nv_bfloat16 (&x)[kCount]) {
#pragma unroll
    for (int k = 0; k < kCount; k += 2) most_ = __hmax2_nan(most_, __nv_bfloat162(x[k], x[min(k + 1, kCount - 1)]));
  }
  __device__ float Get() const { return __bfloat162float(__hmax_nan(most_.x, most_.y)); }

 private:
  __nv_bfloat162 most_ = __float2bfloat162_rn(-Infinity());
};

// Uniform on (0, 1) from 32 bits, then -log(-log1p(-u)).
__device__ __forceinline__ float Gumbel(uint32_t bits) {
  const float high = static_cast<float>(bits >> 16), low = static_cast<float>(bits & 0xffffu);
  const float u = __fmaf_rn(high, 0x1p-16f, __fmul_rn(__fadd_rn(low, 0.5f), 0x1p-32f));
  return -Log(-Log1p(-u));
}

// common/base/philox.h.
__device__ __forceinline__ uint4 PhiloxOf(PhiloxKey key, uint32_t c0, uint32_t c1, uint32_t c2) {
  uint4 c = make_uint4(c0, c1, c2, 0);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c.x, p1 = uint64_t{0xCD9E8D57u} * c.z;
    c = make_uint4(static_cast<uint32_t>(p1 >> 32) ^ c.y ^ key.lo, static_cast<uint32_t>(p1),
                   static_cast<uint32_t>(p0 >> 32) ^ c.w ^ key.hi, static_cast<uint32_t>(p0));
    key.lo += 0x9E3779B9u;
    key.hi += 0xBB67AE85u;
  }
  return c;
}

// All of a team's threads call its functions together. kCached: the team's part of the row, divided by the temperature,
// lies in shared memory; else the logits are read again by each step.
template <typename S, typename Team, bool kCached>
class LogitRow {
 public:
  // `cache`: part_blocks * kBlockPitch floats, unless !kCached.
  __device__ LogitRow(const LogitRows<S>& logits, int64_t row, Team& team, float* cache)
      : team_(team),
        row_(logits.data + row * logits.stride),
        ids_(logits.ids),
        first_(team.rank * logits.part_blocks * kBlockIds),
        count_(max(0, min(logits.ids - first_, logits.part_blocks * kBlockIds))),
        cache_(cache) {}

  float maximum = 0, sum = 0, log_sum = 0, entropy = 0;  // of the filtered distribution

  // The lowest id among the largest logits; -1 when the row has NaN or +inf logits, or nothing but -inf.
  __device__ int32_t Argmax() {
    float most = -Infinity();
    int best = -1;
    bool bad = false;
    ForEachLogit(row_ + first_, count_, team_, [&](int i, const auto& x) {
#pragma unroll
      for (int k = 0; k < static_cast<int>(sizeof(x) / sizeof(S)); ++k) {
        const float z = LoadFloat(x + k);
        bad |= !(z < Infinity());
        if (z > most) {
          most = z;
          best = i + k;
        }
      }
    });
    const uint64_t largest = team_.Largest(bad ? ~uint64_t{0} : best < 0 ? 0 : Candidate(most, first_ + best));
    return largest == ~uint64_t{0} || largest == 0 ? -1 : IdOf(largest);
  }

  // REQUIRES: filter.temperature > 0. False when the row has NaN or +inf logits, or nothing but -inf.
  __device__ bool Prepare(const SamplingFilter& filter) {
    temperature_ = filter.temperature;
    const uint64_t largest = temperature_ == 1 ? Read<false>() : Read<true>();
    if (largest == ~uint64_t{0} || largest == 0) return false;
    maximum = FromKey(static_cast<uint32_t>(largest));
    if (!(maximum > -Infinity())) return false;
    if (filter.top_k > 0 && filter.top_k < ids_) Select<false>(filter.top_k, -1);
    if (filter.top_p < 1) Select<true>(0, fmaxf(filter.top_p, 0));
    return true;
  }

  // After Prepare: sum, log_sum, and entropy if asked for. kKeep: exp(z - maximum) takes z's place in the cache.
  template <bool kEntropy, bool kKeep>
  __device__ void Sum() {
    constexpr int kSums = kEntropy ? 2 : 1;
    float totals[kSums];
    const int blocks = (ids_ + kBlockIds - 1) / kBlockIds;
    if (filtered_) {
      team_.SumBlocks(blocks, [&](int b, int lane, float(&sums)[kSums]) { SumLane<true, kKeep>(b, lane, sums); }, totals);
    } else {
      team_.SumBlocks(blocks, [&](int b, int lane, float(&sums)[kSums]) { SumLane<false, kKeep>(b, lane, sums); }, totals);
    }
    sum = totals[0];
    log_sum = Log(sum);
    if constexpr (kEntropy) entropy = __fsub_rn(log_sum, __fdiv_rn(totals[1], sum));
  }

  // Of any id of the row, in global memory, and its z; -inf outside the filter.
  __device__ float Logit(int id) const { return LoadFloat(row_ + id); }
  __device__ float FilteredOf(float logit, int id) const { return Filtered(Scaled(logit), id); }
  __device__ float Logprob(float z) const { return __fsub_rn(__fsub_rn(z, maximum), log_sum); }

  // exp(z - maximum) of the part's ids i, .., i + 3 after Sum<.., true>; i is a multiple of four.
  __device__ void ProbabilitiesOfFour(int i, float (&p)[4]) const {
    if constexpr (kCached) {
      const float4 four = *reinterpret_cast<const float4*>(cache_ + Place(i));
      p[0] = four.x, p[1] = four.y, p[2] = four.z, p[3] = four.w;
    } else {
      ReadFour(i, p);
#pragma unroll
      for (int k = 0; k < 4; ++k) p[k] = ExpUpToZero(__fsub_rn(p[k], maximum));
    }
  }
  // The team's part: ids first(), .., first() + count() - 1.
  __device__ int first() const { return first_; }
  __device__ int count() const { return count_; }

  // argmax of z_i + g_i, the lowest id among equals.
  __device__ int32_t Draw(const SampleRequest& request) {
    constexpr float kMostNoise = 23;  // -log(-log1p(-2^-33)) = 22.87
    const int lane = team_.thread % 32, fours = (count_ + 3) / 4;
    uint64_t best = 0;
    float best_value = -Infinity();
    for (int begin = team_.thread - lane; begin < fours; begin += Team::kThreads) {
      const int i = 4 * (begin + lane);
      float z[4] = {-Infinity(), -Infinity(), -Infinity(), -Infinity()}, most = -Infinity();
      if (i < count_) ReadFour(i, z);
#pragma unroll
      for (int k = 0; k < 4; ++k) most = fmaxf(most, z[k]);
      // What the warp has found: most ids are too far below it for any noise, or for their own.
      best_value = FromKey(__reduce_max_sync(kWholeWarp, KeyOf(best_value)));
      if (!(most > -Infinity()) || best_value - most - Rounding(best_value, most) >= kMostNoise) continue;
      const uint4 random = PhiloxOf(request.key, static_cast<uint32_t>(first_ + i) / 4, request.position, request.sample_index);
      const uint32_t bits[4] = {random.x, random.y, random.z, random.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        // Noise <= -log(u): it reaches the gap only if u <= exp(-gap).
        const float gap = best_value - z[k] - Rounding(best_value, z[k]);
        if (gap > 0 && static_cast<float>(bits[k]) > exp2f(32.0f - gap * 1.44269504f)) continue;
        const float value = __fadd_rn(z[k], Gumbel(bits[k]));
        if (!(value > -Infinity())) continue;
        best = max(best, Candidate(value, first_ + i + k));
        best_value = fmaxf(best_value, value);
      }
    }
    best = team_.Largest(best);
    if (best != 0) return IdOf(best);
    // All noise was -inf.
    for (int i = team_.thread; i < count_; i += Team::kThreads) {
      const float z = Filtered(Z(i), first_ + i);
      if (z == maximum) best = max(best, Candidate(z, first_ + i));
    }
    return IdOf(team_.Largest(best));
  }

 private:
  __device__ static int Place(int i) { return i + static_cast<int>(static_cast<unsigned>(i) / kBlockIds * (kBlockPitch - kBlockIds)); }
  // Greater for greater values, and for lower ids among equals; neither 0 nor all ones.
  __device__ static uint64_t Candidate(float value, int id) {
    return uint64_t{KeyOf(value)} << 32 | static_cast<uint32_t>(~id);
  }
  __device__ static int32_t IdOf(uint64_t candidate) { return static_cast<int32_t>(~static_cast<uint32_t>(candidate)); }
  __device__ static float Rounding(float a, float b) { return 1e-6f * (fabsf(a) + fabsf(b)) + 0.01f; }

  __device__ float Scaled(float x) const { return temperature_ == 1 ? x : __fdiv_rn(x, temperature_); }
  __device__ float Z(int i) const { return kCached ? cache_[Place(i)] : Scaled(LoadFloat(row_ + first_ + i)); }
  __device__ bool Inside(float z, int id) const { return z > threshold_ || (z == threshold_ && id <= last_); }
  __device__ float Filtered(float z, int id) const { return !filtered_ || Inside(z, id) ? z : -Infinity(); }

  // z of the part's ids i, .., i + 3, -inf outside the filter and beyond the last one; i is a multiple of four.
  __device__ void ReadFour(int i, float (&z)[4]) const {
    if constexpr (kCached) {
      const float4 four = *reinterpret_cast<const float4*>(cache_ + Place(i));
      z[0] = four.x, z[1] = four.y, z[2] = four.z, z[3] = four.w;
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) z[k] = i + k < count_ ? Z(i + k) : -Infinity();
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) z[k] = i + k < count_ ? Filtered(z[k], first_ + i + k) : -Infinity();
  }

  // Fills the cache. The key of the largest z; all ones if one is not below +inf.
  template <bool kScaled>
  __device__ uint64_t Read() {
    MostLogit<S> most;
    ForEachLogit(row_ + first_, count_, team_, [&](int i, const auto& x) {
      most.Add(x);
      if constexpr (kCached) {
        constexpr int kCount = static_cast<int>(sizeof(x) / sizeof(S));
        float z[kCount], *const to = cache_ + Place(i);
        LoadFloats(x, z);
#pragma unroll
        for (int k = 0; k < kCount; ++k) z[k] = kScaled ? __fdiv_rn(z[k], temperature_) : z[k];
        if constexpr (kCount == 1) to[0] = z[0];
#pragma unroll
        for (int k = 0; k + 4 <= kCount; k += 4) *reinterpret_cast<float4*>(to + k) = make_float4(z[k], z[k + 1], z[k + 2], z[k + 3]);
      }
    });
    const float largest = Scaled(most.Get());  // of the scaled ones, too: the quotient's rounding keeps the order
    return team_.Largest(!(largest < Infinity()) ? ~uint64_t{0} : count_ > 0 ? KeyOf(largest) : 0);
  }

  template <bool kFiltered, bool kKeep, int kSums>
  __device__ void SumLane(int b, int lane, float (&sums)[kSums]) {
    constexpr int kAhead = 8;
    const int begin = b * kBlockIds, size = min(kBlockIds, count_ - begin);
    float* const block = cache_ + b * kBlockPitch;
    const auto below_maximum = [&](int j) {
      float z = kCached ? block[j] : Z(begin + j);
      if (kFiltered && !Inside(z, first_ + begin + j)) z = -Infinity();
      return __fsub_rn(z, maximum);
    };
    const auto add = [&](int j, float x, float p) {
      sums[0] = __fadd_rn(sums[0], p);
      if constexpr (kSums > 1) sums[1] = __fadd_rn(sums[1], __fmul_rn(p, x));
      if constexpr (kKeep && kCached) block[j] = p;
    };
    const auto add_any = [&](int j, float x) { add(j, x > -1e30f ? x : -1e30f, ExpUpToZero(x)); };
    int j = lane;
    for (; j + (kAhead - 1) * kRowThreads < size; j += kAhead * kRowThreads) {
      float x[kAhead], least = 0;
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        x[k] = below_maximum(j + k * kRowThreads);
        least = fminf(least, x[k]);
      }
      if (!kFiltered && least >= kLeastNormalExp) {
#pragma unroll
        for (int k = 0; k < kAhead; ++k) add(j + k * kRowThreads, x[k], ExpNormal(x[k]));
      } else {
#pragma unroll
        for (int k = 0; k < kAhead; ++k) add_any(j + k * kRowThreads, x[k]);
      }
    }
    for (; j < size; j += kRowThreads) add_any(j, below_maximum(j));
  }

  // Keeps the shortest prefix, in descending order of z (among equals lower ids first), of `top_k` ids or of the share
  // `top_p` of the mass. Both filters keep such prefixes, so that the later one's bounds hold for both.
  template <bool kMass>
  __device__ void Select(int top_k, float top_p) {
    using Digits = typename Team::Digits;
    constexpr int kDigitBits = 31 - __builtin_clz(static_cast<unsigned>(Digits::kBins));
    const int id_bits = 32 - __clz((ids_ - 1) | 1);
    const uint32_t highest_id = (1u << id_bits) - 1;
    KeySearch search;
    search.target = static_cast<uint64_t>(top_k);
    int left = 32 + id_bits;
    for (bool first_digit = true; left > 0 && !search.done; first_digit = false) {
      const int width = min(kDigitBits, left), shift = left - width;
      for (int bin = team_.thread; bin < Digits::kBins; bin += Team::kThreads) team_.histogram.Set(bin, 0);
      team_.Sync();
      for (int i = team_.thread; i < count_; i += Team::kThreads) {
        const float z = Z(i);
        const int id = first_ + i;
        const uint64_t key = uint64_t{KeyOf(z)} << id_bits | (highest_id - static_cast<uint32_t>(id));
        if (key >> left != search.prefix || (filtered_ && !Inside(z, id))) continue;
        const uint64_t weight = kMass ? MassOf(ExpUpToZero(__fsub_rn(z, maximum))) : 1;
        if (weight != 0) team_.histogram.Add(static_cast<int>(key >> shift & ((1u << width) - 1)), weight);
      }
      team_.FindDigit(width, kMass && first_digit ? top_p : -1, search);
      left = shift;
    }
    // Keys that begin with the prefix or come before it belong to the prefix; no key is below -inf's.
    const uint64_t bound = search.prefix << left;
    const uint32_t lowest = KeyOf(-Infinity()), z_key = static_cast<uint32_t>(bound >> id_bits);
    threshold_ = FromKey(max(z_key, lowest));
    last_ = static_cast<int>(z_key < lowest ? highest_id : highest_id - (static_cast<uint32_t>(bound) & highest_id));
    filtered_ = true;
  }

  Team& team_;
  const S* const row_;
  const int ids_, first_, count_;
  float* const cache_;
  float temperature_ = 1;
  bool filtered_ = false;
  float threshold_ = 0;  // the smallest z inside, and of those that equal it the highest id
  int last_ = 0;
};

}  // namespace grouper::kernels::cuda
