#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

// A thread takes eight elements. Block (x, y): row x, part y of the columns.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads) Gate(DeviceRows<S> gate_ups, DeviceRows<S> outs, int width, bool vector) {
  KernelBegin();
  const int64_t row = blockIdx.x;
  const int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (i >= width) return;
  const S* const gate = gate_ups[row] + i;
  float g[8], up[8];
  LoadEight(gate, width - i, vector, g);
  LoadEight(gate + width, width - i, vector, up);
#pragma unroll
  for (int k = 0; k < 8; ++k) g[k] = Gated(g[k], up[k]);
  StoreEight(outs[row] + i, width - i, vector, g);
}

// d_up = d_out * silu(gate);  d_gate = d_out * up * sigmoid(gate) * (1 + gate * (1 - sigmoid(gate)))
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    GateBackward(DeviceRows<S> d_outs, DeviceRows<S> gate_ups, DeviceRows<S> d_gate_ups, int width, bool vector) {
  KernelBegin();
  const int64_t row = blockIdx.x;
  const int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (i >= width) return;
  const S* const gate = gate_ups[row] + i;
  S* const d_gate = d_gate_ups[row] + i;
  float g[8], up[8], dy[8];
  LoadEight(gate, width - i, vector, g);
  LoadEight(gate + width, width - i, vector, up);
  LoadEight(d_outs[row] + i, width - i, vector, dy);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const GateGradient d = GateGradientOf(dy[k], g[k], up[k]);
    g[k] = d.gate;
    up[k] = d.up;
  }
  StoreEight(d_gate, width - i, vector, g);
  StoreEight(d_gate + width, width - i, vector, up);
}

// A thread an eight, whole warps.
struct Grid {
  dim3 blocks;
  unsigned threads;
};
Grid GridOf(int64_t rows, int64_t width) {
  const int64_t eights = (width + 7) / 8;
  const unsigned threads = static_cast<unsigned>(std::min<int64_t>((eights + 31) / 32 * 32, kBlockThreads));
  return {dim3(static_cast<unsigned>(rows), static_cast<unsigned>((eights + threads - 1) / threads)), threads};
}

}  // namespace

void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out) {
  if (out.size() == 0) return;
  const Grid grid = GridOf(out.dim(0), out.dim(1));
  ByDeviceStorage(out.dtype(), [&](auto s) {
    using S = decltype(s);
    LaunchKernel(stream, grid.blocks, grid.threads, 0, Gate<S>, RowsOnDevice<S>(gate_up), RowsOnDevice<S>(out),
                 static_cast<int>(out.dim(1)), RowsOfEights(gate_up) && RowsOfEights(out));
  });
}

void SwiGluBackward(Stream& stream, const Tensor& d_out, const Tensor& gate_up, const Tensor& d_gate_up) {
  if (d_out.size() == 0) return;
  const Grid grid = GridOf(d_out.dim(0), d_out.dim(1));
  ByDeviceStorage(d_out.dtype(), [&](auto s) {
    using S = decltype(s);
    LaunchKernel(stream, grid.blocks, grid.threads, 0, GateBackward<S>, RowsOnDevice<S>(d_out), RowsOnDevice<S>(gate_up),
                 RowsOnDevice<S>(d_gate_up), static_cast<int>(d_out.dim(1)),
                 RowsOfEights(d_out) && RowsOfEights(gate_up) && RowsOfEights(d_gate_up));
  });
}

}  // namespace grouper::kernels::cuda
