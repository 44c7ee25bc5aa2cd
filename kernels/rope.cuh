// Turning pairs of a head (rope.h) on the device.
#pragma once

#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {

// Eight pairs: (a, b) -> (a cos - b sin, b cos + a sin); inverse: sin is negated. All 16-byte aligned; the results may go where the pairs are.
__device__ __forceinline__ void TurnEight(const __nv_bfloat16* first, const __nv_bfloat16* second, const float* cos, const float* sin,
                                          bool inverse, __nv_bfloat16* to_first, __nv_bfloat16* to_second) {
  float a[8], b[8], c[8], s[8], x[8], y[8];
  LoadEight(first, 8, true, a);
  LoadEight(second, 8, true, b);
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    *reinterpret_cast<float4*>(c + i) = *reinterpret_cast<const float4*>(cos + i);
    *reinterpret_cast<float4*>(s + i) = *reinterpret_cast<const float4*>(sin + i);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float turn = inverse ? -s[i] : s[i];
    x[i] = fmaf(a[i], c[i], -(b[i] * turn));
    y[i] = fmaf(b[i], c[i], a[i] * turn);
  }
  StoreEight(to_first, 8, true, x);
  StoreEight(to_second, 8, true, y);
}

}  // namespace grouper::kernels::cuda
