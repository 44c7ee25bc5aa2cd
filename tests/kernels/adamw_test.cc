#include "kernels/adamw.h"

#include <cmath>

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::Get;
using grouper::testing::Memory;
using grouper::testing::Near;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;

AdamWParams SomeParams() {
  AdamWParams params;
  params.lr = 3e-3;
  params.weight_decay = 0.01;
  params.step = 7;
  params.gradient_scale = 0.4;
  return params;
}

struct State {
  Tensor gradient, m, v, master;
};

State RandomState(Memory& memory, DType dtype, int64_t n) {
  State s = {memory.Random(dtype, {n}, "g"), memory.Random(dtype, {n}, "m", 0.1), memory.Random(dtype, {n}, "v", 0.1),
             memory.Random(dtype, {n}, "w")};
  for (int64_t i = 0; i < n; ++i) Set(s.v, i, std::fabs(Get(s.v, i)));
  return s;
}

// The header's formula in double.
void Reference(const AdamWParams& p, const State& s) {
  const double t = static_cast<double>(p.step);
  for (int64_t i = 0; i < s.master.size(); ++i) {
    const double g = Get(s.gradient, i) * p.gradient_scale;
    const double m = p.beta1 * Get(s.m, i) + (1 - p.beta1) * g, v = p.beta2 * Get(s.v, i) + (1 - p.beta2) * g * g, w = Get(s.master, i);
    Set(s.m, i, m);
    Set(s.v, i, v);
    Set(s.master, i, w - p.lr * (m / (1 - std::pow(p.beta1, t)) / (std::sqrt(v / (1 - std::pow(p.beta2, t))) + p.eps) + p.weight_decay * w));
  }
}

TEST(AdamWTest, MatchesTheFormula) {
  TestStream test(2);
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const int64_t n : {1, 8, 29}) {
      Memory memory;
      const State s = RandomState(memory, dtype, n), want = RandomState(memory, DType::kF64, n);
      Reference(SomeParams(), want);
      AdamW(test.stream, SomeParams(), s.gradient, s.m, s.v, s.master, s.master);
      const double tolerance = dtype == DType::kF64 ? 1e-14 : 1e-6;
      EXPECT_TRUE(Near(s.m, want.m, tolerance, tolerance));
      EXPECT_TRUE(Near(s.v, want.v, tolerance, tolerance));
      EXPECT_TRUE(Near(s.master, want.master, tolerance, tolerance));
    }
  }
}

TEST(AdamWTest, ThreadsDoNotChangeTheBits) {
  Memory memory;
  const State one = RandomState(memory, DType::kF32, 50001), three = RandomState(memory, DType::kF32, 50001);
  TestStream single(1), several(3);
  AdamW(single.stream, SomeParams(), one.gradient, one.m, one.v, one.master, one.master);
  AdamW(several.stream, SomeParams(), three.gradient, three.m, three.v, three.master, three.master);
  EXPECT_TRUE(Same(three.master, one.master));
  EXPECT_TRUE(Same(three.m, one.m));
  EXPECT_TRUE(Same(three.v, one.v));
}

TEST(AdamWTest, Bf16WeightsAreTheRoundedMaster) {
  Memory memory;
  TestStream test(2);
  const State s = RandomState(memory, DType::kF32, 37), f = RandomState(memory, DType::kF32, 37);
  const Tensor weight = memory.New(DType::kBF16, {37});
  AdamW(test.stream, SomeParams(), s.gradient, s.m, s.v, s.master, weight);
  AdamW(test.stream, SomeParams(), f.gradient, f.m, f.v, f.master, f.master);
  EXPECT_TRUE(Same(s.master, f.master));
  EXPECT_TRUE(Same(weight, memory.Convert(s.master, DType::kBF16)));
}

TEST(SumOfSquaresTest, IsTheDoubleSumAndIndependentOfThreads) {
  TestStream one(1), three(3);
  for (const int64_t n : {0, 1, 4096, 4097, 100003}) {
    Memory memory;
    const Tensor x = memory.Random(DType::kF32, {n}, "x");
    double want = 0;
    for (int64_t i = 0; i < n; ++i) want += Get(x, i) * Get(x, i);
    const double got = SumOfSquares(one.stream, x);
    EXPECT_NEAR(got, want, 1e-12 * want);
    EXPECT_EQ(got, SumOfSquares(three.stream, x));
  }
}

TEST(SumOfSquaresTest, NanAndInfAnywhereShow) {
  Memory memory;
  TestStream test(2);
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
    for (const int64_t where : {0, 4095, 8999}) {
      const Tensor x = memory.Random(DType::kF32, {9000}, "x");
      Set(x, where, bad);
      EXPECT_FALSE(std::isfinite(SumOfSquares(test.stream, x)));
    }
  }
}

TEST(SumOfSquaresTest, LargestFloatsDoNotOverflow) {
  Memory memory;
  TestStream test(1);
  const Tensor x = memory.New(DType::kF32, {8});
  for (int i = 0; i < 8; ++i) Set(x, i, 3e38);
  EXPECT_NEAR(SumOfSquares(test.stream, x) / (8 * 9e76), 1, 1e-6);
}

}  // namespace
}  // namespace grouper::kernels
