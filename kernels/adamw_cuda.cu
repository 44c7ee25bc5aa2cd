#include <cmath>
#include <vector>

#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

// Tensors are cut into chunks of 4096 elements, and the chunks of all tensors numbered through: a launch finds its chunk's tensor in a
// table.
constexpr int kChunk = 4096;

struct Constants {
  float scale, beta1, beta2, rest1, rest2, correct1, correct2, minus_lr, eps;
};

template <typename W>
struct Updated {
  const void* gradient;  // float, or bf16 when narrow
  float *m, *v, *master;
  W* weight;  // null: the master is the weight
  int64_t size, first_chunk;
  float decay;
  bool narrow, vector;
};

struct Summed {
  const void* data;
  int64_t size, first_chunk;
  bool narrow;
};

__device__ __forceinline__ float LoadEither(const void* data, bool narrow, int64_t i) {
  return narrow ? LoadFloat(static_cast<const __nv_bfloat16*>(data) + i) : static_cast<const float*>(data)[i];
}

// The entry whose chunks hold `chunk`.
template <typename Entry>
__device__ const Entry& EntryOf(const Entry* entries, int count, int64_t chunk) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (entries[middle].first_chunk <= chunk) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return entries[low];
}

struct Element {
  float m, v, master;
};

__device__ __forceinline__ Element Next(const Constants& c, float decay, float gradient, const Element& e) {
  const float g = gradient * c.scale;
  const float m1 = fmaf(c.beta1, e.m, c.rest1 * g);
  const float v1 = fmaf(c.beta2, e.v, c.rest2 * (g * g));
  const float update = (m1 * c.correct1) / (sqrtf(v1 * c.correct2) + c.eps);
  return {m1, v1, fmaf(c.minus_lr, fmaf(decay, e.master, update), e.master)};
}

// A block a chunk. Bound by memory: 28 bytes read and written an element for float weights, 30 for bf16.
template <typename W>
__global__ void __launch_bounds__(kBlockThreads) Step(Constants c, const Updated<W>* entries, int count, int64_t chunks) {
  KernelBegin();
  const int64_t chunk = blockIdx.x;
  const Updated<W> t = EntryOf(entries, count, chunk);
  const int64_t first = (chunk - t.first_chunk) * kChunk;
  const int size = static_cast<int>(min(int64_t{kChunk}, t.size - first));
  const auto one = [&](int64_t i) {
    const Element e = Next(c, t.decay, LoadEither(t.gradient, t.narrow, i), {t.m[i], t.v[i], t.master[i]});
    t.m[i] = e.m;
    t.v[i] = e.v;
    t.master[i] = e.master;
    if (t.weight != nullptr) StoreFloat(t.weight + i, e.master);
  };
  if (!t.vector) {
    for (int i = threadIdx.x; i < size; i += kBlockThreads) one(first + i);
    return;
  }
  for (int i = threadIdx.x * 4; i + 4 <= size; i += kBlockThreads * 4) {
    const int64_t at = first + i;
    float4 g;
    if (t.narrow) {
      const __nv_bfloat162* const pairs = reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(t.gradient) + at);
      const float2 low = __bfloat1622float2(pairs[0]), high = __bfloat1622float2(pairs[1]);
      g = make_float4(low.x, low.y, high.x, high.y);
    } else {
      g = __ldcs(reinterpret_cast<const float4*>(static_cast<const float*>(t.gradient) + at));
    }
    const float4 m = __ldcs(reinterpret_cast<const float4*>(t.m + at)),
                 v = __ldcs(reinterpret_cast<const float4*>(t.v + at)), w = __ldcs(reinterpret_cast<const float4*>(t.master + at));
    const Element x = Next(c, t.decay, g.x, {m.x, v.x, w.x}), y = Next(c, t.decay, g.y, {m.y, v.y, w.y}),
                  z = Next(c, t.decay, g.z, {m.z, v.z, w.z}), u = Next(c, t.decay, g.w, {m.w, v.w, w.w});
    __stcs(reinterpret_cast<float4*>(t.m + at), make_float4(x.m, y.m, z.m, u.m));
    __stcs(reinterpret_cast<float4*>(t.v + at), make_float4(x.v, y.v, z.v, u.v));
    __stcs(reinterpret_cast<float4*>(t.master + at), make_float4(x.master, y.master, z.master, u.master));
    if (t.weight != nullptr) {
      struct alignas(4 * sizeof(W)) Four {
        W w[4];
      } four;
      StoreFloat(four.w, x.master);
      StoreFloat(four.w + 1, y.master);
      StoreFloat(four.w + 2, z.master);
      StoreFloat(four.w + 3, u.master);
      *reinterpret_cast<Four*>(t.weight + at) = four;
    }
  }
  const int rest = size / 4 * 4 + threadIdx.x;
  if (threadIdx.x < 4 && rest < size) one(first + rest);
}

// Eight threads a chunk, one a lane.
__global__ void __launch_bounds__(kBlockThreads) SumChunks(const Summed* entries, int count, double* sums, int64_t chunks) {
  KernelBegin();
  const int64_t chunk = (int64_t{blockIdx.x} * kBlockThreads + threadIdx.x) / kRowThreads;
  const int lane = threadIdx.x % kRowThreads;
  const Summed t = EntryOf(entries, count, min(chunk, chunks - 1));
  const int64_t first = (chunk - t.first_chunk) * kChunk;
  const int size = chunk < chunks ? static_cast<int>(min(int64_t{kChunk}, t.size - first)) : 0;
  double sum = 0;
#pragma unroll 16
  for (int i = lane; i < size; i += kRowThreads) {
    const double x = static_cast<double>(LoadEither(t.data, t.narrow, first + i));
    sum = fma(x, x, sum);
  }
  sum = sum + __shfl_xor_sync(~0u, sum, 4);
  sum = sum + __shfl_xor_sync(~0u, sum, 2);
  sum = sum + __shfl_xor_sync(~0u, sum, 1);
  if (lane == 0 && chunk < chunks) sums[chunk] = sum;
}

bool Fours(const void* p, size_t element) { return reinterpret_cast<uintptr_t>(p) % (4 * element) == 0; }

int64_t ChunksOf(int64_t size) { return (size + kChunk - 1) / kChunk; }

template <typename W>
void AdamWOf(Stream& stream, const Constants& constants, const std::vector<AdamWTensors>& tensors) {
  std::vector<Updated<W>> entries;
  int64_t chunks = 0;
  for (const AdamWTensors& t : tensors) {
    if (t.weight.size() == 0) continue;
    W* const copy = t.weight.raw() == t.master.raw() ? nullptr : static_cast<W*>(t.weight.raw());
    const bool narrow = t.gradient.dtype() == DType::kBF16;
    const bool vector = Fours(t.gradient.raw(), narrow ? 2 : 4) && Fours(t.m.raw(), 4) && Fours(t.v.raw(), 4) && Fours(t.master.raw(), 4) &&
                        Fours(copy, sizeof(W));
    entries.push_back({t.gradient.raw(), t.m.data<float>(), t.v.data<float>(), t.master.data<float>(), copy, t.weight.size(),
                       chunks, static_cast<float>(t.weight_decay), narrow, vector});
    chunks += ChunksOf(t.weight.size());
  }
  if (entries.empty()) return;
  CHECK_LE(chunks, int64_t{0x7fffffff});
  const Arena::Mark mark = stream.scratch.mark();
  const Updated<W>* const table = Staged(stream, entries.data(), static_cast<int64_t>(entries.size()));
  LaunchKernel(stream, static_cast<unsigned>(chunks), kBlockThreads, 0, Step<W>, constants, table, static_cast<int>(entries.size()),
               chunks);
  stream.scratch.Release(mark);
}

}  // namespace

void AdamW(Stream& stream, const AdamWParams& params, const std::vector<AdamWTensors>& tensors) {
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
                               .eps = constant(params.eps)};
  // By storage: a model's router is float where the rest is bf16.
  std::vector<AdamWTensors> wide, narrow;
  for (const AdamWTensors& t : tensors) (t.weight.dtype() == DType::kF32 ? wide : narrow).push_back(t);
  AdamWOf<float>(stream, constants, wide);
  for (const AdamWTensors& t : narrow) CHECK(t.weight.dtype() == DType::kBF16) << "no CUDA kernel for " << Name(t.weight.dtype());
  AdamWOf<__nv_bfloat16>(stream, constants, narrow);
}

double SumOfSquares(Stream& stream, const std::vector<Tensor>& gradients) {
  std::vector<Summed> entries;
  int64_t chunks = 0;
  for (const Tensor& gradient : gradients) {
    if (gradient.size() == 0) continue;
    CHECK(gradient.dtype() == DType::kF32 || gradient.dtype() == DType::kBF16) << "no CUDA kernel for " << Name(gradient.dtype());
    entries.push_back({gradient.raw(), gradient.size(), chunks, gradient.dtype() == DType::kBF16});
    chunks += ChunksOf(gradient.size());
  }
  if (entries.empty()) return 0;
  const Arena::Mark mark = stream.scratch.mark();
  const size_t bytes = sizeof(double) * static_cast<size_t>(chunks);
  double* const sums = static_cast<double*>(stream.scratch.Allocate(bytes));
  const Summed* const table = Staged(stream, entries.data(), static_cast<int64_t>(entries.size()));
  LaunchKernel(stream, BlocksFor(chunks * kRowThreads), kBlockThreads, 0, SumChunks, table, static_cast<int>(entries.size()), sums, chunks);
  std::vector<double> host(static_cast<size_t>(chunks));
  GROUPER_CUDA_CHECK(cudaMemcpyAsync(host.data(), sums, bytes, cudaMemcpyDeviceToHost, HandleOf(stream)));
  stream.Synchronize();
  stream.scratch.Release(mark);
  // Each tensor's chunks in order, then the tensors in order, as one tensor after another would give.
  double total = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const int64_t end = i + 1 < entries.size() ? entries[i + 1].first_chunk : chunks;
    double sum = 0;
    for (int64_t chunk = entries[i].first_chunk; chunk < end; ++chunk) sum += host[static_cast<size_t>(chunk)];
    total += sum;
  }
  return total;
}

}  // namespace grouper::kernels::cuda
