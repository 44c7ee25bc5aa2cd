#include <cmath>
#include <cstring>

#include "absl/strings/str_format.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "kernels/adamw.h"
#include "kernels/bench.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"

namespace grouper::kernels {
namespace {

constexpr double kEps = 1e-6;

void FillRandom(const Tensor& t, const char* label) {
  PhiloxStream numbers(MakePhiloxKey(1, label));
  float* data = t.data<float>();
  for (int64_t i = 0; i < t.size(); ++i) data[i] = static_cast<float>(numbers.NextDouble()) + 0.1f;
}

// Some elements of `out` [rows, columns] must be near `want` of them in double, and the same op on one thread must give the same bits.
using Formula = std::function<double(int64_t row, int64_t column)>;
absl::Status CheckElements(const std::string& name, const Tensor& out, const Formula& want) {
  for (int64_t i = 0; i < 64; ++i) {
    const int64_t row = i * 7919 % out.dim(0), column = i * 104729 % out.dim(1);
    const double got = static_cast<double>(out.row<float>(row)[column]), expected = want(row, column);
    if (!(std::abs(got - expected) <= 1e-5 * (1 + std::abs(expected)))) {
      return absl::InternalError(absl::StrFormat("%s: element (%d, %d) is %g, expected %g", name, row, column, got, expected));
    }
  }
  return absl::OkStatus();
}
absl::Status CheckSameOnOneThread(const std::string& name, const Tensor& out, const std::function<void(Stream&)>& run, Stream& stream) {
  run(stream);
  const size_t bytes = static_cast<size_t>(out.size()) * SizeOf(out.dtype());
  const std::string several(static_cast<const char*>(out.raw()), bytes);
  ThreadPool one(1);
  Stream single(one);
  run(single);
  if (std::memcmp(several.data(), out.raw(), bytes) != 0) return absl::InternalError(name + ": threads change the result");
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchRowOps(Bench& bench) {
  struct Size {
    int64_t tokens, width;
  };
  for (const Size& size : {Size{256, 96}, Size{2048, 96}, Size{16, 576}, Size{2048, 576}}) {
    Arena arena;
    const int64_t t = size.tokens, d = size.width;
    const Tensor x = arena.New(DType::kF32, {t, d}), y = arena.New(DType::kF32, {t, d}), dx = arena.New(DType::kF32, {t, d});
    const Tensor w = arena.New(DType::kF32, {d}), dw = arena.NewZero(DType::kF32, {d}), rstd = arena.New(DType::kF32, {t});
    const Tensor gates = arena.New(DType::kF32, {t, 2 * d}), dgates = arena.New(DType::kF32, {t, 2 * d});
    for (const Tensor& tensor : {x, y, w, gates}) FillRandom(tensor, "row ops");
    const double element_bytes = 4.0 * static_cast<double>(t * d);
    const auto line = [&](const char* op, double passes, const Tensor& out, const std::function<void(Stream&)>& run, const Formula& want) {
      const std::string name = absl::StrFormat("%-16s %5d x %5d", op, t, d);
      if (!bench.Wants(name)) return absl::OkStatus();
      RETURN_IF_ERROR(CheckSameOnOneThread(name, out, run, bench.stream()));
      RETURN_IF_ERROR(CheckElements(name, out, want));
      bench.Line(name, passes * element_bytes, "GB/s", [&] { run(bench.stream()); });
      return absl::OkStatus();
    };
    const auto at = [](const Tensor& tensor, int64_t row, int64_t column) { return static_cast<double>(tensor.row<float>(row)[column]); };
    const auto weight = [&](int64_t i) { return static_cast<double>(w.data<float>()[i]); };
    const auto scale = [&](int64_t row) {  // rstd
      double squares = 0;
      for (int64_t i = 0; i < d; ++i) squares += at(x, row, i) * at(x, row, i);
      return 1 / std::sqrt(squares / static_cast<double>(d) + kEps);
    };
    const auto sigmoid = [&](int64_t row, int64_t i) { return 1 / (1 + std::exp(-at(gates, row, i))); };
    RETURN_IF_ERROR(line("copy", 2, y, [&](Stream& s) { Copy(s, x, y); }, [&](int64_t r, int64_t i) { return at(x, r, i); }));
    RETURN_IF_ERROR(line("rms_norm", 2, y, [&](Stream& s) { RmsNorm(s, x, w, kEps, y, rstd); },
                         [&](int64_t r, int64_t i) { return at(x, r, i) * scale(r) * weight(i); }));
    RmsNorm(bench.stream(), x, w, kEps, y, rstd);  // y is the gradients' dy, too
    RETURN_IF_ERROR(line("rms_norm dx+dw", 3, dx, [&](Stream& s) { RmsNormBackward(s, y, x, w, rstd, dx, false, dw); }, [&](int64_t r, int64_t i) {
      double mean = 0;
      const double rs = scale(r);
      for (int64_t j = 0; j < d; ++j) mean += at(y, r, j) * weight(j) * at(x, r, j) * rs / static_cast<double>(d);
      return rs * (at(y, r, i) * weight(i) - at(x, r, i) * rs * mean);
    }));
    RETURN_IF_ERROR(line("swiglu", 3, y, [&](Stream& s) { SwiGlu(s, gates, y); },
                         [&](int64_t r, int64_t i) { return at(gates, r, i) * sigmoid(r, i) * at(gates, r, d + i); }));
    RETURN_IF_ERROR(line("swiglu backward", 5, dgates, [&](Stream& s) { SwiGluBackward(s, y, gates, dgates); }, [&](int64_t r, int64_t column) {
      const int64_t i = column % d;
      const double gate = at(gates, r, i), s = sigmoid(r, i), dy = at(y, r, i);
      return column < d ? dy * at(gates, r, d + i) * s * (1 + gate * (1 - s)) : dy * gate * s;
    }));
    RETURN_IF_ERROR(line("add", 3, dx, [&](Stream& s) {
      Copy(s, x, dx);
      Add(s, x, dx);
    }, [&](int64_t r, int64_t i) { return 2 * at(x, r, i); }));
  }
  const int64_t n = 500000;
  const std::string adamw = absl::StrFormat("%-16s %13d", "adamw", n), squares = absl::StrFormat("%-16s %13d", "sum_of_squares", n);
  if (!bench.Wants(adamw) && !bench.Wants(squares)) return absl::OkStatus();
  Arena arena;
  const Tensor g = arena.New(DType::kF32, {n}), m = arena.NewZero(DType::kF32, {n}), v = arena.NewZero(DType::kF32, {n});
  const Tensor master = arena.New(DType::kF32, {n});
  FillRandom(g, "g");
  FillRandom(master, "w");
  AdamWParams params;
  params.lr = 1e-3;
  const float before = master.data<float>()[n - 1];
  AdamW(bench.stream(), params, g, m, v, master, master);
  // A first step goes by lr against the gradient's sign.
  if (const double moved = static_cast<double>(master.data<float>()[n - 1]) - static_cast<double>(before); std::abs(moved + params.lr) > 1e-6) {
    return absl::InternalError(absl::StrFormat("%s: moved by %g, expected %g", adamw, moved, -params.lr));
  }
  bench.Line(adamw, 7 * 4.0 * n, "GB/s", [&] { AdamW(bench.stream(), params, g, m, v, master, master); });
  double want = 0;
  for (int64_t i = 0; i < n; ++i) want += std::pow(static_cast<double>(g.data<float>()[i]), 2);
  if (const double got = SumOfSquares(bench.stream(), g); std::abs(got / want - 1) > 1e-12) {
    return absl::InternalError(absl::StrFormat("%s: %g, expected %g", squares, got, want));
  }
  bench.Line(squares, 4.0 * n, "GB/s", [&] { SumOfSquares(bench.stream(), g); });
  return absl::OkStatus();
}

}  // namespace grouper::kernels
