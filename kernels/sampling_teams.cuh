// Who computes a row of logits: a warp, or a cluster of blocks that have a part of the ids each; and what their threads
// tell each other. No answer depends on who asks or on how many they are: maxima and integer sums have no order, and
// sums of floats keep the CPU's (SumOverIds in sampling_cpu.cc).
#pragma once

#include <cooperative_groups.h>

#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {

inline constexpr unsigned kWholeWarp = ~0u;
inline constexpr int kBlockIds = 512;    // SumOverIds: a chain a lane within a block, then a chain over blocks
inline constexpr int kBlockPitch = 520;  // of a block in shared memory: four blocks side by side use all 32 banks

__device__ __forceinline__ float Infinity() { return __int_as_float(0x7f800000); }

// Unsigned keys in the order of floats other than NaN; -0 and 0 have the same one. No key is all ones.
__device__ __forceinline__ uint32_t KeyOf(float x) {
  const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float FromKey(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The warp's largest, in every lane.
__device__ __forceinline__ uint64_t LargestOfWarp(uint64_t x) {
  const uint32_t own = static_cast<uint32_t>(x >> 32), high = __reduce_max_sync(kWholeWarp, own);
  const uint32_t low = __reduce_max_sync(kWholeWarp, own == high ? static_cast<uint32_t>(x) : 0u);
  return uint64_t{high} << 32 | low;
}

// A probability of at most 1, relative to the largest, as an integer (sampling_cpu.cc: Mass, NucleusTarget).
__device__ __forceinline__ uint64_t MassOf(float p) { return __float2ull_rz(__fmul_rn(p, 0x1p43f)); }
__device__ __forceinline__ uint64_t NucleusTarget(float top_p, uint64_t total) {
  const uint64_t target = __double2ull_rz(ceil(__dmul_rn(static_cast<double>(top_p), __ull2double_rn(total))));
  return target < 1 ? 1 : target > total ? total : target;
}

// The search for the shortest prefix, in descending order of keys, that weighs `target`: a digit of the last key at a
// time. `reached`: the weight of all keys above those that begin with `prefix`.
struct KeySearch {
  uint64_t prefix = 0, reached = 0, target = 0;
  bool done = false;  // all keys that begin with `prefix` belong to it
};

// Weights by digit, in two halves.
template <int kBits>
struct Histogram {
  static constexpr int kBins = 1 << kBits;
  uint32_t *low, *high;  // [kBins]

  __device__ explicit Histogram(void* memory) : low(static_cast<uint32_t*>(memory)), high(low + kBins) {}
  __device__ uint64_t operator[](int bin) const { return uint64_t{high[bin]} << 32 | low[bin]; }
  __device__ void Set(int bin, uint64_t weight) {
    low[bin] = static_cast<uint32_t>(weight);
    high[bin] = static_cast<uint32_t>(weight >> 32);
  }
  __device__ void Add(int bin, uint64_t weight) {
    const uint32_t part = static_cast<uint32_t>(weight);
    const uint32_t carry = atomicAdd(&low[bin], part) + part < part ? 1 : 0;
    const uint32_t above = static_cast<uint32_t>(weight >> 32) + carry;
    if (above != 0) atomicAdd(&high[bin], above);
  }

  // A whole warp: the next digit, of `width` bits. `share` >= 0: the target is that share of the histogram's weight.
  __device__ void FindDigit(int width, float share, int lane, KeySearch& search) const {
    constexpr int kOwn = kBins / 32;  // a lane's bins, lane 0 has the highest
    const int highest = kBins - 1 - lane * kOwn;
    uint64_t own = 0;
#pragma unroll 4
    for (int j = 0; j < kOwn; ++j) own += (*this)[highest - (j + lane) % kOwn];
    uint64_t inclusive = own;
    for (int step = 1; step < 32; step *= 2) {
      const uint64_t other = __shfl_up_sync(kWholeWarp, inclusive, step);
      if (lane >= step) inclusive += other;
    }
    if (share >= 0) search.target = NucleusTarget(share, __shfl_sync(kWholeWarp, inclusive, 31));
    uint64_t reached = search.reached + inclusive - own;
    const bool here = reached < search.target && search.target <= reached + own;
    int digit = highest;
    if (here) {
      while (reached + (*this)[digit] < search.target) reached += (*this)[digit--];
      search.done = reached + (*this)[digit] == search.target;
    }
    const int finder = __ffs(static_cast<int>(__ballot_sync(kWholeWarp, here))) - 1;
    digit = __shfl_sync(kWholeWarp, digit, finder);
    search.reached = __shfl_sync(kWholeWarp, reached, finder);
    search.done = __shfl_sync(kWholeWarp, static_cast<int>(search.done), finder) != 0;
    search.prefix = search.prefix << width | static_cast<uint64_t>(digit);
  }
};

// A warp with all ids of a row, at most four blocks of them.
class WarpTeam {
 public:
  static constexpr int kThreads = 32, kRowsABlock = 4, kResident = 8, kMaxIds = 4 * kBlockIds;
  static constexpr int kAhead = 4;  // loads of 16 bytes that are on their way together
  using Digits = Histogram<8>;
  static constexpr size_t ScratchBytes(int /*blocks*/) { return 2 * sizeof(uint32_t) * Digits::kBins; }

  const int thread = static_cast<int>(threadIdx.x % 32);
  const int rank = 0, ranks = 1;
  Digits histogram;

  __device__ explicit WarpTeam(char* scratch) : histogram(scratch) {}
  __device__ static int64_t Row() { return int64_t{blockIdx.x} * kRowsABlock + threadIdx.x / 32; }
  __device__ static int PlaceInBlock() { return static_cast<int>(threadIdx.x / 32); }

  __device__ void Sync() { __syncwarp(); }
  __device__ uint64_t Largest(uint64_t x) {
    x = LargestOfWarp(x);
    __syncwarp();
    return x;
  }

  // f(block, lane, sums) adds up lane's ids of one of this team's blocks; the result is the row's, in every thread.
  template <int kSums, typename F>
  __device__ void SumBlocks(int blocks, F f, float (&totals)[kSums]) {
    float sums[kSums] = {};
    if (thread / kRowThreads < blocks) f(thread / kRowThreads, thread % kRowThreads, sums);
    __syncwarp();
    for (int k = 0; k < kSums; ++k) {
      float total = 0;
      for (int b = 0; b < blocks; ++b)
        total = __fadd_rn(total, __shfl_sync(kWholeWarp, sums[k], b * kRowThreads + thread % kRowThreads));
      totals[k] = ReduceLanes(total);
    }
  }

  // The next digit of the search by everybody's histogram.
  __device__ void FindDigit(int width, float share, KeySearch& search) {
    __syncwarp();
    histogram.FindDigit(width, share, thread, search);
    __syncwarp();
  }
};

// The blocks of a cluster (up to eight); thread 0 of block 0 speaks for the row.
class ClusterTeam {
 public:
  static constexpr int kThreads = 512, kRowsABlock = 1, kResident = 2, kMaxRanks = 8, kMaxSums = 2;
  static constexpr int kAhead = 6;  // all of 48 blocks of ids in bf16
  using Digits = Histogram<10>;

 private:
  static constexpr int kWarps = kThreads / 32;
  struct Control {
    uint64_t of_warps[2][kWarps], of_ranks[2][kMaxRanks];
    KeySearch search;
    float totals[kMaxSums];
  };
  static constexpr size_t kControlBytes = (sizeof(Control) + 15) / 16 * 16;

 public:
  static constexpr size_t ScratchBytes(int blocks) {
    const size_t digits = 2 * sizeof(uint32_t) * Digits::kBins,
                 sums = sizeof(float) * kMaxSums * kRowThreads * static_cast<size_t>(blocks);
    return kControlBytes + (digits > sums ? digits : sums);
  }

  const int thread = static_cast<int>(threadIdx.x);
  const int rank, ranks;
  Digits histogram;  // its memory is the sums' later

  __device__ explicit ClusterTeam(char* scratch)
      : rank(static_cast<int>(cooperative_groups::this_cluster().block_rank())),
        ranks(static_cast<int>(cooperative_groups::this_cluster().num_blocks())),
        histogram(scratch + kControlBytes),
        control_(reinterpret_cast<Control*>(scratch)),
        sums_(reinterpret_cast<float*>(scratch + kControlBytes)) {
    SyncAll();  // all blocks are there, and their memory
  }
  __device__ int64_t Row() const { return blockIdx.x / static_cast<unsigned>(ranks); }
  __device__ static int PlaceInBlock() { return 0; }

  __device__ void Sync() { __syncthreads(); }

  __device__ uint64_t Largest(uint64_t x) {
    x = LargestOfWarp(x);
    if (thread % 32 == 0) control_->of_warps[turn_][thread / 32] = x;
    __syncthreads();
    x = LargestOfWarp(control_->of_warps[turn_][thread % kWarps]);
    if (ranks > 1) {
      if (thread < ranks) *InBlock(&control_->of_ranks[turn_][rank], thread) = x;
      SyncAll();
      x = control_->of_ranks[turn_][0];
      for (int r = 1; r < ranks; ++r) x = max(x, control_->of_ranks[turn_][r]);
    }
    turn_ ^= 1;
    return x;
  }

  template <int kSums, typename F>
  __device__ void SumBlocks(int blocks, F f, float (&totals)[kSums]) {
    static_assert(kSums <= kMaxSums);
    // Every block of the cluster gets all of them.
    const int lane = thread % kRowThreads, own = (blocks + ranks - 1) / ranks, first = rank * own;
    for (int b = thread / kRowThreads; b < own && first + b < blocks; b += kThreads / kRowThreads) {
      float sums[kSums] = {};
      f(b, lane, sums);
      for (int k = 0; k < kSums; ++k) {
        for (int r = 0; r < ranks; ++r) *InBlock(&sums_[((first + b) * kSums + k) * kRowThreads + lane], r) = sums[k];
      }
    }
    SyncAll();
    if (thread < 32) {
      float total = 0;
      if (thread < kSums * kRowThreads) {
#pragma unroll 16
        for (int b = 0; b < blocks; ++b) total = __fadd_rn(total, sums_[b * kSums * kRowThreads + thread]);
      }
      total = ReduceLanes(total);
      if (lane == 0 && thread < kSums * kRowThreads) control_->totals[thread / kRowThreads] = total;
    }
    __syncthreads();
    for (int k = 0; k < kSums; ++k) totals[k] = control_->totals[k];
  }

  __device__ void FindDigit(int width, float share, KeySearch& search) {
    SyncAll();
    if (rank == 0) {
      for (int bin = thread; bin < Digits::kBins && ranks > 1; bin += kThreads) {
        uint64_t weight = histogram[bin];
        for (int r = 1; r < ranks; ++r) {
          weight += uint64_t{*InBlock(&histogram.high[bin], r)} << 32 | *InBlock(&histogram.low[bin], r);
        }
        histogram.Set(bin, weight);
      }
      __syncthreads();
      if (thread < 32) {
        histogram.FindDigit(width, share, thread, search);
        if (thread < ranks) *InBlock(&control_->search, thread) = search;
      }
    }
    SyncAll();
    search = control_->search;
  }

 private:
  __device__ void SyncAll() {
    if (ranks > 1) {
      cooperative_groups::this_cluster().sync();
    } else {
      __syncthreads();
    }
  }
  template <typename T>
  __device__ T* InBlock(T* own, int r) const {
    return r == rank ? own : cooperative_groups::this_cluster().map_shared_rank(own, static_cast<unsigned>(r));
  }

  Control* const control_;
  float* const sums_;
  int turn_ = 0;
};

}  // namespace grouper::kernels::cuda
