// SwiGLU's gate (Shazeer 2020): out = silu(gate) * up.
#pragma once

#include "kernels/linear.h"

namespace grouper::kernels {

// gate_up [T, 2I]: gate in columns [0, I), up in [I, 2I). out [T, I] (=).
void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out);

// The feed-forward's first layer and its gate, out = SwiGlu(x W^T + b): the same bits, in one pass where the device has a kernel for the sizes.
// weight [2I, K], packed and bias as in linear.h. gate_up [T, 2I] (=) is what the gradient needs; empty: not kept.
void LinearSwiGlu(Stream& stream, const Tensor& x, const Tensor& weight, const PackedMatrix* packed, const Tensor& bias, const Tensor& gate_up,
                  const Tensor& out);
// Grouped by expert, as GroupedLinear: offsets and gather on the stream's device, weight [E, 2I, K], out [R, I].
void GroupedLinearSwiGlu(Stream& stream, const Tensor& x, const Tensor& offsets, const Tensor& gather, const Tensor& weight,
                         const PackedMatrix* packed, const Tensor& gate_up, const Tensor& out);

// d_gate_up [T, 2I] (=; may alias gate_up).
void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up);

// From the feed-forward's second layer back through the gate: SwiGluBackward of LinearBackwardInput(dy, weight), the same bits, in one pass where
// the device has a kernel for the sizes. dy [T, K], weight [K, I]; d_out [T, I] is memory for what lies between, or stays as it is.
void LinearBackwardSwiGlu(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& gate_up, const Tensor& d_out,
                          const Tensor& d_gate_up);
// Grouped by expert: offsets on the stream's device, weight [E, K, I].
void GroupedLinearBackwardSwiGlu(Stream& stream, const Tensor& dy, const Tensor& offsets, const Tensor& weight, const Tensor& gate_up,
                                 const Tensor& d_out, const Tensor& d_gate_up);

}  // namespace grouper::kernels
