// Linear layers y = x W^T (+ b), dense and grouped by expert, with their gradients. Weights are [out, in] as in checkpoints.
//
// Every element of y is one ascending fma chain over `in`, starting from 0; the bias is added after it. Gradients: dx is one
// ascending chain over `out`; dW one ascending chain over tokens that continues from the value already there, or from 0.
#pragma once

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/tensor/arena.h"
#include "common/tensor/stream.h"

namespace grouper::kernels {

// A weight matrix in the order in which the CPU kernels read it, and in its own type (bf16 panels are widened on the way into the registers,
// which changes no bit). It lies beside the canonical matrix, or is all that there is of it: then the `weight` of the calls below is a Tensor with
// a shape and no memory. CUDA kernels read the canonical matrix and need no packed one.
class PackedMatrix {
 public:
  PackedMatrix();
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  // Memory for a weight [N, K] or [E, N, K] like `weight`, of which only the type and the shape are looked at: zero, from `memory` (which must
  // outlive this) or, when null, its own. Nothing happens when it already has that type and shape.
  void Reserve(const Tensor& weight, Arena* memory);
  // What that takes of an arena.
  static size_t BytesFor(const Tensor& weight);
  // All of weight [N, K] or [E, N, K] (one pack per expert), on the stream's threads; reserves its own memory unless it has some.
  void Pack(Stream& stream, const Tensor& weight);
  // Rows [first, first + R) of an expert's matrix (expert 0 of a weight of rank 2) (=) rows [R, K], and the other way round. Calls for different
  // rows may run at once. REQUIRES: reserved.
  void WriteRows(int64_t expert, int64_t first, const Tensor& rows);
  void ReadRows(int64_t expert, int64_t first, const Tensor& rows) const;
  bool empty() const;
  size_t bytes() const;

  struct Layout;
  const Layout* layout() const { return layout_.get(); }

 private:
  std::unique_ptr<Layout> layout_;
};

// x [T, K], weight [N, K], bias [N] or empty, y [T, N] (=). `packed` may be null: then the call packs for itself when it pays.
// x's and y's rows may be strided. x may be BF16 where the others are F32 (a router's): it is widened.
void Linear(Stream& stream, const Tensor& x, const Tensor& weight, const PackedMatrix* packed, const Tensor& bias,
            const Tensor& y);

// dx [T, K] (= or, with accumulate, +=) = dy [T, N] · weight [N, K]. dx may be BF16 where the others are F32: the product is rounded, and with
// accumulate then added.
void LinearBackwardInput(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate);

// dweight [N, K] (F32 or F64) += dy^T x, tokens ascending; dbias [N] += column sums of dy, tokens ascending; dbias may be empty.
// dweight and dbias are float for BF16 inputs; on a device dweight may be BF16 (and so the grouped one): then each
// call rounds the sum that it leaves. Without accumulate dweight (not dbias) is written instead, from 0, and not read: the bits of the sum onto
// zeros for half the traffic. REQUIRES then: T > 0. x may be BF16 where the others are F32: it is widened.
void LinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dweight, const Tensor& dbias, bool accumulate = true);

// Grouped: row r of x belongs to expert e when offsets[e] <= r < offsets[e+1]; offsets has E+1 entries on the host, offsets[E] = R.
// x [R, K], weight [E, N, K], y [R, N] (=). With `gather` (R entries; may be empty) row r of the input is x[gather[r]], x [T, K].
void GroupedLinear(Stream& stream, const Tensor& x, absl::Span<const int32_t> offsets, absl::Span<const int32_t> gather,
                   const Tensor& weight, const PackedMatrix* packed, const Tensor& y);
// dx [R, K] (=) = dy [R, N] · weight[e] [N, K].
void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, absl::Span<const int32_t> offsets, const Tensor& weight,
                                const Tensor& dx);
// dweight [E, N, K] += per expert, rows ascending; x gathered as above. Without accumulate (=), R > 0: experts without rows get zeros.
void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, absl::Span<const int32_t> offsets,
                                 absl::Span<const int32_t> gather, const Tensor& dweight, bool accumulate = true);

// The same with offsets [E + 1] and gather [R] (or empty) as int32 tensors on the stream's device, where they are not checked:
// moe.h's ExpertOrder. R is y's (dy's) number of rows.
void GroupedLinear(Stream& stream, const Tensor& x, const Tensor& offsets, const Tensor& gather, const Tensor& weight,
                   const PackedMatrix* packed, const Tensor& y);
void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, const Tensor& offsets, const Tensor& weight, const Tensor& dx);
void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& offsets, const Tensor& gather,
                                 const Tensor& dweight, bool accumulate = true);

}  // namespace grouper::kernels
