#include <numeric>
#include <vector>

#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    Look(DeviceRows<S> table, const int32_t* ids, DeviceRows<S> out, int64_t width, int64_t size) {
  KernelBegin();
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads)
    out[k / width][k % width] = table[ids[k / width]][k % width];
}

// Block (x, y): id x's tokens order[begins[x]], ..., order[begins[x + 1] - 1], ascending; columns of part y.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    SumById(DeviceRows<S> dout, const int32_t* ids, const int32_t* order, const int32_t* begins, DeviceRows<float> dtable,
            int64_t width) {
  KernelBegin();
  const int64_t column = int64_t{blockIdx.y} * kBlockThreads + threadIdx.x;
  if (column >= width) return;
  const int32_t begin = begins[blockIdx.x], end = begins[blockIdx.x + 1];
  float* const to = dtable[ids[order[begin]]] + column;
  float sum = *to;
#pragma unroll 8
  for (int32_t i = begin; i < end; ++i) sum = sum + LoadFloat(dout[order[i]] + column);
  *to = sum;
}

}  // namespace

void EmbeddingDevice(Stream& stream, const Tensor& table, const int32_t* ids, const Tensor& out) {
  if (out.size() == 0) return;
  ByDeviceStorage(out.dtype(), [&](auto s) {
    using S = decltype(s);
    LaunchKernel(stream, FillingBlocks(out.size()), kBlockThreads, 0, Look<S>, RowsOnDevice<S>(table), ids, RowsOnDevice<S>(out),
                 out.dim(1), out.size());
  });
}

void Embedding(Stream& stream, const Tensor& table, const int32_t* ids, const Tensor& out) {
  const Arena::Mark mark = stream.scratch.mark();
  EmbeddingDevice(stream, table, Staged(stream, ids, out.dim(0)), out);
  stream.scratch.Release(mark);
}

void EmbeddingBackward(Stream& stream, const Tensor& dout, const int32_t* ids, const Tensor& dtable) {
  const int64_t tokens = dout.dim(0), width = dout.dim(1);
  if (tokens == 0 || width == 0) return;
  std::vector<int32_t> order(static_cast<size_t>(tokens)), begins;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return ids[a] < ids[b]; });
  for (int32_t i = 0; i < tokens; ++i) {
    if (i == 0 || ids[order[i]] != ids[order[i - 1]]) begins.push_back(i);
  }
  const unsigned distinct = static_cast<unsigned>(begins.size());
  begins.push_back(static_cast<int32_t>(tokens));
  const Arena::Mark mark = stream.scratch.mark();
  const int32_t* const device_ids = Staged(stream, ids, tokens);
  const int32_t* const device_order = Staged(stream, order.data(), tokens);
  const int32_t* const device_begins = Staged(stream, begins.data(), static_cast<int64_t>(begins.size()));
  ByDeviceStorage(dout.dtype(), [&](auto s) {
    using S = decltype(s);
    LaunchKernel(stream, dim3(distinct, BlocksFor(width)), kBlockThreads, 0, SumById<S>, RowsOnDevice<S>(dout), device_ids, device_order,
                 device_begins, RowsOnDevice<float>(dtable), width);
  });
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
