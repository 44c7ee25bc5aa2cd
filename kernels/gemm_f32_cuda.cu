// Float products in the CPU's order: every element one ascending chain of fused multiply-adds, so that the bits equal
// gemm_cpu.cc's. For routers and for small models in float.
//
// TileKernel takes dense products whose operands are read 16 bytes at a time: a thread owns up to 8 x 4 of C, the threads' copies fill a ring of
// stages ahead. Bound by the reads from shared memory, 4 (rows + columns) bytes a thread for rows x columns fma. A router's gradient has few
// weights, each a chain as long as there are tokens: 64 x 2048 are eight a lane of the device, so that a thread cannot own more.
// FewRowsKernel, x W^T for decode, whose chains of k multiply-adds cannot be shortened (2048 of k: 5 us): a chain a thread, 32 columns and a row a
// warp, so that the rows of a batch are spread over the device; boxes of the copy engine's, so that no thread's time goes into them.
// ChainKernel takes everything else: a block of 256 threads owns 64 x 64 of C, 4 x 4 a thread, or 32 x 32 where those would leave multiprocessors
// without work; the next 16 of k are on their way while these are multiplied.
#include <algorithm>

#include "kernels/cuda_launch.h"
#include "kernels/gemm_cuda.h"
#include "kernels/hopper.cuh"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

constexpr int kStep = 16, kThreads = 256;

// Elements that one load brings.
template <typename T, int kCount>
struct alignas(kCount * sizeof(T)) Neighbours {
  T x[kCount];
};

// What a chain begins with, and where it ends.
__device__ __forceinline__ float Begin(const float* c, bool accumulate) { return accumulate ? *c : 0.0f; }
__device__ __forceinline__ float Begin(const __nv_bfloat16*, bool) { return 0; }
__device__ __forceinline__ void End(float* c, float sum, bool) { *c = sum; }
__device__ __forceinline__ void End(__nv_bfloat16* c, float sum, bool accumulate) {
  const __nv_bfloat16 rounded = __float2bfloat16_rn(sum);
  *c = accumulate ? __float2bfloat16_rn(__fadd_rn(LoadFloat(c), LoadFloat(&rounded))) : rounded;
}

template <int kTile, typename TA, typename TB, typename TC>
__global__ void __launch_bounds__(kThreads) ChainKernel(const GemmF32Problem p) {
  KernelBegin();
  constexpr int kEach = kTile / 16;  // rows and columns a thread
  using Few = Neighbours<float, kEach>;
  __shared__ __align__(16) float a[kStep][kTile + 4], b[kStep][kTile + 4];
  int64_t batch = blockIdx.z, m_begin = static_cast<int64_t>(blockIdx.x) * kTile, m_end = p.m, k_begin = 0, k_end = p.k;
  int64_t batch_a = batch, batch_b = batch, batch_c = batch;
  if (p.groups == GemmGroups::kRows) {
    // Block x of all groups' tiles, group after group.
    int64_t tile = blockIdx.x;
    int group = 0;
    for (; group < p.batch; ++group) {
      const int64_t tiles = (p.offsets[group + 1] - p.offsets[group] + kTile - 1) / kTile;
      if (tile < tiles) break;
      tile -= tiles;
    }
    if (group == p.batch) return;
    m_begin = p.offsets[group] + tile * kTile;
    m_end = p.offsets[group + 1];
    batch_a = batch_c = 0;
    batch_b = group;
  } else if (p.groups == GemmGroups::kReduction) {
    k_begin = p.offsets[batch];
    k_end = p.offsets[batch + 1];
    batch_a = batch_b = 0;
  }
  const int64_t n_begin = static_cast<int64_t>(blockIdx.y) * kTile;
  const TA* from_a = static_cast<const TA*>(p.a) + batch_a * p.a_batch;
  const TB* from_b = static_cast<const TB*>(p.b) + batch_b * p.b_batch;
  TC* c = static_cast<TC*>(p.c) + batch_c * p.c_batch;
  const int row = threadIdx.x / 16 * kEach, column = threadIdx.x % 16 * kEach;
  float acc[kEach][kEach];
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int64_t m = m_begin + row + i, n = n_begin + column + j;
      acc[i][j] = m < m_end && n < p.n ? Begin(c + m * p.c_m + n, p.accumulate) : 0.0f;
    }
  }
  // Neighbouring threads read neighbouring memory, whichever way it runs.
  constexpr int kLoads = kTile * kStep / kThreads;
  float fetched_a[kLoads], fetched_b[kLoads];
  const auto place_a = [&](int i, int* r, int* k) {
    *r = p.a_k == 1 ? i / kStep : i % kTile;
    *k = p.a_k == 1 ? i % kStep : i / kTile;
  };
  const auto place_b = [&](int i, int* r, int* k) {
    *r = p.b_k == 1 ? i / kStep : i % kTile;
    *k = p.b_k == 1 ? i % kStep : i / kTile;
  };
  const auto fetch = [&](int64_t k0) {
    const int64_t count = k_end - k0;
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const int i = threadIdx.x + load * kThreads;
      int r, k;
      place_a(i, &r, &k);
      const int64_t m = m_begin + r;
      fetched_a[load] = 0;
      if (m < m_end && k < count) {
        const int64_t source = p.groups == GemmGroups::kRows && p.gather != nullptr ? p.gather[m] : m;
        fetched_a[load] = LoadFloat(from_a + source * p.a_m + (k0 + k) * p.a_k);
      }
      place_b(i, &r, &k);
      const int64_t n = n_begin + r;
      fetched_b[load] = 0;
      if (n < p.n && k < count) {
        const int64_t source = p.groups == GemmGroups::kReduction && p.gather != nullptr ? p.gather[k0 + k] : k0 + k;
        fetched_b[load] = LoadFloat(from_b + n * p.b_n + source * p.b_k);
      }
    }
  };
  fetch(k_begin);
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kStep) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kStep), k_end - k0));
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const int i = threadIdx.x + load * kThreads;
      int r, k;
      place_a(i, &r, &k);
      a[k][r] = fetched_a[load];
      place_b(i, &r, &k);
      b[k][r] = fetched_b[load];
    }
    __syncthreads();
    fetch(k0 + kStep);
    for (int k = 0; k < count; ++k) {
      const Few xs = *reinterpret_cast<const Few*>(&a[k][row]), ys = *reinterpret_cast<const Few*>(&b[k][column]);
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) acc[i][j] = __fmaf_rn(xs.x[i], ys.x[j], acc[i][j]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int64_t m = m_begin + row + i, n = n_begin + column + j;
      if (m < m_end && n < p.n) End(c + m * p.c_m + n, p.bias != nullptr ? __fadd_rn(acc[i][j], p.bias[n]) : acc[i][j], p.accumulate);
    }
  }
}

// --- operands with rows of 16 bytes ------------------------------------------------------

constexpr int kChunk = 32;  // of k: a stage

// A tile's side in a stage: kSize rows of A or columns of B, kChunk of k. Along k where that is how the operand lies in memory, else along the side.
// A thread has kEach of the side's kSize.
template <typename T, int kSize_, int kEach_, bool kAlongK_>
struct TileSide {
  static constexpr int kSize = kSize_, kEach = kEach_, kThreads = kSize / kEach;
  static constexpr bool kAlongK = kAlongK_;
  static constexpr int kUnit = 16 / sizeof(T);                     // elements that are copied together
  static constexpr int kPitch = kAlongK ? kChunk + kUnit : kSize;  // + kUnit: the threads of a quarter of a warp read floats of different banks
  static constexpr int kBytes = (kAlongK ? kSize : kChunk) * kPitch * static_cast<int>(sizeof(T));
  static constexpr int kVector = kEach < 4 ? kEach : 4;  // neighbours of the side that one load brings

  // Where in the side the thread's i-th is.
  static __device__ __forceinline__ int Place(int thread, int i) {
    return kAlongK ? thread + i * kThreads : i / kVector * (kThreads * kVector) + thread * kVector + i % kVector;
  }
  // Asks for `stage`: from `from`, with `stride` elements from row to row (or from k to k); zeros beyond `size` and `k`.
  template <int kBlockThreads>
  static __device__ __forceinline__ void Fetch(char* stage, const T* from, int64_t stride, int64_t begin, int64_t size, int64_t k_begin, int64_t k) {
    constexpr int kUnits = (kAlongK ? kChunk : kSize) / kUnit, kLines = kAlongK ? kSize : kChunk;
#pragma unroll
    for (int i = 0; i < (kLines * kUnits + kBlockThreads - 1) / kBlockThreads; ++i) {
      const int unit = i * kBlockThreads + static_cast<int>(threadIdx.x);
      if (kLines * kUnits % kBlockThreads != 0 && unit >= kLines * kUnits) break;
      const int line = unit / kUnits, along = unit % kUnits * kUnit;
      const int64_t at_line = (kAlongK ? begin : k_begin) + line, at = (kAlongK ? k_begin : begin) + along;
      const bool there = at_line < (kAlongK ? size : k) && at < (kAlongK ? k : size);
      CopyAsync(reinterpret_cast<T*>(stage) + line * kPitch + along, from + (there ? at_line * stride + at : 0), there);
    }
  }
  // The thread's at four of k.
  static __device__ __forceinline__ void Load(float (&x)[kEach][4], const char* stage, int thread, int k) {
    if constexpr (kAlongK) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) LoadNeighbours(stage, Place(thread, i) * kPitch + k, x[i]);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int i = 0; i < kEach; i += kVector) {
          float some[kVector];
          LoadNeighbours(stage, (k + e) * kPitch + Place(thread, i), some);
#pragma unroll
          for (int v = 0; v < kVector; ++v) x[i + v][e] = some[v];
        }
      }
    }
  }

 private:
  template <int kCount>
  static __device__ __forceinline__ void LoadNeighbours(const char* stage, int place, float (&x)[kCount]) {
    const auto some = *reinterpret_cast<const Neighbours<T, kCount>*>(reinterpret_cast<const T*>(stage) + place);
    LoadFloats(some.x, x);
  }
};

template <int kRows_, int kColumns_, int kEachRow_, int kEachColumn_, int kStages_>
struct TileShape {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kEachRow = kEachRow_, kEachColumn = kEachColumn_, kStages = kStages_;
  static constexpr int kThreads = kRows / kEachRow * (kColumns / kEachColumn);
  // Cycles a k of a multiprocessor that has one: what a warp's threads read from shared memory, four bytes each a cycle.
  static constexpr int kCost = kThreads / 32 * (kEachRow + kEachColumn);
};
using LargeTile = TileShape<128, 64, 8, 4, 3>;
using MiddleTile = TileShape<32, 64, 4, 4, 5>;
using SmallTile = TileShape<64, 16, 4, 2, 7>;

// An operand: the type of its elements, and whether they are contiguous along k.
template <typename T_, bool kAlongK_>
struct Operand {
  using T = T_;
  static constexpr bool kAlongK = kAlongK_;
};

template <typename Shape, typename OperandA, typename OperandB>
struct TileSides {
  using A = TileSide<typename OperandA::T, Shape::kRows, Shape::kEachRow, OperandA::kAlongK>;
  using B = TileSide<typename OperandB::T, Shape::kColumns, Shape::kEachColumn, OperandB::kAlongK>;
  static constexpr int kStageBytes = A::kBytes + B::kBytes;
  static constexpr int kSharedBytes = Shape::kStages * kStageBytes;
};

template <typename Shape, typename OperandA, typename OperandB, typename TC>
__global__ void __launch_bounds__(Shape::kThreads, 2) TileKernel(const GemmF32Problem p) {
  KernelBegin();
  using Sides = TileSides<Shape, OperandA, OperandB>;
  using A = typename Sides::A;
  using B = typename Sides::B;
  GROUPER_DYNAMIC_SHARED(__align__(16) char, shared);
  const int64_t m_begin = static_cast<int64_t>(blockIdx.x) * Shape::kRows, n_begin = static_cast<int64_t>(blockIdx.y) * Shape::kColumns;
  const int thread_a = static_cast<int>(threadIdx.x) / B::kThreads, thread_b = static_cast<int>(threadIdx.x) % B::kThreads;
  const auto* const from_a = static_cast<const typename OperandA::T*>(p.a) + blockIdx.z * p.a_batch;
  const auto* const from_b = static_cast<const typename OperandB::T*>(p.b) + blockIdx.z * p.b_batch;
  TC* const c = static_cast<TC*>(p.c) + blockIdx.z * p.c_batch;
  const int chunks = static_cast<int>((p.k + kChunk - 1) / kChunk);
  const auto fetch = [&](int chunk) {
    if (chunk < chunks) {
      char* const stage = shared + chunk % Shape::kStages * Sides::kStageBytes;
      const int64_t k_begin = int64_t{chunk} * kChunk;
      A::template Fetch<Shape::kThreads>(stage, from_a, A::kAlongK ? p.a_m : p.a_k, m_begin, p.m, k_begin, p.k);
      B::template Fetch<Shape::kThreads>(stage + A::kBytes, from_b, B::kAlongK ? p.b_n : p.b_k, n_begin, p.n, k_begin, p.k);
    }
    CopyAsyncCommit();
  };
  float acc[Shape::kEachRow][Shape::kEachColumn];
#pragma unroll
  for (int i = 0; i < Shape::kEachRow; ++i) {
#pragma unroll
    for (int j = 0; j < Shape::kEachColumn; ++j) {
      const int64_t m = m_begin + A::Place(thread_a, i), n = n_begin + B::Place(thread_b, j);
      acc[i][j] = m < p.m && n < p.n ? Begin(c + m * p.c_m + n, p.accumulate) : 0.0f;
    }
  }
  for (int s = 0; s < Shape::kStages - 1; ++s) fetch(s);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    CopyAsyncWait<Shape::kStages - 2>();
    __syncthreads();
    fetch(chunk + Shape::kStages - 1);  // into the stage that everybody has left
    const char* const a = shared + chunk % Shape::kStages * Sides::kStageBytes;
    const char* const b = a + A::kBytes;
    const auto four = [&](int k, int count) {
      float x[Shape::kEachRow][4], y[Shape::kEachColumn][4];
      A::Load(x, a, thread_a, k);
      B::Load(y, b, thread_b, k);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (e >= count) break;
#pragma unroll
        for (int i = 0; i < Shape::kEachRow; ++i) {
#pragma unroll
          for (int j = 0; j < Shape::kEachColumn; ++j) acc[i][j] = __fmaf_rn(x[i][e], y[j][e], acc[i][j]);
        }
      }
    };
    const int count = static_cast<int>(min(static_cast<int64_t>(kChunk), p.k - int64_t{chunk} * kChunk));
    if (count == kChunk) {
#pragma unroll 2
      for (int k = 0; k < kChunk; k += 4) four(k, 4);
    } else {
#pragma unroll 1
      for (int k = 0; k < count; k += 4) four(k, count - k);  // not those beyond the end: -0 + 0 is 0
    }
  }
#pragma unroll
  for (int i = 0; i < Shape::kEachRow; ++i) {
#pragma unroll
    for (int j = 0; j < Shape::kEachColumn; ++j) {
      const int64_t m = m_begin + A::Place(thread_a, i), n = n_begin + B::Place(thread_b, j);
      if (m < p.m && n < p.n) End(c + m * p.c_m + n, p.bias != nullptr ? __fadd_rn(acc[i][j], p.bias[n]) : acc[i][j], p.accumulate);
    }
  }
}

// Whether the operand is whole units of 16 bytes along its `length` contiguous numbers.
bool Sixteens(const void* data, bool is_bf16, int64_t stride, int64_t batch_stride, int64_t length) {
  const int64_t unit = is_bf16 ? 8 : 4;
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % unit == 0 && batch_stride % unit == 0 && length % unit == 0;
}

// kRows warps with a row each and one that fetches, by boxes of 128 bytes of k (swizzled: a warp's threads read a column of units without conflicts).
template <int kRows_, typename TA_>
struct FewRowsShape {
  using TA = TA_;
  static constexpr int kRows = kRows_, kColumns = 32, kThreads = 32 * (kRows + 1);
  static constexpr int kBoxes = 4, kChunk = 32 * kBoxes, kStages = 5;  // a stage's boxes of B, then of A
  static constexpr int kBoxOfA = 128 / sizeof(TA), kBoxesOfA = kChunk / kBoxOfA;
  static constexpr int kBytesB = kColumns * 128, kBytesA = 1024, kStageBytes = kBoxes * kBytesB + kBoxesOfA * kBytesA;
  static constexpr bool kWidens = sizeof(TA) == 2;
  static constexpr int kSharedBytes = 1024 + kStages * (kStageBytes + 16) + (kWidens ? kRows * 2 * kChunk * 4 : 0);
  static_assert(kRows <= 8);
};

struct FewRowsArguments {
  GemmF32Problem problem;
  CUtensorMap a, b;
};

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads) FewRowsKernel(const __grid_constant__ FewRowsArguments arguments) {
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  char* const shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  uint64_t* const full = reinterpret_cast<uint64_t*>(shared + Shape::kStages * Shape::kStageBytes);
  uint64_t* const empty = full + Shape::kStages;
  const GemmF32Problem& p = arguments.problem;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      BarrierInit(&full[s], 1);
      BarrierInit(&empty[s], Shape::kRows);
    }
    BarrierInitFence();
    PrefetchMap(&arguments.a);
    PrefetchMap(&arguments.b);
  }
  KernelBegin();
  __syncthreads();
  const int m_begin = static_cast<int>(blockIdx.x) * Shape::kRows, n_begin = static_cast<int>(blockIdx.y) * Shape::kColumns;
  const int batch = static_cast<int>(blockIdx.z), k = static_cast<int>(p.k);
  int stage = 0;
  uint32_t phase = 0;
  const auto next = [&] {
    if (++stage == Shape::kStages) stage = 0, phase ^= 1;
  };
  if (warp == Shape::kRows) {
    for (int begin = 0; lane == 0 && begin < k; begin += Shape::kChunk) {
      BarrierWait(&empty[stage], phase ^ 1);
      BarrierExpect(&full[stage], Shape::kBoxes * Shape::kBytesB + Shape::kBoxesOfA * Shape::kRows * 128);
      char* const to = shared + stage * Shape::kStageBytes;
#pragma unroll
      for (int i = 0; i < Shape::kBoxes; ++i) {
        CopyBox(to + i * Shape::kBytesB, &arguments.b, begin + 32 * i, n_begin, batch, &full[stage]);
        if (i < Shape::kBoxesOfA)
          CopyBox(to + Shape::kBoxes * Shape::kBytesB + i * Shape::kBytesA, &arguments.a, begin + Shape::kBoxOfA * i, m_begin, batch, &full[stage]);
      }
      next();
    }
    return;
  }
  const int64_t m = m_begin + warp, n = n_begin + lane;
  const bool mine = m < p.m && n < p.n;
  float* const c = static_cast<float*>(p.c) + batch * p.c_batch + m * p.c_m + n;
  float acc = p.accumulate && mine ? *c : 0.0f;
  // A bf16 row is widened a chunk ahead, four of k a lane: in the chain's own instructions that took half as long again.
  using Four = Neighbours<typename Shape::TA, 4>;
  float4* const widened = reinterpret_cast<float4*>(empty + Shape::kStages) + warp * 2 * (Shape::kChunk / 4);
  const auto place_in_a = [&](int i) {  // four of k
    constexpr int kFours = Shape::kBoxOfA / 4;
    return Shape::kBoxes * Shape::kBytesB + i / kFours * Shape::kBytesA + SwizzledOffset(warp, i % kFours * sizeof(Four));
  };
  Four raw;
  const auto fetch = [&] { raw = *reinterpret_cast<const Four*>(shared + stage * Shape::kStageBytes + place_in_a(lane)); };
  const auto widen = [&](int half) {
    float x[4];
    LoadFloats(raw.x, x);
    widened[half * (Shape::kChunk / 4) + lane] = make_float4(x[0], x[1], x[2], x[3]);
  };
  int half = 0;
  BarrierWait(&full[stage], phase);
  if constexpr (Shape::kWidens) {
    fetch();
    widen(0);
    __syncwarp();
  }
  for (int begin = 0; begin < k; begin += Shape::kChunk) {
    const int now = stage;
    const char* const b = shared + now * Shape::kStageBytes;
    const bool more = begin + Shape::kChunk < k;
    next();
    if (more) BarrierWait(&full[stage], phase);
    if constexpr (Shape::kWidens) {
      if (more) fetch();
    }
    const auto four = [&](int i) {  // of k; not those beyond its end: -0 + 0 is 0
      float4 x;
      if constexpr (Shape::kWidens) {
        x = widened[half * (Shape::kChunk / 4) + i];
      } else {
        x = *reinterpret_cast<const float4*>(b + place_in_a(i));
      }
      const float4 y = *reinterpret_cast<const float4*>(b + i / 8 * Shape::kBytesB + SwizzledOffset(lane, i % 8 * 16));
      acc = __fmaf_rn(x.x, y.x, acc);
      acc = __fmaf_rn(x.y, y.y, acc);
      acc = __fmaf_rn(x.z, y.z, acc);
      acc = __fmaf_rn(x.w, y.w, acc);
    };
    if (k - begin >= Shape::kChunk) {
#pragma unroll
      for (int i = 0; i < Shape::kChunk / 4; ++i) four(i);
    } else {
      for (int i = 0; i < (k - begin) / 4; ++i) four(i);
    }
    half ^= 1;
    if constexpr (Shape::kWidens) {
      if (more) widen(half);
    }
    FenceAsyncShared();  // an arrival does not wait for loads in flight
    __syncwarp();
    if (lane == 0) BarrierArrive(&empty[now]);
  }
  if (mine) *c = p.bias != nullptr ? __fadd_rn(acc, p.bias[n]) : acc;
}

template <typename Shape>
void LaunchFewRows(Stream& stream, const GemmF32Problem& p) {
  static std::atomic<uint64_t> allowed = 0;
  AllowSharedMemory(FewRowsKernel<Shape>, Shape::kSharedBytes, allowed);
  const FewRowsArguments args = {p, MakeTensorMap(p.a, p.k, p.m, p.batch, p.a_m, p.a_batch, Shape::kRows, /*is_float=*/!p.a_bf16),
                                 MakeTensorMap(p.b, p.k, p.n, p.batch, p.b_n, p.b_batch, Shape::kColumns, /*is_float=*/true)};
  const dim3 grid(static_cast<unsigned>((p.m + Shape::kRows - 1) / Shape::kRows),
                  static_cast<unsigned>((p.n + Shape::kColumns - 1) / Shape::kColumns), static_cast<unsigned>(p.batch));
  LaunchKernel(stream, grid, Shape::kThreads, Shape::kSharedBytes, FewRowsKernel<Shape>, args);
}

template <typename Shape, typename OperandA, typename OperandB, typename TC>
void LaunchTiles(Stream& stream, const GemmF32Problem& p) {
  constexpr int kSharedBytes = TileSides<Shape, OperandA, OperandB>::kSharedBytes;
  static std::atomic<uint64_t> allowed = 0;
  AllowSharedMemory(TileKernel<Shape, OperandA, OperandB, TC>, kSharedBytes, allowed);
  const dim3 grid(static_cast<unsigned>((p.m + Shape::kRows - 1) / Shape::kRows), static_cast<unsigned>((p.n + Shape::kColumns - 1) / Shape::kColumns),
                  static_cast<unsigned>(p.batch));
  LaunchKernel(stream, grid, Shape::kThreads, kSharedBytes, TileKernel<Shape, OperandA, OperandB, TC>, p);
}

// Cycles a k, of the multiprocessor that has the most.
template <typename Shape>
int64_t CostOf(const GemmF32Problem& p) {
  const int64_t blocks = (p.m + Shape::kRows - 1) / Shape::kRows * ((p.n + Shape::kColumns - 1) / Shape::kColumns) * p.batch;
  return (blocks + NumMultiprocessors() - 1) / NumMultiprocessors() * Shape::kCost;
}

template <typename OperandA, typename OperandB, typename TC = float>
void LaunchBestTiles(Stream& stream, const GemmF32Problem& p) {
  const int64_t large = CostOf<LargeTile>(p), middle = CostOf<MiddleTile>(p), small = CostOf<SmallTile>(p);
  if (large <= middle && large <= small) return LaunchTiles<LargeTile, OperandA, OperandB, TC>(stream, p);
  if (middle <= small) return LaunchTiles<MiddleTile, OperandA, OperandB, TC>(stream, p);
  LaunchTiles<SmallTile, OperandA, OperandB, TC>(stream, p);
}

// x W^T, both along k. Rows a block, so that there is a block for each multiprocessor; more rows than fill them eight a block are for tiles.
template <typename TA>
void LaunchRowsTimesRows(Stream& stream, const GemmF32Problem& p) {
  using Two = FewRowsShape<2, TA>;
  using Eight = FewRowsShape<8, TA>;
  const int64_t warps = p.m * ((p.n + Two::kColumns - 1) / Two::kColumns) * p.batch, processors = NumMultiprocessors();
  if (warps <= 2 * processors) return LaunchFewRows<Two>(stream, p);
  if (warps <= 16 * processors) return LaunchFewRows<Eight>(stream, p);
  LaunchBestTiles<Operand<TA, true>, Operand<float, true>>(stream, p);
}

// False, with nothing done, where rows are not of 16 bytes or the orientation is one that nobody asks for.
bool LaunchTiled(Stream& stream, const GemmF32Problem& p) {
  if (p.groups != GemmGroups::kNone || p.k == 0) return false;
  const bool a_along_k = p.a_k == 1 && Sixteens(p.a, p.a_bf16, p.a_m, p.a_batch, p.k), a_along_m = p.a_m == 1 && Sixteens(p.a, p.a_bf16, p.a_k, p.a_batch, p.m);
  const bool b_along_k = p.b_k == 1 && Sixteens(p.b, p.b_bf16, p.b_n, p.b_batch, p.k), b_along_n = p.b_n == 1 && Sixteens(p.b, p.b_bf16, p.b_k, p.b_batch, p.n);
  using bf16 = __nv_bfloat16;
  if (a_along_k && b_along_k && !p.b_bf16 && !p.c_bf16) {
    p.a_bf16 ? LaunchRowsTimesRows<bf16>(stream, p) : LaunchRowsTimesRows<float>(stream, p);
  } else if (a_along_k && b_along_n && !p.a_bf16 && !p.b_bf16) {
    using A = Operand<float, true>;
    using B = Operand<float, false>;
    p.c_bf16 ? LaunchBestTiles<A, B, bf16>(stream, p) : LaunchBestTiles<A, B>(stream, p);
  } else if (a_along_m && b_along_n && !p.a_bf16 && !p.c_bf16) {
    using A = Operand<float, false>;
    p.b_bf16 ? LaunchBestTiles<A, Operand<bf16, false>>(stream, p) : LaunchBestTiles<A, Operand<float, false>>(stream, p);
  } else {
    return false;
  }
  return true;
}

template <typename TA, typename TB, typename TC>
void LaunchChains(Stream& stream, const GemmF32Problem& p) {
  const auto blocks = [&](int64_t tile) {
    int64_t tiles = (p.m + tile - 1) / tile;
    if (p.groups == GemmGroups::kRows) tiles += p.batch;  // at most one part-filled tile a group
    return dim3(static_cast<unsigned>(tiles), static_cast<unsigned>((p.n + tile - 1) / tile),
                p.groups == GemmGroups::kRows ? 1 : static_cast<unsigned>(p.batch));
  };
  const dim3 wide = blocks(64);
  if (int64_t{wide.x} * wide.y * wide.z < NumMultiprocessors()) {
    LaunchKernel(stream, blocks(32), kThreads, 0, ChainKernel<32, TA, TB, TC>, p);
  } else {
    LaunchKernel(stream, wide, kThreads, 0, ChainKernel<64, TA, TB, TC>, p);
  }
}

}  // namespace

void GemmF32(Stream& stream, const GemmF32Problem& p) {
  CHECK(int{p.a_bf16} + p.b_bf16 + p.c_bf16 <= (p.groups == GemmGroups::kNone ? 1 : 0)) << "no kernel for these types";
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  if (LaunchTiled(stream, p)) return;
  using bf16 = __nv_bfloat16;
  if (p.a_bf16) return LaunchChains<bf16, float, float>(stream, p);
  if (p.b_bf16) return LaunchChains<float, bf16, float>(stream, p);
  if (p.c_bf16) return LaunchChains<float, float, bf16>(stream, p);
  LaunchChains<float, float, float>(stream, p);
}

}  // namespace grouper::kernels::cuda
