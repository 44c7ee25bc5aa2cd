#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

template <typename S>
__global__ void __launch_bounds__(kBlockThreads) Gate(DeviceRows<S> gate_ups, DeviceRows<S> outs, int64_t width, int64_t size) {
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads) {
    const int64_t row = k / width, i = k % width;
    const S* const gate = gate_ups[row] + i;
    const float g = LoadFloat(gate);
    StoreFloat(outs[row] + i, g * Sigmoid(g) * LoadFloat(gate + width));
  }
}

// d_up = d_out * silu(gate);  d_gate = d_out * up * sigmoid(gate) * (1 + gate * (1 - sigmoid(gate)))
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    GateBackward(DeviceRows<S> d_outs, DeviceRows<S> gate_ups, DeviceRows<S> d_gate_ups, int64_t width, int64_t size) {
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads) {
    const int64_t row = k / width, i = k % width;
    const S* const gate = gate_ups[row] + i;
    S* const d_gate = d_gate_ups[row] + i;
    const float dy = LoadFloat(d_outs[row] + i), g = LoadFloat(gate), up = LoadFloat(gate + width), s = Sigmoid(g);
    StoreFloat(d_gate, dy * up * s * fmaf(g, 1.0f - s, 1.0f));
    StoreFloat(d_gate + width, dy * (g * s));
  }
}

}  // namespace

void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out) {
  if (out.size() == 0) return;
  ByDeviceStorage(out.dtype(), [&](auto s) {
    using S = decltype(s);
    Gate<S><<<FillingBlocks(out.size()), kBlockThreads, 0, HandleOf(stream)>>>(RowsOnDevice<S>(gate_up), RowsOnDevice<S>(out),
                                                                            out.dim(1), out.size());
  });
  GROUPER_CUDA_LAUNCHED();
}

void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up) {
  if (d_out.size() == 0) return;
  ByDeviceStorage(d_out.dtype(), [&](auto s) {
    using S = decltype(s);
    GateBackward<S><<<FillingBlocks(d_out.size()), kBlockThreads, 0, HandleOf(stream)>>>(
        RowsOnDevice<S>(d_out), RowsOnDevice<S>(gate_up), RowsOnDevice<S>(d_gate_up), d_out.dim(1), d_out.size());
  });
  GROUPER_CUDA_LAUNCHED();
}

}  // namespace grouper::kernels::cuda
