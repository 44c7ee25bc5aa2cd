// AdamW (Loshchilov & Hutter 2019, algorithm 2 with decoupled decay), and the global gradient norm.
#pragma once

#include <vector>

#include "common/tensor/stream.h"

namespace grouper::kernels {

struct AdamWParams {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;         // 1-based, for the bias corrections
  double gradient_scale = 1;  // multiplies the gradient first (clipping)
};

// Element-wise, in place: master [n] float, m, v [n] float, gradient [n] float (on a device BF16 too); weight [n] (F32: may be master itself; BF16: rounded
// copy of master). F64 tensors throughout are allowed for tests.
//   g = gradient * gradient_scale;  m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2
//   master -= lr * (m / (1-beta1^step) / (sqrt(v / (1-beta2^step)) + eps) + weight_decay * master)
void AdamW(Stream& stream, const AdamWParams& params, const Tensor& gradient, const Tensor& m, const Tensor& v,
           const Tensor& master, const Tensor& weight);

// The same for many tensors at once, each with its own weight decay instead of params.weight_decay. On a device one launch does all.
struct AdamWTensors {
  Tensor gradient, m, v, master, weight;
  double weight_decay = 0;
};
void AdamW(Stream& stream, const AdamWParams& params, const std::vector<AdamWTensors>& tensors);

// Sum of squares in double, in fixed chunks of 4096 elements of the logical tensor, chunks added in order: independent of threads.
// NaN or Inf anywhere makes the result non-finite.
double SumOfSquares(Stream& stream, const Tensor& gradient);
// The tensors' sums, added in order. On a device one launch, and one wait, does all.
double SumOfSquares(Stream& stream, const std::vector<Tensor>& gradients);

}  // namespace grouper::kernels
