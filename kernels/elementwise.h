// The few element-wise ops that no other op absorbs.
#pragma once

#include "common/tensor/stream.h"

namespace grouper::kernels {

void Add(Stream& stream, const Tensor& x, const Tensor& y);   // y += x, same shape [T, D]
void Copy(Stream& stream, const Tensor& x, const Tensor& y);  // y = x, converting dtype; same shape, rows may be strided
void Fill(Stream& stream, const Tensor& y, double value);

}  // namespace grouper::kernels
