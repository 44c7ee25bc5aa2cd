#include "kernels/rms_norm.h"

#include <cmath>

#include "kernels/elementwise.h"
#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::CutInvariant;
using grouper::testing::Get;
using grouper::testing::GradientMatches;
using grouper::testing::Memory;
using grouper::testing::Near;
using grouper::testing::RowInvariant;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;
using grouper::testing::WithinOneRounding;

constexpr double kEps = 1e-5;

// y = x / sqrt(mean(x^2) + eps) * weight in double.
Tensor Reference(Memory& memory, const Tensor& x, const Tensor& weight) {
  const Tensor y = memory.Convert(x, DType::kF64);
  const int64_t width = x.dim(-1);
  for (int64_t row = 0; row < x.size() / width; ++row) {
    double sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += Get(x, row * width + i) * Get(x, row * width + i);
    const double rstd = 1 / std::sqrt(sum / static_cast<double>(width) + kEps);
    for (int64_t i = 0; i < width; ++i) Set(y, row * width + i, Get(x, row * width + i) * rstd * Get(weight, i));
  }
  return y;
}

TEST(RmsNormTest, MatchesTheFormulaForOddWidthsAndStrides) {
  TestStream test(2);
  for (const int64_t width : {1, 7, 8, 31, 96, 577}) {
    Memory memory;
    const Tensor x = memory.RandomStrided(DType::kF32, {5, width}, 3, "x"), w = memory.Random(DType::kF32, {width}, "w");
    const Tensor y = memory.New(DType::kF32, {5, width}), rstd = memory.New(DType::kF32, {5});
    RmsNorm(test.stream, x, w, kEps, y, rstd);
    const Tensor want = Reference(memory, x, w);
    EXPECT_TRUE(Near(y, want, 1e-6, 1e-5)) << width;
    // In place, and without rstd.
    RmsNorm(test.stream, x, w, kEps, x, Tensor());
    EXPECT_TRUE(Same(x, y)) << width;
  }
}

TEST(RmsNormTest, EveryHeadOfRankThreeIsARow) {
  Memory memory;
  TestStream test(2);
  const Tensor x = memory.RandomStrided(DType::kF32, {6, 3, 16}, 5, "x"), w = memory.Random(DType::kF32, {16}, "w");
  const Tensor y = memory.New(DType::kF32, {6, 3, 16}), rstd = memory.New(DType::kF32, {18});
  RmsNorm(test.stream, x, w, kEps, y, rstd);
  const Tensor flat = memory.Clone(x).Reshape({18, 16}), want = memory.New(DType::kF32, {18, 16}), rstd2 = memory.New(DType::kF32, {18});
  RmsNorm(test.stream, flat, w, kEps, want, rstd2);
  EXPECT_TRUE(Same(y.Reshape({18, 16}), want));
  EXPECT_TRUE(Same(rstd, rstd2));
}

TEST(RmsNormTest, Bf16RoundsTheFloatResultOnce) {
  Memory memory;
  TestStream test(1);
  const Tensor x = memory.Random(DType::kBF16, {4, 45}, "x"), w = memory.Random(DType::kBF16, {45}, "w");
  const Tensor y = memory.New(DType::kBF16, {4, 45}), wide = memory.New(DType::kF32, {4, 45});
  RmsNorm(test.stream, x, w, kEps, y, Tensor());
  RmsNorm(test.stream, memory.Convert(x, DType::kF32), memory.Convert(w, DType::kF32), kEps, wide, Tensor());
  EXPECT_TRUE(WithinOneRounding(y, wide));
  EXPECT_TRUE(Same(y, memory.Convert(wide, DType::kBF16)));
}

TEST(RmsNormTest, ForwardIsRowInvariant) {
  Memory memory;
  const Tensor x = memory.Random(DType::kF32, {500, 97}, "x"), w = memory.Random(DType::kF32, {97}, "w");
  EXPECT_TRUE(RowInvariant(500, memory.New(DType::kF32, {500, 97}), [&](Stream& stream, int64_t begin, int64_t end, const Tensor& out) {
    RmsNorm(stream, x.Rows(begin, end), w, kEps, out, Tensor());
  }));
}

TEST(AddRmsNormTest, EqualsAddThenRmsNorm) {
  TestStream test(2);
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    Memory memory;
    const DType stats = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
    const Tensor delta = memory.RandomStrided(dtype, {9, 33}, 2, "d"), residual = memory.Random(dtype, {9, 33}, "r");
    const Tensor sum = memory.Clone(residual), w = memory.Random(dtype, {33}, "w");
    const Tensor y = memory.New(dtype, {9, 33}), want = memory.New(dtype, {9, 33});
    const Tensor rstd = memory.New(stats, {9}), want_rstd = memory.New(stats, {9});
    const Tensor elsewhere = memory.New(dtype, {9, 33}), before = memory.Clone(residual);
    Add(test.stream, delta, sum);
    RmsNorm(test.stream, sum, w, kEps, want, want_rstd);
    AddRmsNorm(test.stream, delta, residual, elsewhere, w, kEps, y, rstd);
    EXPECT_TRUE(Same(residual, before));
    EXPECT_TRUE(Same(elsewhere, sum));
    EXPECT_TRUE(Same(y, want));
    AddRmsNorm(test.stream, delta, residual, residual, w, kEps, y, rstd);
    EXPECT_TRUE(Same(residual, sum));
    EXPECT_TRUE(Same(y, want));
    EXPECT_TRUE(Same(rstd, want_rstd));
  }
}

TEST(RmsNormBackwardTest, MatchesCentralDifferences) {
  Memory memory;
  TestStream test(2);
  const Tensor x = memory.Random(DType::kF64, {3, 2, 11}, "x"), w = memory.Random(DType::kF64, {11}, "w");
  const Tensor dy = memory.Random(DType::kF64, {3, 2, 11}, "dy"), y = memory.New(DType::kF64, {3, 2, 11});
  const Tensor rstd = memory.New(DType::kF64, {6});
  const auto loss = [&] {
    RmsNorm(test.stream, x, w, kEps, y, rstd);
    double sum = 0;
    for (int64_t i = 0; i < y.size(); ++i) sum += Get(y, i) * Get(dy, i);
    return sum;
  };
  loss();
  const Tensor dx = memory.New(DType::kF64, {3, 2, 11}), dw = memory.Zero(DType::kF64, {11});
  RmsNormBackward(test.stream, dy, x, w, rstd, dx, false, dw);
  EXPECT_TRUE(GradientMatches(loss, x, dx));
  EXPECT_TRUE(GradientMatches(loss, w, dw));
}

TEST(RmsNormBackwardTest, IsRowInvariantAndCutInvariant) {
  Memory memory;
  for (const int64_t width : {40, 96}) {
    const Tensor x = memory.Random(DType::kF32, {300, width}, "x"), w = memory.Random(DType::kF32, {width}, "w");
    const Tensor dy = memory.Random(DType::kF32, {300, width}, "dy"), rstd = memory.New(DType::kF32, {300});
    TestStream test(1);
    RmsNorm(test.stream, x, w, kEps, memory.New(DType::kF32, {300, width}), rstd);
    EXPECT_TRUE(RowInvariant(300, memory.New(DType::kF32, {300, width}), [&](Stream& stream, int64_t begin, int64_t end, const Tensor& out) {
      RmsNormBackward(stream, dy.Rows(begin, end), x.Rows(begin, end), w, rstd.Rows(begin, end), out, false,
                      memory.Zero(DType::kF32, {width}));
    }));
    const Tensor dx = memory.New(DType::kF32, {300, width});
    EXPECT_TRUE(CutInvariant(300, memory.Random(DType::kF32, {width}, "dw"), [&](Stream& stream, int64_t begin, int64_t end, const Tensor& sum) {
      RmsNormBackward(stream, dy.Rows(begin, end), x.Rows(begin, end), w, rstd.Rows(begin, end), dx.Rows(begin, end), false, sum);
    }));
  }
}

TEST(RmsNormBackwardTest, AccumulateAddsToTheResidualGradient) {
  Memory memory;
  TestStream test(2);
  const Tensor x = memory.Random(DType::kF32, {7, 24}, "x"), w = memory.Random(DType::kF32, {24}, "w");
  const Tensor dy = memory.Random(DType::kF32, {7, 24}, "dy"), rstd = memory.New(DType::kF32, {7}), y = memory.New(DType::kF32, {7, 24});
  RmsNorm(test.stream, x, w, kEps, y, rstd);
  const Tensor alone = memory.New(DType::kF32, {7, 24}), sum = memory.Random(DType::kF32, {7, 24}, "dx"), want = memory.Clone(sum);
  RmsNormBackward(test.stream, dy, x, w, rstd, alone, false, memory.Zero(DType::kF32, {24}));
  RmsNormBackward(test.stream, dy, x, w, rstd, sum, true, memory.Zero(DType::kF32, {24}));
  Add(test.stream, alone, want);
  EXPECT_TRUE(Same(sum, want));
}

}  // namespace
}  // namespace grouper::kernels
