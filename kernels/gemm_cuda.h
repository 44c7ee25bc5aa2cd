// The bf16 matrix product on Hopper as the linear layers and gemm.h use it: y[t, n] = sum_k x[t, k] w[n, k] (+
// bias[n]), for every size, stride and orientation. The tile is chosen by size alone; every choice gives the same bits
// (gemm_wgmma.cuh).
#pragma once

#include <cstdint>

#include "common/tensor/stream.h"

namespace grouper::kernels::cuda {

// Rows of k numbers each: element (row, k) at data + row * row_stride + k * k_stride. One of the strides is 1.
struct GemmOperand {
  const void* data = nullptr;
  int64_t rows = 0, row_stride = 0, k_stride = 1, batch_stride = 0;
};

enum class GemmGroups { kNone, kRows, kReduction };  // gemm_wgmma.cuh: Grouping

struct GemmProblem {
  int64_t k = 0, batch = 1;  // batch: independent products; with groups, the number of experts or of pieces, w's (y's) batches
  GemmOperand x, w;          // [t, k] tokens and [n, k] weights
  void* y = nullptr;         // bf16, or float when y_float
  int64_t y_stride = 0, y_batch_stride = 0;
  bool y_float = false;  // kReduction only
  bool accumulate = false;     // the sum starts from y
  const void* bias = nullptr;  // [n] bf16, added after the sum
  // w's rows are a gate's, then as many of up's: silu(gate) * up goes here, bf16 [t, n / 2]; y may be null then. REQUIRES: CanGate.
  void* gated = nullptr;
  int64_t gated_stride = 0;
  // The product is the gradient of silu(gate) * up, gate_up is bf16 [t, 2n], gates before ups: y, likewise [t, 2n], is their gradient. REQUIRES:
  // CanGateGradient.
  const void* gate_up = nullptr;
  int64_t gate_up_stride = 0;
  GemmGroups groups = GemmGroups::kNone;
  const int32_t* offsets = nullptr;  // on the device, [batch + 1]: tokens of expert e
  int64_t chunk = 0;                 // kReduction without offsets: k in pieces of this many, a multiple of 64
};

void GemmBF16(Stream& stream, const GemmProblem& problem);
// Whether a product can be gated while it is stored, and gains by it: so few tokens that a pass of its own would be a launch more, or so many that
// the gate hides behind other tiles' products; weights that are read where they are, features in whole eights, rows of 16 bytes, no bias.
bool CanGate(const GemmProblem& problem);
// The same for its gradient; many tokens only.
bool CanGateGradient(const GemmProblem& problem);

// The same sizes in float: C[m, n] = one ascending chain of fma over k from 0 or from C (+ bias after it), the CPU's
// bits. Float, or bf16 where so marked: an operand is widened as it is read; C is rounded, and with `accumulate` the rounded sum is added to what
// is there and that rounded.
struct GemmF32Problem {
  int64_t batch = 1, m = 0, n = 0, k = 0;
  const void *a = nullptr, *b = nullptr;  // (m, k) at m * a_m + k * a_k, (n, k) at n * b_n + k * b_k
  bool a_bf16 = false, b_bf16 = false, c_bf16 = false;  // REQUIRES: at most one, and no groups
  int64_t a_m = 0, a_k = 1, a_batch = 0, b_n = 0, b_k = 1, b_batch = 0;
  void* c = nullptr;
  int64_t c_m = 0, c_batch = 0;
  bool accumulate = false;
  const float* bias = nullptr;
  GemmGroups groups = GemmGroups::kNone;  // kRows: rows of A and C; kReduction: k
  const int32_t* offsets = nullptr;
  const int32_t* gather = nullptr;  // kRows: row r of A is A[gather[r]]; kReduction: k of B is B[., gather[k]]
};

void GemmF32(Stream& stream, const GemmF32Problem& problem);

}  // namespace grouper::kernels::cuda
