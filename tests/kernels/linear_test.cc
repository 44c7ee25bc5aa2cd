#include "kernels/linear.h"

#include <cmath>

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::CutInvariant;
using grouper::testing::Get;
using grouper::testing::GradientMatches;
using grouper::testing::Memory;
using grouper::testing::RowInvariant;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;
using grouper::testing::WithinOneRounding;

// y[t, n] = bias[n] + chain over k, in T: the three-line loop that every product must equal.
template <typename T>
void NaiveLinear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  const int64_t depth = w.dim(1), width = w.dim(0);
  for (int64_t t = 0; t < x.dim(0); ++t) {
    for (int64_t n = 0; n < width; ++n) {
      T c = 0;
      for (int64_t k = 0; k < depth; ++k) {
        c = std::fma(static_cast<T>(Get(x, t * depth + k)), static_cast<T>(Get(w, n * depth + k)), c);
      }
      Set(y, t * width + n, static_cast<double>(bias.empty() ? c : c + static_cast<T>(Get(bias, n))));
    }
  }
}

struct Shape {
  int64_t t, k, n;
};
const Shape kShapes[] = {{0, 5, 7},   {1, 1, 1},    {1, 96, 96}, {2, 17, 33},  {3, 40, 31},    {5, 0, 4},   {6, 96, 16},
                         {7, 96, 17}, {13, 31, 49}, {16, 8, 64}, {25, 385, 7}, {49, 100, 130}, {151, 7, 5}, {3, 4097, 18}};

std::string Text(const Shape& s) {
  return std::to_string(s.t) + " x " + std::to_string(s.k) + " x " + std::to_string(s.n);
}

template <typename T>
class LinearTest : public ::testing::Test {
 public:
  static constexpr DType kType = DTypeOf<T>::value;
};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(LinearTest, Types);

TYPED_TEST(LinearTest, EqualsTheNaiveChainForAllShapesThreadsAndPacks) {
  constexpr DType kType = TestFixture::kType;
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(Text(s));
    Memory memory;
    const Tensor x = memory.RandomStrided(kType, {s.t, s.k}, 3, "x"), w = memory.RandomStrided(kType, {s.n, s.k}, 5, "w");
    const Tensor bias = memory.Random(kType, {s.n}, "bias");
    const Tensor want = memory.New(kType, {s.t, s.n}), plain = memory.New(kType, {s.t, s.n});
    NaiveLinear<TypeParam>(x, w, bias, want);
    NaiveLinear<TypeParam>(x, w, Tensor(), plain);
    for (int threads = 1; threads <= 3; ++threads) {
      TestStream test(threads);
      PackedMatrix packed;
      packed.Pack(test.stream, w);
      const Tensor y = memory.New(kType, {s.t, s.n + 2}).Columns(0, s.n);
      Linear(test.stream, x, w, &packed, bias, y);
      EXPECT_TRUE(Same(y, want)) << threads;
      const Tensor y2 = memory.New(kType, {s.t, s.n});
      Linear(test.stream, x, w, nullptr, Tensor(), y2);
      EXPECT_TRUE(Same(y2, plain)) << threads;
    }
  }
}

// A router's: rows in bf16 beside float weights are as good as widened ones, and a gradient in bf16 is the float one, rounded (and then added).
TEST(LinearOfMixedTypesTest, RowsAreWidenedAndGradientsRounded) {
  for (const Shape& s : kShapes) {
    if (s.t == 0) continue;
    SCOPED_TRACE(Text(s));
    Memory memory;
    TestStream test(2);
    const Tensor x = memory.RandomStrided(DType::kBF16, {s.t, s.k}, 3, "x"), wide = memory.Convert(x, DType::kF32);
    const Tensor w = memory.Random(DType::kF32, {s.n, s.k}, "w"), bias = memory.Random(DType::kF32, {s.n}, "bias"),
                 dy = memory.Random(DType::kF32, {s.t, s.n}, "dy");
    const Tensor y = memory.New(DType::kF32, {s.t, s.n}), want = memory.New(DType::kF32, {s.t, s.n});
    Linear(test.stream, x, w, nullptr, bias, y);
    Linear(test.stream, wide, w, nullptr, bias, want);
    EXPECT_TRUE(Same(y, want));
    const Tensor dw = memory.Zero(DType::kF32, {s.n, s.k}), dw_want = memory.Zero(DType::kF32, {s.n, s.k});
    LinearBackwardWeight(test.stream, dy, x, dw, {});
    LinearBackwardWeight(test.stream, dy, wide, dw_want, {});
    EXPECT_TRUE(Same(dw, dw_want));
    const Tensor dx32 = memory.New(DType::kF32, {s.t, s.k}), dx = memory.New(DType::kBF16, {s.t, s.k});
    LinearBackwardInput(test.stream, dy, w, dx32, false);
    LinearBackwardInput(test.stream, dy, w, dx, false);
    EXPECT_TRUE(Same(dx, memory.Convert(dx32, DType::kBF16)));
    const Tensor sum = memory.Random(DType::kBF16, {s.t, s.k}, "sum"), sum_want = memory.New(DType::kBF16, {s.t, s.k});
    for (int64_t i = 0; i < sum.size(); ++i) Set(sum_want, i, static_cast<float>(Get(sum, i)) + static_cast<float>(Get(dx, i)));
    LinearBackwardInput(test.stream, dy, w, sum, true);
    EXPECT_TRUE(Same(sum, sum_want));
  }
}

TYPED_TEST(LinearTest, BackwardInputEqualsTheNaiveChain) {
  constexpr DType kType = TestFixture::kType;
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(Text(s));
    Memory memory;
    const Tensor dy = memory.RandomStrided(kType, {s.t, s.n}, 1, "dy"), w = memory.RandomStrided(kType, {s.n, s.k}, 5, "w");
    const Tensor start = memory.Random(kType, {s.t, s.k}, "dx");
    for (const bool accumulate : {false, true}) {
      const Tensor want = memory.Clone(start);
      for (int64_t t = 0; t < s.t; ++t) {
        for (int64_t k = 0; k < s.k; ++k) {
          TypeParam c = accumulate ? static_cast<TypeParam>(Get(start, t * s.k + k)) : 0;
          for (int64_t n = 0; n < s.n; ++n) {
            c = std::fma(static_cast<TypeParam>(Get(dy, t * s.n + n)), static_cast<TypeParam>(Get(w, n * s.k + k)), c);
          }
          Set(want, t * s.k + k, static_cast<double>(c));
        }
      }
      for (int threads = 1; threads <= 3; ++threads) {
        TestStream test(threads);
        const Tensor dx = memory.Clone(start);
        LinearBackwardInput(test.stream, dy, w, dx, accumulate);
        EXPECT_TRUE(Same(dx, want)) << threads << " accumulate " << accumulate;
      }
    }
  }
}

TYPED_TEST(LinearTest, BackwardWeightContinuesTheChainOverTokens) {
  constexpr DType kType = TestFixture::kType;
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(Text(s));
    Memory memory;
    const Tensor dy = memory.RandomStrided(kType, {s.t, s.n}, 1, "dy"), x = memory.RandomStrided(kType, {s.t, s.k}, 3, "x");
    const Tensor start = memory.Random(kType, {s.n, s.k}, "dw"), start_bias = memory.Random(kType, {s.n}, "db");
    const Tensor want = memory.Clone(start), want_bias = memory.Clone(start_bias);
    for (int64_t n = 0; n < s.n; ++n) {
      TypeParam sum = static_cast<TypeParam>(Get(start_bias, n));
      for (int64_t t = 0; t < s.t; ++t) sum += static_cast<TypeParam>(Get(dy, t * s.n + n));
      Set(want_bias, n, static_cast<double>(sum));
      for (int64_t k = 0; k < s.k; ++k) {
        TypeParam c = static_cast<TypeParam>(Get(start, n * s.k + k));
        for (int64_t t = 0; t < s.t; ++t) {
          c = std::fma(static_cast<TypeParam>(Get(dy, t * s.n + n)), static_cast<TypeParam>(Get(x, t * s.k + k)), c);
        }
        Set(want, n * s.k + k, static_cast<double>(c));
      }
    }
    for (int threads = 1; threads <= 3; ++threads) {
      TestStream test(threads);
      const Tensor dw = memory.Clone(start), db = memory.Clone(start_bias);
      LinearBackwardWeight(test.stream, dy, x, dw, db);
      EXPECT_TRUE(Same(dw, want)) << threads;
      EXPECT_TRUE(Same(db, want_bias)) << threads;
    }
  }
}

TEST(LinearContractTest, ForwardIsRowInvariantAtTheModelsSizes) {
  for (const Shape& s : {Shape{70, 96, 96}, Shape{23, 576, 192}, Shape{19, 1536, 64}}) {
    SCOPED_TRACE(Text(s));
    Memory memory;
    const Tensor x = memory.Random(DType::kF32, {s.t, s.k}, "x"), w = memory.Random(DType::kF32, {s.n, s.k}, "w");
    TestStream packer(1);
    PackedMatrix packed;
    packed.Pack(packer.stream, w);
    for (const PackedMatrix* pack : {static_cast<const PackedMatrix*>(nullptr), static_cast<const PackedMatrix*>(&packed)}) {
      EXPECT_TRUE(RowInvariant(s.t, memory.New(DType::kF32, {s.t, s.n}),
                               [&](Stream& stream, int64_t begin, int64_t end, const Tensor& out) {
                                 Linear(stream, x.Rows(begin, end), w, pack, Tensor(), out);
                               }));
    }
    EXPECT_TRUE(RowInvariant(s.t, memory.New(DType::kF32, {s.t, s.n}),
                             [&, wt = memory.Random(DType::kF32, {s.k, s.n}, "wt")](Stream& stream, int64_t begin, int64_t end,
                                                                                    const Tensor& out) {
                               LinearBackwardInput(stream, x.Rows(begin, end), wt, out, false);
                             }));
  }
}

TEST(LinearContractTest, WeightGradientsDoNotSeeMicroBatches) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    Memory memory;
    const DType sums = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
    const Tensor dy = memory.Random(dtype, {41, 37}, "dy"), x = memory.Random(dtype, {41, 50}, "x");
    const Tensor dw = memory.Random(sums, {37, 50}, "dw"), db = memory.Random(sums, {37}, "db");
    EXPECT_TRUE(CutInvariant(41, dw, [&](Stream& stream, int64_t begin, int64_t end, const Tensor& sum) {
      LinearBackwardWeight(stream, dy.Rows(begin, end), x.Rows(begin, end), sum, Tensor());
    }));
    EXPECT_TRUE(CutInvariant(41, db, [&](Stream& stream, int64_t begin, int64_t end, const Tensor& sum) {
      LinearBackwardWeight(stream, dy.Rows(begin, end), x.Rows(begin, end), memory.Clone(dw), sum);
    }));
  }
}

TEST(LinearContractTest, WeightGradientsFromNothingAreSumsOntoZeros) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    for (const int64_t tokens : {1, 2, 3, 41, 300}) {
      Memory memory;
      const DType sums = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
      const Tensor dy = memory.Random(dtype, {tokens, 37}, "dy"), x = memory.Random(dtype, {tokens, 50}, "x");
      const Tensor want = memory.Zero(sums, {37, 50}), want_bias = memory.Random(sums, {37}, "db"), bias = memory.Clone(want_bias);
      TestStream one(1), two(2);
      LinearBackwardWeight(one.stream, dy, x, want, want_bias);
      const Tensor got = memory.New(sums, {37, 50});
      LinearBackwardWeight(two.stream, dy, x, got, bias, /*accumulate=*/false);
      EXPECT_TRUE(Same(got, want)) << tokens;
      EXPECT_TRUE(Same(bias, want_bias)) << tokens;
    }
  }
}

TEST(LinearGradientTest, MatchesCentralDifferences) {
  Memory memory;
  TestStream test(2);
  const Tensor x = memory.Random(DType::kF64, {5, 9}, "x"), w = memory.Random(DType::kF64, {7, 9}, "w");
  const Tensor bias = memory.Random(DType::kF64, {7}, "b"), dy = memory.Random(DType::kF64, {5, 7}, "dy");
  const auto loss = [&] {
    const Tensor y = memory.New(DType::kF64, {5, 7});
    Linear(test.stream, x, w, nullptr, bias, y);
    double sum = 0;
    for (int64_t i = 0; i < y.size(); ++i) sum += Get(y, i) * Get(dy, i);
    return sum;
  };
  const Tensor dx = memory.New(DType::kF64, {5, 9}), dw = memory.Zero(DType::kF64, {7, 9}), db = memory.Zero(DType::kF64, {7});
  LinearBackwardInput(test.stream, dy, w, dx, false);
  LinearBackwardWeight(test.stream, dy, x, dw, db);
  EXPECT_TRUE(GradientMatches(loss, x, dx));
  EXPECT_TRUE(GradientMatches(loss, w, dw));
  EXPECT_TRUE(GradientMatches(loss, bias, db));
}

TEST(LinearBf16Test, RoundsTheFloatResultOnce) {
  Memory memory;
  TestStream test(2);
  const Tensor x = memory.Random(DType::kBF16, {9, 70}, "x"), w = memory.Random(DType::kBF16, {35, 70}, "w");
  const Tensor bias = memory.Random(DType::kBF16, {35}, "b");
  const Tensor y = memory.New(DType::kBF16, {9, 35}), wide = memory.New(DType::kF32, {9, 35});
  Linear(test.stream, memory.Convert(x, DType::kF32), memory.Convert(w, DType::kF32), nullptr, memory.Convert(bias, DType::kF32), wide);
  PackedMatrix packed;
  packed.Pack(test.stream, w);
  for (const PackedMatrix* pack : {static_cast<const PackedMatrix*>(nullptr), static_cast<const PackedMatrix*>(&packed)}) {
    Linear(test.stream, x, w, pack, bias, y);
    EXPECT_TRUE(WithinOneRounding(y, wide));
    EXPECT_TRUE(Same(y, memory.Convert(wide, DType::kBF16)));
  }
  // dx accumulates in float from the stored value and rounds once.
  const Tensor dy = memory.Random(DType::kBF16, {9, 35}, "dy"), dx = memory.Random(DType::kBF16, {9, 70}, "dx");
  const Tensor dx_wide = memory.Convert(dx, DType::kF32);
  LinearBackwardInput(test.stream, dy, w, dx, true);
  LinearBackwardInput(test.stream, memory.Convert(dy, DType::kF32), memory.Convert(w, DType::kF32), dx_wide, true);
  EXPECT_TRUE(Same(dx, memory.Convert(dx_wide, DType::kBF16)));
}

TEST(PackedMatrixTest, PackingAgainReusesMemoryAndTakesTheNewValues) {
  Memory memory;
  TestStream test(2);
  const Tensor w = memory.Random(DType::kF32, {33, 20}, "w"), x = memory.Random(DType::kF32, {4, 20}, "x");
  PackedMatrix packed;
  EXPECT_TRUE(packed.empty());
  EXPECT_EQ(packed.bytes(), 0u);
  packed.Pack(test.stream, w);
  const size_t bytes = packed.bytes();
  const auto* layout = packed.layout();
  EXPECT_GE(bytes, 33u * 20 * 4);
  for (int64_t i = 0; i < w.size(); ++i) Set(w, i, -Get(w, i));
  packed.Pack(test.stream, w);
  EXPECT_EQ(packed.layout(), layout);
  EXPECT_EQ(packed.bytes(), bytes);
  const Tensor y = memory.New(DType::kF32, {4, 33}), want = memory.New(DType::kF32, {4, 33});
  NaiveLinear<float>(x, w, Tensor(), want);
  PackedMatrix moved = std::move(packed);
  Linear(test.stream, x, w, &moved, Tensor(), y);
  EXPECT_TRUE(Same(y, want));
}

// A matrix that is only there packed: written in pieces of any cut, in its own type, read back, and used with a weight that is a shape alone.
TEST(PackedMatrixTest, RowsWrittenInPiecesAreThePackedMatrix) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    for (const int64_t columns : {1, 8, 37, 64}) {
      Memory memory;
      TestStream test(2);
      const Tensor w = memory.Random(dtype, {3, 53, columns}, "w"), shape = w.At(nullptr, {}), back = memory.New(dtype, {3, 53, columns});
      EXPECT_TRUE(shape.empty() && shape[1].empty() && shape[1].Rows(4, 9).empty());
      PackedMatrix whole, pieces;
      Arena arena;
      whole.Pack(test.stream, w);
      pieces.Reserve(shape, &arena);
      for (int64_t e = 0; e < 3; ++e) {
        for (int64_t row = 0, step = 1; row < 53; row += step, step = step * 3 % 22) {
          pieces.WriteRows(e, row, w[e].Rows(row, std::min<int64_t>(53, row + step)));
        }
        for (int64_t row = 0; row < 53; row += 19) pieces.ReadRows(e, row, back[e].Rows(row, std::min<int64_t>(53, row + 19)));
      }
      EXPECT_TRUE(Same(back, w)) << Name(dtype) << " " << columns;
      EXPECT_EQ(pieces.bytes(), static_cast<size_t>(3 * (dtype == DType::kF64 ? 56 : 64) * columns) * SizeOf(dtype));

      const std::vector<int32_t> offsets = {0, 2, 2, 9};
      const Tensor x = memory.Random(dtype, {9, columns}, "x"), y = memory.New(dtype, {9, 53}), want = memory.New(dtype, {9, 53});
      GroupedLinear(test.stream, x, offsets, {}, w, &whole, want);
      GroupedLinear(test.stream, x, offsets, {}, shape, &pieces, y);
      EXPECT_TRUE(Same(y, want)) << Name(dtype) << " " << columns;
    }
  }
}

// --- grouped -----------------------------------------------------------------
struct Groups {
  std::vector<int32_t> offsets, gather;
};

// Five experts, the first and third empty; rows gathered from 9 tokens.
Groups SomeGroups() {
  Groups g;
  g.offsets = {0, 0, 7, 7, 8, 21};
  for (int32_t r = 0; r < 21; ++r) g.gather.push_back(r * 5 % 9);
  return g;
}

TEST(GroupedLinearTest, EachGroupEqualsItsOwnLinear) {
  const Groups groups = SomeGroups();
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    Memory memory;
    const Tensor tokens = memory.Random(dtype, {9, 31}, "x"), w = memory.Random(dtype, {5, 18, 31}, "w");
    const Tensor rows = memory.New(dtype, {21, 31});
    for (int64_t i = 0; i < rows.size(); ++i) Set(rows, i, Get(tokens, groups.gather[static_cast<size_t>(i / 31)] * 31 + i % 31));
    const Tensor want = memory.New(dtype, {21, 18});
    TestStream one(1);
    for (int e = 0; e < 5; ++e) {
      const int64_t begin = groups.offsets[static_cast<size_t>(e)], end = groups.offsets[static_cast<size_t>(e) + 1];
      Linear(one.stream, rows.Rows(begin, end), w[e], nullptr, Tensor(), want.Rows(begin, end));
    }
    for (int threads = 1; threads <= 3; ++threads) {
      TestStream test(threads);
      PackedMatrix packed;
      packed.Pack(test.stream, w);
      for (const PackedMatrix* pack : {static_cast<const PackedMatrix*>(nullptr), static_cast<const PackedMatrix*>(&packed)}) {
        const Tensor y = memory.New(dtype, {21, 18});
        GroupedLinear(test.stream, tokens, groups.offsets, groups.gather, w, pack, y);
        EXPECT_TRUE(Same(y, want)) << threads;
        const Tensor y2 = memory.New(dtype, {21, 18});
        GroupedLinear(test.stream, rows, groups.offsets, {}, w, pack, y2);
        EXPECT_TRUE(Same(y2, want)) << threads;
      }
    }
  }
}

TEST(GroupedLinearTest, BackwardEqualsTheDenseBackwardOfEachGroup) {
  const Groups groups = SomeGroups();
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    Memory memory;
    const DType sums = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
    const Tensor tokens = memory.Random(dtype, {9, 31}, "x"), w = memory.Random(dtype, {5, 18, 31}, "w");
    const Tensor dy = memory.Random(dtype, {21, 18}, "dy"), rows = memory.New(dtype, {21, 31});
    for (int64_t i = 0; i < rows.size(); ++i) Set(rows, i, Get(tokens, groups.gather[static_cast<size_t>(i / 31)] * 31 + i % 31));
    const Tensor want = memory.New(dtype, {21, 31}), start = memory.Random(sums, {5, 18, 31}, "dw"), want_w = memory.Clone(start);
    TestStream one(1);
    for (int e = 0; e < 5; ++e) {
      const int64_t begin = groups.offsets[static_cast<size_t>(e)], end = groups.offsets[static_cast<size_t>(e) + 1];
      LinearBackwardInput(one.stream, dy.Rows(begin, end), w[e], want.Rows(begin, end), false);
      LinearBackwardWeight(one.stream, dy.Rows(begin, end), rows.Rows(begin, end), want_w[e], Tensor());
    }
    for (int threads = 1; threads <= 3; ++threads) {
      TestStream test(threads);
      const Tensor dx = memory.New(dtype, {21, 31}), dw = memory.Clone(start), dw2 = memory.Clone(start);
      GroupedLinearBackwardInput(test.stream, dy, groups.offsets, w, dx);
      EXPECT_TRUE(Same(dx, want)) << threads;
      GroupedLinearBackwardWeight(test.stream, dy, tokens, groups.offsets, groups.gather, dw);
      EXPECT_TRUE(Same(dw, want_w)) << threads;
      GroupedLinearBackwardWeight(test.stream, dy, rows, groups.offsets, {}, dw2);
      EXPECT_TRUE(Same(dw2, want_w)) << threads;
      const Tensor onto_zeros = memory.Zero(sums, {5, 18, 31}), written = memory.New(sums, {5, 18, 31});
      GroupedLinearBackwardWeight(test.stream, dy, tokens, groups.offsets, groups.gather, onto_zeros);
      GroupedLinearBackwardWeight(test.stream, dy, tokens, groups.offsets, groups.gather, written, /*accumulate=*/false);
      EXPECT_TRUE(Same(written, onto_zeros)) << threads;
    }
  }
}

TEST(GroupedLinearTest, NoRowsAtAllIsNothing) {
  Memory memory;
  TestStream test(2);
  const Tensor w = memory.Random(DType::kF32, {2, 3, 4}, "w"), dw = memory.Random(DType::kF32, {2, 3, 4}, "dw");
  const Tensor before = memory.Clone(dw), x = memory.New(DType::kF32, {0, 4}), y = memory.New(DType::kF32, {0, 3});
  GroupedLinear(test.stream, x, {0, 0, 0}, {}, w, nullptr, y);
  GroupedLinearBackwardInput(test.stream, y, {0, 0, 0}, w, x);
  GroupedLinearBackwardWeight(test.stream, y, x, {0, 0, 0}, {}, dw);
  EXPECT_TRUE(Same(dw, before));
}

TEST(LinearDeathTest, WrongShapesAreAProgrammersMistake) {
  Memory memory;
  TestStream test(1);
  const Tensor x = memory.New(DType::kF32, {2, 4}), w = memory.New(DType::kF32, {3, 5}), y = memory.New(DType::kF32, {2, 3});
  EXPECT_DEATH(Linear(test.stream, x, w, nullptr, Tensor(), y), "weight is F32\\[3, 5\\], expected F32\\[3, 4\\]");
}

}  // namespace
}  // namespace grouper::kernels
