#include "kernels/row_ops_cuda.h"
#include "kernels/rope.cuh"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

// A thread turns one pair: (a, b) -> (a cos - b sin, b cos + a sin); inverse: sin is negated.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    Turn(DeviceRows<S> xs, DeviceRows<S> ys, const int32_t* positions, const float* cos, const float* sin, int64_t cos_stride, int64_t sin_stride,
         int64_t heads, int64_t half, bool interleaved, bool inverse, int64_t pairs) {
  KernelBegin();
  const int64_t pair = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (pair >= pairs) return;
  const int64_t row = pair / half, i = pair % half, position = positions[row / heads];
  const S* const x = xs[row];
  S* const y = ys[row];
  const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
  const float a = LoadFloat(x + first), b = LoadFloat(x + second), c = cos[position * cos_stride + i];
  const float s = inverse ? -sin[position * sin_stride + i] : sin[position * sin_stride + i];
  StoreFloat(y + first, fmaf(a, c, -(b * s)));
  StoreFloat(y + second, fmaf(b, c, a * s));
}

// The same, eight pairs of a half-split head a thread: rows of 16 bytes.
__global__ void __launch_bounds__(kBlockThreads)
    TurnEights(DeviceRows<__nv_bfloat16> xs, DeviceRows<__nv_bfloat16> ys, const int32_t* positions, const float* cos, const float* sin, int64_t cos_stride,
               int64_t sin_stride, int heads, int half, bool inverse, int64_t eights) {
  KernelBegin();
  const int64_t index = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (index >= eights) return;
  const int each = half / 8, i = static_cast<int>(index % each) * 8;
  const int64_t row = index / each, position = positions[row / heads];
  const __nv_bfloat16* const x = xs[row] + i;
  __nv_bfloat16* const y = ys[row] + i;
  TurnEight(x, x + half, cos + position * cos_stride + i, sin + position * sin_stride + i, inverse, y, y + half);
}

bool Fours(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 && t.stride(0) % 4 == 0; }

}  // namespace

void RopeDevice(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse, const Tensor& y) {
  const int64_t half = x.dim(2) / 2, pairs = x.dim(0) * x.dim(1) * half;
  if (pairs == 0) return;
  if (x.dtype() == DType::kBF16 && table.pairing == RopePairing::kHalfSplit && half % 8 == 0 && RowsOfEights(x) && RowsOfEights(y) && Fours(table.cos) &&
      Fours(table.sin)) {
    LaunchKernel(stream, BlocksFor(pairs / 8), kBlockThreads, 0, TurnEights, RowsOnDevice<__nv_bfloat16>(x), RowsOnDevice<__nv_bfloat16>(y), positions,
                 table.cos.data<float>(), table.sin.data<float>(), table.cos.stride(0), table.sin.stride(0), static_cast<int>(x.dim(1)),
                 static_cast<int>(half), inverse, pairs / 8);
    return;
  }
  ByDeviceStorage(x.dtype(), [&](auto s) {
    using S = decltype(s);
    LaunchKernel(stream, BlocksFor(pairs), kBlockThreads, 0, Turn<S>, RowsOnDevice<S>(x), RowsOnDevice<S>(y), positions, table.cos.data<float>(),
                 table.sin.data<float>(), table.cos.stride(0), table.sin.stride(0), x.dim(1), half,
                 table.pairing == RopePairing::kInterleaved, inverse, pairs);
  });
}

void Rope(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse, const Tensor& y) {
  const Arena::Mark mark = stream.scratch.mark();
  RopeDevice(stream, x, Staged(stream, positions, x.dim(0)), table, inverse, y);
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
