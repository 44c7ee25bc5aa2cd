// The register tile of the CPU matrix product: up to 6 rows by NP panels of 16 floats (8 doubles), all of k in one pass.
//
// Each of its elements is one chain c = fma(a[i, k], b[k, j], c) in ascending k, in a register of its own. 6 x 16 floats are 12
// accumulators, two loads of B and one broadcast of A: 15 of AVX2's 16 registers, 12 FMAs for 8 loads a step of k, so that the two
// FMA pipes are the bound. Few rows (decode) take several panels at once, or the FMAs would wait for one another.
#pragma once

#include "kernels/simd.h"

namespace grouper::kernels {

// One register of T.
template <typename T>
struct TileOf;
template <>
struct TileOf<float> {
  using Reg = F32x8;
};
template <>
struct TileOf<double> {
  using Reg = F64x4;
};

template <typename T>
inline constexpr int kRegLanes = 32 / sizeof(T);
template <typename T>
inline constexpr int kPanel = 2 * kRegLanes<T>;  // columns of a panel of packed B
inline constexpr int kTileRows = 6;

#if defined(__AVX2__) && defined(__FMA__)
inline F32x8 FmaReg(F32x8 a, F32x8 b, F32x8 c) { return (F32x8)_mm256_fmadd_ps(a, b, c); }
inline F64x4 FmaReg(F64x4 a, F64x4 b, F64x4 c) { return (F64x4)_mm256_fmadd_pd(a, b, c); }
#else
inline F32x8 FmaReg(F32x8 a, F32x8 b, F32x8 c) { return Fma(Vec<float>{a}, Vec<float>{b}, Vec<float>{c}).v; }
inline F64x4 FmaReg(F64x4 a, F64x4 b, F64x4 c) {
  for (int i = 0; i < 4; ++i) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
}
#endif
inline F32x8 BroadcastReg(float x) { return F32x8{x, x, x, x, x, x, x, x}; }
inline F64x4 BroadcastReg(double x) { return F64x4{x, x, x, x}; }

// kRegLanes values of B in one register; bf16 is widened.
inline F32x8 LoadReg(const float* p) { return Load(p).v; }
inline F32x8 LoadReg(const bf16* p) { return Load(p).v; }
inline F64x4 LoadReg(const double* p) {
  F64x4 r;
  std::memcpy(&r, p, sizeof r);
  return r;
}

// The first `n` lanes of a register: all of it where n is larger, and nothing where it is not positive.
inline F32x8 LoadRegPartial(const float* p, int64_t n) { return n >= 8 ? LoadReg(p) : n > 0 ? LoadPartial(p, n).v : F32x8{}; }
inline F64x4 LoadRegPartial(const double* p, int64_t n) {
  F64x4 r{};
  if (n > 0) std::memcpy(&r, p, sizeof(double) * static_cast<size_t>(n < 4 ? n : 4));
  return r;
}
inline void StoreRegPartial(float* p, F32x8 a, int64_t n) {
  if (n >= 8) return Store(p, {a});
  if (n > 0) StorePartial(p, {a}, n);
}
inline void StoreRegPartial(double* p, F64x4 a, int64_t n) {
  if (n > 0) std::memcpy(p, &a, sizeof(double) * static_cast<size_t>(n < 4 ? n : 4));
}

// What one tile reads and writes. A's element (i, k) is a[i * lda + k] (kRowsA) or a[k * lda + i];
// B's element (k, panel p, j) is b[p * panel_stride + k * ldb + j], of type B: T, or bf16 for float.
// Without initial values: a small product would spend a tenth of its time on them.
template <typename T, typename B>
struct TileArgs {
  int64_t k;
  const T* a;
  int64_t lda;
  const B* b;
  int64_t ldb;
  int64_t panel_stride;  // wide tiles
  T* c;
  int64_t ldc;
  bool accumulate;       // start from C, else from 0
  const T* bias;         // per column, added to the finished chain; null: none
  int64_t columns;       // kEdge: of C
  const char* prefetch;  // kPrefetch: step k asks for the cache line at prefetch + k * prefetch_step
  int64_t prefetch_step;  // bytes
};

// All MR x (NP * kPanel) elements of C; kEdge: the first args.columns columns of them, and nothing beyond those is touched in C or in the
// bias.
template <typename T, typename B, int MR, int NP, bool kRowsA, bool kPrefetch = false, bool kEdge = false>
void Tile(const TileArgs<T, B>& args) {
  using Reg = typename TileOf<T>::Reg;
  constexpr int kRegs = 2 * NP;
  constexpr int kL = kRegLanes<T>;
  const auto load = [&](const T* row, int j) { return kEdge ? LoadRegPartial(row + j * kL, args.columns - j * kL) : LoadReg(row + j * kL); };
  Reg acc[MR][kRegs];
  if (args.accumulate) {
#pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kRegs; ++j) acc[i][j] = load(args.c + i * args.ldc, j);
    }
  } else {
#pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kRegs; ++j) acc[i][j] = Reg{};
    }
  }
  const T* a = args.a;
  const B* b = args.b;
  const int64_t k_end = args.k, lda = args.lda, ldb = args.ldb, panel_stride = args.panel_stride;
#pragma GCC unroll 4
  for (int64_t k = 0; k < k_end; ++k) {
    if constexpr (kPrefetch) __builtin_prefetch(args.prefetch + k * args.prefetch_step, 0, 2);
    // Hold the shorter side in registers: B's row, or for wide tiles A's column.
    if constexpr (NP == 1) {
      Reg row[kRegs];
#pragma GCC unroll 8
      for (int j = 0; j < kRegs; ++j) row[j] = LoadReg(b + j * kL);
#pragma GCC unroll 6
      for (int i = 0; i < MR; ++i) {
        const Reg x = BroadcastReg(a[kRowsA ? i * lda : i]);
#pragma GCC unroll 8
        for (int j = 0; j < kRegs; ++j) acc[i][j] = FmaReg(x, row[j], acc[i][j]);
      }
    } else {
      Reg column[MR];
#pragma GCC unroll 6
      for (int i = 0; i < MR; ++i) column[i] = BroadcastReg(a[kRowsA ? i * lda : i]);
#pragma GCC unroll 8
      for (int j = 0; j < kRegs; ++j) {
        const Reg y = LoadReg(b + (j / 2) * panel_stride + (j % 2) * kL);
#pragma GCC unroll 6
        for (int i = 0; i < MR; ++i) acc[i][j] = FmaReg(column[i], y, acc[i][j]);
      }
    }
    a += kRowsA ? 1 : lda;
    b += ldb;
  }
  if (args.bias != nullptr) {
#pragma GCC unroll 8
    for (int j = 0; j < kRegs; ++j) {
      const Reg bias = load(args.bias, j);
#pragma GCC unroll 6
      for (int i = 0; i < MR; ++i) acc[i][j] += bias;
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < MR; ++i) {
    T* const row = args.c + i * args.ldc;
#pragma GCC unroll 8
    for (int j = 0; j < kRegs; ++j) {
      if constexpr (kEdge) {
        StoreRegPartial(row + j * kL, acc[i][j], args.columns - j * kL);
      } else {
        std::memcpy(row + j * kL, &acc[i][j], sizeof(Reg));
      }
    }
  }
}

}  // namespace grouper::kernels
