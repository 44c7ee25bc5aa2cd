// RMSNorm (Zhang & Sennrich 2019): y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps), per row.
#pragma once

#include "common/tensor/stream.h"

namespace grouper::kernels {

// x [T, D] or [T, H, D] (each head's slice is a row; q/k norm), rows may be strided; weight [D]; y like x (=; may be x itself);
// rstd [T] or [T * H] float (double for F64), written unless empty: backward needs it.
void RmsNorm(Stream& stream, const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& rstd);

// sum (=) = residual + delta, all [T, D], then y = RmsNorm(sum). One pass for the two ops between blocks. sum may be residual; y may not
// alias.
void AddRmsNorm(Stream& stream, const Tensor& delta, const Tensor& residual, const Tensor& sum, const Tensor& weight, double eps,
                const Tensor& y, const Tensor& rstd);

// With xhat = x * rstd and g = dy * weight: dx (= or +=) rstd * (g - xhat * mean(g * xhat)); dweight [D] += sum over rows, ascending,
// of dy * xhat. x is the forward's input; dx may be dy.
void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dx,
                     bool accumulate, const Tensor& dweight);

}  // namespace grouper::kernels
