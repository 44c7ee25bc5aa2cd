// The few element-wise ops that no other op absorbs.
#pragma once

#include "common/tensor/stream.h"

namespace grouper::kernels {

void Add(Stream& stream, const Tensor& x, const Tensor& y);   // y += x, same shape [T, D]
void Copy(Stream& stream, const Tensor& x, const Tensor& y);  // y = x, converting dtype; same shape, rows may be strided
void Fill(Stream& stream, const Tensor& y, double value);
// y [T, n] (=) = sum_h x[:, h, :] of x [T, H, n], H >= 1, one type: a chain over the heads, ascending, rounded once. Rows may be strided.
void SumHeads(Stream& stream, const Tensor& x, const Tensor& y);

// rows [R] int32 on the stream's device, not checked. `all` [T, D] and `some` [R, D] contiguous, of one type.
void GatherRows(Stream& stream, const Tensor& all, const Tensor& rows, const Tensor& some);   // some[i] = all[rows[i]]
void ScatterRows(Stream& stream, const Tensor& some, const Tensor& rows, const Tensor& all);  // all[rows[i]] = some[i], rows distinct

}  // namespace grouper::kernels
