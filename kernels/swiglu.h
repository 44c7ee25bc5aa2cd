// SwiGLU's gate (Shazeer 2020): out = silu(gate) * up.
#pragma once

#include "common/tensor/stream.h"

namespace grouper::kernels {

// gate_up [T, 2I]: gate in columns [0, I), up in [I, 2I). out [T, I] (=).
void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out);

// d_gate_up [T, 2I] (=; may alias gate_up).
void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up);

}  // namespace grouper::kernels
