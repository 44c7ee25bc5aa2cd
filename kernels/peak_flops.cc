#include "kernels/peak_flops.h"

#include <algorithm>
#include <chrono>

#include "kernels/simd.h"

namespace grouper::kernels {
namespace {

// Multiply-adds are independent in so many chains, enough to cover their latency of 4 or 5 cycles on two units.
constexpr int kChains = 12;
constexpr int kSteps = 4000;
constexpr int kTries = 8;

double MeasureOneThread() {
  const Vec<float> x = Vec<float>::Broadcast(0.5f), y = Vec<float>::Broadcast(1);
  Vec<float> acc[kChains];
  for (Vec<float>& a : acc) a = Vec<float>::Zero();
  double best = 0;
  for (int round = 0; round < kTries; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) acc[i] = Fma(acc[i], x, y);
    }
    float sum = 0;
    for (const Vec<float>& a : acc) sum += a[0];
    static volatile float sink;
    sink = sum;  // so that the chains are computed, and before the clock is read
    static_cast<void>(sink);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * kLanes * kChains * kSteps / std::max(seconds, 1e-9));
  }
  return best;
}

}  // namespace

double PeakFlops(const Stream& stream, DType dtype) {
  if (stream.device.is_cuda()) return dtype == DType::kBF16 ? 989.4e12 : 66.9e12;
  return MeasureOneThread() * stream.threads.num_threads();
}

}  // namespace grouper::kernels
