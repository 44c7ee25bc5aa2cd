#include "kernels/rope.h"

#include "kernels/rows.h"

namespace grouper::kernels::cpu {
namespace {

// (a, b) -> (a cos - b sin, b cos + a sin); inverse: sin is negated.
template <typename S>
void TurnHalves(const S* x, S* y, int64_t half, const Compute<S>* cos, const Compute<S>* sin, bool inverse) {
  ForEachVector(half, [&](int64_t i, int64_t n) {
    const auto a = VecLoad(x + i, n), b = VecLoad(x + half + i, n), c = VecLoad(cos + i, n);
    const auto s = inverse ? -VecLoad(sin + i, n) : VecLoad(sin + i, n);
    VecStore(y + i, Fma(a, c, -(b * s)), n);
    VecStore(y + half + i, Fma(b, c, a * s), n);
  });
}

template <typename S>
void TurnPairs(const S* x, S* y, int64_t half, const Compute<S>* cos, const Compute<S>* sin, bool inverse) {
  using T = Compute<S>;
  for (int64_t i = 0; i < half; ++i) {
    const T a = static_cast<T>(x[2 * i]), b = static_cast<T>(x[2 * i + 1]), c = cos[i], s = inverse ? -sin[i] : sin[i];
    y[2 * i] = static_cast<S>(std::fma(a, c, -(b * s)));
    y[2 * i + 1] = static_cast<S>(std::fma(b, c, a * s));
  }
}

}  // namespace

template <typename S>
void Rope(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse, const Tensor& y) {
  using T = Compute<S>;
  const int64_t heads = x.dim(1), half = x.dim(2) / 2;
  stream.threads.ParallelFor(x.dim(0), RowGrain(heads * half, 4096), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* const cos = table.cos.row<T>(positions[t]);
      const T* const sin = table.sin.row<T>(positions[t]);
      for (int64_t h = 0; h < heads; ++h) {
        const S* const from = x.row<S>(t) + h * x.stride(1);
        S* const to = y.row<S>(t) + h * y.stride(1);
        if (table.pairing == RopePairing::kHalfSplit) {
          TurnHalves<S>(from, to, half, cos, sin, inverse);
        } else {
          TurnPairs<S>(from, to, half, cos, sin, inverse);
        }
      }
    }
  });
}

template void Rope<float>(Stream&, const Tensor&, const int32_t*, const RopeTable&, bool, const Tensor&);
template void Rope<double>(Stream&, const Tensor&, const int32_t*, const RopeTable&, bool, const Tensor&);
template void Rope<bf16>(Stream&, const Tensor&, const int32_t*, const RopeTable&, bool, const Tensor&);

}  // namespace grouper::kernels::cpu
