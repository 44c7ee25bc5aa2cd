#include "kernels/ceilings.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <vector>

#include "common/base/philox.h"
#include "common/tensor/host_memory.h"
#include "kernels/dispatch.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace grouper::kernels {
namespace {

constexpr int kTries = 5;
constexpr double kLongEnough = 5e-3, kTry = 2e-2;  // seconds: of one run, and of the runs that are timed together

double SecondsOf(Stream& stream, const std::function<void()>& run, int runs) {
  stream.Synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < runs; ++i) run();
  stream.Synchronize();
  return std::max(1e-9, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

// The best of several tries; `once`: what one run took.
double BestSeconds(Stream& stream, const std::function<void()>& run, double once) {
  const int runs = std::max(1, static_cast<int>(kTry / once));
  double best = once;
  for (int i = 0; i < (once > 1 ? 1 : kTries); ++i) best = std::min(best, SecondsOf(stream, run, runs) / runs);
  return best;
}

void FillRandom(const Tensor& t, uint64_t seed) {
  std::vector<float> numbers((1 << 16) - 15);  // a prime, so that no row repeats its neighbour
  PhiloxStream random(MakePhiloxKey(seed, "ceilings"));
  for (float& x : numbers) x = static_cast<float>(random.NextNormal());
  std::string bytes(NumBytes(t), '\0');
  const Tensor host = t.At(bytes.data(), {});
  for (int64_t i = 0; i < t.size(); ++i) {
    const float x = numbers[static_cast<size_t>(i) % numbers.size()];
    if (t.dtype() == DType::kBF16) {
      host.data<bf16>()[i] = bf16(x);
    } else {
      host.data<float>()[i] = x;
    }
  }
  CopyTensor(host, t);
}

// Bytes a second: buffers of 128 MiB, which no cache holds, doubled up to 1 GiB where that is a matter of microseconds.
double CopyRate(Stream& stream) {
  for (size_t bytes = size_t{128} << 20;; bytes *= 2) {
    Arena memory(stream.device, stream.handle);
    const auto floats = static_cast<int64_t>(bytes / 4);
    const Tensor from = memory.New(DType::kF32, {floats / 1024, 1024}), to = memory.NewZero(DType::kF32, {floats / 1024, 1024});
    int64_t filled = std::min<int64_t>(from.dim(0), 16384);
    FillRandom(from.Rows(0, filled), 3);
    for (; filled < from.dim(0); filled *= 2) Copy(stream, from.Rows(0, filled), from.Rows(filled, 2 * filled));
    const auto copy = [&] {
      if constexpr (kWithCuda) {
        if (stream.device.is_cuda()) return cuda::CopyBytes(stream, from.raw(), to.raw(), bytes);
      }
      Copy(stream, from, to);
    };
    const double once = std::min(SecondsOf(stream, copy, 1), SecondsOf(stream, copy, 1));
    if (once < kLongEnough && bytes < size_t{1} << 30) continue;
    return 2.0 * static_cast<double>(bytes) / BestSeconds(stream, copy, once);
  }
}

}  // namespace

Ceilings MeasureCeilings(Stream& stream, DType dtype) {
  Ceilings ceilings;
  ceilings.copy = CopyRate(stream);
  for (int64_t n = 256;; n *= 2) {
    Arena memory(stream.device, stream.handle);
    const Tensor x = memory.New(dtype, {n, n}), w = memory.New(dtype, {n, n}), y = memory.New(dtype, {n, n});
    const auto product = [&] { Linear(stream, x, w, nullptr, {}, y); };
    FillRandom(x, 1);
    FillRandom(w, 2);
    double once = SecondsOf(stream, product, 1);
    if (once < 1) once = std::min(once, SecondsOf(stream, product, 1));
    if (once < kLongEnough && n < 8192) continue;
    ceilings.product = 2.0 * static_cast<double>(n) * static_cast<double>(n * n) / BestSeconds(stream, product, once);
    ceilings.product_size = n;
    return ceilings;
  }
}

}  // namespace grouper::kernels
