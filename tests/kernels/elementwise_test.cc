#include "kernels/elementwise.h"

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::Get;
using grouper::testing::Memory;
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
