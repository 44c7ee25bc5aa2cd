#include "kernels/gemm.h"

#include <cmath>

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::Get;
using grouper::testing::Memory;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;

// C [batch, m, n] by the loop over std::fma, in T, from A [batch, m, k] and B [batch, k, n].
template <typename T>
void NaiveGemm(const Tensor& a, const Tensor& b, const Tensor& c, bool accumulate) {
  const int64_t m = a.dim(1), k = a.dim(2), n = b.dim(2);
  for (int64_t i = 0; i < c.size(); ++i) {
    const int64_t batch = i / (m * n), row = i / n % m, column = i % n;
    T sum = accumulate ? static_cast<T>(Get(c, i)) : 0;
    for (int64_t kk = 0; kk < k; ++kk) {
      sum = std::fma(static_cast<T>(Get(a, (batch * m + row) * k + kk)), static_cast<T>(Get(b, (batch * k + kk) * n + column)), sum);
    }
    Set(c, i, static_cast<double>(sum));
  }
}

// t [batch, r, c] stored as [batch, c, r]: the same matrix with consecutive columns.
MatrixRef Transposed(Memory& memory, const Tensor& t) {
  const Tensor copy = memory.New(t.dtype(), {t.dim(0), t.dim(2), t.dim(1)});
  for (int64_t i = 0; i < t.size(); ++i) {
    const int64_t b = i / (t.dim(1) * t.dim(2)), r = i / t.dim(2) % t.dim(1), c = i % t.dim(2);
    Set(copy, (b * t.dim(2) + c) * t.dim(1) + r, Get(t, i));
  }
  return {copy.raw(), 1, t.dim(1), t.dim(1) * t.dim(2)};
}

MatrixRef Plain(const Tensor& t) { return {t.raw(), t.stride(1), 1, t.stride(0)}; }

struct Shape {
  int64_t batch, m, n, k;
};

template <typename T>
void CheckAllOrientations(DType dtype) {
  for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{4, 7, 32, 16}, Shape{4, 33, 24, 32}, Shape{3, 1, 40, 5}, Shape{2, 13, 17, 0},
                         Shape{9, 64, 16, 40}, Shape{2, 6, 65, 129}, Shape{0, 3, 3, 3}, Shape{1, 0, 3, 3}}) {
    SCOPED_TRACE(std::to_string(s.batch) + " x " + std::to_string(s.m) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k));
    Memory memory;
    const Tensor a = memory.Random(dtype, {s.batch, s.m, s.k}, "a"), b = memory.Random(dtype, {s.batch, s.k, s.n}, "b");
    const Tensor start = memory.Random(dtype, {s.batch, s.m, s.n}, "c");
    const MatrixRef at = Transposed(memory, a), bt = Transposed(memory, b);
    for (const bool accumulate : {false, true}) {
      const Tensor want = memory.Clone(start);
      NaiveGemm<T>(a, b, want, accumulate);
      for (int variant = 0; variant < 12; ++variant) {
        TestStream test(1 + variant / 4);
        const Tensor c = memory.Clone(start);
        GemmParams params;
        params.batch = s.batch, params.m = s.m, params.n = s.n, params.k = s.k;
        params.a = variant & 1 ? at : Plain(a);
        params.b = variant & 2 ? bt : Plain(b);
        params.c = Plain(c);
        params.dtype = dtype;
        params.accumulate = accumulate;
        Gemm(test.stream, params);
        EXPECT_TRUE(Same(c, want)) << "variant " << variant << " accumulate " << accumulate;
      }
    }
  }
}

TEST(GemmTest, EqualsTheNaiveChainInFloat) { CheckAllOrientations<float>(DType::kF32); }
TEST(GemmTest, EqualsTheNaiveChainInDouble) { CheckAllOrientations<double>(DType::kF64); }
TEST(GemmTest, EqualsTheFloatChainRoundedOnceInBf16) { CheckAllOrientations<float>(DType::kBF16); }

TEST(GemmTest, HeadsOfOneTensorAreABatchByStrides) {
  // q [T, H, D] times a matrix of each head: batch over heads with strides inside the row.
  Memory memory;
  TestStream test(2);
  const int64_t tokens = 11, heads = 4, d = 16, out = 32;
  const Tensor q = memory.Random(DType::kF32, {tokens, heads, d}, "q"), w = memory.Random(DType::kF32, {heads, d, out}, "w");
  const Tensor y = memory.New(DType::kF32, {tokens, heads, out});
  GemmParams params;
  params.batch = heads, params.m = tokens, params.n = out, params.k = d;
  params.a = {q.raw(), heads * d, 1, d};
  params.b = Plain(w);
  params.c = {y.raw(), heads * out, 1, out};
  Gemm(test.stream, params);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t j = 0; j < out; ++j) {
        float sum = 0;
        for (int64_t k = 0; k < d; ++k) sum = std::fma(q.row<float>(t)[h * d + k], w.row<float>(h)[k * out + j], sum);
        ASSERT_EQ(y.row<float>(t)[h * out + j], sum);
      }
    }
  }
}

TEST(GemmTest, SpecialValuesSpreadAsInTheLoop) {
  Memory memory;
  TestStream test(2);
  const Tensor a = memory.Random(DType::kF32, {1, 9, 20}, "a"), b = memory.Random(DType::kF32, {1, 20, 19}, "b");
  Set(a, 20 * 3 + 4, NAN);
  Set(b, 19 * 7 + 18, INFINITY);
  const Tensor want = memory.New(DType::kF32, {1, 9, 19}), c = memory.New(DType::kF32, {1, 9, 19});
  NaiveGemm<float>(a, b, want, false);
  GemmParams params;
  params.m = 9, params.n = 19, params.k = 20;
  params.a = Plain(a), params.b = Plain(b), params.c = Plain(c);
  Gemm(test.stream, params);
  EXPECT_TRUE(Same(c, want));
}

}  // namespace
}  // namespace grouper::kernels
