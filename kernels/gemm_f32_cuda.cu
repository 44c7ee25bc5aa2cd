// Float products in the CPU's order: every element one ascending chain of fused multiply-adds, so that the bits equal
// gemm_cpu.cc's. For routers and for small models in float.
//
// ChainKernel takes everything: a block of 256 threads owns 64 x 64 of C, 4 x 4 a thread, or 32 x 32 where those would leave multiprocessors
// without work; the next 16 of k are on their way while these are multiplied; bound by the fma units at best.
// RowsKernel and FewRowsKernel take x W^T with both along k and rows of 16 bytes, the router's product, whose chains of k multiply-adds cannot be
// shortened (2048 of k: 5 us). RowsKernel: blocks of 16 rows and 64 columns, four rows a thread, a ring of stages that the threads' copies fill
// ahead. FewRowsKernel, for decode: a chain a thread, 32 columns and a row a warp, so that the rows of a batch are spread over the device; boxes of
// the copy engine's, so that no thread's time goes into them.
#include <algorithm>

#include "kernels/cuda_launch.h"
#include "kernels/gemm_cuda.h"
#include "kernels/hopper.cuh"

namespace grouper::kernels::cuda {
namespace {

constexpr int kStep = 16, kThreads = 256;

template <int kTile>
__global__ void __launch_bounds__(kThreads) ChainKernel(const GemmF32Problem p) {
  KernelBegin();
  constexpr int kEach = kTile / 16;  // rows and columns a thread
  struct alignas(4 * kEach) Few {
    float x[kEach];
  };
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
  const float* from_a = p.a + batch_a * p.a_batch;
  const float* from_b = p.b + batch_b * p.b_batch;
  float* c = p.c + batch_c * p.c_batch;
  const int row = threadIdx.x / 16 * kEach, column = threadIdx.x % 16 * kEach;
  float acc[kEach][kEach];
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int64_t m = m_begin + row + i, n = n_begin + column + j;
      acc[i][j] = p.accumulate && m < m_end && n < p.n ? c[m * p.c_m + n] : 0.0f;
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
        fetched_a[load] = from_a[source * p.a_m + (k0 + k) * p.a_k];
      }
      place_b(i, &r, &k);
      const int64_t n = n_begin + r;
      fetched_b[load] = 0;
      if (n < p.n && k < count) {
        const int64_t source = p.groups == GemmGroups::kReduction && p.gather != nullptr ? p.gather[k0 + k] : k0 + k;
        fetched_b[load] = from_b[n * p.b_n + source * p.b_k];
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
      if (m < m_end && n < p.n) c[m * p.c_m + n] = p.bias != nullptr ? __fadd_rn(acc[i][j], p.bias[n]) : acc[i][j];
    }
  }
}

// --- x W^T, rows of 16 bytes ------------------------------------------------------

constexpr int kColumns = 64, kChunk = 64, kPitch = kChunk + 4, kStages = 4, kRowsAThread = 4;

// Groups of 64 threads; a group has four rows of C, a thread one column of them.
struct RowsShape {
  static constexpr int kGroups = 4, kRows = kGroups * kRowsAThread, kThreads = kGroups * kColumns;
  static constexpr int kStageFloats = (kRows + kColumns) * kPitch;
  static constexpr int kSharedBytes = kStages * kStageFloats * 4;
};

__global__ void __launch_bounds__(RowsShape::kThreads) RowsKernel(const GemmF32Problem p) {
  KernelBegin();
  using Shape = RowsShape;
  GROUPER_DYNAMIC_SHARED(__align__(16) float, shared);
  const int64_t m_begin = static_cast<int64_t>(blockIdx.x) * Shape::kRows, n_begin = static_cast<int64_t>(blockIdx.y) * kColumns;
  const int column = threadIdx.x % kColumns, row = threadIdx.x / kColumns * kRowsAThread;
  const float* const from_a = p.a + blockIdx.z * p.a_batch;
  const float* const from_b = p.b + blockIdx.z * p.b_batch;
  float* const c = p.c + blockIdx.z * p.c_batch;
  const int64_t chunks = (p.k + kChunk - 1) / kChunk;
  const auto fetch = [&](int64_t chunk) {
    if (chunk < chunks) {
      float* const stage = shared + chunk % kStages * Shape::kStageFloats;
      for (int i = threadIdx.x; i < (Shape::kRows + kColumns) * (kChunk / 4); i += Shape::kThreads) {
        const int r = i / (kChunk / 4), k = i % (kChunk / 4) * 4;
        const int64_t at = chunk * kChunk + k;
        const bool is_a = r < Shape::kRows;
        const int64_t place = is_a ? m_begin + r : n_begin + r - Shape::kRows;
        const bool there = place < (is_a ? p.m : p.n) && at < p.k;
        const float* const source = (is_a ? from_a : from_b) + (there ? place * (is_a ? p.a_m : p.b_n) + at : 0);
        CopyAsync(stage + r * kPitch + k, source, there);
      }
    }
    CopyAsyncCommit();
  };
  float acc[kRowsAThread];
  const int64_t n = n_begin + column;
#pragma unroll
  for (int i = 0; i < kRowsAThread; ++i) {
    const int64_t m = m_begin + row + i;
    acc[i] = p.accumulate && m < p.m && n < p.n ? c[m * p.c_m + n] : 0.0f;
  }
  for (int s = 0; s < kStages - 1; ++s) fetch(s);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    CopyAsyncWait<kStages - 2>();
    __syncthreads();
    fetch(chunk + kStages - 1);  // into the stage that everybody has left
    const float* const a = shared + chunk % kStages * Shape::kStageFloats + row * kPitch;
    const float* const b = shared + chunk % kStages * Shape::kStageFloats + (Shape::kRows + column) * kPitch;
    const int count = static_cast<int>(min(static_cast<int64_t>(kChunk), p.k - chunk * kChunk));
#pragma unroll 4
    for (int k = 0; k < count; k += 4) {
      const float4 y = *reinterpret_cast<const float4*>(b + k);
#pragma unroll
      for (int i = 0; i < kRowsAThread; ++i) {
        const float4 x = *reinterpret_cast<const float4*>(a + i * kPitch + k);
        acc[i] = __fmaf_rn(x.x, y.x, acc[i]);
        acc[i] = __fmaf_rn(x.y, y.y, acc[i]);
        acc[i] = __fmaf_rn(x.z, y.z, acc[i]);
        acc[i] = __fmaf_rn(x.w, y.w, acc[i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRowsAThread; ++i) {
    const int64_t m = m_begin + row + i;
    if (m < p.m && n < p.n) c[m * p.c_m + n] = p.bias != nullptr ? __fadd_rn(acc[i], p.bias[n]) : acc[i];
  }
}

bool RowsOfSixteen(const float* data, int64_t row_stride, int64_t k_stride, int64_t batch_stride) {
  return k_stride == 1 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_stride % 4 == 0 && batch_stride % 4 == 0;
}

// kRows warps with a row each and one that fetches, by boxes of 32 of k (swizzled: a warp's threads read a column of units without conflicts).
template <int kRows_>
struct FewRowsShape {
  static constexpr int kRows = kRows_, kColumns = 32, kThreads = 32 * (kRows + 1);
  static constexpr int kBoxes = 4, kChunk = 32 * kBoxes, kStages = 5;  // a stage's boxes of B, then of A
  static constexpr int kBytesB = kColumns * 128, kBytesA = 1024, kStageBytes = kBoxes * (kBytesB + kBytesA);
  static constexpr int kSharedBytes = 1024 + kStages * (kStageBytes + 16);
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
      BarrierExpect(&full[stage], Shape::kBoxes * (Shape::kBytesB + Shape::kRows * 128));
      char* const to = shared + stage * Shape::kStageBytes;
#pragma unroll
      for (int i = 0; i < Shape::kBoxes; ++i) {
        CopyBox(to + i * Shape::kBytesB, &arguments.b, begin + 32 * i, n_begin, batch, &full[stage]);
        CopyBox(to + Shape::kBoxes * Shape::kBytesB + i * Shape::kBytesA, &arguments.a, begin + 32 * i, m_begin, batch, &full[stage]);
      }
      next();
    }
    return;
  }
  const int64_t m = m_begin + warp, n = n_begin + lane;
  const bool mine = m < p.m && n < p.n;
  float* const c = p.c + batch * p.c_batch + m * p.c_m + n;
  float acc = p.accumulate && mine ? *c : 0.0f;
  for (int begin = 0; begin < k; begin += Shape::kChunk) {
    BarrierWait(&full[stage], phase);
    const char* const b = shared + stage * Shape::kStageBytes;
    const char* const a = b + Shape::kBoxes * Shape::kBytesB;
    const auto four = [&](int i) {  // of k; not those beyond its end: -0 + 0 is 0
      const float4 x = *reinterpret_cast<const float4*>(a + i / 8 * Shape::kBytesA + SwizzledOffset(warp, i % 8 * 16));
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
    FenceAsyncShared();  // an arrival does not wait for loads in flight
    __syncwarp();
    if (lane == 0) BarrierArrive(&empty[stage]);
    next();
  }
  if (mine) *c = p.bias != nullptr ? __fadd_rn(acc, p.bias[n]) : acc;
}

template <typename Shape>
void LaunchFewRows(Stream& stream, const GemmF32Problem& p) {
  static std::atomic<uint64_t> allowed = 0;
  AllowSharedMemory(FewRowsKernel<Shape>, Shape::kSharedBytes, allowed);
  const FewRowsArguments args = {p, MakeTensorMap(p.a, p.k, p.m, p.batch, p.a_m, p.a_batch, Shape::kRows, /*is_float=*/true),
                                 MakeTensorMap(p.b, p.k, p.n, p.batch, p.b_n, p.b_batch, Shape::kColumns, /*is_float=*/true)};
  const dim3 grid(static_cast<unsigned>((p.m + Shape::kRows - 1) / Shape::kRows),
                  static_cast<unsigned>((p.n + Shape::kColumns - 1) / Shape::kColumns), static_cast<unsigned>(p.batch));
  LaunchKernel(stream, grid, Shape::kThreads, Shape::kSharedBytes, FewRowsKernel<Shape>, args);
}

void LaunchRows(Stream& stream, const GemmF32Problem& p) {
  static std::atomic<uint64_t> allowed = 0;
  AllowSharedMemory(RowsKernel, RowsShape::kSharedBytes, allowed);
  const dim3 grid(static_cast<unsigned>((p.m + RowsShape::kRows - 1) / RowsShape::kRows), static_cast<unsigned>((p.n + kColumns - 1) / kColumns),
                  static_cast<unsigned>(p.batch));
  LaunchKernel(stream, grid, RowsShape::kThreads, RowsShape::kSharedBytes, RowsKernel, p);
}

}  // namespace

void GemmF32(Stream& stream, const GemmF32Problem& p) {
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  if (p.groups == GemmGroups::kNone && p.k > 0 && p.k % 4 == 0 && RowsOfSixteen(p.a, p.a_m, p.a_k, p.a_batch) &&
      RowsOfSixteen(p.b, p.b_n, p.b_k, p.b_batch)) {
    // Rows a block, so that there is a block for each multiprocessor; more rows than fill them eight a block are for the other kernel.
    using Two = FewRowsShape<2>;
    using Eight = FewRowsShape<8>;
    const int64_t warps = p.m * ((p.n + Two::kColumns - 1) / Two::kColumns) * p.batch, processors = NumMultiprocessors();
    if (warps <= 2 * processors) return LaunchFewRows<Two>(stream, p);
    return warps <= 16 * processors ? LaunchFewRows<Eight>(stream, p) : LaunchRows(stream, p);
  }
  const auto blocks = [&](int64_t tile) {
    int64_t tiles = (p.m + tile - 1) / tile;
    if (p.groups == GemmGroups::kRows) tiles += p.batch;  // at most one part-filled tile a group
    return dim3(static_cast<unsigned>(tiles), static_cast<unsigned>((p.n + tile - 1) / tile),
                p.groups == GemmGroups::kRows ? 1 : static_cast<unsigned>(p.batch));
  };
  const dim3 wide = blocks(64);
  if (int64_t{wide.x} * wide.y * wide.z < NumMultiprocessors()) return LaunchKernel(stream, blocks(32), kThreads, 0, ChainKernel<32>, p);
  LaunchKernel(stream, wide, kThreads, 0, ChainKernel<64>, p);
}

}  // namespace grouper::kernels::cuda
