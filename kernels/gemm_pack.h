// Packing: copies of parts of A and B in the order in which the tiles (gemm_tile.h) read them, widened to the type T of the chain.
//
//   packed B: panels of kPanel columns; panel p holds [k][kPanel], columns beyond n are 0.
//   rows of A: [rows][ld], k consecutive: a plain copy, for rows that lie badly in memory (power-of-two strides, gathered).
//   panels of A: for each tile of r rows, [k][r]: for A whose rows are consecutive in memory (the transposed operand of dW).
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/gemm_tile.h"
#include "kernels/transpose.h"

namespace grouper::kernels {

template <typename T, typename S>
inline void CopyRow(const S* from, T* to, int64_t n) {
  if (n == 0) return;
  if constexpr (std::is_same_v<S, T>) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  } else {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Store(to + i, Load(from + i));
    for (; i < n; ++i) to[i] = static_cast<T>(from[i]);
  }
}

// One panel of B, columns [0, columns) of `b`, rows [0, k). B's element (kk, j) is b[row(kk) * row_stride + j * col_stride];
// row(kk) = gather[kk], or kk where gather is null.
template <typename T, typename S, int64_t kN = kPanel<T>>
void PackPanelB(const S* b, int64_t row_stride, int64_t col_stride, const int32_t* gather, int64_t k, int64_t columns, T* to) {
  constexpr int64_t kPrefetchRows = 8;
  if (col_stride == 1) {
    for (int64_t kk = 0; kk < k; ++kk, to += kN) {
      const S* row = b + (gather != nullptr ? gather[kk] : kk) * row_stride;
      __builtin_prefetch(row + kPrefetchRows * row_stride);
      if (columns == kN) {
        for (int j = 0; j < kN; j += kLanes) Store(to + j, Load(row + j));
      } else {
        for (int64_t j = 0; j < kN; j += kLanes) {
          const int64_t n = columns - j;
          Store(to + j, n >= kLanes ? Load(row + j) : n > 0 ? LoadPartial(row + j, n) : Vec<Compute<T>>::Zero());
        }
      }
    }
    return;
  }
  // Columns are consecutive in k (a weight [N, K] used as its transpose).
  int64_t kk = 0;
  if (row_stride == 1 && gather == nullptr && columns == kN) {
    for (; kk + 8 <= k; kk += 8) {
      for (int j = 0; j < kN; j += 8) Transpose8x8(b + j * col_stride + kk, col_stride, to + kk * kN + j, kN);
    }
  }
  for (; kk < k; ++kk) {
    const S* row = b + (gather != nullptr ? gather[kk] : kk) * row_stride;
    for (int64_t j = 0; j < kN; ++j) to[kk * kN + j] = j < columns ? static_cast<T>(row[j * col_stride]) : T{0};
  }
}

// Cuts [0, n) into as few parts of at most `most` as possible, as even as possible: 7 rows in tiles of 6 are 4 + 3, because a tile of one
// row is slow.
struct EvenCuts {
  EvenCuts(int64_t n, int64_t most)
      : count(n > most ? (n + most - 1) / most : n > 0), base(count > 1 ? n / count : n), extra(n - base * count) {}
  int64_t begin(int64_t i) const { return i * base + std::min(i, extra); }
  int64_t size(int64_t i) const { return base + (i < extra ? 1 : 0); }
  int64_t count, base, extra;
};

// One tile's panel of A: kRows numbers a step of k.
template <typename T, typename S, int kRows>
void PackPanelA(const S* from, int64_t k_stride, int64_t k, T* to) {
  for (int64_t kk = 0; kk < k; ++kk, to += kRows, from += k_stride) CopyRow(from, to, kRows);
}

// A [rows, k] with rows consecutive in memory (row_stride 1, element (i, kk) at a[i + kk * k_stride]) into panels, one a tile:
// tile t begins at to + begin(t) * k.
template <typename T, typename S>
void PackPanelsA(const S* a, int64_t k_stride, int64_t rows, int64_t k, T* to) {
  static constexpr void (*kPack[kTileRows])(const S*, int64_t, int64_t, T*) = {PackPanelA<T, S, 1>, PackPanelA<T, S, 2>, PackPanelA<T, S, 3>,
                                                                             PackPanelA<T, S, 4>, PackPanelA<T, S, 5>, PackPanelA<T, S, 6>};
  const EvenCuts tiles(rows, kTileRows);
  for (int64_t t = 0; t < tiles.count; ++t) kPack[tiles.size(t) - 1](a + tiles.begin(t), k_stride, k, to + tiles.begin(t) * k);
}

}  // namespace grouper::kernels
