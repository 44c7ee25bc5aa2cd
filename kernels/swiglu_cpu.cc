#include "kernels/swiglu.h"

#include "kernels/rows.h"

namespace grouper::kernels::cpu {

template <typename S>
void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out) {
  const int64_t width = out.dim(1);
  stream.threads.ParallelFor(out.dim(0), RowGrain(width, 4096), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const S* const gate = gate_up.row<S>(t);
      const S* const up = gate + width;
      S* const y = out.row<S>(t);
      ForEachVector(width, [&](int64_t i, int64_t n) { VecStore(y + i, Silu(VecLoad(gate + i, n)) * VecLoad(up + i, n), n); });
    }
  });
}

// d_up = d_out * silu(gate);  d_gate = d_out * up * sigmoid(gate) * (1 + gate * (1 - sigmoid(gate)))
template <typename S>
void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up) {
  using V = Vec<Compute<S>>;
  const int64_t width = d_out.dim(1);
  stream.threads.ParallelFor(d_out.dim(0), RowGrain(width, 4096), [&](int64_t begin, int64_t end) {
    const V one = V::Broadcast(1);
    for (int64_t t = begin; t < end; ++t) {
      const S* const d = d_out.row<S>(t);
      const S* const gate = gate_up.row<S>(t);
      S* const d_gate = d_gate_up.row<S>(t);
      ForEachVector(width, [&](int64_t i, int64_t n) {
        const V dy = VecLoad(d + i, n), g = VecLoad(gate + i, n), up = VecLoad(gate + width + i, n);
        const V s = Sigmoid(g);
        VecStore(d_gate + i, dy * up * s * Fma(g, one - s, one), n);
        VecStore(d_gate + width + i, dy * (g * s), n);
      });
    }
  });
}

template void SwiGlu<float>(Stream&, const Tensor&, const Tensor&);
template void SwiGlu<double>(Stream&, const Tensor&, const Tensor&);
template void SwiGlu<bf16>(Stream&, const Tensor&, const Tensor&);
template void SwiGluBackward<float>(Stream&, const Tensor&, const Tensor&, const Tensor&);
template void SwiGluBackward<double>(Stream&, const Tensor&, const Tensor&, const Tensor&);
template void SwiGluBackward<bf16>(Stream&, const Tensor&, const Tensor&, const Tensor&);

}  // namespace grouper::kernels::cpu
