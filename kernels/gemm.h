// General matrix products with the ascending-chain contract (kernels/README.md). The linear layers in linear.h are built on this.
//
//   C[m, n] = fma(A[m, K-1], B[K-1, n], ... fma(A[m, 0], B[0, n], c0)),   c0 = accumulate ? C[m, n] : 0
//
// One batch index b runs over independent products (heads, experts).
#pragma once

#include "common/tensor/stream.h"

namespace grouper::kernels {

// A matrix in memory: element (i, j) is at data[i * row_stride + j * col_stride], in elements. One of the strides is 1 (or the
// dimension has length 1).
struct MatrixRef {
  void* data = nullptr;
  int64_t row_stride = 0, col_stride = 1;
  int64_t batch_stride = 0;
};

struct GemmParams {
  int64_t batch = 1, m = 0, n = 0, k = 0;
  MatrixRef a;  // [m, k]
  MatrixRef b;  // [k, n]
  MatrixRef c;  // [m, n], col_stride 1
  DType dtype = DType::kF32;  // of A, B and C. BF16: float accumulation, one rounding at the end; accumulate adds in float
  bool accumulate = false;
};

void Gemm(Stream& stream, const GemmParams& params);

}  // namespace grouper::kernels
