// The device's exponentials, compiled for the CPU: math.h's bits wherever they may be used.
#include "kernels/math.h"

#include <bit>
#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "kernels/emulator/language.h"
#include "kernels/math.cuh"

namespace grouper::kernels {
namespace {

uint32_t Bits(float x) { return std::isnan(x) ? 0x7fc00000u : std::bit_cast<uint32_t>(x); }

// f(x) for every float x between -infinity and -0 that is `step` from the last one.
template <typename F>
void ForNegative(uint32_t step, F f) {
  for (uint64_t bits = 0x80000000u; bits <= 0xff800000u; bits += step) f(std::bit_cast<float>(static_cast<uint32_t>(bits)));
}

// f(x) for the floats around x <= 0.
template <typename F>
void ForNeighbours(double x, F f) {
  const uint32_t middle = std::bit_cast<uint32_t>(static_cast<float>(x)), most = middle < 0xff800000u - 500 ? middle + 500 : 0xff800000u;
  for (uint32_t bits = middle - 0x80000000u < 500 ? 0x80000000u : middle - 500; bits <= most; ++bits) f(std::bit_cast<float>(bits));
}

void Compare(float x) {
  const uint32_t want = Bits(Exp(x));
  int wrong = Bits(cuda::Exp(x)) != want;
  wrong += Bits(cuda::ExpUpToZero(x)) != want;
  wrong += x >= cuda::kLeastNormalExp && x <= 0 && Bits(cuda::ExpNormal(x)) != want;
  if (wrong > 0) ADD_FAILURE() << x << ": " << wrong << " of the exponentials differ";
}

TEST(MathCudaTest, ExponentialsUpToZeroHaveTheCpusBits) {
  ForNegative(257, Compare);
  for (int n = 0; n <= 152; ++n) ForNeighbours(-(n + 0.5) * 0.69314718055994531, Compare);  // where n changes
  for (const double x : {-0.0, -1.17549435e-38, -1.0, -86.99, -87.0, -87.3365448, -103.278929, -103.972084, -105.0, -1e30, -3.4e38}) ForNeighbours(x, Compare);
  for (const float x : {0.0f, -std::numeric_limits<float>::infinity(), std::nanf("")}) Compare(x);
}

}  // namespace
}  // namespace grouper::kernels
