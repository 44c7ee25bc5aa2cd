// Row-wise ops on CUDA: rms_norm.h, rope.h, swiglu.h, embedding.h, elementwise.h, adamw.h for F32 and BF16 tensors. They give the
// CPU's bits. Functions with `Device` in their name take ids and positions that are on the device already, and are not checked
// there: such a step can be captured as a graph.
#pragma once

#include "kernels/adamw.h"
#include "kernels/rope.h"

namespace grouper::kernels::cuda {

void RmsNorm(Stream& stream, const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& rstd);
void AddRmsNorm(Stream& stream, const Tensor& delta, const Tensor& residual, const Tensor& sum, const Tensor& weight, double eps,
                const Tensor& y, const Tensor& rstd);
void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                     const Tensor& dx, bool accumulate, const Tensor& dweight);

void Rope(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse, const Tensor& y);
void RopeDevice(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse, const Tensor& y);

void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out);
void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up);

void Embedding(Stream& stream, const Tensor& table, const int32_t* ids, const Tensor& out);
void EmbeddingDevice(Stream& stream, const Tensor& table, const int32_t* ids, const Tensor& out);
// Tokens are sorted by id on the host; a block sums an id's tokens in ascending order.
void EmbeddingBackward(Stream& stream, const Tensor& dout, const int32_t* ids, const Tensor& dtable);

void Add(Stream& stream, const Tensor& x, const Tensor& y);
void Copy(Stream& stream, const Tensor& x, const Tensor& y);
void Fill(Stream& stream, const Tensor& y, double value);
void SumHeads(Stream& stream, const Tensor& x, const Tensor& y);
void GatherRows(Stream& stream, const Tensor& all, const Tensor& rows, const Tensor& some);
void ScatterRows(Stream& stream, const Tensor& some, const Tensor& rows, const Tensor& all);

void AdamW(Stream& stream, const AdamWParams& params, const std::vector<AdamWTensors>& tensors);
// Waits for the stream.
double SumOfSquares(Stream& stream, const std::vector<Tensor>& gradients);

}  // namespace grouper::kernels::cuda
