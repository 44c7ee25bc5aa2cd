#include "kernels/embedding.h"

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::CutInvariant;
using grouper::testing::Get;
using grouper::testing::Memory;
using grouper::testing::RowInvariant;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;

const int32_t kIds[] = {3, 0, 3, 6, 3, 1, 6, 0, 3, 5, 5};
constexpr int64_t kTokens = 11;

TEST(EmbeddingTest, CopiesRowsForEveryType) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    Memory memory;
    const Tensor table = memory.Random(dtype, {7, 33}, "table");
    const Tensor out = memory.New(dtype, {kTokens, 33});
    EXPECT_TRUE(RowInvariant(kTokens, out, [&](Stream& stream, int64_t begin, int64_t, const Tensor& rows) {
      Embedding(stream, table, kIds + begin, rows);
    }));
    for (int64_t t = 0; t < kTokens; ++t) EXPECT_TRUE(Same(out.Rows(t, t + 1), table.Rows(kIds[t], kIds[t] + 1)));
  }
}

TEST(EmbeddingBackwardTest, RepeatedRowsSumInTokenOrder) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    Memory memory;
    const DType sums = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
    const Tensor dout = memory.RandomStrided(dtype, {kTokens, 33}, 2, "dout");
    const Tensor dtable = memory.Random(sums, {7, 33}, "dtable"), want = memory.Clone(dtable);
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t j = 0; j < 33; ++j) {
        const int64_t i = kIds[t] * 33 + j;
        const double a = Get(want, i), b = Get(dout, t * 33 + j);
        Set(want, i, sums == DType::kF64 ? a + b : static_cast<double>(static_cast<float>(a) + static_cast<float>(b)));
      }
    }
    EXPECT_TRUE(CutInvariant(kTokens, dtable, [&](Stream& stream, int64_t begin, int64_t end, const Tensor& sum) {
      EmbeddingBackward(stream, dout.Rows(begin, end), kIds + begin, sum);
    }));
    EXPECT_TRUE(Same(dtable, want));
  }
}

TEST(EmbeddingDeathTest, IdsOutsideTheTableAreCaught) {
  Memory memory;
  TestStream test(1);
  const Tensor table = memory.New(DType::kF32, {3, 4}), out = memory.New(DType::kF32, {1, 4});
  const int32_t id = 3;
  EXPECT_DEATH(Embedding(test.stream, table, &id, out), "id 3 of 3");
}

}  // namespace
}  // namespace grouper::kernels
