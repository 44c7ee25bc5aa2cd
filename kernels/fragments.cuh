// What turns accumulator fragments into what memory wants, and back.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace grouper::kernels::cuda {

// Two bf16 of one register; PackBF16 (hopper.cuh) backwards.
__device__ __forceinline__ float2 UnpackBF16(uint32_t pair) { return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair)); }

// Lane q of each quad gives its register i to lane i and gets that lane's register q.
__device__ __forceinline__ void TransposeQuad(uint32_t (&r)[4], int lane) {
  const bool odd = lane & 1, high = lane & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(0xffffffff, odd ? r[i] : r[i + 1], 1);
    r[i] = odd ? got : r[i];
    r[i + 1] = odd ? r[i + 1] : got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(0xffffffff, high ? r[i] : r[i + 2], 2);
    r[i] = high ? got : r[i];
    r[i + 2] = high ? r[i + 2] : got;
  }
}

}  // namespace grouper::kernels::cuda
