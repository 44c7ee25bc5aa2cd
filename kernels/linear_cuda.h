// Linear layers on CUDA: linear.h's functions, and the grouped ones with the experts' offsets on the device, so that a
// step with MoE layers can be captured as a graph.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "common/tensor/stream.h"
#include "kernels/gemm.h"
#include "kernels/linear.h"

namespace grouper::kernels::cuda {

// Device copies of linear.h's offsets [experts + 1] and gather [rows]; gather may be null. `rows` bounds
// offsets[experts].
struct DeviceGroups {
  const int32_t* offsets = nullptr;
  const int32_t* gather = nullptr;
  int64_t rows = 0;
};

void Linear(Stream& stream, const Tensor& x, const Tensor& weight, const PackedMatrix* packed, const Tensor& bias,
            const Tensor& y);
void LinearBackwardInput(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate);
void LinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dweight,
                          const Tensor& dbias, bool accumulate);

void GroupedLinear(Stream& stream, const Tensor& x, const DeviceGroups& groups, const Tensor& weight, const Tensor& y);
void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, const DeviceGroups& groups, const Tensor& weight,
                                const Tensor& dx);
void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const DeviceGroups& groups,
                                 const Tensor& dweight, bool accumulate);

void GroupedLinear(Stream& stream, const Tensor& x, absl::Span<const int32_t> offsets,
                   absl::Span<const int32_t> gather, const Tensor& weight, const PackedMatrix* packed,
                   const Tensor& y);
void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, absl::Span<const int32_t> offsets,
                                const Tensor& weight, const Tensor& dx);
void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, absl::Span<const int32_t> offsets,
                                 absl::Span<const int32_t> gather, const Tensor& dweight, bool accumulate);

// swiglu.h's functions in one pass. False, with nothing done, for sizes that have no such kernel.
bool LinearSwiGlu(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& gate_up, const Tensor& out);
bool GroupedLinearSwiGlu(Stream& stream, const Tensor& x, const Tensor& offsets, const Tensor& gather, const Tensor& weight,
                         const Tensor& gate_up, const Tensor& out);
bool LinearBackwardSwiGlu(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& gate_up, const Tensor& d_gate_up);
bool GroupedLinearBackwardSwiGlu(Stream& stream, const Tensor& dy, const Tensor& offsets, const Tensor& weight, const Tensor& gate_up,
                                 const Tensor& d_gate_up);

void Gemm(Stream& stream, const GemmParams& params);

}  // namespace grouper::kernels::cuda
