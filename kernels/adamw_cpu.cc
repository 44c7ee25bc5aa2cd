#include "kernels/adamw.h"

#include <cmath>

#include "kernels/rows.h"

namespace grouper::kernels::cpu {

template <typename T, typename W>
void AdamW(Stream& stream, const AdamWParams& params, const Tensor& gradient, const Tensor& m, const Tensor& v,
           const Tensor& master, const Tensor& weight) {
  using V = Vec<T>;
  const auto constant = [](double x) { return V::Broadcast(static_cast<T>(x)); };
  const double step = static_cast<double>(params.step);
  const V scale = constant(params.gradient_scale), beta1 = constant(params.beta1), beta2 = constant(params.beta2);
  const V rest1 = constant(1 - params.beta1), rest2 = constant(1 - params.beta2);
  const V correct1 = constant(1 / (1 - std::pow(params.beta1, step))), correct2 = constant(1 / (1 - std::pow(params.beta2, step)));
  const V minus_lr = constant(-params.lr), decay = constant(params.weight_decay), eps = constant(params.eps);
  const T* const gradients = gradient.data<T>();
  T* const ms = m.data<T>();
  T* const vs = v.data<T>();
  T* const masters = master.data<T>();
  W* const weights = weight.data<W>();
  const bool copies = weight.raw() != master.raw();
  stream.threads.ParallelFor((weight.size() + kLanes - 1) / kLanes, 1024, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kLanes, count = std::min(end * kLanes, weight.size()) - first;
    ForEachVector(count, [&](int64_t offset, int64_t n) {
      const int64_t i = first + offset;
      const V g = VecLoad(gradients + i, n) * scale;
      const V m1 = Fma(beta1, VecLoad(ms + i, n), rest1 * g);
      const V v1 = Fma(beta2, VecLoad(vs + i, n), rest2 * (g * g));
      const V w = VecLoad(masters + i, n);
      const V update = (m1 * correct1) / (Sqrt(v1 * correct2) + eps);
      const V next = Fma(minus_lr, Fma(decay, w, update), w);
      VecStore(ms + i, m1, n);
      VecStore(vs + i, v1, n);
      VecStore(masters + i, next, n);
      if (copies) VecStore(weights + i, next, n);
    });
  });
}

template <typename S>
double SumOfSquares(Stream& stream, const Tensor& gradient) {
  constexpr int64_t kChunk = 4096;
  const int64_t size = gradient.size(), chunks = (size + kChunk - 1) / kChunk;
  const S* const data = size == 0 ? nullptr : gradient.data<S>();
  const Arena::Mark mark = stream.scratch.mark();
  double* const sums = static_cast<double*>(stream.scratch.Allocate(sizeof(double) * static_cast<size_t>(chunks)));
  stream.threads.ParallelFor(chunks, 8, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const S* const x = data + chunk * kChunk;
      auto sum = Vec<double>::Zero();
      ForEachVector(std::min(kChunk, size - chunk * kChunk), [&](int64_t i, int64_t n) {
        const auto loaded = VecLoad(x + i, n);
        Vec<double> value;
        if constexpr (std::is_same_v<S, double>) {
          value = loaded;
        } else {
          for (int lane = 0; lane < 4; ++lane) value.lo[lane] = loaded[lane], value.hi[lane] = loaded[lane + 4];
        }
        sum = Fma(value, value, sum);
      });
      sums[chunk] = ReduceAdd(sum);
    }
  });
  double total = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk];
  stream.scratch.Release(mark);
  return total;
}

template void AdamW<float, float>(Stream&, const AdamWParams&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                  const Tensor&);
template void AdamW<float, bf16>(Stream&, const AdamWParams&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                 const Tensor&);
template void AdamW<double, double>(Stream&, const AdamWParams&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                    const Tensor&);
template double SumOfSquares<float>(Stream&, const Tensor&);
template double SumOfSquares<double>(Stream&, const Tensor&);
template double SumOfSquares<bf16>(Stream&, const Tensor&);

}  // namespace grouper::kernels::cpu
