// The bf16 matrix product of all linear layers on Hopper: C[m, n] = sum_k A[m, k] B[n, k], float sums in ascending k,
// 16 at a time (wgmma's own order inside), starting from 0 or from C. Every tile shape gives the same bits
// (kernels/README.md), so a shape may be chosen by the number of tokens.
//
// A block: one producer warp that fetches tiles of 64 of k into a ring of stages with the bulk copy engine, and kTileM
// / 64 warpgroups that multiply, 64 rows each, accumulators in registers. Grid: as many blocks as fit, each takes tiles
// with stride gridDim. Tokens may be on M (training: C row-major as computed) or on N (decode: weights fill M's 64
// rows, C is stored transposed).
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "kernels/fragments.cuh"
#include "kernels/hopper.cuh"
#include "kernels/math.cuh"
#include "kernels/tile_order.cuh"
#include "kernels/wgmma.cuh"

namespace grouper::kernels::cuda {

enum class Grouping {
  kNone,
  kRows,       // tokens [offsets[e], offsets[e+1]) belong to expert e: weights and tiles by expert
  kReduction,  // the sum over k runs over tokens [offsets[e], offsets[e+1]), one C per expert; without offsets over pieces of
               // `chunk` tokens, a multiple of 64. Only by gemm_weight_cuda.cu
};

inline constexpr int kMaxGroups = 1024;

struct GemmArguments {
  CUtensorMap a, b;  // boxes of 64 bf16 times 64 rows (MN-major) or times the tile's rows (K-major; by turns and gated 32)
  int m, n, k, batch;
  void* c;  // element (m, n) at m * c_stride + n; transposed: n * c_stride + m
  int64_t c_stride, c_batch_stride;
  bool accumulate, vector_store;  // vector_store: c and its strides allow 16-byte accesses
  TileOrder order;                // with experts' rows without tokens
  const __nv_bfloat16* bias;      // of the weights' rows; may be null
  const int32_t* offsets;         // [groups + 1], on the device
  int groups, chunk;
  // Gated products: the weights' rows come eight of the gate, eight of up (MakeGatedMap), or by turns a tile's gates and then its ups; silu(gate) * up
  // goes to `gated`, element (token t, feature f) at t * gated_stride + f; gate and up go to c as ever unless it is null.
  __nv_bfloat16* gated;
  int64_t gated_stride;
  const __nv_bfloat16* gate_up;  // of the gradient through silu(gate) * up (gemm_turns.cuh)
  int64_t gate_up_stride;
};

template <int kTileM_, int kTileN_, int kStages_, int kBlocks_>
struct GemmTile {
  static constexpr int kTileM = kTileM_, kTileN = kTileN_, kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;  // a multiprocessor
  static constexpr int kWarpgroups = kTileM / 64;
  // One block a multiprocessor: a warpgroup fetches, so that it can give its registers away. Else a warp.
  static constexpr bool kShareRegisters = kBlocks == 1;
  static constexpr int kMathThreads = 128 * kWarpgroups, kThreads = kMathThreads + (kShareRegisters ? 128 : 32);
  static constexpr int kBytesA = kTileM * 128, kBytesB = kTileN * 128;
  static constexpr int kSharedBytes = 1024 + kStages * (kBytesA + kBytesB) + 16 * kStages;
};

// Where a tile lies. Rows of C beyond m_end (n_end) are not the tile's.
struct TileSpot {
  int m0, n0, m_end, n_end, batch_a, batch_b, batch_c, k_begin, k_end;
};

// All tiles of a product, one after another.
template <typename Tile, Grouping kGrouping, bool kTokensOnN>
class TileSchedule {
  static_assert(kGrouping != Grouping::kReduction);
  static constexpr int kTokens = kTokensOnN ? Tile::kTileN : Tile::kTileM;  // a tile's

 public:
  // prefix: groups + 1 ints in shared memory, filled by FillPrefix.
  __device__ TileSchedule(const GemmArguments& args, const int* prefix) : args_(args), prefix_(prefix) {
    if constexpr (kGrouping == Grouping::kRows) {
      total_ = prefix[args.groups];
    } else {
      total_ = args.order.matrix_tiles() * args.batch;
    }
  }

  // One warp. prefix[e]: tiles of the experts before e.
  static __device__ void FillPrefix(const GemmArguments& args, int* prefix) {
    const int lane = threadIdx.x % 32;
    int before = 0;
    for (int first = 0; first < args.groups; first += 32) {
      const int e = first + lane;
      int sum = e < args.groups ? (args.offsets[e + 1] - args.offsets[e] + kTokens - 1) / kTokens * args.order.others() : 0;
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffff, sum, step);
        if (lane >= step) sum += other;
      }
      if (e < args.groups) prefix[e + 1] = before + sum;
      before += __shfl_sync(0xffffffff, sum, 31);
    }
    if (lane == 0) prefix[0] = 0;
  }

  __device__ int total() const { return total_; }

  // Indices must not descend from call to call.
  __device__ TileSpot Locate(int index) {
    TileSpot spot;
    spot.k_begin = 0;
    spot.k_end = args_.k;
    spot.m_end = args_.m;
    spot.n_end = args_.n;
    int token, other, first_token = 0;
    if constexpr (kGrouping == Grouping::kRows) {
      while (index >= prefix_[group_ + 1]) ++group_;
      first_token = args_.offsets[group_];
      const int end = args_.offsets[group_ + 1];
      (kTokensOnN ? spot.n_end : spot.m_end) = end;
      args_.order.LocateAmong((end - first_token + kTokens - 1) / kTokens, index - prefix_[group_], &token, &other);
      spot.batch_a = kTokensOnN ? group_ : 0;
      spot.batch_b = kTokensOnN ? 0 : group_;
      spot.batch_c = 0;
    } else {
      int batch;
      args_.order.Locate(index, &batch, &token, &other);
      spot.batch_c = spot.batch_a = spot.batch_b = batch;
    }
    spot.m0 = kTokensOnN ? other * Tile::kTileM : first_token + token * Tile::kTileM;
    spot.n0 = kTokensOnN ? first_token + token * Tile::kTileN : other * Tile::kTileN;
    return spot;
  }

 private:
  const GemmArguments& args_;
  const int* prefix_;
  int total_, group_ = 0;
};

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

// One warpgroup's 64 x kTileN accumulators and its part of C; `m` and `thread` are this thread's row and index in the
// warpgroup.
template <int kTileN, bool kTransposed, typename Out>
struct Fragment {
  static constexpr int kCount = kTileN / 2;
  static constexpr bool kByUnits = !kTransposed && kTileN % 32 == 0;

  static __device__ __forceinline__ int Row(int thread) { return thread / 32 * 16 + thread % 32 / 4; }

  // Whether all of it lies in C: then no address depends on where it ends.
  static __device__ __forceinline__ bool Whole(const TileSpot& spot, int m0) { return m0 + 64 <= spot.m_end && spot.n0 + kTileN <= spot.n_end; }

  // Elements move kUnit at a time, 16 bytes; the four threads that share a row exchange what they hold of one another's units.
  static constexpr int kUnit = 16 / sizeof(Out);
  using Unit = std::conditional_t<std::is_same_v<Out, float>, float4, uint4>;
  // The column of this thread's first unit, in units; the next one's is four further. Of 16 floats a thread computes two in the first eight and two
  // in the last: even threads' units lie in the first.
  static __device__ __forceinline__ int FirstUnit(int thread) {
    return std::is_same_v<Out, float> ? thread % 4 / 2 + 2 * (thread % 2) : thread % 4;
  }

  // Unit j of this thread's row h into its elements.
  static __device__ __forceinline__ void Spread(float (&acc)[kCount], int h, int j, Unit unit, int thread) {
    if constexpr (std::is_same_v<Out, float>) {
      const bool odd = thread % 2 == 1;
      const float x = __shfl_xor_sync(0xffffffff, odd ? unit.x : unit.z, 1), y = __shfl_xor_sync(0xffffffff, odd ? unit.y : unit.w, 1);
      acc[8 * j + 2 * h] = odd ? x : unit.x;
      acc[8 * j + 2 * h + 1] = odd ? y : unit.y;
      acc[8 * j + 4 + 2 * h] = odd ? unit.z : x;
      acc[8 * j + 4 + 2 * h + 1] = odd ? unit.w : y;
    } else {
      uint32_t r[4] = {unit.x, unit.y, unit.z, unit.w};
      TransposeQuad(r, thread);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 two = UnpackBF16(r[i]);
        acc[16 * j + 4 * i + 2 * h] = two.x;
        acc[16 * j + 4 * i + 2 * h + 1] = two.y;
      }
    }
  }

  // From C itself. Outside it some of its elements come, which are not stored.
  template <bool kWhole>
  static __device__ __forceinline__ void Load(float (&acc)[kCount], const Out* c, int64_t stride, const TileSpot& spot, int m0, int thread) {
    Unit units[2][kTileN / 4 / kUnit];  // all are asked for before the first is used
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < kTileN / 4 / kUnit; ++j) {
        const int m = m0 + Row(thread) + 8 * h, n = spot.n0 + kUnit * (FirstUnit(thread) + 4 * j);
        const Unit* const from =
            reinterpret_cast<const Unit*>(c + (kWhole ? m : min(m, spot.m_end - 1)) * stride + (kWhole ? n : min(n, spot.n_end - kUnit)));
        units[h][j] = *from;
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < kTileN / 4 / kUnit; ++j) Spread(acc, h, j, units[h][j], thread);
    }
  }

  // REQUIRES: c and its strides allow 16-byte accesses, rows end with one.
  static __device__ __forceinline__ void StoreAligned(const float (&acc)[kCount], Out* c, int64_t stride, const TileSpot& spot, int m0, int thread) {
    Whole(spot, m0) ? StoreUnits<true>(acc, c, stride, spot, m0, thread) : StoreUnits<false>(acc, c, stride, spot, m0, thread);
  }

  // Boxes: 128 bytes of columns times rows of 128 bytes in shared memory, 128-byte swizzled.
  static constexpr int kBoxColumns = 128 / sizeof(Out);

  // Columns [box * kBoxColumns, ...) from a box of 64 rows.
  static __device__ __forceinline__ void LoadBox(float (&acc)[kCount], int box, const char* from, int thread) {
    if constexpr (std::is_same_v<Out, float>) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const Unit unit = *reinterpret_cast<const Unit*>(from + SwizzledOffset(Row(thread) + 8 * h, 16 * (FirstUnit(thread) + 4 * j)));
          Spread(acc, h, 2 * box + j, unit, thread);
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t r[4];
        LoadMatrices(r, from + MatrixOffset(thread / 32 * 16, j, thread));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 two = UnpackBF16(r[i]);
          acc[32 * box + 8 * j + 2 * i] = two.x;
          acc[32 * box + 8 * j + 2 * i + 1] = two.y;
        }
      }
    }
  }

  // A warp's 16 rows of them to a box of 16 rows; bf16.
  static __device__ __forceinline__ void StoreWarpBox(const float (&acc)[kCount], int box, char* to, int thread) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* const a = acc + 32 * box + 8 * j;
      const uint32_t r[4] = {PackBF16(a[0], a[1]), PackBF16(a[2], a[3]), PackBF16(a[4], a[5]), PackBF16(a[6], a[7])};
      StoreMatrices(r, to + MatrixOffset(0, j, thread));
    }
  }

  // 16 columns of 16 rows are four matrices: of the first eight columns the upper and the lower, then of the last. Where this thread's row of
  // them begins in a box, for columns [16 j, 16 j + 16).
  static __device__ __forceinline__ uint32_t MatrixOffset(int first_row, int j, int thread) {
    return SwizzledOffset(first_row + thread % 16, 32 * j + thread % 32 / 16 * 16);
  }

  template <bool kWhole>
  static __device__ __forceinline__ void StoreUnits(const float (&acc)[kCount], Out* c, int64_t stride, const TileSpot& spot, int m0, int thread) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int m = m0 + Row(thread) + 8 * h, n = spot.n0 + kUnit * FirstUnit(thread);
      Out* const row = c + m * stride + n;
#pragma unroll
      for (int j = 0; j < kTileN / 4 / kUnit; ++j) {
        const bool inside = kWhole || (m < spot.m_end && n + 4 * kUnit * j < spot.n_end);
        if constexpr (std::is_same_v<Out, float>) {
          const bool odd = thread % 2 == 1;
          const float a0 = acc[8 * j + 2 * h], a1 = acc[8 * j + 2 * h + 1], b0 = acc[8 * j + 4 + 2 * h], b1 = acc[8 * j + 4 + 2 * h + 1];
          const float x = __shfl_xor_sync(0xffffffff, odd ? a0 : b0, 1), y = __shfl_xor_sync(0xffffffff, odd ? a1 : b1, 1);
          const float4 unit = make_float4(odd ? x : a0, odd ? y : a1, odd ? b0 : x, odd ? b1 : y);
          if (inside) __stcs(reinterpret_cast<float4*>(row + 16 * j), unit);
        } else {
          uint32_t r[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) r[i] = PackBF16(acc[16 * j + 4 * i + 2 * h], acc[16 * j + 4 * i + 2 * h + 1]);
          TransposeQuad(r, thread);
          if (inside) *reinterpret_cast<uint4*>(row + 32 * j) = make_uint4(r[0], r[1], r[2], r[3]);
        }
      }
    }
  }

  static __device__ __forceinline__ void Start(float (&acc)[kCount], const GemmArguments& args, const TileSpot& spot,
                                               int m0, int thread) {
    if (!args.accumulate) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) acc[i] = 0;
      return;
    }
    const Out* c = static_cast<const Out*>(args.c) + spot.batch_c * args.c_batch_stride;
    if constexpr (kByUnits) {
      if (args.vector_store)
        return Whole(spot, m0) ? Load<true>(acc, c, args.c_stride, spot, m0, thread) : Load<false>(acc, c, args.c_stride, spot, m0, thread);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int m = m0 + Row(thread) + 8 * (i / 2 % 2), n = spot.n0 + i / 4 * 8 + 2 * (thread % 4) + i % 2;
      const bool inside = m < spot.m_end && n < spot.n_end;
      acc[i] = inside ? ToFloat(c[kTransposed ? n * args.c_stride + m : m * args.c_stride + n]) : 0.0f;
    }
  }

  static __device__ __forceinline__ void AddBias(float (&acc)[kCount], const GemmArguments& args, const TileSpot& spot,
                                                 int m0, int thread) {
    if (args.bias == nullptr) return;
    if constexpr (kTransposed) {
      float bias[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int m = m0 + Row(thread) + 8 * h;
        bias[h] = m < spot.m_end ? __bfloat162float(args.bias[m]) : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kCount; ++i) acc[i] += bias[i / 2 % 2];
    } else {
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int n = spot.n0 + i / 4 * 8 + 2 * (thread % 4) + e;
          const float bias = n < spot.n_end ? __bfloat162float(args.bias[n]) : 0.0f;
          acc[i + e] += bias;
          acc[i + 2 + e] += bias;
        }
      }
    }
  }

  static __device__ __forceinline__ void Store(const float (&acc)[kCount], const GemmArguments& args,
                                               const TileSpot& spot, int m0, int thread) {
    Out* c = static_cast<Out*>(args.c) + spot.batch_c * args.c_batch_stride;
    if constexpr (kByUnits) {
      if (args.vector_store) return StoreAligned(acc, c, args.c_stride, spot, m0, thread);
    }
    const int q = thread % 4, row = m0 + Row(thread);
    if constexpr (kTransposed) {
      static_assert(std::is_same_v<Out, __nv_bfloat16>);
#pragma unroll
      for (int i = 0; i < kCount; i += 2) {
        const uint32_t pair = Transpose8x8(PackBF16(acc[i], acc[i + 1]));
        const int n = spot.n0 + i / 4 * 8 + thread % 32 / 4, m = m0 + thread / 32 * 16 + 8 * (i / 2 % 2) + 2 * q;
        if (n >= spot.n_end) continue;
        __nv_bfloat16* p = c + n * args.c_stride + m;
        if (args.vector_store) {
          if (m < spot.m_end) *reinterpret_cast<uint32_t*>(p) = pair;
        } else {
          const __nv_bfloat162 two = *reinterpret_cast<const __nv_bfloat162*>(&pair);
          if (m < spot.m_end) p[0] = two.x;
          if (m + 1 < spot.m_end) p[1] = two.y;
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int m = row + 8 * (i / 2 % 2), n = spot.n0 + i / 4 * 8 + 2 * q + i % 2;
        if (m < spot.m_end && n < spot.n_end) c[m * args.c_stride + n] = static_cast<Out>(acc[i]);
      }
    }
  }
};

// The first elements of an array.
template <int kCount, int kAll>
__device__ __forceinline__ float (&First(float (&x)[kAll]))[kCount] {
  static_assert(kCount <= kAll);
  return reinterpret_cast<float(&)[kCount]>(x);
}

// A place in a ring of stages, and the parity of the round that their barriers are in.
template <int kStages>
struct StageRing {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void Advance(int steps) {
    stage += steps;
    phase ^= stage / kStages & 1;
    stage %= kStages;
  }
};

// silu(gate) * up of two features' (or tokens') sums, which are rounded to bf16 first, as SwiGlu reads them.
struct GatedPair {
  uint32_t gate, up, product;
};
__device__ __forceinline__ uint32_t GatedOf(uint32_t gate, uint32_t up) {
  const float2 g = UnpackBF16(gate), u = UnpackBF16(up);
  return PackBF16(Gated(g.x, u.x), Gated(g.y, u.y));
}
__device__ __forceinline__ GatedPair GatePair(float g0, float g1, float u0, float u1) {
  const uint32_t gate = PackBF16(g0, g1), up = PackBF16(u0, u1);
  return {gate, up, GatedOf(gate, up)};
}

// Stores a warpgroup's accumulators of a gated product, tokens on N. REQUIRES: features in whole eights, rows of 16 bytes.
template <int kTileN>
__device__ __forceinline__ void StoreGated(const float (&acc)[kTileN / 2], const GemmArguments& args, const TileSpot& spot, int m0, int thread) {
  auto* const c = static_cast<__nv_bfloat16*>(args.c);
  // Rows are weights: this thread's row is a gate's, the one eight below its up's.
  const int eighth = thread % 32 / 4, features = args.m / 2, feature = m0 / 2 + thread / 32 * 8 + 2 * (thread % 4);
#pragma unroll
  for (int j = 0; j < kTileN / 8; ++j) {
    const GatedPair pair = GatePair(acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]);
    const uint32_t product = Transpose8x8(pair.product), gate = Transpose8x8(pair.gate), up = Transpose8x8(pair.up);
    const int token = spot.n0 + 8 * j + eighth;
    if (token >= spot.n_end || feature >= features) continue;
    *reinterpret_cast<uint32_t*>(args.gated + token * args.gated_stride + feature) = product;
    if (c == nullptr) continue;
    *reinterpret_cast<uint32_t*>(c + token * args.c_stride + feature) = gate;
    *reinterpret_cast<uint32_t*>(c + token * args.c_stride + features + feature) = up;
  }
}

template <typename Tile, bool kMnA, bool kMnB, Grouping kGrouping, bool kTokensOnN, typename Out, bool kGated = false>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    GemmKernel(const __grid_constant__ GemmArguments args) {
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  __shared__ int prefix[kGrouping == Grouping::kRows ? kMaxGroups + 1 : 1];
  char* shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  uint64_t* full = reinterpret_cast<uint64_t*>(shared + Tile::kStages * (Tile::kBytesA + Tile::kBytesB));
  uint64_t* empty = full + Tile::kStages;
  const auto stage_a = [&](int s) { return shared + s * (Tile::kBytesA + Tile::kBytesB); };
  const auto stage_b = [&](int s) { return shared + s * (Tile::kBytesA + Tile::kBytesB) + Tile::kBytesA; };

  const int warpgroup = threadIdx.x / 128;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Tile::kStages; ++s) {
      BarrierInit(&full[s], 1);
      BarrierInit(&empty[s], Tile::kWarpgroups * 4);
    }
    BarrierInitFence();
    PrefetchMap(&args.a);
    PrefetchMap(&args.b);
  }
  KernelBegin();
  if constexpr (kGrouping == Grouping::kRows) {
    if (threadIdx.x >= 32 && threadIdx.x < 64) TileSchedule<Tile, kGrouping, kTokensOnN>::FillPrefix(args, prefix);
  }
  __syncthreads();
  TileSchedule<Tile, kGrouping, kTokensOnN> schedule(args, prefix);
  int stage = 0;
  uint32_t phase = 0;
  const auto next = [&] {
    if (++stage == Tile::kStages) {
      stage = 0;
      phase ^= 1;
    }
  };

  if (warpgroup == Tile::kWarpgroups) {
    if constexpr (Tile::kShareRegisters) GiveRegisters<40>();
    if (threadIdx.x != Tile::kMathThreads) return;
    for (int index = blockIdx.x; index < schedule.total(); index += gridDim.x) {
      const TileSpot spot = schedule.Locate(index);
      for (int k = spot.k_begin; k < spot.k_end; k += 64) {
        BarrierWait(&empty[stage], phase ^ 1);
        BarrierExpect(&full[stage], Tile::kBytesA + Tile::kBytesB);
        if constexpr (kGated) {
          static_assert(kTokensOnN);
          CopyGatedBox(stage_a(stage), &args.a, k, spot.m0 / 16, spot.batch_a, &full[stage]);
        } else if constexpr (kMnA) {
          for (int i = 0; i < Tile::kTileM / 64; ++i)
            CopyBox(stage_a(stage) + i * 8192, &args.a, spot.m0 + i * 64, k, spot.batch_a, &full[stage]);
        } else {
          CopyBox(stage_a(stage), &args.a, k, spot.m0, spot.batch_a, &full[stage]);
        }
        if constexpr (kMnB) {
          for (int i = 0; i < Tile::kTileN / 64; ++i)
            CopyBox(stage_b(stage) + i * 8192, &args.b, spot.n0 + i * 64, k, spot.batch_b, &full[stage]);
        } else {
          CopyBox(stage_b(stage), &args.b, k, spot.n0, spot.batch_b, &full[stage]);
        }
        next();
      }
    }
  } else {
    if constexpr (Tile::kShareRegisters) TakeRegisters<232>();
    using Acc = Fragment<Tile::kTileN, kTokensOnN, Out>;
    const int thread = threadIdx.x % 128, lane = threadIdx.x % 32, math = warpgroup;
    float acc[Acc::kCount];
    for (int index = blockIdx.x; index < schedule.total(); index += gridDim.x) {
      const TileSpot spot = schedule.Locate(index);
      const int m0 = spot.m0 + math * 64;
      Acc::Start(acc, args, spot, m0, thread);
      // One step of 64 of k, left in flight; returns its stage.
      const auto step = [&](int k) {
        BarrierWait(&full[stage], phase);
        const char *box_a = stage_a(stage) + math * 8192, *box_b = stage_b(stage);
        const uint64_t desc_a = kMnA ? DescriptorMnMajor(box_a, 8192) : DescriptorKMajor(box_a);
        const uint64_t desc_b = kMnB ? DescriptorMnMajor(box_b, 8192) : DescriptorKMajor(box_b);
        WgmmaFence();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          WgmmaBF16<Tile::kTileN>::template Mma<kMnA, kMnB>(acc, Advance(desc_a, i * (kMnA ? 2048 : 32)),
                                                            Advance(desc_b, i * (kMnB ? 2048 : 32)));
        }
        WgmmaCommit();
        const int used = stage;
        next();
        return used;
      };
      if (spot.k_begin < spot.k_end) {
        WgmmaTouch(acc);
        int previous = step(spot.k_begin);
        for (int k = spot.k_begin + 64; k < spot.k_end; k += 64) {
          const int current = step(k);
          WgmmaWait<1>();
          if (lane == 0) BarrierArrive(&empty[previous]);
          previous = current;
        }
        WgmmaWait<0>();
        WgmmaTouch(acc);
        if (lane == 0) BarrierArrive(&empty[previous]);
      }
      if constexpr (kGated) {
        StoreGated<Tile::kTileN>(acc, args, spot, m0, thread);
      } else {
        Acc::AddBias(acc, args, spot, m0, thread);
        Acc::Store(acc, args, spot, m0, thread);
      }
    }
  }
}

}  // namespace grouper::kernels::cuda
