// The words of CUDA C++ for a C++ compiler, included before every .cu file of an emulated build (emulator.h).
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/emulator/emulator.h"

#undef __device__
#undef __forceinline__
#undef __global__
#undef __grid_constant__
#undef __host__
#undef __launch_bounds__
#undef __shared__
#undef __align__
#define __device__
#define __forceinline__ inline
#define __global__
#define __grid_constant__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static  // blocks follow one another; kernels of clusters have dynamic memory alone
#define __align__(...)
#define GROUPER_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(static_cast<void*>(::grouper::emulator::SharedMemory()))

#define threadIdx (::grouper::emulator::place->thread)
#define blockIdx (::grouper::emulator::place->block)
#define blockDim (::grouper::emulator::place->block_dim)
#define gridDim (::grouper::emulator::place->grid_dim)

// --- warps ------------------------------------------------------------------------------

inline void __syncthreads() { grouper::emulator::BlockBarrier(); }
inline void __syncwarp(unsigned mask = ~0u) { grouper::emulator::WarpBarrier(mask); }

namespace grouper::emulator {

inline int Lane() { return static_cast<int>(place->thread.x % 32); }

template <typename T>
uint64_t ToBits(T x) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof(T));
  return bits;
}
template <typename T>
T FromBits(uint64_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof(T));
  return x;
}

template <typename T>
T Shuffle(unsigned mask, T x, int from) {
  return FromBits<T>(Exchange(ToBits(x), mask)[from & 31]);
}

template <typename T, typename F>
T Reduce(unsigned mask, T x, F f) {
  const uint64_t* const all = Exchange(ToBits(x), mask);
  bool any = false;
  T result = {};
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const T y = FromBits<T>(all[lane]);
    result = any ? f(result, y) : y;
    any = true;
  }
  return result;
}

}  // namespace grouper::emulator

template <typename T>
T __shfl_sync(unsigned mask, T x, int from, int width = 32) {
  const int lane = grouper::emulator::Lane();
  return grouper::emulator::Shuffle(mask, x, lane / width * width + from % width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T x, int with) {
  return grouper::emulator::Shuffle(mask, x, grouper::emulator::Lane() ^ with);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T x, unsigned by) {
  const int lane = grouper::emulator::Lane(), from = lane - static_cast<int>(by);
  return grouper::emulator::Shuffle(mask, x, from < 0 ? lane : from);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* const all = grouper::emulator::Exchange(predicate != 0, mask);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= (mask >> lane & 1) != 0 && all[lane] != 0 ? 1u << lane : 0u;
  return bits;
}
template <typename T>
T __reduce_max_sync(unsigned mask, T x) {
  return grouper::emulator::Reduce(mask, x, [](T a, T b) { return a < b ? b : a; });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T x) {
  return grouper::emulator::Reduce(mask, x, [](T a, T b) { return b < a ? b : a; });
}
template <typename T>
T __reduce_add_sync(unsigned mask, T x) {
  return grouper::emulator::Reduce(mask, x, [](T a, T b) { return a + b; });
}

// --- arithmetic (the build forbids the compiler to fuse) --------------------------------------

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ull2double_rn(unsigned long long a) { return static_cast<double>(a); }
inline unsigned long long __float2ull_rz(float a) { return static_cast<unsigned long long>(a); }
inline unsigned long long __double2ull_rz(double a) { return static_cast<unsigned long long>(a); }

inline float __int_as_float(int a) { return std::bit_cast<float>(a); }
inline float __uint_as_float(unsigned a) { return std::bit_cast<float>(a); }
inline int __float_as_int(float a) { return std::bit_cast<int>(a); }
inline unsigned __float_as_uint(float a) { return std::bit_cast<unsigned>(a); }

inline int __ffs(int a) { return a == 0 ? 0 : std::countr_zero(static_cast<unsigned>(a)) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __popc(unsigned a) { return std::popcount(a); }
inline int __clz(int a) { return std::countl_zero(static_cast<unsigned>(a)); }

// --- memory -----------------------------------------------------------------------------------------

template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T x) {
  *p = x;
}
template <typename T>
T atomicAdd(T* p, T x) {
  return __atomic_fetch_add(p, x, __ATOMIC_RELAXED);
}

[[noreturn]] inline void __trap() { __builtin_trap(); }
