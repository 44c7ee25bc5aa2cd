#include "kernels/swiglu.h"

#include "kernels/dispatch.h"
#include "kernels/row_ops_cuda.h"

namespace grouper::kernels {

namespace cpu {  // swiglu_cpu.cc
template <typename S>
void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out);
template <typename S>
void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up);
}  // namespace cpu

namespace {
void CheckGate(const Tensor& gate_up, const Tensor& out) {
  CHECK(gate_up.rank() == 2 && out.rank() == 2 && gate_up.dtype() == out.dtype() && gate_up.dim(0) == out.dim(0) &&
        gate_up.dim(1) == 2 * out.dim(1))
      << gate_up.ShapeString() << " and " << out.ShapeString();
}
}  // namespace

void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out) {
  CheckGate(gate_up, out);
  ByStorage(out, [&](auto s) { cpu::SwiGlu<decltype(s)>(stream, gate_up, out); },
            [&](auto) { cuda::SwiGlu(stream, gate_up, out); });
}

void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up) {
  CheckGate(gate_up, d_out);
  CheckGate(d_gate_up, d_out);
  ByStorage(d_out, [&](auto s) { cpu::SwiGluBackward<decltype(s)>(stream, d_out, gate_up, d_gate_up); },
            [&](auto) { cuda::SwiGluBackward(stream, d_out, gate_up, d_gate_up); });
}

}  // namespace grouper::kernels
