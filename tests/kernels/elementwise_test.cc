#include "kernels/elementwise.h"

#include <array>

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::Get;
using grouper::testing::Memory;
using grouper::testing::RowInvariant;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;

constexpr DType kTypes[] = {DType::kF32, DType::kF64, DType::kBF16};

TEST(ElementwiseTest, AddAddsWhateverTheStrides) {
  TestStream test(3);
  for (const DType dtype : kTypes) {
    for (const int64_t rows : {0, 1, 17}) {
      Memory memory;
      const Tensor x = memory.RandomStrided(dtype, {rows, 13}, 3, "x"), y = memory.Random(dtype, {rows, 13}, "y");
      const Tensor want = memory.Clone(y), other = memory.Clone(y);
      for (int64_t i = 0; i < want.size(); ++i) {
        const double sum = Get(x, i) + Get(y, i);
        Set(want, i, dtype == DType::kF64 ? sum : static_cast<double>(static_cast<float>(sum)));
      }
      Add(test.stream, x, y);
      EXPECT_TRUE(Same(y, want));
      Add(test.stream, memory.Clone(x), other);
      EXPECT_TRUE(Same(other, want));
    }
  }
}

TEST(ElementwiseTest, CopyConvertsBetweenAllTypes) {
  TestStream test(2);
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      Memory memory;
      const Tensor x = memory.RandomStrided(from, {5, 19}, 4, "x"), y = memory.New(to, {5, 30}).Columns(3, 22);
      Copy(test.stream, x, y);
      EXPECT_TRUE(Same(y, memory.Convert(x, to))) << Name(from) << " to " << Name(to);
    }
  }
}

TEST(ElementwiseTest, CopyReadsARowForEveryHead) {
  TestStream test(2);
  for (const DType dtype : kTypes) {
    Memory memory;
    const Tensor x = memory.RandomStrided(dtype, {7, 1, 19}, 4, "x"), y = memory.New(dtype, {7, 5, 24}).Columns(5, 24);
    Copy(test.stream, x.Repeat(1, 5), y);
    for (int64_t h = 0; h < 5; ++h) {
      for (int64_t i = 0; i < 7 * 19; ++i) ASSERT_EQ(Get(y, (i / 19 * 5 + h) * 19 + i % 19), Get(x, i)) << h;
    }
  }
}

TEST(ElementwiseTest, SumHeadsIsAChainOverTheHeadsRoundedOnce) {
  for (const DType dtype : kTypes) {
    for (const auto& [tokens, heads, width] : {std::array<int64_t, 3>{0, 3, 8}, {1, 1, 1}, {5, 16, 64}, {300, 4, 13}, {17, 3, 8}}) {
      Memory memory;
      const DType wide = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
      const Tensor x = memory.RandomStrided(dtype, {tokens, heads, width}, 3, "x"), sums = memory.Zero(wide, {tokens, width});
      for (int64_t i = 0; i < sums.size(); ++i) {
        for (int64_t h = 0; h < heads; ++h) Set(sums, i, Get(sums, i) + Get(x, (i / width * heads + h) * width + i % width));
      }
      for (const int threads : {1, 3}) {
        TestStream test(threads);
        const Tensor y = memory.New(dtype, {tokens, width + 2}).Columns(1, width + 1);
        SumHeads(test.stream, x, y);
        EXPECT_TRUE(Same(y, memory.Convert(sums, dtype))) << Name(dtype) << " of " << heads << " heads, " << width << " wide";
      }
      EXPECT_TRUE(RowInvariant(tokens, memory.Convert(sums, dtype),
                               [&](Stream& s, int64_t begin, int64_t end, const Tensor& out) { SumHeads(s, x.Rows(begin, end), out); }));
    }
  }
}

TEST(ElementwiseDeathTest, SumHeadsNamesTheTensorThatIsNotAsExpected) {
  TestStream test(1);
  Memory memory;
  const Tensor x = memory.New(DType::kF32, {4, 2, 8});
  EXPECT_DEATH(SumHeads(test.stream, x, memory.New(DType::kF32, {4, 7})), "y is F32\\[4, 7\\], expected F32\\[4, 8\\]");
  EXPECT_DEATH(SumHeads(test.stream, x, memory.New(DType::kF64, {4, 8})), "y is F64");
  EXPECT_DEATH(SumHeads(test.stream, x.Reshape({8, 8}), x), "x is F32\\[8, 8\\], expected \\[tokens, heads, width\\]");
}

TEST(ElementwiseTest, LargeTensorsAreSharedByThreads) {
  TestStream test(3);
  Memory memory;
  const Tensor x = memory.Random(DType::kF32, {301, 501}, "x"), y = memory.New(DType::kF32, {301, 501});
  Copy(test.stream, x, y);
  EXPECT_TRUE(Same(y, x));
  Fill(test.stream, y.Columns(1, 500), 2.5);
  EXPECT_EQ(Get(y, 0), Get(x, 0));
  EXPECT_EQ(Get(y, 1), 2.5);
  EXPECT_EQ(Get(y, 300 * 501 + 499), 2.5);
  EXPECT_EQ(Get(y, 300 * 501 + 500), Get(x, 300 * 501 + 500));
}

}  // namespace
}  // namespace grouper::kernels
