// Eight lanes of float or double, and the elementary functions on them, with the same bits on every machine.
//
//   using T = Compute<S>;                        // S: float, double or bf16 storage; T: what it computes in
//   Vec<T> sum = Vec<T>::Zero();
//   int64_t i = 0;
//   for (; i + kLanes <= n; i += kLanes) sum = Fma(Load(x + i), Load(x + i), sum);
//   if (i < n) { Vec<T> v = LoadPartial(x + i, n - i); sum = Fma(v, v, sum); }   // lanes beyond n are 0
//   T total = ReduceAdd(sum);                    // the fixed tree of kernels/README.md
//
// Arithmetic is IEEE per lane and nothing is contracted: a * b + c rounds twice, Fma(a, b, c) once. GCC's and Clang's vector
// extensions do the work; the few intrinsics have a portable form with the same bits beside them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

#include "common/base/bf16.h"

namespace grouper::kernels {

inline constexpr int kLanes = 8;

typedef float F32x8 __attribute__((vector_size(32)));
typedef int32_t I32x8 __attribute__((vector_size(32)));
typedef uint32_t U32x8 __attribute__((vector_size(32)));
typedef double F64x4 __attribute__((vector_size(32)));

template <typename T>
struct Vec;

template <>
struct Vec<float> {
  F32x8 v;
  static Vec Zero() { return {F32x8{}}; }
  static Vec Broadcast(float x) { return {F32x8{x, x, x, x, x, x, x, x}}; }
  float operator[](int lane) const { return v[lane]; }
};

template <>
struct Vec<double> {
  F64x4 lo, hi;
  static Vec Zero() { return {F64x4{}, F64x4{}}; }
  static Vec Broadcast(double x) { return {F64x4{x, x, x, x}, F64x4{x, x, x, x}}; }
  double operator[](int lane) const { return lane < 4 ? lo[lane] : hi[lane - 4]; }
};

// The type in which an op on storage type S computes.
template <typename S>
struct ComputeOf {
  using type = S;
};
template <>
struct ComputeOf<bf16> {
  using type = float;
};
template <typename S>
using Compute = typename ComputeOf<S>::type;

// --- arithmetic --------------------------------------------------------------
inline Vec<float> operator+(Vec<float> a, Vec<float> b) { return {a.v + b.v}; }
inline Vec<float> operator-(Vec<float> a, Vec<float> b) { return {a.v - b.v}; }
inline Vec<float> operator*(Vec<float> a, Vec<float> b) { return {a.v * b.v}; }
inline Vec<float> operator/(Vec<float> a, Vec<float> b) { return {a.v / b.v}; }
inline Vec<float> operator-(Vec<float> a) { return {-a.v}; }
inline Vec<double> operator+(Vec<double> a, Vec<double> b) { return {a.lo + b.lo, a.hi + b.hi}; }
inline Vec<double> operator-(Vec<double> a, Vec<double> b) { return {a.lo - b.lo, a.hi - b.hi}; }
inline Vec<double> operator*(Vec<double> a, Vec<double> b) { return {a.lo * b.lo, a.hi * b.hi}; }
inline Vec<double> operator/(Vec<double> a, Vec<double> b) { return {a.lo / b.lo, a.hi / b.hi}; }
inline Vec<double> operator-(Vec<double> a) { return {-a.lo, -a.hi}; }

// a * b + c with one rounding.  Max(a, b) = a > b ? a : b and Min(a, b) = a < b ? a : b per lane: a NaN in a or b gives b.
#if defined(__AVX2__) && defined(__FMA__)
inline Vec<float> Fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {(F32x8)_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec<double> Fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {(F64x4)_mm256_fmadd_pd(a.lo, b.lo, c.lo), (F64x4)_mm256_fmadd_pd(a.hi, b.hi, c.hi)};
}
inline Vec<float> Max(Vec<float> a, Vec<float> b) { return {(F32x8)_mm256_max_ps(a.v, b.v)}; }
inline Vec<float> Min(Vec<float> a, Vec<float> b) { return {(F32x8)_mm256_min_ps(a.v, b.v)}; }
inline Vec<double> Max(Vec<double> a, Vec<double> b) {
  return {(F64x4)_mm256_max_pd(a.lo, b.lo), (F64x4)_mm256_max_pd(a.hi, b.hi)};
}
inline Vec<float> Sqrt(Vec<float> a) { return {(F32x8)_mm256_sqrt_ps(a.v)}; }
inline Vec<double> Sqrt(Vec<double> a) { return {(F64x4)_mm256_sqrt_pd(a.lo), (F64x4)_mm256_sqrt_pd(a.hi)}; }
#else
inline Vec<float> Fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  for (int i = 0; i < 8; ++i) c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
  return c;
}
inline Vec<double> Fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  for (int i = 0; i < 4; ++i) {
    c.lo[i] = std::fma(a.lo[i], b.lo[i], c.lo[i]);
    c.hi[i] = std::fma(a.hi[i], b.hi[i], c.hi[i]);
  }
  return c;
}
inline Vec<float> Max(Vec<float> a, Vec<float> b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec<float> Min(Vec<float> a, Vec<float> b) { return {a.v < b.v ? a.v : b.v}; }
inline Vec<double> Max(Vec<double> a, Vec<double> b) { return {a.lo > b.lo ? a.lo : b.lo, a.hi > b.hi ? a.hi : b.hi}; }
inline Vec<float> Sqrt(Vec<float> a) {
  for (int i = 0; i < 8; ++i) a.v[i] = std::sqrt(a.v[i]);
  return a;
}
inline Vec<double> Sqrt(Vec<double> a) {
  for (int i = 0; i < 4; ++i) a.lo[i] = std::sqrt(a.lo[i]), a.hi[i] = std::sqrt(a.hi[i]);
  return a;
}
#endif

// a > b ? x : y per lane (false where either is NaN).
inline Vec<float> SelectGreater(Vec<float> a, Vec<float> b, Vec<float> x, Vec<float> y) {
  return {a.v > b.v ? x.v : y.v};
}
inline Vec<double> SelectGreater(Vec<double> a, Vec<double> b, Vec<double> x, Vec<double> y) {
  return {a.lo > b.lo ? x.lo : y.lo, a.hi > b.hi ? x.hi : y.hi};
}

// --- reductions: the fixed tree ((0+4)+(2+6)) + ((1+5)+(3+7)) -------------------
inline float ReduceAdd(Vec<float> a) {
  const float s0 = a.v[0] + a.v[4], s1 = a.v[1] + a.v[5], s2 = a.v[2] + a.v[6], s3 = a.v[3] + a.v[7];
  return (s0 + s2) + (s1 + s3);
}
inline double ReduceAdd(Vec<double> a) {
  const F64x4 s = a.lo + a.hi;
  return (s[0] + s[2]) + (s[1] + s[3]);
}
inline float ReduceMax(Vec<float> a) {
  float m = a.v[0];
  for (int i = 1; i < 8; ++i) m = a.v[i] > m ? a.v[i] : m;
  return m;
}
inline double ReduceMax(Vec<double> a) {
  double m = a.lo[0];
  for (int i = 1; i < 8; ++i) m = a[i] > m ? a[i] : m;
  return m;
}

// --- memory: unaligned; Partial touches n <= 8 elements only, and loads 0 into the other lanes --------------------------
inline Vec<float> Load(const float* p) {
  Vec<float> r;
  std::memcpy(&r.v, p, sizeof r.v);
  return r;
}
inline Vec<double> Load(const double* p) {
  Vec<double> r;
  std::memcpy(&r.lo, p, sizeof r.lo);
  std::memcpy(&r.hi, p + 4, sizeof r.hi);
  return r;
}
inline Vec<float> Load(const bf16* p) {
  typedef uint16_t U16x8 __attribute__((vector_size(16)));
  U16x8 bits;
  std::memcpy(&bits, p, sizeof bits);
  return {(F32x8)(__builtin_convertvector(bits, U32x8) << 16)};
}

inline void Store(float* p, Vec<float> a) { std::memcpy(p, &a.v, sizeof a.v); }
inline void Store(double* p, Vec<double> a) {
  std::memcpy(p, &a.lo, sizeof a.lo);
  std::memcpy(p + 4, &a.hi, sizeof a.hi);
}
// Rounds to nearest even, NaN stays NaN: bf16(float) per lane.
inline void Store(bf16* p, Vec<float> a) {
  typedef uint16_t U16x8 __attribute__((vector_size(16)));
  const U32x8 u = (U32x8)a.v;
  const U32x8 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const U32x8 quiet = (u >> 16) | 0x40u;
  const U16x8 bits = __builtin_convertvector((U32x8)(a.v == a.v ? (I32x8)rounded : (I32x8)quiet), U16x8);
  std::memcpy(static_cast<void*>(p), &bits, sizeof bits);
}

#if defined(__AVX2__) && defined(__FMA__)
inline __m256i LaneMask(int64_t n) {
  alignas(32) static constexpr int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - n));
}
inline Vec<float> LoadPartial(const float* p, int64_t n) { return {(F32x8)_mm256_maskload_ps(p, LaneMask(n))}; }
// In pieces of 4, 2 and 1: weight gradients of rows of 31 took twice as long with AMD's masked store.
inline void StorePartial(float* p, Vec<float> a, int64_t n) {
  if (n == kLanes) return Store(p, a);
  __m128 piece = _mm256_castps256_ps128(a.v);
  if (n & 4) {
    _mm_storeu_ps(p, piece);
    p += 4;
    piece = _mm256_extractf128_ps(a.v, 1);
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), piece);
    p += 2;
    piece = _mm_movehl_ps(piece, piece);
  }
  if (n & 1) _mm_store_ss(p, piece);
}
#else
inline Vec<float> LoadPartial(const float* p, int64_t n) {
  float buffer[8] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return Load(buffer);
}
inline void StorePartial(float* p, Vec<float> a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
#endif
inline Vec<double> LoadPartial(const double* p, int64_t n) {
  double buffer[8] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return Load(buffer);
}
inline Vec<float> LoadPartial(const bf16* p, int64_t n) {
  bf16 buffer[8] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return Load(buffer);
}
inline void StorePartial(double* p, Vec<double> a, int64_t n) {
  double buffer[8];
  Store(buffer, a);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}
inline void StorePartial(bf16* p, Vec<float> a, int64_t n) {
  bf16 buffer[8];
  Store(buffer, a);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

// Lanes [n, 8) replaced by `fill` (before a maximum over a partial vector, say).
inline Vec<float> FillTail(Vec<float> a, int64_t n, float fill) {
  const I32x8 lane = {0, 1, 2, 3, 4, 5, 6, 7};
  return {lane < static_cast<int32_t>(n) ? a.v : Vec<float>::Broadcast(fill).v};
}
inline Vec<double> FillTail(Vec<double> a, int64_t n, double fill) {
  double buffer[8];
  Store(buffer, a);
  for (int64_t i = n; i < 8; ++i) buffer[i] = fill;
  return Load(buffer);
}

// --- elementary functions (errors: math.h) -----------------------------------------------------------------------------
// exp(x) = 2^n exp(r), n = round(x / ln 2), r = x - n ln 2 in two parts, exp(r) by Cephes' polynomial; 2^n in two factors so that
// subnormal results round once.
inline Vec<float> Exp(Vec<float> x) {
  using V = Vec<float>;
  x = Min(V::Broadcast(89.0f), x);  // NaN passes through
  x = Max(V::Broadcast(-105.0f), x);
  const V magic = V::Broadcast(12582912.0f);  // 1.5 * 2^23: the low bits of the sum hold n
  const V shifted = Fma(x, V::Broadcast(1.44269504088896341f), magic);
  const V n = shifted - magic;
  V r = Fma(n, V::Broadcast(-0.693359375f), x);
  r = Fma(n, V::Broadcast(2.12194440e-4f), r);
  V p = V::Broadcast(1.9875691500e-4f);
  p = Fma(p, r, V::Broadcast(1.3981999507e-3f));
  p = Fma(p, r, V::Broadcast(8.3334519073e-3f));
  p = Fma(p, r, V::Broadcast(4.1665795894e-2f));
  p = Fma(p, r, V::Broadcast(1.6666665459e-1f));
  p = Fma(p, r, V::Broadcast(5.0000001201e-1f));
  p = Fma(p, r * r, r) + V::Broadcast(1.0f);
  const I32x8 exponent = (I32x8)(U32x8)((U32x8)shifted.v - (U32x8)magic.v);
  const I32x8 half = exponent >> 1;
  const V scale1 = {(F32x8)((half + 127) << 23)};
  const V scale2 = {(F32x8)((exponent - half + 127) << 23)};
  return (p * scale1) * scale2;
}

// log(x) = e ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)), by Cephes' polynomial.
inline Vec<float> Log(Vec<float> x) {
  using V = Vec<float>;
  const V infinity = V::Broadcast(__builtin_inff());
  const I32x8 tiny = x.v < 1.17549435e-38f;  // subnormal, zero or negative
  const V scaled = {tiny ? x.v * 33554432.0f : x.v};
  const I32x8 bits = (I32x8)scaled.v;
  const I32x8 e = (I32x8)((U32x8)bits - 0x3f3504f3u) >> 23;
  const V f = V{(F32x8)(I32x8)((U32x8)bits - ((U32x8)e << 23))} - V::Broadcast(1.0f);
  const V exponent = {__builtin_convertvector(e - (tiny & 25), F32x8)};
  const V z = f * f;
  V p = V::Broadcast(7.0376836292e-2f);
  p = Fma(p, f, V::Broadcast(-1.1514610310e-1f));
  p = Fma(p, f, V::Broadcast(1.1676998740e-1f));
  p = Fma(p, f, V::Broadcast(-1.2420140846e-1f));
  p = Fma(p, f, V::Broadcast(1.4249322787e-1f));
  p = Fma(p, f, V::Broadcast(-1.6668057665e-1f));
  p = Fma(p, f, V::Broadcast(2.0000714765e-1f));
  p = Fma(p, f, V::Broadcast(-2.4999993993e-1f));
  p = Fma(p, f, V::Broadcast(3.3333331174e-1f));
  V y = p * f * z;
  y = Fma(exponent, V::Broadcast(-2.12194440e-4f), y);
  y = Fma(z, V::Broadcast(-0.5f), y);
  V result = Fma(exponent, V::Broadcast(0.693359375f), f + y);
  result.v = x.v == infinity.v ? infinity.v : result.v;
  result.v = x.v == 0.0f ? -infinity.v : result.v;
  result.v = x.v >= 0.0f ? result.v : V::Broadcast(__builtin_nanf("")).v;
  return result;
}

// log(1 + x) = log(u) + (x - (u - 1)) / u with u = fl(1 + x).
inline Vec<float> Log1p(Vec<float> x) {
  using V = Vec<float>;
  const V one = V::Broadcast(1.0f);
  const V u = one + x;
  const V log_u = Log(u);
  const V corrected = log_u + (x - (u - one)) / u;
  const I32x8 regular = (u.v > 0.0f) & (u.v < __builtin_inff());
  return {regular ? corrected.v : log_u.v};
}

// e = exp(-|x|);  x >= 0: 1 / (1 + e), else e / (1 + e).
inline Vec<float> Sigmoid(Vec<float> x) {
  using V = Vec<float>;
  const V one = V::Broadcast(1.0f);
  const V e = Exp(V{(F32x8)((I32x8)x.v | INT32_MIN)});
  const V numerator = {x.v < 0.0f ? e.v : one.v};
  return numerator / (one + e);
}

inline Vec<double> Exp(Vec<double> x) {
  for (int i = 0; i < 4; ++i) x.lo[i] = std::exp(x.lo[i]), x.hi[i] = std::exp(x.hi[i]);
  return x;
}
inline Vec<double> Log(Vec<double> x) {
  for (int i = 0; i < 4; ++i) x.lo[i] = std::log(x.lo[i]), x.hi[i] = std::log(x.hi[i]);
  return x;
}
inline Vec<double> Log1p(Vec<double> x) {
  for (int i = 0; i < 4; ++i) x.lo[i] = std::log1p(x.lo[i]), x.hi[i] = std::log1p(x.hi[i]);
  return x;
}
inline Vec<double> Sigmoid(Vec<double> x) {
  for (int i = 0; i < 4; ++i) x.lo[i] = 1 / (1 + std::exp(-x.lo[i])), x.hi[i] = 1 / (1 + std::exp(-x.hi[i]));
  return x;
}

template <typename T>
inline Vec<T> Silu(Vec<T> x) {
  return x * Sigmoid(x);
}

}  // namespace grouper::kernels
