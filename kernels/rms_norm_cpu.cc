#include "kernels/rms_norm.h"

#include "kernels/rows.h"

namespace grouper::kernels::cpu {
namespace {

template <typename S>
Compute<S> Rstd(const S* x, int64_t width, double eps) {
  using T = Compute<S>;
  auto sum = Vec<T>::Zero();
  ForEachVector(width, [&](int64_t i, int64_t n) {
    const Vec<T> v = VecLoad(x + i, n);
    sum = Fma(v, v, sum);
  });
  return T{1} / std::sqrt(ReduceAdd(sum) / static_cast<T>(width) + static_cast<T>(eps));
}

// y = (x * rstd) * weight
template <typename S>
void Scale(const S* x, Compute<S> rstd, const S* weight, int64_t width, S* y) {
  const auto r = Vec<Compute<S>>::Broadcast(rstd);
  ForEachVector(width, [&](int64_t i, int64_t n) { VecStore(y + i, VecLoad(x + i, n) * r * VecLoad(weight + i, n), n); });
}

}  // namespace

template <typename S>
void RmsNorm(Stream& stream, const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& rstd) {
  using T = Compute<S>;
  const RowsOf<S> xs(x), ys(y);
  const int64_t width = xs.width();
  const S* w = weight.data<S>();
  T* const rstds = rstd.empty() ? nullptr : rstd.data<T>();
  stream.threads.ParallelFor(xs.count(), RowGrain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T r = Rstd(xs[row], width, eps);
      if (rstds != nullptr) rstds[row] = r;
      Scale<S>(xs[row], r, w, width, ys[row]);
    }
  });
}

template <typename S>
void AddRmsNorm(Stream& stream, const Tensor& delta, const Tensor& residual, const Tensor& sum, const Tensor& weight, double eps,
                const Tensor& y, const Tensor& rstd) {
  using T = Compute<S>;
  const RowsOf<S> deltas(delta), residuals(residual), sums(sum), ys(y);
  const int64_t width = residuals.width();
  const S* w = weight.data<S>();
  T* const rstds = rstd.empty() ? nullptr : rstd.data<T>();
  stream.threads.ParallelFor(residuals.count(), RowGrain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      S* const x = sums[row];
      const S* const before = residuals[row];
      const S* const d = deltas[row];
      ForEachVector(width, [&](int64_t i, int64_t n) { VecStore(x + i, VecLoad(before + i, n) + VecLoad(d + i, n), n); });
      const T r = Rstd(x, width, eps);
      if (rstds != nullptr) rstds[row] = r;
      Scale<S>(x, r, w, width, ys[row]);
    }
  });
}

template <typename S>
void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dx,
                     bool accumulate, const Tensor& dweight) {
  using T = Compute<S>;
  const RowsOf<S> dys(dy), xs(x), dxs(dx);
  const int64_t width = xs.width(), rows = xs.count();
  if (rows == 0) return;
  const S* w = weight.data<S>();
  const T* const rstds = rstd.data<T>();
  T* const dw = dweight.data<T>();

  // dweight[i] = fma(dy, x * rstd, dweight[i]), rows ascending: threads share the columns.
  constexpr int64_t kStrip = 4 * kLanes;
  stream.threads.ParallelFor((width + kStrip - 1) / kStrip, RowGrain(rows * kStrip), [&](int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t first = strip * kStrip;
      if (first + kStrip <= width) {
        Vec<T> acc[4];
        for (int j = 0; j < 4; ++j) acc[j] = Load(dw + first + j * kLanes);
        for (int64_t row = 0; row < rows; ++row) {
          const S* const g = dys[row] + first;
          const S* const v = xs[row] + first;
          const auto r = Vec<T>::Broadcast(rstds[row]);
          for (int j = 0; j < 4; ++j) acc[j] = Fma(Load(g + j * kLanes), Load(v + j * kLanes) * r, acc[j]);
        }
        for (int j = 0; j < 4; ++j) Store(dw + first + j * kLanes, acc[j]);
        continue;
      }
      ForEachVector(width - first, [&](int64_t i, int64_t n) {
        Vec<T> acc = VecLoad(dw + first + i, n);
        for (int64_t row = 0; row < rows; ++row) {
          const auto r = Vec<T>::Broadcast(rstds[row]);
          acc = Fma(VecLoad(dys[row] + first + i, n), VecLoad(xs[row] + first + i, n) * r, acc);
        }
        VecStore(dw + first + i, acc, n);
      });
    }
  });

  // dx = rstd * (g - xhat * mean(g * xhat)), g = dy * weight, xhat = x * rstd
  stream.threads.ParallelFor(rows, RowGrain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const S* const g = dys[row];
      const S* const v = xs[row];
      S* const out = dxs[row];
      const auto r = Vec<T>::Broadcast(rstds[row]);
      auto sum = Vec<T>::Zero();
      ForEachVector(width, [&](int64_t i, int64_t n) {
        sum = Fma(VecLoad(g + i, n) * VecLoad(w + i, n), VecLoad(v + i, n) * r, sum);
      });
      const auto mean = Vec<T>::Broadcast(ReduceAdd(sum) / static_cast<T>(width));
      ForEachVector(width, [&](int64_t i, int64_t n) {
        Vec<T> d = r * (VecLoad(g + i, n) * VecLoad(w + i, n) - VecLoad(v + i, n) * r * mean);
        if (accumulate) d = VecLoad(out + i, n) + d;
        VecStore(out + i, d, n);
      });
    }
  });
}

template void RmsNorm<float>(Stream&, const Tensor&, const Tensor&, double, const Tensor&, const Tensor&);
template void RmsNorm<double>(Stream&, const Tensor&, const Tensor&, double, const Tensor&, const Tensor&);
template void RmsNorm<bf16>(Stream&, const Tensor&, const Tensor&, double, const Tensor&, const Tensor&);
template void AddRmsNorm<float>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, const Tensor&, const Tensor&);
template void AddRmsNorm<double>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, const Tensor&, const Tensor&);
template void AddRmsNorm<bf16>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, const Tensor&, const Tensor&);
template void RmsNormBackward<float>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool,
                                     const Tensor&);
template void RmsNormBackward<double>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool,
                                      const Tensor&);
template void RmsNormBackward<bf16>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool,
                                    const Tensor&);

}  // namespace grouper::kernels::cpu
