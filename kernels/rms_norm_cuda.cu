#include <algorithm>
#include <optional>

#include "kernels/hopper.cuh"
#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

// A warp a row (few rows: a block each; gradients in bf16: below): it fetches eight elements a thread into shared memory as floats; its first eight
// threads, the CPU's lanes, walk the chains there.
constexpr int kWarpThreads = 32;

// Sum over the row of term(i), lane i mod 8 ascending, then the tree; in every thread of the warp.
template <typename F>
__device__ float SumOfRow(int width, int lane, F term) {
  float sum = 0;
  if (lane < kRowThreads) {
#pragma unroll 16
    for (int i = lane; i < width; i += kRowThreads) sum = term(i, sum);
  }
  return __shfl_sync(~0u, ReduceLanes(sum), 0);
}

// Eight floats in shared memory, 32-byte aligned: two accesses of 16 bytes.
__device__ __forceinline__ void ReadEight(const float* p, float v[8]) {
  const float4 a = *reinterpret_cast<const float4*>(p), b = *reinterpret_cast<const float4*>(p + 4);
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ __forceinline__ void WriteEight(float* p, const float v[8]) {
  *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
  *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}

template <typename S, bool kAdd, bool kBlock>
__global__ void Norm(DeviceRows<S> xs, DeviceRows<S> deltas, DeviceRows<S> sums, const S* weight, float eps, DeviceRows<S> ys, float* rstds, int64_t rows,
                     int width, bool vector) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(float4, shared);
  const int threads = kBlock ? static_cast<int>(blockDim.x) : kWarpThreads, teams = static_cast<int>(blockDim.x) / threads;
  const int lane = kBlock ? static_cast<int>(threadIdx.x) : static_cast<int>(threadIdx.x) % kWarpThreads, team = static_cast<int>(threadIdx.x) / threads;
  const int64_t row = int64_t{blockIdx.x} * teams + team;
  if (row >= rows) return;  // whole warps
  float* const staged = reinterpret_cast<float*>(shared) + int64_t{team} * ((width + 7) / 8 * 8);
  const S* const x = xs[row];
  const S* const delta = kAdd ? deltas[row] : nullptr;
  S* const sum = kAdd ? sums[row] : nullptr;
  float w[8];  // the first weights: they come meanwhile
  if (lane * 8 < width) LoadEight(weight + lane * 8, width - lane * 8, vector, w);
  for (int i = lane * 8; i < width; i += threads * 8) {
    float v[8];
    LoadEight(x + i, width - i, vector, v);
    if constexpr (kAdd) {
      float d[8];
      LoadEight(delta + i, width - i, vector, d);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        S rounded;
        StoreFloat(&rounded, v[k] + d[k]);
        v[k] = LoadFloat(&rounded);
      }
      StoreEight(sum + i, width - i, vector, v);
    }
    WriteEight(staged + i, v);
  }
  kBlock ? __syncthreads() : __syncwarp();
  float squares = 0;
  if (!kBlock || lane < kWarpThreads) squares = SumOfRow(width, lane, [&](int i, float sum) { return fmaf(staged[i], staged[i], sum); });
  if constexpr (kBlock) {
    __shared__ float of_row;
    if (lane == 0) of_row = squares;
    __syncthreads();
    squares = of_row;
  }
  const float r = 1.0f / sqrtf(squares / static_cast<float>(width) + eps);
  if (rstds != nullptr && lane == 0) rstds[row] = r;
  S* const y = ys[row];
  for (int i = lane * 8; i < width; i += threads * 8) {
    float v[8];
    if (i > lane * 8) LoadEight(weight + i, width - i, vector, w);
    ReadEight(staged + i, v);
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] = v[k] * r * w[k];
    StoreEight(y + i, width - i, vector, v);
  }
}

// Float: dx = rstd * (g - xhat * mean(g * xhat)), g = dy * weight, xhat = x * rstd
__global__ void NormBackward(DeviceRows<float> dys, DeviceRows<float> xs, const float* weight, const float* rstds, DeviceRows<float> dxs,
                             bool accumulate, int64_t rows, int width, bool vector) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(float4, shared);
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads, warps = blockDim.x / kWarpThreads;
  const int64_t row = int64_t{blockIdx.x} * warps + warp;
  if (row >= rows) return;  // whole warps
  const int padded = (width + 7) / 8 * 8;
  float* const g = reinterpret_cast<float*>(shared) + int64_t{warp} * 2 * padded;
  float* const xhat = g + padded;
  const float *const dy = dys[row], *const x = xs[row];
  float* const dx = dxs[row];
  const float rstd = rstds[row];
  for (int i = lane * 8; i < width; i += kWarpThreads * 8) {
    float a[8], w[8];
    LoadEight(dy + i, width - i, vector, a);
    LoadEight(weight + i, width - i, vector, w);
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = a[k] * w[k];
    WriteEight(g + i, w);
    LoadEight(x + i, width - i, vector, a);
#pragma unroll
    for (int k = 0; k < 8; ++k) a[k] = a[k] * rstd;
    WriteEight(xhat + i, a);
  }
  __syncwarp();
  const float mean = SumOfRow(width, lane, [&](int i, float sum) { return fmaf(g[i], xhat[i], sum); }) / static_cast<float>(width);
  for (int i = lane * 8; i < width; i += kWarpThreads * 8) {
    float d[8], of_g[8], of_x[8];
    if (accumulate) LoadEight(dx + i, width - i, vector, d);
    ReadEight(g + i, of_g);
    ReadEight(xhat + i, of_x);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float step = rstd * (of_g[k] - of_x[k] * mean);
      d[k] = accumulate ? d[k] + step : step;
    }
    StoreEight(dx + i, width - i, vector, d);
  }
}

// Float: dweight[i] = fma(dy, x * rstd, dweight[i]), rows ascending, one chain a column, the CPU's. A block has 32 columns; its eight
// warps fetch pieces of rows, the first one walks the chains while the next piece is on its way.
constexpr int kColumns = 32, kWarps = kBlockThreads / 32, kRowsAWarp = 16, kPiece = kWarps * kRowsAWarp;

__global__ void __launch_bounds__(kBlockThreads)
    NormWeightGradient(DeviceRows<float> dys, DeviceRows<float> xs, const float* rstds, float* dweight, int64_t rows, int64_t width) {
  KernelBegin();
  __shared__ float2 pairs[kPiece][kColumns];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t column = int64_t{blockIdx.x} * kColumns + lane;
  const bool mine = column < width;
  float2 fetched[kRowsAWarp];
  const auto fetch = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kRowsAWarp; ++i) {
      const int64_t row = first + i * kWarps + warp;
      fetched[i] = mine && row < rows ? make_float2(dys[row][column], xs[row][column] * rstds[row]) : make_float2(0, 0);
    }
  };
  float sum = mine && warp == 0 ? dweight[column] : 0;
  fetch(0);
  for (int64_t first = 0; first < rows; first += kPiece) {
#pragma unroll
    for (int i = 0; i < kRowsAWarp; ++i) pairs[i * kWarps + warp][lane] = fetched[i];
    __syncthreads();
    fetch(first + kPiece);
    if (warp == 0) {
      const int count = static_cast<int>(min(int64_t{kPiece}, rows - first));
#pragma unroll 16
      for (int i = 0; i < count; ++i) sum = fmaf(pairs[i][lane].x, pairs[i][lane].y, sum);
    }
    __syncthreads();
  }
  if (mine && warp == 0) dweight[column] = sum;
}

// bf16: dx and the gradient of the weight in one pass over dy and x. The weight's sum over rows, in float: chains of fma over 4 rows from
// 0; 8 of those added in order (a block's 32 rows); 64 of those added in order (2048 rows); those added to dweight in order. So a batch that
// is cut at multiples of 2048 rows gives the same bits.
//
// A block takes one 32 rows after another: the 4 rows of a chain by a share of its threads, as many chains side by side as fit, while the next
// ones' dy, x and (where it is added to) dx are on their way. Of each row eight threads walk the chains of its mean.
constexpr int kGroupRows = 4, kGroups = 8, kBlockRows = kGroupRows * kGroups, kBlocksOfPiece = 64;

struct NarrowShape {
  int width, stride;  // elements of a row; bytes from one of a group's rows to the next, so that four lie in different banks
  bool stage_dx;      // dx is read with dy and x
  int stages;         // 2: the next groups come while these are computed; or 1
  int steps_log2;     // 32 rows take 2^steps_log2 steps

  __host__ __device__ int side_by_side() const { return kGroups >> steps_log2; }
  // Shared memory: the rows' means, the weight, the block's sums, groups.
  __host__ __device__ int weight_place() const { return kGroups * kGroupRows * static_cast<int>(sizeof(float2)) >> steps_log2; }
  __host__ __device__ int sums_place() const { return weight_place() + (width + 7) / 8 * 16; }
  __host__ __device__ int groups_place() const { return sums_place() + (width + 3) / 4 * 16; }
  __host__ __device__ int group_bytes() const { return (stage_dx ? 3 : 2) * kGroupRows * stride; }
  int bytes() const { return groups_place() + stages * side_by_side() * group_bytes(); }
};

constexpr int kBytesOfOne = 227 << 10, kBytesOfTwo = (228 << 10) / 2 - 1024;  // shared memory, of one block on a multiprocessor, of each of two

// The fastest shape that fits; none for rows beyond some 10,500 (NormBackwardWide). two_blocks: on a multiprocessor, if they fit.
std::optional<NarrowShape> NarrowShapeFor(int width, bool accumulate, bool two_blocks) {
  struct Choice {
    int stages, bytes;
    bool stage_dx;
  };
  const Choice choices[] = {
      {2, two_blocks ? kBytesOfTwo : 0, accumulate}, {2, kBytesOfOne, accumulate}, {1, kBytesOfOne, accumulate}, {1, kBytesOfOne, false}};
  for (const Choice& choice : choices) {
    for (int steps_log2 = 0; kGroups >> steps_log2 > 0; ++steps_log2) {
      const NarrowShape shape = {.width = width,
                                 .stride = (width * 2 + 127) / 128 * 128 + 16,
                                 .stage_dx = choice.stage_dx,
                                 .stages = choice.stages,
                                 .steps_log2 = steps_log2};
      if (shape.bytes() <= choice.bytes) return shape;
    }
  }
  return std::nullopt;
}

// This thread's chain of a row's sum of g * xhat.
__device__ __forceinline__ float SumOfProducts(const __nv_bfloat16* dy, const __nv_bfloat16* x, const __nv_bfloat16* weight, float rstd, int lane,
                                               int width) {
  float sum = 0;
#pragma unroll 16
  for (int i = lane % kRowThreads; i < width; i += kRowThreads)
    sum = fmaf(LoadFloat(dy + i) * LoadFloat(weight + i), LoadFloat(x + i) * rstd, sum);
  return sum;
}

// What the eight threads of each of a warp's rows have.
__device__ __forceinline__ void OfAllRows(float own, float (&all)[kGroupRows]) {
#pragma unroll
  for (int r = 0; r < kGroupRows; ++r) all[r] = __shfl_sync(~0u, own, r * kRowThreads);
}

// kVector: rows are whole 16-byte units.
template <bool kVector>
__global__ void __launch_bounds__(kBlockThreads, 2)
    NormBackwardNarrow(DeviceRows<__nv_bfloat16> dys, DeviceRows<__nv_bfloat16> xs, const __nv_bfloat16* weight, const float* rstds,
                       DeviceRows<__nv_bfloat16> dxs, bool accumulate, float* parts, int64_t rows, const NarrowShape shape) {
  KernelBegin();
  using S = __nv_bfloat16;
  GROUPER_DYNAMIC_SHARED(float4, shared);
  const int width = shape.width, side_by_side = shape.side_by_side(), share = kBlockThreads / side_by_side;
  const int own_group = static_cast<int>(threadIdx.x) / share, thread = static_cast<int>(threadIdx.x) % share;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads, lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int blocks = static_cast<int>((rows + kBlockRows - 1) / kBlockRows), grid = static_cast<int>(gridDim.x);
  const int steps = (blocks - static_cast<int>(blockIdx.x) + grid - 1) / grid << shape.steps_log2;
  char* const memory = reinterpret_cast<char*>(shared);
  float2* const means = reinterpret_cast<float2*>(memory);  // of g * xhat, and rstd
  S* const w = reinterpret_cast<S*>(memory + shape.weight_place());
  float* const block_sums = reinterpret_cast<float*>(memory + shape.sums_place());
  const auto block_of = [&](int step) { return int64_t{blockIdx.x} + (step >> shape.steps_log2) * grid; };
  const auto place_in_block = [&](int step) { return step & ((1 << shape.steps_log2) - 1); };
  const auto first_row_of = [&](int step, int group) {
    return block_of(step) * kBlockRows + (place_in_block(step) * side_by_side + group) * kGroupRows;
  };
  const auto staged = [&](int step, int group, int array, int r) {
    const int place = (step & (shape.stages - 1)) * side_by_side + group;
    return reinterpret_cast<S*>(memory + shape.groups_place() + place * shape.group_bytes() + (array * kGroupRows + r) * shape.stride);
  };
  // Eight elements; zeros where there is no row.
  const auto fetch = [&](S* to, const S* from, int i, bool present) {
    if constexpr (kVector) {
      CopyAsync(to + i, from + i, present);
    } else {
      for (int k = i; k < min(i + 8, width); ++k) to[k] = present ? from[k] : S(0.0f);
    }
  };
  const auto fetch_rows = [&](int step) {
    const int64_t first_row = first_row_of(step, own_group);
    const S *dy[kGroupRows], *x[kGroupRows], *dx[kGroupRows];
#pragma unroll
    for (int r = 0; r < kGroupRows; ++r) {
      const int64_t row = min(first_row + r, rows - 1);
      dy[r] = dys[row], x[r] = xs[row], dx[r] = dxs[row];
    }
    for (int i = thread * 8; i < width; i += share * 8) {
#pragma unroll
      for (int r = 0; r < kGroupRows; ++r) {
        const bool present = first_row + r < rows;
        fetch(staged(step, own_group, 0, r), dy[r], i, present);
        fetch(staged(step, own_group, 1, r), x[r], i, present);
        if (shape.stage_dx) fetch(staged(step, own_group, 2, r), dx[r], i, present);
      }
    }
  };
  for (int i = static_cast<int>(threadIdx.x) * 8; i < width; i += kBlockThreads * 8) fetch(w, weight, i, true);
  for (int step = 0; step < shape.stages; ++step) {
    if (step < steps) fetch_rows(step);
    CopyAsyncCommit();
  }
  for (int step = 0; step < steps; ++step) {
    const int own_row = lane / kRowThreads;
    float own_rstd = 0;
    if (warp < side_by_side && first_row_of(step, warp) + own_row < rows) own_rstd = rstds[first_row_of(step, warp) + own_row];
    if (shape.stages == 2) {
      CopyAsyncWait<1>();
    } else {
      CopyAsyncWait<0>();
    }
    __syncthreads();
    if (warp < side_by_side) {
      const float sum = SumOfProducts(staged(step, warp, 0, own_row), staged(step, warp, 1, own_row), w, own_rstd, lane, width);
      const float own_mean = ReduceLanes(sum) / static_cast<float>(width);
      if (lane % kRowThreads == 0) means[warp * kGroupRows + own_row] = make_float2(own_mean, own_rstd);
    }
    __syncthreads();  // the first row's memory, which all have read, becomes the sums'
    const int64_t first_row = first_row_of(step, own_group);
    const int count = static_cast<int>(min(max(rows - first_row, int64_t{0}), int64_t{kGroupRows}));
    float mean[kGroupRows], rstd[kGroupRows];
    S* dx[kGroupRows];
#pragma unroll
    for (int r = 0; r < kGroupRows; ++r) {
      mean[r] = means[own_group * kGroupRows + r].x, rstd[r] = means[own_group * kGroupRows + r].y;
      dx[r] = dxs[min(first_row + r, rows - 1)];
    }
    for (int i = thread * 8; i < width; i += share * 8) {
      float of_w[8], sums[8] = {}, of_dx[kGroupRows][8];
      LoadEight(w + i, 8, true, of_w);
      if (accumulate) {
#pragma unroll
        for (int r = 0; r < kGroupRows; ++r)
          shape.stage_dx ? LoadEight(staged(step, own_group, 2, r) + i, 8, true, of_dx[r]) : LoadEight(dx[r] + i, width - i, kVector, of_dx[r]);
      }
#pragma unroll
      for (int r = 0; r < kGroupRows; ++r) {
        float of_dy[8], of_x[8];
        LoadEight(staged(step, own_group, 0, r) + i, 8, true, of_dy);
        LoadEight(staged(step, own_group, 1, r) + i, 8, true, of_x);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const float xhat = of_x[k] * rstd[r], gradient = rstd[r] * (of_dy[k] * of_w[k] - xhat * mean[r]);
          sums[k] = fmaf(of_dy[k], xhat, sums[k]);
          of_dx[r][k] = accumulate ? of_dx[r][k] + gradient : gradient;
        }
        if (r < count) StoreEight(dx[r] + i, width - i, kVector, of_dx[r]);
      }
      // In the place of the first row's dy and x, which have been read.
      *reinterpret_cast<float4*>(staged(step, own_group, 0, 0) + i) = make_float4(sums[0], sums[1], sums[2], sums[3]);
      *reinterpret_cast<float4*>(staged(step, own_group, 1, 0) + i) = make_float4(sums[4], sums[5], sums[6], sums[7]);
    }
    __syncthreads();
    const bool begins = place_in_block(step) == 0, ends = place_in_block(step + 1) == 0;
    float* const to = ends ? parts + block_of(step) * width : block_sums;
    for (int i = static_cast<int>(threadIdx.x); i < width; i += kBlockThreads) {
      float total = begins ? 0 : block_sums[i];
      for (int group = 0; group < side_by_side; ++group)
        total = total + reinterpret_cast<const float*>(staged(step, group, i % 8 / 4, 0) + i / 8 * 8)[i % 4];
      to[i] = total;
    }
    __syncthreads();
    if (step + shape.stages < steps) fetch_rows(step + shape.stages);
    CopyAsyncCommit();
  }
}

// The same for rows that are too wide for shared memory: a warp has the block's 32 rows, four at a time, and reads them from memory twice.
__global__ void __launch_bounds__(kWarpThreads)
    NormBackwardWide(DeviceRows<__nv_bfloat16> dys, DeviceRows<__nv_bfloat16> xs, const __nv_bfloat16* weight, const float* rstds,
                     DeviceRows<__nv_bfloat16> dxs, bool accumulate, float* parts, int64_t rows, int width, bool vector) {
  KernelBegin();
  const int lane = threadIdx.x;
  float* const block_sums = parts + int64_t{blockIdx.x} * width;
  for (int group = 0; group < kGroups; ++group) {
    const int64_t first_row = int64_t{blockIdx.x} * kBlockRows + group * kGroupRows;
    const int count = static_cast<int>(min(max(rows - first_row, int64_t{0}), int64_t{kGroupRows})), own_row = lane / kRowThreads;
    float own_rstd = 0, sum = 0;
    if (own_row < count) {
      own_rstd = rstds[first_row + own_row];
      sum = SumOfProducts(dys[first_row + own_row], xs[first_row + own_row], weight, own_rstd, lane, width);
    }
    const float own_mean = ReduceLanes(sum) / static_cast<float>(width);
    float mean[kGroupRows], rstd[kGroupRows];
    OfAllRows(own_mean, mean);
    OfAllRows(own_rstd, rstd);
    __syncwarp();  // dx may be dy or x, which all have read
    for (int i = lane * 8; i < width; i += kWarpThreads * 8) {
      float w[8], sums[8] = {};
      LoadEight(weight + i, width - i, vector, w);
#pragma unroll
      for (int r = 0; r < kGroupRows; ++r) {
        if (r >= count) break;
        float dy[8], x[8], dx[8];
        LoadEight(dys[first_row + r] + i, width - i, vector, dy);
        LoadEight(xs[first_row + r] + i, width - i, vector, x);
        if (accumulate) LoadEight(dxs[first_row + r] + i, width - i, vector, dx);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const float xhat = x[k] * rstd[r], step = rstd[r] * (dy[k] * w[k] - xhat * mean[r]);
          sums[k] = fmaf(dy[k], xhat, sums[k]);
          dx[k] = accumulate ? dx[k] + step : step;
        }
        StoreEight(dxs[first_row + r] + i, width - i, vector, dx);
      }
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if (i + k < width) block_sums[i + k] = (group == 0 ? 0 : block_sums[i + k]) + sums[k];
      }
    }
  }
}

// dweight += the sums of pieces in order, each of its parts in order. A block has 32 columns, a warp a piece at a time.
__global__ void __launch_bounds__(kBlockThreads) AddParts(const float* parts, int64_t count, float* dweight, int64_t width) {
  KernelBegin();
  __shared__ float sums[kWarps][kColumns];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t column = int64_t{blockIdx.x} * kColumns + lane;
  const bool mine = column < width;
  float total = mine && warp == 0 ? dweight[column] : 0;
  for (int64_t first = 0; first < count; first += kWarps * kBlocksOfPiece) {
    const int64_t begin = first + warp * kBlocksOfPiece;
    const int blocks = mine ? static_cast<int>(min(count - begin, int64_t{kBlocksOfPiece})) : 0, stride = static_cast<int>(width);
    const float* const from = parts + begin * width + column;
    float sum = 0, of_block[kBlocksOfPiece];  // on their way together
#pragma unroll
    for (int i = 0; i < kBlocksOfPiece; ++i) of_block[i] = i < blocks ? from[i * stride] : 0;
#pragma unroll
    for (int i = 0; i < kBlocksOfPiece; ++i) sum = sum + of_block[i];
    sums[warp][lane] = sum;
    __syncthreads();
    for (int w = 0; warp == 0 && w < kWarps && first + w * kBlocksOfPiece < count; ++w) total = total + sums[w][lane];
    __syncthreads();
  }
  if (mine && warp == 0) dweight[column] = total;
}

// Warps a block, so that their rows' `floats` fit shared memory.
template <typename Kernel>
int WarpsABlock(Kernel* kernel, int64_t floats, std::atomic<uint64_t>& allowed) {
  constexpr int64_t kMost = 200 << 10;
  const int64_t bytes = floats * 4;
  CHECK_LE(bytes, kMost) << "a row is wider than the normalisation's shared memory";
  AllowSharedMemory(kernel, static_cast<int>(kMost), allowed);
  return static_cast<int>(std::clamp<int64_t>((48 << 10) / bytes, 1, 8));
}

float* RstdsOf(const Tensor& rstd) { return rstd.empty() ? nullptr : rstd.data<float>(); }

template <bool kAdd>
void LaunchNorm(Stream& stream, const Tensor& delta, const Tensor& x, const Tensor& sum, const Tensor& weight, double eps,
                const Tensor& y, const Tensor& rstd) {
  const int64_t rows = NumRows(x), width = x.dim(-1), padded = (width + 7) / 8 * 8;
  if (rows == 0 || width == 0) return;
  const bool vector = RowsOfEights(x) && RowsOfEights(delta) && RowsOfEights(sum) && RowsOfEights(weight) && RowsOfEights(y);
  ByDeviceStorage(x.dtype(), [&](auto s) {
    using S = decltype(s);
    const auto launch = [&](auto* kernel, int64_t blocks, int64_t threads, int64_t rows_a_block) {
      LaunchKernel(stream, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<size_t>(rows_a_block * padded * 4), kernel,
                   RowsOnDevice<S>(x), kAdd ? RowsOnDevice<S>(delta) : DeviceRows<S>{}, kAdd ? RowsOnDevice<S>(sum) : DeviceRows<S>{},
                   static_cast<const S*>(weight.raw()), static_cast<float>(eps), RowsOnDevice<S>(y), RstdsOf(rstd), rows,
                   static_cast<int>(width), vector);
    };
    static std::atomic<uint64_t> allowed_few = 0, allowed = 0;
    if (rows <= 8 * NumMultiprocessors()) {
      WarpsABlock(Norm<S, kAdd, true>, padded, allowed_few);
      return launch(Norm<S, kAdd, true>, rows, std::min<int64_t>((padded / 8 + 31) / 32 * 32, kBlockThreads), 1);
    }
    const int warps = WarpsABlock(Norm<S, kAdd, false>, padded, allowed);
    launch(Norm<S, kAdd, false>, (rows + warps - 1) / warps, warps * kWarpThreads, warps);
  });
}

}  // namespace

void RmsNorm(Stream& stream, const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& rstd) {
  LaunchNorm<false>(stream, {}, x, {}, weight, eps, y, rstd);
}

void AddRmsNorm(Stream& stream, const Tensor& delta, const Tensor& residual, const Tensor& sum, const Tensor& weight, double eps,
                const Tensor& y, const Tensor& rstd) {
  LaunchNorm<true>(stream, delta, residual, sum, weight, eps, y, rstd);
}

void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                     const Tensor& dx, bool accumulate, const Tensor& dweight) {
  const int64_t rows = NumRows(x), width = x.dim(-1), padded = (width + 7) / 8 * 8;
  if (rows == 0 || width == 0) return;
  const bool vector = RowsOfEights(dy) && RowsOfEights(x) && RowsOfEights(weight) && RowsOfEights(dx);
  if (x.dtype() == DType::kF32) {
    // First: dx may be dy or x.
    LaunchKernel(stream, static_cast<unsigned>((width + kColumns - 1) / kColumns), kBlockThreads, 0, NormWeightGradient,
                 RowsOnDevice<float>(dy), RowsOnDevice<float>(x), rstd.data<float>(), dweight.data<float>(), rows, width);
    static std::atomic<uint64_t> allowed = 0;
    const int warps = WarpsABlock(NormBackward, 2 * padded, allowed);
    LaunchKernel(stream, static_cast<unsigned>((rows + warps - 1) / warps), static_cast<unsigned>(warps * kWarpThreads),
                 static_cast<size_t>(warps * 2 * padded * 4), NormBackward, RowsOnDevice<float>(dy), RowsOnDevice<float>(x),
                 weight.data<float>(), rstd.data<float>(), RowsOnDevice<float>(dx), accumulate, rows, static_cast<int>(width), vector);
    return;
  }
  CHECK(x.dtype() == DType::kBF16) << "no CUDA kernel for " << Name(x.dtype());
  using S = __nv_bfloat16;
  const Arena::Mark mark = stream.scratch.mark();
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  float* const parts = stream.scratch.New(DType::kF32, {blocks, width}).data<float>();
  const std::optional<NarrowShape> shape = NarrowShapeFor(static_cast<int>(width), accumulate, /*two_blocks=*/blocks > NumMultiprocessors());
  const auto launch = [&](auto* kernel, std::atomic<uint64_t>& allowed) {
    AllowSharedMemory(kernel, kBytesOfOne, allowed);
    const int64_t resident = NumMultiprocessors() * (shape->bytes() <= kBytesOfTwo ? 2 : 1);
    LaunchKernel(stream, static_cast<unsigned>(std::min(blocks, resident)), kBlockThreads, static_cast<size_t>(shape->bytes()), kernel, RowsOnDevice<S>(dy),
                 RowsOnDevice<S>(x), static_cast<const S*>(weight.raw()), rstd.data<float>(), RowsOnDevice<S>(dx), accumulate, parts, rows, *shape);
  };
  static std::atomic<uint64_t> allowed_vector = 0, allowed_scalar = 0;
  if (!shape.has_value()) {
    LaunchKernel(stream, static_cast<unsigned>(blocks), kWarpThreads, 0, NormBackwardWide, RowsOnDevice<S>(dy), RowsOnDevice<S>(x),
                 static_cast<const S*>(weight.raw()), rstd.data<float>(), RowsOnDevice<S>(dx), accumulate, parts, rows, static_cast<int>(width), vector);
  } else {
    vector ? launch(NormBackwardNarrow<true>, allowed_vector) : launch(NormBackwardNarrow<false>, allowed_scalar);
  }
  LaunchKernel(stream, static_cast<unsigned>((width + kColumns - 1) / kColumns), kBlockThreads, 0, AddParts, parts, blocks,
               dweight.data<float>(), width);
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
