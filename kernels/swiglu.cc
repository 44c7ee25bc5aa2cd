#include "kernels/swiglu.h"

#include "kernels/dispatch.h"
#include "kernels/linear_cuda.h"
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
// Of a second layer's gradients: dy [T, K], d_out [T, I], weight [.., K, I].
void CheckSecondLayer(const Tensor& dy, const Tensor& weight, const Tensor& d_out, int rank) {
  CHECK(dy.rank() == 2 && weight.rank() == rank && weight.dtype() == dy.dtype() && d_out.dtype() == dy.dtype() && weight.dim(-2) == dy.dim(1) &&
        weight.dim(-1) == d_out.dim(1) && dy.dim(0) == d_out.dim(0))
      << dy.ShapeString() << ", " << weight.ShapeString() << " and " << d_out.ShapeString();
}
}  // namespace

void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out) {
  CheckGate(gate_up, out);
  ByStorage(out, [&](auto s) { cpu::SwiGlu<decltype(s)>(stream, gate_up, out); },
            [&](auto) { cuda::SwiGlu(stream, gate_up, out); });
}

void LinearSwiGlu(Stream& stream, const Tensor& x, const Tensor& weight, const PackedMatrix* packed, const Tensor& bias, const Tensor& gate_up,
                  const Tensor& out) {
  if (!gate_up.empty()) CheckGate(gate_up, out);
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda() && cuda::LinearSwiGlu(stream, x, weight, bias, gate_up, out)) return;
  }
  const Arena::Mark mark = stream.scratch.mark();
  const Tensor both = gate_up.empty() ? stream.scratch.New(out.dtype(), {out.dim(0), 2 * out.dim(1)}) : gate_up;
  Linear(stream, x, weight, packed, bias, both);
  SwiGlu(stream, both, out);
  stream.scratch.Release(mark);
}

void GroupedLinearSwiGlu(Stream& stream, const Tensor& x, const Tensor& offsets, const Tensor& gather, const Tensor& weight,
                         const PackedMatrix* packed, const Tensor& gate_up, const Tensor& out) {
  if (!gate_up.empty()) CheckGate(gate_up, out);
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda() && cuda::GroupedLinearSwiGlu(stream, x, offsets, gather, weight, gate_up, out)) return;
  }
  const Arena::Mark mark = stream.scratch.mark();
  const Tensor both = gate_up.empty() ? stream.scratch.New(out.dtype(), {out.dim(0), 2 * out.dim(1)}) : gate_up;
  GroupedLinear(stream, x, offsets, gather, weight, packed, both);
  SwiGlu(stream, both, out);
  stream.scratch.Release(mark);
}

void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up) {
  CheckGate(gate_up, d_out);
  CheckGate(d_gate_up, d_out);
  ByStorage(d_out, [&](auto s) { cpu::SwiGluBackward<decltype(s)>(stream, d_out, gate_up, d_gate_up); },
            [&](auto) { cuda::SwiGluBackward(stream, d_out, gate_up, d_gate_up); });
}

void LinearBackwardSwiGlu(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& gate_up, const Tensor& d_out,
                          const Tensor& d_gate_up) {
  CheckSecondLayer(dy, weight, d_out, 2);
  CheckGate(gate_up, d_out);
  CheckGate(d_gate_up, d_out);
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda() && cuda::LinearBackwardSwiGlu(stream, dy, weight, gate_up, d_gate_up)) return;
  }
  LinearBackwardInput(stream, dy, weight, d_out, false);
  SwiGluBackward(stream, d_out, gate_up, d_gate_up);
}

void GroupedLinearBackwardSwiGlu(Stream& stream, const Tensor& dy, const Tensor& offsets, const Tensor& weight, const Tensor& gate_up,
                                 const Tensor& d_out, const Tensor& d_gate_up) {
  CheckSecondLayer(dy, weight, d_out, 3);
  CHECK_EQ(offsets.dim(0), weight.dim(0) + 1);
  CheckGate(gate_up, d_out);
  CheckGate(d_gate_up, d_out);
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda() && cuda::GroupedLinearBackwardSwiGlu(stream, dy, offsets, weight, gate_up, d_gate_up)) return;
  }
  GroupedLinearBackwardInput(stream, dy, offsets, weight, d_out);
  SwiGluBackward(stream, d_out, gate_up, d_gate_up);
}

}  // namespace grouper::kernels
