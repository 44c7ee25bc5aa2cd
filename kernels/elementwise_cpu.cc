#include "kernels/elementwise.h"

#include "kernels/rows.h"

namespace grouper::kernels::cpu {
namespace {

constexpr int64_t kGrain = 32768;  // elements a thread at least

// f(row of x, row of y, columns), over pieces of the tensors: rows, or runs of elements where both are contiguous.
template <typename X, typename Y, typename F>
void ForEachPiece(Stream& stream, const Tensor& x, const Tensor& y, F f) {
  if (y.size() == 0) return;
  if (x.contiguous() && y.contiguous()) {
    X* const from = x.data<X>();
    Y* const to = y.data<Y>();
    stream.threads.ParallelFor(y.size(), kGrain, [&](int64_t begin, int64_t end) { f(from + begin, to + begin, end - begin); });
    return;
  }
  const RowsOf<X> xs(x);
  const RowsOf<Y> ys(y);
  stream.threads.ParallelFor(ys.count(), RowGrain(ys.width(), kGrain), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) f(xs[row], ys[row], ys.width());
  });
}

}  // namespace

template <typename S>
void Add(Stream& stream, const Tensor& x, const Tensor& y) {
  ForEachPiece<S, S>(stream, x, y, [](const S* from, S* to, int64_t width) {
    ForEachVector(width, [&](int64_t i, int64_t n) { VecStore(to + i, VecLoad(to + i, n) + VecLoad(from + i, n), n); });
  });
}

template <typename From, typename To>
void Copy(Stream& stream, const Tensor& x, const Tensor& y) {
  ForEachPiece<From, To>(stream, x, y, [](const From* from, To* to, int64_t width) {
    if constexpr (std::is_same_v<From, To>) {
      std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(width) * sizeof(To));
    } else if constexpr (std::is_same_v<Compute<From>, Compute<To>>) {
      ForEachVector(width, [&](int64_t i, int64_t n) { VecStore(to + i, VecLoad(from + i, n), n); });
    } else {
      for (int64_t i = 0; i < width; ++i) {
        to[i] = static_cast<To>(static_cast<Compute<To>>(static_cast<Compute<From>>(from[i])));
      }
    }
  });
}

template <typename S>
void Fill(Stream& stream, const Tensor& y, double value) {
  const S filler = static_cast<S>(static_cast<Compute<S>>(value));
  ForEachPiece<S, S>(stream, y, y, [filler](const S*, S* to, int64_t width) {
    for (int64_t i = 0; i < width; ++i) to[i] = filler;
  });
}

template <typename S>
void SumHeads(Stream& stream, const Tensor& x, const Tensor& y) {
  if (y.size() == 0) return;
  const RowsOf<S> ys(y);
  const int64_t heads = x.dim(1);
  stream.threads.ParallelFor(ys.count(), RowGrain(ys.width() * heads, kGrain), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const S* const first = x.row<S>(row);
      S* const to = ys[row];
      ForEachVector(ys.width(), [&](int64_t i, int64_t n) {
        Vec<Compute<S>> sum = VecLoad(first + i, n);
        for (int64_t h = 1; h < heads; ++h) sum = sum + VecLoad(first + h * x.stride(1) + i, n);
        VecStore(to + i, sum, n);
      });
    }
  });
}

template void Add<float>(Stream&, const Tensor&, const Tensor&);
template void Add<double>(Stream&, const Tensor&, const Tensor&);
template void Add<bf16>(Stream&, const Tensor&, const Tensor&);
template void Copy<float, float>(Stream&, const Tensor&, const Tensor&);
template void Copy<float, double>(Stream&, const Tensor&, const Tensor&);
template void Copy<float, bf16>(Stream&, const Tensor&, const Tensor&);
template void Copy<double, float>(Stream&, const Tensor&, const Tensor&);
template void Copy<double, double>(Stream&, const Tensor&, const Tensor&);
template void Copy<double, bf16>(Stream&, const Tensor&, const Tensor&);
template void Copy<bf16, float>(Stream&, const Tensor&, const Tensor&);
template void Copy<bf16, double>(Stream&, const Tensor&, const Tensor&);
template void Copy<bf16, bf16>(Stream&, const Tensor&, const Tensor&);
template void Fill<float>(Stream&, const Tensor&, double);
template void Fill<double>(Stream&, const Tensor&, double);
template void Fill<bf16>(Stream&, const Tensor&, double);
template void SumHeads<float>(Stream&, const Tensor&, const Tensor&);
template void SumHeads<double>(Stream&, const Tensor&, const Tensor&);
template void SumHeads<bf16>(Stream&, const Tensor&, const Tensor&);

}  // namespace grouper::kernels::cpu
