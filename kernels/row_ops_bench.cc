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

void FillRandom(const Tensor& t, const char* label) {
  PhiloxStream numbers(MakePhiloxKey(1, label));
  float* data = t.data<float>();
  for (int64_t i = 0; i < t.size(); ++i) data[i] = static_cast<float>(numbers.NextDouble()) + 0.1f;
}

// The same op on one thread must give the same bits.
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
    const auto line = [&](const char* op, double passes, const Tensor& out, const std::function<void(Stream&)>& run) {
      const std::string name = absl::StrFormat("%-16s %5d x %5d", op, t, d);
      if (!bench.Wants(name)) return absl::OkStatus();
      RETURN_IF_ERROR(CheckSameOnOneThread(name, out, run, bench.stream()));
      bench.Line(name, passes * element_bytes, "GB/s", [&] { run(bench.stream()); });
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(line("copy", 2, y, [&](Stream& s) { Copy(s, x, y); }));
    RETURN_IF_ERROR(line("rms_norm", 2, y, [&](Stream& s) { RmsNorm(s, x, w, 1e-6, y, rstd); }));
    RETURN_IF_ERROR(line("rms_norm dx+dw", 3, dx, [&](Stream& s) { RmsNormBackward(s, y, x, w, rstd, dx, false, dw); }));
    RETURN_IF_ERROR(line("swiglu", 3, y, [&](Stream& s) { SwiGlu(s, gates, y); }));
    RETURN_IF_ERROR(line("swiglu backward", 5, dgates, [&](Stream& s) { SwiGluBackward(s, y, gates, dgates); }));
    RETURN_IF_ERROR(line("add", 3, dx, [&](Stream& s) {
      Copy(s, x, dx);
      Add(s, x, dx);
    }));
  }
  Arena arena;
  const int64_t n = 500000;
  const Tensor g = arena.New(DType::kF32, {n}), m = arena.NewZero(DType::kF32, {n}), v = arena.NewZero(DType::kF32, {n});
  const Tensor master = arena.New(DType::kF32, {n});
  FillRandom(g, "g");
  FillRandom(master, "w");
  AdamWParams params;
  params.lr = 1e-6;
  if (bench.Wants("adamw")) {
    bench.Line(absl::StrFormat("%-16s %13d", "adamw", n), 7 * 4.0 * n, "GB/s", [&] { AdamW(bench.stream(), params, g, m, v, master, master); });
  }
  if (bench.Wants("sum_of_squares")) {
    bench.Line(absl::StrFormat("%-16s %13d", "sum_of_squares", n), 4.0 * n, "GB/s", [&] { SumOfSquares(bench.stream(), g); });
  }
  return absl::OkStatus();
}

}  // namespace grouper::kernels
