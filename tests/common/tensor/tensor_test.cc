#include "common/tensor/tensor.h"

#include <vector>

#include "gtest/gtest.h"

namespace grouper {
namespace {

std::vector<float> Numbers(size_t n) {
  std::vector<float> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = static_cast<float>(i);
  return v;
}

TEST(TensorTest, DefaultIsEmptyAndAbsent) {
  const Tensor t;
  EXPECT_TRUE(t.empty());
  EXPECT_EQ(t.rank(), 0);
}

TEST(TensorTest, ViewsKnowShapeStridesAndText) {
  std::vector<float> data = Numbers(24);
  const Tensor t(data.data(), DType::kF32, {2, 3, 4});
  EXPECT_EQ(t.size(), 24);
  EXPECT_EQ(t.dim(-1), 4);
  EXPECT_EQ(t.stride(0), 12);
  EXPECT_EQ(t.stride(1), 4);
  EXPECT_EQ(t.stride(-1), 1);
  EXPECT_TRUE(t.contiguous());
  EXPECT_EQ(t.ShapeString(), "F32[2, 3, 4]");
  EXPECT_EQ(t.row<float>(1)[0], 12);
}

TEST(TensorTest, RowsColumnsAndIndexShareTheMemory) {
  std::vector<float> data = Numbers(24);
  const Tensor t(data.data(), DType::kF32, {4, 6});
  const Tensor part = t.Rows(1, 3).Columns(2, 5);
  EXPECT_EQ(part.dim(0), 2);
  EXPECT_EQ(part.dim(1), 3);
  EXPECT_EQ(part.stride(0), 6);
  EXPECT_FALSE(part.contiguous());
  EXPECT_EQ(part.row<float>(1)[2], 16);
  EXPECT_EQ(part[1].data<float>()[2], 16);
  EXPECT_EQ(part[1].rank(), 1);
  EXPECT_EQ(t.Rows(2, 2).size(), 0);
}

TEST(TensorTest, TheInnermostDimensionSplitsEvenWhenRowsAreStrided) {
  std::vector<float> data = Numbers(40);
  const Tensor slice = Tensor(data.data(), DType::kF32, {4, 10}).Columns(2, 8);
  const Tensor heads = slice.Reshape({4, 3, 2});
  EXPECT_EQ(heads.stride(0), 10);
  EXPECT_EQ(heads.stride(1), 2);
  EXPECT_EQ(heads.row<float>(2)[heads.stride(1) * 2 + 1], 27);
  EXPECT_EQ(Tensor(data.data(), DType::kF32, {4, 10}).Reshape({8, 5}).row<float>(7)[4], 39);
}

TEST(TensorTest, ADimensionOfLengthOneRepeats) {
  std::vector<float> data = Numbers(12);
  const Tensor t = Tensor(data.data(), DType::kF32, {3, 1, 4}).Columns(1, 3).Repeat(1, 5);
  EXPECT_EQ(t.ShapeString(), "F32[3, 5, 2]");
  EXPECT_EQ(t.stride(0), 4);
  EXPECT_EQ(t.stride(1), 0);
  EXPECT_FALSE(t.contiguous());
  EXPECT_EQ(t[2][4].data<float>()[1], 10);
}

TEST(TensorDeathTest, MisuseEndsTheProcessWithTheShape) {
  std::vector<float> data = Numbers(12);
  const Tensor t(data.data(), DType::kF32, {3, 4});
  EXPECT_DEATH(t.data<double>(), "F32");
  EXPECT_DEATH(t.Rows(2, 4), "F32\\[3, 4\\] rows 2\\.\\.4");
  EXPECT_DEATH(t.Columns(0, 5), "columns 0\\.\\.5");
  EXPECT_DEATH(t.Reshape({5, 2}), "");
  EXPECT_DEATH(t.Repeat(0, 2), "F32\\[3, 4\\] dimension 0");
  EXPECT_DEATH(t.Columns(0, 2).Reshape({6}), "");
}

TEST(DTypeTest, SizesAndNames) {
  EXPECT_EQ(SizeOf(DType::kF32), 4u);
  EXPECT_EQ(SizeOf(DType::kF64), 8u);
  EXPECT_EQ(SizeOf(DType::kBF16), 2u);
  EXPECT_EQ(SizeOf(DType::kI32), 4u);
  EXPECT_STREQ(Name(DType::kBF16), "BF16");
}

}  // namespace
}  // namespace grouper
