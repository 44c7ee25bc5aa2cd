#include "kernels/rope.h"

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

RopeTable Table(Memory& memory, DType dtype, int64_t positions, int64_t d, RopePairing pairing) {
  const RopeTable table = {memory.New(dtype, {positions, d / 2}), memory.New(dtype, {positions, d / 2}), pairing};
  for (int64_t i = 0; i < table.cos.size(); ++i) {
    const double angle = static_cast<double>(i / (d / 2)) * std::pow(1e4, -2.0 * static_cast<double>(i % (d / 2)) / static_cast<double>(d));
    Set(table.cos, i, std::cos(angle));
    Set(table.sin, i, std::sin(angle));
  }
  return table;
}

const int32_t kPositions[] = {0, 5, 5, 63, 1, 2, 40};

TEST(RopeTest, TurnsEachPairByItsAngle) {
  TestStream test(2);
  for (const RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
    for (const int64_t d : {2, 8, 16, 22, 64}) {
      Memory memory;
      const RopeTable table = Table(memory, DType::kF32, 64, d, pairing);
      const Tensor x = memory.RandomStrided(DType::kF32, {7, 3, d}, 2, "x"), want = memory.Convert(x, DType::kF64);
      for (int64_t row = 0; row < 21; ++row) {
        for (int64_t i = 0; i < d / 2; ++i) {
          const int64_t first = row * d + (pairing == RopePairing::kHalfSplit ? i : 2 * i);
          const int64_t second = row * d + (pairing == RopePairing::kHalfSplit ? i + d / 2 : 2 * i + 1);
          const double c = Get(table.cos, kPositions[row / 3] * (d / 2) + i), s = Get(table.sin, kPositions[row / 3] * (d / 2) + i);
          const double a = Get(x, first), b = Get(x, second);
          Set(want, first, a * c - b * s);
          Set(want, second, b * c + a * s);
        }
      }
      const Tensor y = memory.New(x.dtype(), {x.dim(0), x.dim(1), x.dim(2)});
      Rope(test.stream, x, kPositions, table, false, y);
      Rope(test.stream, x, kPositions, table, false);
      EXPECT_TRUE(Near(x, want, 1e-6, 1e-6)) << d;
      EXPECT_TRUE(Same(x, y)) << d << ", to elsewhere";
    }
  }
}

TEST(RopeTest, InverseIsTheGradientAndTurnsBack) {
  TestStream test(1);
  for (const RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
    Memory memory;
    const RopeTable table = Table(memory, DType::kF64, 64, 12, pairing);
    const Tensor x = memory.Random(DType::kF64, {7, 2, 12}, "x"), dy = memory.Random(DType::kF64, {7, 2, 12}, "dy");
    const auto loss = [&] {
      const Tensor y = memory.Clone(x);
      Rope(test.stream, y, kPositions, table, false);
      double sum = 0;
      for (int64_t i = 0; i < y.size(); ++i) sum += Get(y, i) * Get(dy, i);
      return sum;
    };
    const Tensor dx = memory.Clone(dy);
    Rope(test.stream, dx, kPositions, table, true);
    EXPECT_TRUE(GradientMatches(loss, x, dx));
    const Tensor back = memory.Clone(x);
    Rope(test.stream, back, kPositions, table, false);
    Rope(test.stream, back, kPositions, table, true);
    EXPECT_TRUE(Near(back, x, 1e-13, 1e-13));
  }
}

TEST(RopeTest, IsRowInvariantAndLeavesNeighboursAlone) {
  for (const RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
    Memory memory;
    const RopeTable table = Table(memory, DType::kF32, 64, 16, pairing);
    const Tensor whole = memory.Random(DType::kF32, {7, 2, 24}, "x");
    EXPECT_TRUE(RowInvariant(7, memory.New(DType::kF32, {7, 2, 24}), [&](Stream& stream, int64_t begin, int64_t, const Tensor& out) {
      for (int64_t i = 0; i < out.size(); ++i) Set(out, i, Get(whole, begin * 48 + i));
      Rope(stream, out.Columns(8, 24), kPositions + begin, table, false);
      for (int64_t i = 0; i < out.size(); ++i) {
        if (i % 24 < 8) {
          ASSERT_EQ(Get(out, i), Get(whole, begin * 48 + i));
        }
      }
    }));
  }
}

TEST(RopeTest, Bf16RoundsTheFloatResultOnce) {
  Memory memory;
  TestStream test(1);
  const RopeTable table = Table(memory, DType::kF32, 64, 16, RopePairing::kInterleaved);
  const Tensor x = memory.Random(DType::kBF16, {7, 2, 16}, "x"), wide = memory.Convert(x, DType::kF32);
  Rope(test.stream, x, kPositions, table, false);
  Rope(test.stream, wide, kPositions, table, false);
  EXPECT_TRUE(Same(x, memory.Convert(wide, DType::kBF16)));
}

}  // namespace
}  // namespace grouper::kernels
