// The CPU matrix product under gemm.h and linear.h: a list of independent products, cut into blocks for the threads.
//
// S is the storage of A and B (float, double, bf16), T the type of the chain and of C (float, double).
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "common/tensor/stream.h"
#include "kernels/gemm_tile.h"

namespace grouper::kernels {

template <typename S, typename T>
struct Product {
  int64_t m = 0, n = 0, k = 0;
  const S* a = nullptr;  // element (i, kk) at a[row(i) * a_row + kk * a_col]; one of a_row, a_col is 1
  int64_t a_row = 0, a_col = 1;
  const int32_t* a_gather = nullptr;  // row(i) = a_gather[i]; null: i. Needs a_col == 1
  const S* b = nullptr;  // element (kk, j) at b[row(kk) * b_row + j * b_col]; one of b_row, b_col is 1
  int64_t b_row = 0, b_col = 1;
  const int32_t* b_gather = nullptr;  // row(kk) = b_gather[kk]; null: kk. Needs b_col == 1
  const S* b_packed = nullptr;        // all of B in panels over the whole k (packed_matrix.h); then b is not read
  T* c = nullptr;                     // element (i, j) at c[i * c_row + j]
  int64_t c_row = 0;
  bool accumulate = false;
  const T* bias = nullptr;  // [n], added to the finished chain; null: none
};

template <typename S, typename T>
void RunProducts(Stream& stream, absl::Span<const Product<S, T>> products);

}  // namespace grouper::kernels
