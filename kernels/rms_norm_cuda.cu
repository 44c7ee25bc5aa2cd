#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

// 1 / sqrt(mean(x^2) + eps), in all eight lanes. `delta`: x += delta first. Lanes of no row take part with width 0.
template <typename S, bool kAdd>
__device__ float Rstd(S* x, const S* delta, int64_t width, int64_t divisor, float eps, int lane) {
  float sum = 0;
#pragma unroll 8
  for (int64_t i = lane; i < width; i += kRowThreads) {
    if constexpr (kAdd) StoreFloat(x + i, LoadFloat(x + i) + LoadFloat(delta + i));
    const float v = LoadFloat(x + i);
    sum = fmaf(v, v, sum);
  }
  return 1.0f / sqrtf(ReduceLanes(sum) / static_cast<float>(divisor) + eps);
}

template <typename S, bool kAdd>
__global__ void __launch_bounds__(kBlockThreads) Norm(DeviceRows<S> xs, DeviceRows<S> deltas, const S* weight, float eps,
                                                      DeviceRows<S> ys, float* rstds, int64_t rows, int64_t width) {
  const int64_t row = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) / kRowThreads;
  const int lane = threadIdx.x % kRowThreads;
  const bool mine = row < rows;
  S* const x = mine ? xs[row] : nullptr;
  const float r = Rstd<S, kAdd>(x, mine && kAdd ? deltas[row] : nullptr, mine ? width : 0, width, eps, lane);
  if (!mine) return;
  if (rstds != nullptr && lane == 0) rstds[row] = r;
  S* const y = ys[row];
#pragma unroll 8
  for (int64_t i = lane; i < width; i += kRowThreads) StoreFloat(y + i, LoadFloat(x + i) * r * LoadFloat(weight + i));
}

// dx = rstd * (g - xhat * mean(g * xhat)), g = dy * weight, xhat = x * rstd
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    NormBackward(DeviceRows<S> dys, DeviceRows<S> xs, const S* weight, const float* rstds, DeviceRows<S> dxs, bool accumulate,
                 int64_t rows, int64_t width) {
  const int64_t row = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) / kRowThreads;
  const int lane = threadIdx.x % kRowThreads;
  const bool mine = row < rows;
  const S* const g = mine ? dys[row] : nullptr;
  const S* const x = mine ? xs[row] : nullptr;
  const float r = mine ? rstds[row] : 0;
  float sum = 0;
#pragma unroll 8
  for (int64_t i = lane; mine && i < width; i += kRowThreads)
    sum = fmaf(LoadFloat(g + i) * LoadFloat(weight + i), LoadFloat(x + i) * r, sum);
  const float mean = ReduceLanes(sum) / static_cast<float>(width);
  if (!mine) return;
  S* const out = dxs[row];
#pragma unroll 4
  for (int64_t i = lane; i < width; i += kRowThreads) {
    float d = r * (LoadFloat(g + i) * LoadFloat(weight + i) - LoadFloat(x + i) * r * mean);
    if (accumulate) d = LoadFloat(out + i) + d;
    StoreFloat(out + i, d);
  }
}

// dweight[i] = fma(dy, x * rstd, dweight[i]), rows ascending: one chain a column. A block has 32 columns; its eight warps fetch
// pieces of rows, the first one walks the chains while the next piece is on its way.
constexpr int kColumns = 32, kWarps = kBlockThreads / 32, kRowsAWarp = 16, kPiece = kWarps * kRowsAWarp;

template <typename S>
__global__ void __launch_bounds__(kBlockThreads) NormWeightGradient(DeviceRows<S> dys, DeviceRows<S> xs, const float* rstds,
                                                                    float* dweight, int64_t rows, int64_t width) {
  __shared__ float2 pairs[kPiece][kColumns];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t column = int64_t{blockIdx.x} * kColumns + lane;
  const bool mine = column < width;
  float2 fetched[kRowsAWarp];
  const auto fetch = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kRowsAWarp; ++i) {
      const int64_t row = first + i * kWarps + warp;
      fetched[i] = mine && row < rows ? make_float2(LoadFloat(dys[row] + column), LoadFloat(xs[row] + column) * rstds[row])
                                      : make_float2(0, 0);
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

float* RstdsOf(const Tensor& rstd) { return rstd.empty() ? nullptr : rstd.data<float>(); }

}  // namespace

void RmsNorm(Stream& stream, const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& rstd) {
  const int64_t rows = NumRows(x);
  if (rows == 0) return;
  ByDeviceStorage(x.dtype(), [&](auto s) {
    using S = decltype(s);
    Norm<S, false><<<BlocksFor(rows * kRowThreads), kBlockThreads, 0, HandleOf(stream)>>>(
        RowsOnDevice<S>(x), {}, static_cast<const S*>(weight.raw()), static_cast<float>(eps), RowsOnDevice<S>(y), RstdsOf(rstd),
        rows, x.dim(-1));
  });
  GROUPER_CUDA_LAUNCHED();
}

void AddRmsNorm(Stream& stream, const Tensor& delta, const Tensor& residual, const Tensor& weight, double eps,
                const Tensor& y, const Tensor& rstd) {
  const int64_t rows = NumRows(residual);
  if (rows == 0) return;
  ByDeviceStorage(residual.dtype(), [&](auto s) {
    using S = decltype(s);
    Norm<S, true><<<BlocksFor(rows * kRowThreads), kBlockThreads, 0, HandleOf(stream)>>>(
        RowsOnDevice<S>(residual), RowsOnDevice<S>(delta), static_cast<const S*>(weight.raw()), static_cast<float>(eps),
        RowsOnDevice<S>(y), RstdsOf(rstd), rows, residual.dim(-1));
  });
  GROUPER_CUDA_LAUNCHED();
}

void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                     const Tensor& dx, bool accumulate, const Tensor& dweight) {
  const int64_t rows = NumRows(x), width = x.dim(-1);
  if (rows == 0 || width == 0) return;
  ByDeviceStorage(x.dtype(), [&](auto s) {
    using S = decltype(s);
    // First: dx may be dy or x.
    NormWeightGradient<S><<<static_cast<unsigned>((width + kColumns - 1) / kColumns), kBlockThreads, 0, HandleOf(stream)>>>(
        RowsOnDevice<S>(dy), RowsOnDevice<S>(x), rstd.data<float>(), dweight.data<float>(), rows, width);
    GROUPER_CUDA_LAUNCHED();
    NormBackward<S><<<BlocksFor(rows * kRowThreads), kBlockThreads, 0, HandleOf(stream)>>>(
        RowsOnDevice<S>(dy), RowsOnDevice<S>(x), static_cast<const S*>(weight.raw()), rstd.data<float>(), RowsOnDevice<S>(dx),
        accumulate, rows, width);
  });
  GROUPER_CUDA_LAUNCHED();
}

}  // namespace grouper::kernels::cuda
