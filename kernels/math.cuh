// math.h's functions on the device: the same bits as the CPU's, step by step (simd.h), with every operation spelled so
// that the compiler fuses nothing.
#pragma once

#include "kernels/hopper.cuh"

namespace grouper::kernels::cuda {

// exp(x) = 2^n p, n = round(x / ln 2), p = exp(x - n ln 2), ln 2 in two parts. `bits`: n added to 2^23 + 2^22 as a float.
struct ExpParts {
  float p;  // about [0.7, 1.42]
  unsigned bits;
};
__device__ __forceinline__ ExpParts PartsOfExp(float x) {
  const float shifted = __fmaf_rn(x, 1.44269504088896341f, 12582912.0f);
  const float n = __fsub_rn(shifted, 12582912.0f);
  float r = __fmaf_rn(n, -0.693359375f, x);
  r = __fmaf_rn(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = __fmaf_rn(p, r, 1.3981999507e-3f);
  p = __fmaf_rn(p, r, 8.3334519073e-3f);
  p = __fmaf_rn(p, r, 4.1665795894e-2f);
  p = __fmaf_rn(p, r, 1.6666665459e-1f);
  p = __fmaf_rn(p, r, 5.0000001201e-1f);
  return {__fadd_rn(__fmaf_rn(p, __fmul_rn(r, r), r), 1.0f), __float_as_uint(shifted)};
}

// 2^n in two factors.
__device__ __forceinline__ float Exp(float x) {
  x = 89.0f < x ? 89.0f : x;  // NaN passes through
  x = -105.0f > x ? -105.0f : x;
  const ExpParts parts = PartsOfExp(x);
  const int exponent = static_cast<int>(parts.bits - __float_as_uint(12582912.0f)), half = exponent >> 1;
  return __fmul_rn(__fmul_rn(parts.p, __int_as_float((half + 127) << 23)), __int_as_float((exponent - half + 127) << 23));
}

// Exp for x <= 0 or NaN, in fewer instructions: 2^n is 2^(n + 64) 2^-64, of which the first product is exact. The shift leaves nothing of
// `bits` but n.
__device__ __forceinline__ float ExpUpToZero(float x) {
  const ExpParts parts = PartsOfExp(-105.0f > x ? -105.0f : x);
  return __fmul_rn(__fmul_rn(parts.p, __uint_as_float((parts.bits << 23) + ((64u + 127u) << 23))), 0x1p-64f);
}

// Exp for kLeastNormalExp <= x <= 0, in still fewer: the result is a normal number, and n is added to p's exponent.
inline constexpr float kLeastNormalExp = -87.0f;
__device__ __forceinline__ float ExpNormal(float x) {
  const ExpParts parts = PartsOfExp(x);
  return __uint_as_float((parts.bits << 23) + __float_as_uint(parts.p));
}

// log(x) = e ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
__device__ __forceinline__ float Log(float x) {
  const bool tiny = x < 1.17549435e-38f;  // subnormal, zero or negative
  const float scaled = tiny ? __fmul_rn(x, 33554432.0f) : x;
  const int bits = __float_as_int(scaled);
  const int e = static_cast<int>(static_cast<unsigned>(bits) - 0x3f3504f3u) >> 23;
  const float f = __fsub_rn(__uint_as_float(static_cast<unsigned>(bits) - (static_cast<unsigned>(e) << 23)), 1.0f);
  const float exponent = static_cast<float>(e - (tiny ? 25 : 0));
  const float z = __fmul_rn(f, f);
  float p = 7.0376836292e-2f;
  p = __fmaf_rn(p, f, -1.1514610310e-1f);
  p = __fmaf_rn(p, f, 1.1676998740e-1f);
  p = __fmaf_rn(p, f, -1.2420140846e-1f);
  p = __fmaf_rn(p, f, 1.4249322787e-1f);
  p = __fmaf_rn(p, f, -1.6668057665e-1f);
  p = __fmaf_rn(p, f, 2.0000714765e-1f);
  p = __fmaf_rn(p, f, -2.4999993993e-1f);
  p = __fmaf_rn(p, f, 3.3333331174e-1f);
  float y = __fmul_rn(__fmul_rn(p, f), z);
  y = __fmaf_rn(exponent, -2.12194440e-4f, y);
  y = __fmaf_rn(z, -0.5f, y);
  float result = __fmaf_rn(exponent, 0.693359375f, __fadd_rn(f, y));
  result = x == __int_as_float(0x7f800000) ? x : result;
  result = x == 0.0f ? __int_as_float(static_cast<int>(0xff800000)) : result;
  return x >= 0.0f ? result : __int_as_float(0x7fc00000);
}

// log(1 + x) = log(u) + (x - (u - 1)) / u with u = fl(1 + x).
__device__ __forceinline__ float Log1p(float x) {
  const float u = __fadd_rn(1.0f, x), log_u = Log(u);
  const float corrected = __fadd_rn(log_u, __fdiv_rn(__fsub_rn(x, __fsub_rn(u, 1.0f)), u));
  return u > 0.0f && u < __int_as_float(0x7f800000) ? corrected : log_u;
}

// n / (1 + e) for 0 <= e <= 1 and n one of e and 1, or NaN: __fdiv_rn's steps for ordinary numbers, whose branch for others keeps a thread's
// divisions apart. Where e is so small that it would need that branch, 1 + e is 1 and all steps are exact. (It depends on what the hardware's
// reciprocal is: on an H100 all e in [0, 1] with both n were compared with __fdiv_rn, and Sigmoid for all floats. None differed.)
__device__ __forceinline__ float DivideByOneAnd(float e, float n) {
  const float d = __fadd_rn(1.0f, e), near = NearReciprocal(d), r = __fmaf_rn(near, __fmaf_rn(-d, near, 1.0f), near);
  float q = __fmul_rn(n, r);
  q = __fmaf_rn(r, __fmaf_rn(-d, q, n), q);
  return __fmaf_rn(r, __fmaf_rn(-d, q, n), q);
}

// e = exp(-|x|);  x >= 0: 1 / (1 + e), else e / (1 + e).
__device__ __forceinline__ float Sigmoid(float x) {
  const float e = ExpUpToZero(__int_as_float(__float_as_int(x) | static_cast<int>(0x80000000)));
  return DivideByOneAnd(e, x < 0.0f ? e : 1.0f);
}

// silu(gate) * up, and its gradients for dy (kernels/swiglu.h).
__device__ __forceinline__ float Gated(float gate, float up) { return __fmul_rn(__fmul_rn(gate, Sigmoid(gate)), up); }
struct GateGradient {
  float gate, up;
};
__device__ __forceinline__ GateGradient GateGradientOf(float dy, float gate, float up) {
  const float s = Sigmoid(gate);
  return {__fmul_rn(__fmul_rn(__fmul_rn(dy, up), s), __fmaf_rn(gate, __fsub_rn(1.0f, s), 1.0f)), __fmul_rn(dy, __fmul_rn(gate, s))};
}

}  // namespace grouper::kernels::cuda
