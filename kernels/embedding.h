// Token embedding: out[t] = table[ids[t]].
#pragma once

#include "common/tensor/stream.h"
#include "kernels/linear.h"

namespace grouper::kernels {

// table [V, D], ids: T values in [0, V), out [T, D] (=).
void Embedding(Stream& stream, const Tensor& table, const int32_t* ids, const Tensor& out);
// ids [T] int32 on the stream's device, where they are not checked.
void Embedding(Stream& stream, const Tensor& table, const Tensor& ids, const Tensor& out);

// The same out of a table that is only there packed (linear.h), on the CPU.
void Embedding(Stream& stream, const PackedMatrix& table, const Tensor& ids, const Tensor& out);

// dtable [V, D] (float, or double) += ; a row that occurs several times is summed in ascending token order.
void EmbeddingBackward(Stream& stream, const Tensor& dout, const int32_t* ids, const Tensor& dtable);

}  // namespace grouper::kernels
