// Rows on the device, in the CPU's order (rows.h, simd.h): eight threads share a row, thread l takes elements l, l + 8, ...
// ascending, and sums join in the tree ((0+4)+(2+6)) + ((1+5)+(3+7)). So float and bf16 give the CPU's bits.
//
// Files that include this are compiled with -fmad=false: a * b + c rounds twice, fmaf once.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/cuda_launch.h"
#include "kernels/math.cuh"

namespace grouper::kernels::cuda {

inline constexpr int kRowThreads = 8;  // threads a row
inline constexpr int kBlockThreads = 256;

__device__ __forceinline__ float LoadFloat(const float* p) { return *p; }
__device__ __forceinline__ float LoadFloat(const __nv_bfloat16* p) { return __bfloat162float(*p); }
// What has come from memory together, in registers: pairs are widened at once.
template <int kCount>
__device__ __forceinline__ void LoadFloats(const float (&from)[kCount], float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = from[i];
}
template <int kCount>
__device__ __forceinline__ void LoadFloats(const __nv_bfloat16 (&from)[kCount], float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i + 1 < kCount; i += 2) {
    uint32_t pair;
    memcpy(&pair, from + i, sizeof(pair));
    to[i] = __uint_as_float(pair << 16);
    to[i + 1] = __uint_as_float(pair & 0xffff0000u);
  }
  if constexpr (kCount % 2 == 1) to[kCount - 1] = __bfloat162float(from[kCount - 1]);
}
__device__ __forceinline__ void StoreFloat(float* p, float x) { *p = x; }
__device__ __forceinline__ void StoreFloat(__nv_bfloat16* p, float x) { *p = __float2bfloat16_rn(x); }

// The eight lanes' sum, in every lane.
__device__ __forceinline__ float ReduceLanes(float x) {
  x = __fadd_rn(x, __shfl_xor_sync(~0u, x, 4));
  x = __fadd_rn(x, __shfl_xor_sync(~0u, x, 2));
  return __fadd_rn(x, __shfl_xor_sync(~0u, x, 1));
}

// RowsOf, for kernels: the innermost dimension is the row.
template <typename S>
struct DeviceRows {
  S* data;
  int64_t stride, inner, inner_stride;
  __device__ S* operator[](int64_t row) const {
    if (inner == 1) return data + row * stride;
    const uint32_t r = static_cast<uint32_t>(row), n = static_cast<uint32_t>(inner);  // a 64-bit quotient is much code
    return data + r / n * stride + r % n * inner_stride;
  }
};

template <typename S>
DeviceRows<S> RowsOnDevice(const Tensor& t) {
  CHECK(t.rank() >= 1 && t.rank() <= 3 && (t.rank() < 3 || t.dim(0) * t.dim(1) <= int64_t{UINT32_MAX})) << t.ShapeString();
  return {static_cast<S*>(t.raw()), t.rank() == 1 ? 0 : t.stride(0), t.rank() == 3 ? t.dim(1) : 1,
          t.rank() == 3 ? t.stride(1) : 0};
}

inline int64_t NumRows(const Tensor& t) { return t.rank() == 1 ? 1 : t.rank() == 2 ? t.dim(0) : t.dim(0) * t.dim(1); }

// Calls f with a float or a __nv_bfloat16.
template <typename F>
void ByDeviceStorage(DType dtype, F f) {
  switch (dtype) {
    case DType::kF32: return f(float{});
    case DType::kBF16: return f(__nv_bfloat16{});
    default: break;
  }
  CHECK(false) << "no CUDA kernel for " << Name(dtype);
}

// Blocks for `items` of one thread each; kernels return beyond the last one.
inline unsigned BlocksFor(int64_t items) {
  const int64_t blocks = (items + kBlockThreads - 1) / kBlockThreads;
  CHECK_LE(blocks, int64_t{0x7fffffff});
  return static_cast<unsigned>(blocks);
}
// Enough blocks to fill the device, for kernels that stride over `items`.
inline unsigned FillingBlocks(int64_t items) {
  return std::min(BlocksFor(items), static_cast<unsigned>(NumMultiprocessors() * 8));
}

// A device copy of host values, in the stream's scratch memory (released by the caller's mark).
template <typename T>
T* Staged(Stream& stream, const T* host, int64_t count) {
  const size_t bytes = sizeof(T) * static_cast<size_t>(count);
  T* const device = static_cast<T*>(stream.scratch.Allocate(bytes));
  if (bytes > 0) GROUPER_CUDA_CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, HandleOf(stream)));
  return device;
}

// Eight consecutive elements: one load or store where the address allows (`vector`), `count` of them at a row's end.
template <typename S>
__device__ __forceinline__ void LoadEight(const S* p, int count, bool vector, float v[8]) {
  struct alignas(16) Eight {
    S x[8];
  };
  if (vector) {
    const Eight eight = *reinterpret_cast<const Eight*>(p);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = LoadFloat(eight.x + i);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = i < count ? LoadFloat(p + i) : 0;
}
template <typename S>
__device__ __forceinline__ void StoreEight(S* p, int count, bool vector, const float v[8]) {
  struct alignas(16) Eight {
    S x[8];
  };
  if (vector) {
    Eight eight;
#pragma unroll
    for (int i = 0; i < 8; ++i) StoreFloat(eight.x + i, v[i]);
    *reinterpret_cast<Eight*>(p) = eight;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) StoreFloat(p + i, v[i]);
  }
}

// Whether every row begins at 16 bytes and holds whole eights.
inline bool RowsOfEights(const Tensor& t) {
  if (t.empty()) return true;
  bool whole = reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 && t.dim(-1) % 8 == 0;
  for (int d = 0; d + 1 < t.rank(); ++d) whole = whole && t.stride(d) % 8 == 0;
  return whole;
}

}  // namespace grouper::kernels::cuda
