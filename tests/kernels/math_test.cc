#include "kernels/math.h"

#include <bit>
#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "kernels/simd.h"

namespace grouper::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Largest error in units of the last place of the exact result, over every 4099th float, against `exact` in double.
double WorstUlp(float (*ours)(float), double (*exact)(double)) {
  double worst = 0;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 4099) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    const double want = exact(static_cast<double>(x));
    const float nearest = static_cast<float>(want), got = ours(x);
    if (std::isnan(nearest)) {
      EXPECT_TRUE(std::isnan(got)) << x;
      continue;
    }
    if (std::isinf(nearest)) {
      EXPECT_EQ(got, nearest) << x;
      continue;
    }
    const double ulp = static_cast<double>(std::nextafter(std::fabs(nearest), kInf)) - static_cast<double>(std::fabs(nearest));
    worst = std::max(worst, std::fabs(static_cast<double>(got) - want) / ulp);
  }
  return worst;
}

double ExactSigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

TEST(MathTest, ErrorsStayBelowTheDocumentedBounds) {
  EXPECT_LE(WorstUlp(Exp, std::exp), 2);
  EXPECT_LE(WorstUlp(Log, std::log), 2);
  EXPECT_LE(WorstUlp(Log1p, std::log1p), 3);
  EXPECT_LE(WorstUlp(Sigmoid, ExactSigmoid), 4);
}

TEST(MathTest, EdgesAreAsDocumented) {
  EXPECT_EQ(Exp(0), 1);
  EXPECT_EQ(Exp(-kInf), 0);
  EXPECT_EQ(Exp(kInf), kInf);
  EXPECT_EQ(Exp(89), kInf);
  EXPECT_EQ(Exp(-104), 0);
  EXPECT_GT(Exp(-103), 0);
  EXPECT_TRUE(std::isnan(Exp(std::nanf(""))));
  EXPECT_EQ(Log(1), 0);
  EXPECT_EQ(Log(0), -kInf);
  EXPECT_EQ(Log(kInf), kInf);
  EXPECT_TRUE(std::isnan(Log(-1)));
  EXPECT_FLOAT_EQ(Log(1e-45f), std::log(1e-45f));
  EXPECT_EQ(Log1p(0), 0);
  EXPECT_EQ(Log1p(-1), -kInf);
  EXPECT_EQ(Log1p(kInf), kInf);
  EXPECT_EQ(Log1p(1e-30f), 1e-30f);
  EXPECT_EQ(Sigmoid(0), 0.5f);
  EXPECT_EQ(Sigmoid(1000), 1);
  EXPECT_EQ(Sigmoid(-1000), 0);
  EXPECT_EQ(Silu(0), 0);
  EXPECT_EQ(Silu(100), 100);
}

TEST(MathTest, EightLanesGiveTheScalarBits) {
  float x[8] = {-100, -1.5f, -1e-6f, 0, 1e-3f, 0.7f, 3, 88.5f};
  float exp[8], log[8], log1p[8], sigmoid[8], silu[8];
  Store(exp, Exp(Load(x)));
  Store(log, Log(Load(x)));
  Store(log1p, Log1p(Load(x)));
  Store(sigmoid, Sigmoid(Load(x)));
  Store(silu, Silu(Load(x)));
  const auto bits = [](float v) { return std::isnan(v) ? 0x7fc00000u : std::bit_cast<uint32_t>(v); };
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(bits(exp[i]), bits(Exp(x[i])));
    EXPECT_EQ(bits(log[i]), bits(Log(x[i])));
    EXPECT_EQ(bits(log1p[i]), bits(Log1p(x[i])));
    EXPECT_EQ(bits(sigmoid[i]), bits(Sigmoid(x[i])));
    EXPECT_EQ(bits(silu[i]), bits(Silu(x[i])));
  }
}

TEST(SimdTest, ReduceAddIsTheFixedTree) {
  const float x[8] = {1e8f, 1, -1e8f, 3, 0.25f, -7, 1e-3f, 11};
  EXPECT_EQ(ReduceAdd(Load(x)), ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])));
  double y[8];
  for (int i = 0; i < 8; ++i) y[i] = static_cast<double>(x[i]) * 1.1;
  EXPECT_EQ(ReduceAdd(Load(y)), ((y[0] + y[4]) + (y[2] + y[6])) + ((y[1] + y[5]) + (y[3] + y[7])));
  EXPECT_EQ(ReduceMax(Load(x)), 1e8f);
}

TEST(SimdTest, PartialLoadsAndStoresTouchOnlyTheirElements) {
  const float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  for (int n = 1; n < 8; ++n) {
    const Vec<float> v = LoadPartial(x, n);
    float y[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
    StorePartial(y, Load(x), n);
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(v[i], i < n ? x[i] : 0);
      EXPECT_EQ(y[i], i < n ? x[i] : -1);
    }
    EXPECT_EQ(FillTail(Load(x), n, -5.0f)[7], -5);
    EXPECT_EQ(FillTail(Load(x), n, -5.0f)[n - 1], x[n - 1]);
  }
}

TEST(SimdTest, StoringBf16RoundsAsTheScalarConversion) {
  const float x[8] = {1.00390625f, 1.01171875f, -3.14159f, 0, std::nanf(""), kInf, 1e-40f, 3.4e38f};
  bf16 y[8];
  Store(y, Load(x));
  for (int i = 0; i < 8; ++i) EXPECT_EQ(y[i].bits, bf16(x[i]).bits) << x[i];
}

}  // namespace
}  // namespace grouper::kernels
