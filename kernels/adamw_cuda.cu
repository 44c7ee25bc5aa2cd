#include <cmath>
#include <vector>

#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

struct Constants {
  float scale, beta1, beta2, rest1, rest2, correct1, correct2, minus_lr, decay, eps;
};

template <typename W>
__global__ void __launch_bounds__(kBlockThreads)
    Step(Constants c, const float* gradient, float* m, float* v, float* master, W* weight, int64_t size) {
  for (int64_t i = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; i < size; i += int64_t{gridDim.x} * kBlockThreads) {
    const float g = gradient[i] * c.scale;
    const float m1 = fmaf(c.beta1, m[i], c.rest1 * g);
    const float v1 = fmaf(c.beta2, v[i], c.rest2 * (g * g));
    const float w = master[i];
    const float update = (m1 * c.correct1) / (sqrtf(v1 * c.correct2) + c.eps);
    const float next = fmaf(c.minus_lr, fmaf(c.decay, w, update), w);
    m[i] = m1;
    v[i] = v1;
    master[i] = next;
    if (weight != nullptr) StoreFloat(weight + i, next);
  }
}

constexpr int64_t kChunk = 4096;

// Eight threads a chunk, one a lane.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads) SumChunks(const S* data, int64_t size, double* sums, int64_t chunks) {
  const int64_t chunk = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) / kRowThreads;
  const int lane = threadIdx.x % kRowThreads;
  const int64_t first = chunk * kChunk, count = chunk < chunks ? min(kChunk, size - first) : 0;
  double sum = 0;
#pragma unroll 16
  for (int64_t i = lane; i < count; i += kRowThreads) {
    const double x = static_cast<double>(LoadFloat(data + first + i));
    sum = fma(x, x, sum);
  }
  sum = sum + __shfl_xor_sync(~0u, sum, 4);
  sum = sum + __shfl_xor_sync(~0u, sum, 2);
  sum = sum + __shfl_xor_sync(~0u, sum, 1);
  if (lane == 0 && chunk < chunks) sums[chunk] = sum;
}

}  // namespace

void AdamW(Stream& stream, const AdamWParams& params, const Tensor& gradient, const Tensor& m, const Tensor& v,
           const Tensor& master, const Tensor& weight) {
  if (weight.size() == 0) return;
  const double step = static_cast<double>(params.step);
  const auto constant = [](double x) { return static_cast<float>(x); };
  const Constants constants = {.scale = constant(params.gradient_scale),
                               .beta1 = constant(params.beta1),
                               .beta2 = constant(params.beta2),
                               .rest1 = constant(1 - params.beta1),
                               .rest2 = constant(1 - params.beta2),
                               .correct1 = constant(1 / (1 - std::pow(params.beta1, step))),
                               .correct2 = constant(1 / (1 - std::pow(params.beta2, step))),
                               .minus_lr = constant(-params.lr),
                               .decay = constant(params.weight_decay),
                               .eps = constant(params.eps)};
  ByDeviceStorage(weight.dtype(), [&](auto s) {
    using W = decltype(s);
    W* const copy = weight.raw() == master.raw() ? nullptr : static_cast<W*>(weight.raw());
    Step<W><<<FillingBlocks(weight.size()), kBlockThreads, 0, HandleOf(stream)>>>(
        constants, gradient.data<float>(), m.data<float>(), v.data<float>(), master.data<float>(), copy, weight.size());
  });
  GROUPER_CUDA_LAUNCHED();
}

double SumOfSquares(Stream& stream, const Tensor& gradient) {
  const int64_t size = gradient.size(), chunks = (size + kChunk - 1) / kChunk;
  if (size == 0) return 0;
  const Arena::Mark mark = stream.scratch.mark();
  const size_t bytes = sizeof(double) * static_cast<size_t>(chunks);
  double* const sums = static_cast<double*>(stream.scratch.Allocate(bytes));
  ByDeviceStorage(gradient.dtype(), [&](auto s) {
    using S = decltype(s);
    SumChunks<S><<<BlocksFor(chunks * kRowThreads), kBlockThreads, 0, HandleOf(stream)>>>(static_cast<const S*>(gradient.raw()),
                                                                                       size, sums, chunks);
  });
  GROUPER_CUDA_LAUNCHED();
  std::vector<double> host(static_cast<size_t>(chunks));
  GROUPER_CUDA_CHECK(cudaMemcpyAsync(host.data(), sums, bytes, cudaMemcpyDeviceToHost, HandleOf(stream)));
  stream.Synchronize();
  stream.scratch.Release(mark);
  double total = 0;
  for (double sum : host) total += sum;
  return total;
}

}  // namespace grouper::kernels::cuda
