#include "kernels/swiglu.h"

#include <cmath>

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::Get;
using grouper::testing::GradientMatches;
using grouper::testing::Memory;
using grouper::testing::Near;
using grouper::testing::RowInvariant;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;
using grouper::testing::WithinOneRounding;

TEST(SwiGluTest, MatchesTheFormulaForOddWidths) {
  TestStream test(2);
  for (const int64_t width : {1, 8, 13, 64, 131}) {
    Memory memory;
    const Tensor x = memory.RandomStrided(DType::kF32, {9, 2 * width}, 3, "x", 3), y = memory.New(DType::kF32, {9, width + 1}).Columns(0, width);
    SwiGlu(test.stream, x, y);
    const Tensor want = memory.New(DType::kF64, {9, width});
    for (int64_t i = 0; i < want.size(); ++i) {
      const double g = Get(x, i / width * 2 * width + i % width), u = Get(x, i / width * 2 * width + width + i % width);
      Set(want, i, g / (1 + std::exp(-g)) * u);
    }
    EXPECT_TRUE(Near(y, want, 1e-7, 1e-6)) << width;
  }
}

TEST(SwiGluTest, LargeGatesNeitherOverflowNorVanish) {
  Memory memory;
  TestStream test(1);
  const Tensor x = memory.New(DType::kF32, {1, 6}), y = memory.New(DType::kF32, {1, 3});
  const double values[] = {1000, -1000, -50, 2, 3, 4};
  for (int i = 0; i < 6; ++i) Set(x, i, values[i]);
  SwiGlu(test.stream, x, y);
  EXPECT_EQ(Get(y, 0), 2000);
  EXPECT_EQ(Get(y, 1), 0);
  EXPECT_NEAR(Get(y, 2), -200 * std::exp(-50.0), 1e-25);
}

TEST(SwiGluTest, IsRowInvariantForwardAndBackward) {
  Memory memory;
  const Tensor x = memory.Random(DType::kF32, {300, 94}, "x"), dy = memory.Random(DType::kF32, {300, 47}, "dy");
  EXPECT_TRUE(RowInvariant(300, memory.New(DType::kF32, {300, 47}), [&](Stream& stream, int64_t begin, int64_t end, const Tensor& out) {
    SwiGlu(stream, x.Rows(begin, end), out);
  }));
  EXPECT_TRUE(RowInvariant(300, memory.New(DType::kF32, {300, 94}), [&](Stream& stream, int64_t begin, int64_t end, const Tensor& out) {
    SwiGluBackward(stream, dy.Rows(begin, end), x.Rows(begin, end), out);
  }));
}

TEST(SwiGluBackwardTest, MatchesCentralDifferencesAlsoInPlace) {
  Memory memory;
  TestStream test(2);
  const Tensor x = memory.Random(DType::kF64, {4, 22}, "x"), dy = memory.Random(DType::kF64, {4, 11}, "dy");
  const auto loss = [&] {
    const Tensor y = memory.New(DType::kF64, {4, 11});
    SwiGlu(test.stream, x, y);
    double sum = 0;
    for (int64_t i = 0; i < y.size(); ++i) sum += Get(y, i) * Get(dy, i);
    return sum;
  };
  const Tensor dx = memory.New(DType::kF64, {4, 22}), in_place = memory.Clone(x);
  SwiGluBackward(test.stream, dy, x, dx);
  EXPECT_TRUE(GradientMatches(loss, x, dx));
  SwiGluBackward(test.stream, dy, in_place, in_place);
  EXPECT_TRUE(Same(in_place, dx));
}

TEST(SwiGluTest, Bf16RoundsTheFloatResultOnce) {
  Memory memory;
  TestStream test(1);
  const Tensor x = memory.Random(DType::kBF16, {5, 26}, "x"), dy = memory.Random(DType::kBF16, {5, 13}, "dy");
  const Tensor y = memory.New(DType::kBF16, {5, 13}), wide = memory.New(DType::kF32, {5, 13});
  SwiGlu(test.stream, x, y);
  SwiGlu(test.stream, memory.Convert(x, DType::kF32), wide);
  EXPECT_TRUE(WithinOneRounding(y, wide));
  const Tensor dx = memory.New(DType::kBF16, {5, 26}), dx_wide = memory.New(DType::kF32, {5, 26});
  SwiGluBackward(test.stream, dy, x, dx);
  SwiGluBackward(test.stream, memory.Convert(dy, DType::kF32), memory.Convert(x, DType::kF32), dx_wide);
  EXPECT_TRUE(Same(dx, memory.Convert(dx_wide, DType::kBF16)));
}

}  // namespace
}  // namespace grouper::kernels
