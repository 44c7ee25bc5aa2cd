// Linear layers and matrix products on the GPU: float against the CPU with ==, bf16 against double, and the two
// invariances.
#include <array>
#include <cmath>
#include <random>

#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "kernels/gemm_tiles_cuda.h"
#include "kernels/linear.h"
#include "kernels/swiglu.h"
#include "tests/testing/cuda_world.h"

namespace grouper::kernels {
namespace {

using grouper::testing::CudaWorld;
using grouper::testing::Get;
using grouper::testing::Near;
using grouper::testing::Same;

struct Shape {
  int64_t t, k, n;
};
const Shape kShapes[] = {{1, 1, 1},     {1, 96, 96},   {2, 17, 33},   {3, 40, 31},   {5, 0, 4},
                         {7, 96, 17},   {63, 64, 65},  {64, 576, 96}, {65, 13, 100}, {129, 192, 129},
                         {300, 8, 264}, {513, 72, 40}, {40, 1536, 24}, {33, 260, 64}, {700, 132, 40}, {1200, 68, 64}};

// And those that take gemm_f32_cuda.cu's tiles on 132 multiprocessors: large for y; large for dx, small for dw; large for dw; middle for dw.
std::vector<Shape> ShapesOfFloat() {
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  shapes.insert(shapes.end(), {{8500, 72, 64}, {1300, 2056, 40}, {39, 2112, 512}, {70, 4104, 100}});
  return shapes;
}

std::string Text(const Shape& s) {
  return std::to_string(s.t) + " x " + std::to_string(s.k) + " x " + std::to_string(s.n);
}

// bf16 rounds once: relative 2^-8, and the float sum's own error.
::testing::AssertionResult NearDouble(const Tensor& got, const Tensor& want) {
  return Near(got, want, 2e-3, 1.0 / 255);
}

TEST(LinearCudaTest, FloatEqualsTheCpu) {
  GROUPER_NEEDS_CUDA();
  for (const Shape& s : ShapesOfFloat()) {
    SCOPED_TRACE(Text(s));
    CudaWorld world;
    auto& m = world.memory;
    const Tensor x = m.Random(DType::kF32, {s.t, s.k}, "x"), w = m.Random(DType::kF32, {s.n, s.k}, "w");
    const Tensor bias = m.Random(DType::kF32, {s.n}, "bias"), dy = m.Random(DType::kF32, {s.t, s.n}, "dy");
    const Tensor y = m.New(DType::kF32, {s.t, s.n}), dx = m.Random(DType::kF32, {s.t, s.k}, "dx");
    const Tensor dw = m.Random(DType::kF32, {s.n, s.k}, "dw"), db = m.Random(DType::kF32, {s.n}, "db");
    const Tensor gy = world.Put(y), gdx = world.Put(dx), gdw = world.Put(dw), gdb = world.Put(db);
    Linear(world.gpu, world.Put(x), world.Put(w), nullptr, world.Put(bias), gy);
    LinearBackwardInput(world.gpu, world.Put(dy), world.Put(w), gdx, true);
    LinearBackwardWeight(world.gpu, world.Put(dy), world.Put(x), gdw, gdb);
    Linear(world.cpu, x, w, nullptr, bias, y);
    LinearBackwardInput(world.cpu, dy, w, dx, true);
    LinearBackwardWeight(world.cpu, dy, x, dw, db);
    EXPECT_TRUE(Same(world.Get(gy), y));
    EXPECT_TRUE(Same(world.Get(gdx), dx));
    EXPECT_TRUE(Same(world.Get(gdw), dw));
    EXPECT_TRUE(Same(world.Get(gdb), db));
  }
}

// A router's: float weights and logits, rows in bf16.
TEST(LinearCudaTest, FloatWeightsTakeBf16RowsWithTheCpusBits) {
  GROUPER_NEEDS_CUDA();
  for (const Shape& s : ShapesOfFloat()) {
    SCOPED_TRACE(Text(s));
    CudaWorld world;
    auto& m = world.memory;
    const Tensor x = m.Random(DType::kBF16, {s.t, s.k}, "x"), w = m.Random(DType::kF32, {s.n, s.k}, "w"), bias = m.Random(DType::kF32, {s.n}, "bias");
    const Tensor dy = m.Random(DType::kF32, {s.t, s.n}, "dy"), y = m.New(DType::kF32, {s.t, s.n});
    const Tensor added = m.Random(DType::kBF16, {s.t, s.k}, "dx"), written = m.New(DType::kBF16, {s.t, s.k}), dw = m.Random(DType::kF32, {s.n, s.k}, "dw");
    const Tensor gy = world.Put(y), gadded = world.Put(added), gwritten = world.Put(written), gdw = world.Put(dw);
    Linear(world.gpu, world.Put(x), world.Put(w), nullptr, world.Put(bias), gy);
    LinearBackwardInput(world.gpu, world.Put(dy), world.Put(w), gadded, true);
    LinearBackwardInput(world.gpu, world.Put(dy), world.Put(w), gwritten, false);
    LinearBackwardWeight(world.gpu, world.Put(dy), world.Put(x), gdw, {});
    Linear(world.cpu, x, w, nullptr, bias, y);
    LinearBackwardInput(world.cpu, dy, w, added, true);
    LinearBackwardInput(world.cpu, dy, w, written, false);
    LinearBackwardWeight(world.cpu, dy, x, dw, {});
    EXPECT_TRUE(Same(world.Get(gy), y));
    EXPECT_TRUE(Same(world.Get(gadded), added));
    EXPECT_TRUE(Same(world.Get(gwritten), written));
    EXPECT_TRUE(Same(world.Get(gdw), dw));
  }
}

TEST(LinearCudaTest, Bf16IsNearDoubleForOddShapesAndStrides) {
  GROUPER_NEEDS_CUDA();
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(Text(s));
    CudaWorld world;
    auto& m = world.memory;
    const Tensor x = m.Random(DType::kBF16, {s.t, s.k}, "x"), w = m.Random(DType::kBF16, {s.n, s.k}, "w", 0.2);
    const Tensor bias = m.Random(DType::kBF16, {s.n}, "bias"), dy = m.Random(DType::kBF16, {s.t, s.n}, "dy", 0.2);
    const Tensor dw = m.Random(DType::kF32, {s.n, s.k}, "dw"), db = m.Random(DType::kF32, {s.n}, "db");
    // Rows inside wider rows, at an odd place.
    const Tensor wide = world.New(DType::kBF16, {s.t, s.n + 3}), gy = wide.Columns(1, s.n + 1);
    const Tensor gdx = world.New(DType::kBF16, {s.t, s.k}), gdw = world.Put(dw), gdb = world.Put(db);
    Linear(world.gpu, world.Put(x), world.Put(w), nullptr, world.Put(bias), gy);
    LinearBackwardInput(world.gpu, world.Put(dy), world.Put(w), gdx, false);
    LinearBackwardWeight(world.gpu, world.Put(dy), world.Put(x), gdw, gdb);

    const auto wider = [&](const Tensor& t) { return m.Convert(t, DType::kF64); };
    const Tensor y = m.New(DType::kF64, {s.t, s.n}), dx = m.New(DType::kF64, {s.t, s.k});
    const Tensor dw64 = wider(dw), db64 = wider(db);
    Linear(world.cpu, wider(x), wider(w), nullptr, wider(bias), y);
    LinearBackwardInput(world.cpu, wider(dy), wider(w), dx, false);
    LinearBackwardWeight(world.cpu, wider(dy), wider(x), dw64, db64);
    const Tensor got = world.Get(wide);
    EXPECT_TRUE(NearDouble(got.Columns(1, s.n + 1), y));
    for (int64_t t = 0; t < s.t; ++t) EXPECT_TRUE(std::isnan(Get(got, t * (s.n + 3)))) << "wrote beside its columns";
    EXPECT_TRUE(NearDouble(world.Get(gdx), dx));
    EXPECT_TRUE(Near(world.Get(gdw), dw64, 1e-3, 1e-4));
    EXPECT_TRUE(Near(world.Get(gdb), db64, 1e-3, 1e-4));
  }
}

TEST(LinearCudaTest, ARowIsTheSameBitsInEveryBatch) {
  GROUPER_NEEDS_CUDA();
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{576, 576}, {3072, 64}, {31, 40}, {96, 1536}}) {
    CudaWorld world;
    auto& m = world.memory;
    const int64_t tokens = 700;
    const Tensor x = world.Put(m.Random(DType::kBF16, {tokens, k}, "x")),
                 w = world.Put(m.Random(DType::kBF16, {n, k}, "w"));
    const Tensor all = world.New(DType::kBF16, {tokens, n});
    Linear(world.gpu, x, w, nullptr, {}, all);
    const Tensor want = world.Get(all);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, 1}, {5, 6}, {3, 10}, {0, 33}, {1, 65}, {100, 229}, {40, 340}}) {
      const Tensor part = world.New(DType::kBF16, {end - begin, n});
      Linear(world.gpu, x.Rows(begin, end), w, nullptr, {}, part);
      EXPECT_TRUE(Same(world.Get(part), want.Rows(begin, end)))
          << n << " x " << k << ", rows " << begin << " to " << end;
    }
  }
}

TEST(LinearCudaTest, WeightGradientsContinueFromTheRunningSum) {
  GROUPER_NEEDS_CUDA();
  CudaWorld world;
  auto& m = world.memory;
  // Many tiles: any cut at 16 tokens. Few: at 2048.
  for (const auto& [n, k, tokens, cut] : {std::array<int64_t, 4>{4096, 512, 300, 16}, {96, 40, 5000, 4096}}) {
    const Tensor dy = world.Put(m.Random(DType::kBF16, {tokens, n}, "dy")),
                 x = world.Put(m.Random(DType::kBF16, {tokens, k}, "x"));
    const Tensor start = m.Random(DType::kF32, {n, k}, "dw"), whole = world.Put(start), parts = world.Put(start);
    LinearBackwardWeight(world.gpu, dy, x, whole, {});
    LinearBackwardWeight(world.gpu, dy.Rows(0, cut), x.Rows(0, cut), parts, {});
    LinearBackwardWeight(world.gpu, dy.Rows(cut, tokens), x.Rows(cut, tokens), parts, {});
    EXPECT_TRUE(Same(world.Get(parts), world.Get(whole))) << n << " x " << k;
  }
}

TEST(LinearCudaTest, WeightGradientsFromNothingAreSumsOntoZeros) {
  GROUPER_NEEDS_CUDA();
  CudaWorld world;
  auto& m = world.memory;
  // Whole tiles, odd sizes that the copy engine cannot read, and pieces of 2048 tokens.
  for (const auto& [n, k, tokens] : {std::array<int64_t, 3>{1536, 1152, 130}, {1500, 1153, 17}, {96, 40, 2100}, {96, 40, 1}, {1, 33, 70}}) {
    for (DType dtype : {DType::kBF16, DType::kF32}) {
      const Tensor dy = world.Put(m.Random(dtype, {tokens, n}, "dy")), x = world.Put(m.Random(dtype, {tokens, k}, "x"));
      for (DType sums : {DType::kF32, DType::kBF16}) {
        if (sums == DType::kBF16 && dtype == DType::kF32) continue;
        const Tensor want = world.Put(m.Zero(sums, {n, k})), got = world.New(sums, {n, k});
        LinearBackwardWeight(world.gpu, dy, x, want, {});
        LinearBackwardWeight(world.gpu, dy, x, got, {}, /*accumulate=*/false);
        EXPECT_TRUE(Same(world.Get(got), world.Get(want))) << n << " x " << k << " of " << tokens << " " << Name(dtype) << " " << Name(sums);
      }
    }
  }
}

// Where an expert's tokens end within a stage's 64, within 16 of k or on either, and the next row is another's, of NaN.
TEST(LinearCudaTest, WeightGradientsEndWithTheirExperts) {
  GROUPER_NEEDS_CUDA();
  const std::vector<int64_t> lengths = {1, 15, 16, 17, 63, 64, 65, 79, 80, 81, 112, 127, 128, 129};
  std::vector<int32_t> offsets = {0};
  for (const int64_t length : lengths) offsets.push_back(offsets.back() + static_cast<int32_t>(length));
  const auto experts = static_cast<int64_t>(lengths.size());
  // Sums that the copy engine reads and that are written 16 bytes at a time; that it reads, in rows whose last unit is cut; neither.
  for (const auto& [n, k, pitch] : {std::array<int64_t, 3>{150, 96, 96}, {70, 202, 208}, {40, 41, 41}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(std::to_string(n) + " x " + std::to_string(k) + " " + std::string(Name(dtype)) + (accumulate ? " +=" : " ="));
        CudaWorld world;
        auto& m = world.memory;
        const Tensor dy = m.Random(DType::kBF16, {offsets.back(), n}, "dy"), x = m.Random(DType::kBF16, {offsets.back(), k}, "x");
        const Tensor start = m.Random(dtype, {experts, n, pitch}, "dw");
        for (int64_t e = 0; e < experts; ++e) {
          const int64_t begin = offsets[static_cast<size_t>(e)], end = offsets[static_cast<size_t>(e) + 1];
          const Tensor alone = world.Put(start), among = world.Put(start);
          GroupedLinearBackwardWeight(world.gpu, world.Put(dy.Rows(begin, end)), world.Put(x.Rows(begin, end)), {0, static_cast<int32_t>(end - begin)}, {},
                                      alone.Rows(e, e + 1).Columns(0, k), accumulate);
          const Tensor foreign_dy = m.Clone(dy), foreign_x = m.Clone(x);
          for (int64_t r = 0; r < offsets.back(); ++r) {
            if (r >= begin && r < end) continue;
            for (int64_t i = 0; i < n; ++i) testing::Set(foreign_dy, r * n + i, NAN);
            for (int64_t i = 0; i < k; ++i) testing::Set(foreign_x, r * k + i, NAN);
          }
          GroupedLinearBackwardWeight(world.gpu, world.Put(foreign_dy), world.Put(foreign_x), offsets, {}, among.Columns(0, k), accumulate);
          EXPECT_TRUE(Same(world.Get(among[e]), world.Get(alone[e]))) << lengths[static_cast<size_t>(e)] << " tokens";
        }
      }
    }
  }
}

TEST(LinearCudaTest, GroupsEqualTheirExpertsAlone) {
  GROUPER_NEEDS_CUDA();
  std::mt19937 random(5);
  for (const auto& [experts, n, k, rows] :
       {std::array<int64_t, 4>{4, 96, 40, 50}, {16, 100, 64, 900}, {3, 33, 20, 7}}) {
    SCOPED_TRACE(experts);
    CudaWorld world;
    auto& m = world.memory;
    std::vector<int32_t> offsets(static_cast<size_t>(experts) + 1), gather(static_cast<size_t>(rows));
    const int64_t tokens = rows / 2 + 1;
    for (int32_t& g : gather) g = static_cast<int32_t>(random() % static_cast<uint32_t>(tokens));
    for (int64_t r = 0; r < rows; ++r) {
      const uint32_t e = random() % 3 == 0 ? 0 : random() % static_cast<uint32_t>(experts);
      ++offsets[(e == 1 ? 2 : e) + 1];  // expert 1 gets nothing
    }
    for (int64_t e = 0; e < experts; ++e) offsets[static_cast<size_t>(e) + 1] += offsets[static_cast<size_t>(e)];
    for (DType dtype : {DType::kBF16, DType::kF32}) {
      const Tensor host_x = m.Random(dtype, {tokens, k}, "x"), x = world.Put(host_x);
      const Tensor sorted = m.New(dtype, {rows, k});
      for (int64_t i = 0; i < rows * k; ++i)
        grouper::testing::Set(sorted, i, Get(host_x, gather[static_cast<size_t>(i / k)] * k + i % k));
      const Tensor w = world.Put(m.Random(dtype, {experts, n, k}, "w")),
                   dy = world.Put(m.Random(dtype, {rows, n}, "dy"));
      const Tensor y = world.New(dtype, {rows, n}), dx = world.New(dtype, {rows, k});
      const Tensor start = m.Random(DType::kF32, {experts, n, k}, "dw"), dw = world.Put(start),
                   alone_dw = world.Put(start);
      GroupedLinear(world.gpu, x, offsets, gather, w, nullptr, y);
      GroupedLinearBackwardInput(world.gpu, dy, offsets, w, dx);
      GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, gather, dw);
      const Tensor alone_y = world.New(dtype, {rows, n}), alone_dx = world.New(dtype, {rows, k}),
                   xs = world.Put(sorted);
      for (int64_t e = 0; e < experts; ++e) {
        const int64_t begin = offsets[static_cast<size_t>(e)], end = offsets[static_cast<size_t>(e) + 1];
        if (begin == end) continue;
        Linear(world.gpu, xs.Rows(begin, end), w[e], nullptr, {}, alone_y.Rows(begin, end));
        LinearBackwardInput(world.gpu, dy.Rows(begin, end), w[e], alone_dx.Rows(begin, end), false);
        LinearBackwardWeight(world.gpu, dy.Rows(begin, end), xs.Rows(begin, end), alone_dw[e], {});
      }
      EXPECT_TRUE(Same(world.Get(y), world.Get(alone_y)));
      EXPECT_TRUE(Same(world.Get(dx), world.Get(alone_dx)));
      EXPECT_TRUE(Near(world.Get(dw), world.Get(alone_dw), 1e-3, 1e-4));
      const Tensor onto_zeros = world.Put(m.Zero(DType::kF32, {experts, n, k})), written = world.New(DType::kF32, {experts, n, k});
      GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, gather, onto_zeros);
      GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, gather, written, /*accumulate=*/false);
      EXPECT_TRUE(Same(world.Get(written), world.Get(onto_zeros)));
    }
  }
}

// x [rows, columns] from row `begin` to `end`, as [columns, rows]; columns of zeros up to a multiple of 8.
Tensor Transposed(testing::Memory& m, const Tensor& x, int64_t begin, int64_t end) {
  const Tensor to = m.Zero(DType::kBF16, {x.dim(1), (end - begin + 7) / 8 * 8});
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t c = 0; c < x.dim(1); ++c) to.data<bf16>()[c * to.dim(1) + r - begin] = x.data<bf16>()[r * x.dim(1) + c];
  }
  return to;
}

// More tiles than blocks, experts of every length: a block's warpgroups take turns (gemm_weight_cuda.cu).
TEST(LinearCudaTest, WeightGradientsOfManyTilesAreThoseOfTheirExpertsAlone) {
  GROUPER_NEEDS_CUDA();
  for (const auto& [experts, n, k] : {std::array<int64_t, 3>{60, 300, 400}, {9, 1000, 1000}, {5, 130, 21}, {4, 1, 33}}) {
    SCOPED_TRACE(experts);
    CudaWorld world;
    auto& m = world.memory;
    std::mt19937 random(7);
    std::vector<int32_t> offsets = {0}, half = {0}, rest = {0}, first_rows, last_rows;
    for (int64_t e = 0; e < experts; ++e) {
      const bool none = e % 5 == 2 || (experts < 6 && e % (experts - 1) == 0);
      const int32_t begin = offsets.back(), tokens = none ? 0 : 40 + static_cast<int32_t>(random() % (e % 7 == 0 ? 900 : 200));
      const int32_t cut = begin + tokens / 32 * 16;
      for (int32_t t = begin; t < begin + tokens; ++t) (t < cut ? first_rows : last_rows).push_back(t);
      offsets.push_back(begin + tokens);
      half.push_back(static_cast<int32_t>(first_rows.size()));
      rest.push_back(static_cast<int32_t>(last_rows.size()));
    }
    const int64_t rows = offsets.back();
    const Tensor host_dy = m.Random(DType::kBF16, {rows, n}, "dy"), host_x = m.Random(DType::kBF16, {rows, k}, "x");
    const Tensor zero = m.Zero(DType::kF32, {experts, n, k});
    const Tensor dy = world.Put(host_dy), x = world.Put(host_x), whole = world.Put(zero), alone = world.Put(zero);
    GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, {}, whole);
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t begin = offsets[static_cast<size_t>(e)], end = offsets[static_cast<size_t>(e) + 1];
      LinearBackwardWeight(world.gpu, dy.Rows(begin, end), x.Rows(begin, end), alone[e], {});
      if (begin == end) continue;
      // The same sums by the kernel of the forward pass, rounded.
      const Tensor product = world.New(DType::kBF16, {n, k});
      Linear(world.gpu, world.Put(Transposed(m, host_dy, begin, end)), world.Put(Transposed(m, host_x, begin, end)), nullptr, {}, product);
      EXPECT_TRUE(Same(world.Get(product), m.Convert(world.Get(alone[e]), DType::kBF16))) << "expert " << e;
    }
    EXPECT_TRUE(Same(world.Get(whole), world.Get(alone)));
    // The same tokens in two passes, cut at multiples of 16 of each expert's; what is there before the first does not count.
    const auto rows_of = [&](const Tensor& from, const std::vector<int32_t>& which) {
      const Tensor to = m.New(DType::kBF16, {static_cast<int64_t>(which.size()), from.dim(1)});
      for (size_t i = 0; i < which.size(); ++i)
        std::copy_n(from.data<bf16>() + which[i] * from.dim(1), from.dim(1), to.data<bf16>() + static_cast<int64_t>(i) * from.dim(1));
      return world.Put(to);
    };
    const Tensor parts = world.New(DType::kF32, {experts, n, k});
    GroupedLinearBackwardWeight(world.gpu, rows_of(host_dy, first_rows), rows_of(host_x, first_rows), half, {}, parts, /*accumulate=*/false);
    GroupedLinearBackwardWeight(world.gpu, rows_of(host_dy, last_rows), rows_of(host_x, last_rows), rest, {}, parts);
    EXPECT_TRUE(Same(world.Get(parts), world.Get(whole)));
    const Tensor start = m.Random(DType::kBF16, {experts, n, k}, "dw"), narrow = world.Put(start), wide = world.Put(m.Convert(start, DType::kF32));
    GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, {}, narrow);
    GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, {}, wide);
    EXPECT_TRUE(Same(world.Get(narrow), m.Convert(world.Get(wide), DType::kBF16)));
    const Tensor written = world.New(DType::kBF16, {experts, n, k});
    GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, {}, written, /*accumulate=*/false);
    EXPECT_TRUE(Same(world.Get(written), m.Convert(world.Get(whole), DType::kBF16)));
  }
}

// A block's warpgroups and its copies of sums run beside one another: whoever comes first, the bits are the same. One wrong sum of
// thousands of rounds would stay.
TEST(LinearCudaTest, WeightGradientsRepeat) {
  GROUPER_NEEDS_CUDA();
  for (const auto& [experts, n, k, tokens] : {std::array<int64_t, 4>{60, 300, 400, 20}, {64, 512, 512, 40}, {300, 96, 200, 40}, {1, 3000, 600, 300}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(std::to_string(experts) + " experts in " + std::string(Name(dtype)));
      CudaWorld world;
      auto& m = world.memory;
      std::vector<int32_t> offsets = {0};
      for (int64_t e = 0; e < experts; ++e) offsets.push_back(offsets.back() + static_cast<int32_t>(e % 5 == 2 ? 0 : tokens + e * 37 % 60));
      const Tensor dy = world.Put(m.Random(DType::kBF16, {offsets.back(), n}, "dy")), x = world.Put(m.Random(DType::kBF16, {offsets.back(), k}, "x"));
      const Tensor start = m.Random(dtype, {experts, n, k}, "dw"), one = world.Put(start), other = world.Put(start);
      for (const Tensor& dw : {one, other}) {
        for (int round = 0; round < (testing::kEmulated ? 1 : testing::FewCases() ? 3 : 3000); ++round) GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, {}, dw);
      }
      EXPECT_TRUE(Same(world.Get(one), world.Get(other)));
    }
  }
}

// Sums are rounded where they are left, and continue from there.
TEST(LinearCudaTest, NarrowWeightGradientsAreTheWideOnesRounded) {
  GROUPER_NEEDS_CUDA();
  for (const auto& [tokens, n, k] : {std::array<int64_t, 3>{1, 8, 8}, {100, 96, 40}, {300, 33, 20}, {2500, 576, 64}, {130, 4096, 512}}) {
    SCOPED_TRACE(std::to_string(tokens) + " tokens, " + std::to_string(n) + " x " + std::to_string(k));
    CudaWorld world;
    auto& m = world.memory;
    const Tensor dy = world.Put(m.Random(DType::kBF16, {tokens, n}, "dy")), x = world.Put(m.Random(DType::kBF16, {tokens, k}, "x"));
    const Tensor start = m.Random(DType::kBF16, {n, k}, "dw"), narrow = world.Put(start), wide = world.Put(m.Convert(start, DType::kF32));
    LinearBackwardWeight(world.gpu, dy, x, narrow, {});
    LinearBackwardWeight(world.gpu, dy, x, wide, {});
    EXPECT_TRUE(Same(world.Get(narrow), m.Convert(world.Get(wide), DType::kBF16)));
  }
  // By expert, some of them without tokens: of few tiles, and of so many that each block has a row of them.
  for (const auto& [experts, n, k] : {std::array<int64_t, 3>{3, 96, 40}, {60, 300, 400}, {40, 200, 456}}) {
    std::vector<int32_t> offsets = {0};
    for (int64_t e = 0; e < experts; ++e) offsets.push_back(offsets.back() + static_cast<int32_t>(e % 5 == 1 ? 0 : 20 + e * 37 % 110));
    for (const bool accumulate : {true, false}) {
      SCOPED_TRACE(std::to_string(experts) + " experts" + (accumulate ? " +=" : " ="));
      CudaWorld world;
      auto& m = world.memory;
      const Tensor dy = world.Put(m.Random(DType::kBF16, {offsets.back(), n}, "dy")), x = world.Put(m.Random(DType::kBF16, {offsets.back(), k}, "x"));
      const Tensor start = m.Random(DType::kBF16, {experts, n, k}, "dw"), narrow = world.Put(start), wide = world.Put(m.Convert(start, DType::kF32));
      GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, {}, narrow, accumulate);
      GroupedLinearBackwardWeight(world.gpu, dy, x, offsets, {}, wide, accumulate);
      EXPECT_TRUE(Same(world.Get(narrow), m.Convert(world.Get(wide), DType::kBF16)));
    }
  }
}

// In one pass or in two: the same bits, for every tile.
TEST(LinearCudaTest, AGatedProductIsLinearAndSwiGlu) {
  GROUPER_NEEDS_CUDA();
  for (const auto& [features, k] : {std::array<int64_t, 2>{8, 8}, {40, 72}, {88, 576}, {1536, 576}, {20, 64}, {1408, 200}}) {
    for (const int64_t tokens : {1, 7, 16, 40, 100, 129, 700, 5000}) {
      SCOPED_TRACE(std::to_string(tokens) + " tokens, " + std::to_string(features) + " features of " + std::to_string(k));
      CudaWorld world;
      auto& m = world.memory;
      const Tensor x = world.Put(m.Random(DType::kBF16, {tokens, k}, "x"));
      const Tensor w = world.Put(m.Random(DType::kBF16, {2 * features, k}, "w", 1 / std::sqrt(static_cast<double>(k))));
      const Tensor both = world.New(DType::kBF16, {tokens, 2 * features}), want = world.New(DType::kBF16, {tokens, features});
      Linear(world.gpu, x, w, nullptr, {}, both);
      SwiGlu(world.gpu, both, want);
      const Tensor kept = world.New(DType::kBF16, {tokens, 2 * features}), got = world.New(DType::kBF16, {tokens, features}),
                   alone = world.New(DType::kBF16, {tokens, features});
      LinearSwiGlu(world.gpu, x, w, nullptr, {}, kept, got);
      LinearSwiGlu(world.gpu, x, w, nullptr, {}, {}, alone);
      EXPECT_TRUE(Same(world.Get(kept), world.Get(both)));
      EXPECT_TRUE(Same(world.Get(got), world.Get(want)));
      EXPECT_TRUE(Same(world.Get(alone), world.Get(want)));
    }
  }
  for (const auto& [experts, features, k, rows] : {std::array<int64_t, 4>{4, 48, 40, 50}, {16, 104, 64, 900}, {3, 24, 16, 7}, {8, 256, 128, 6000}}) {
    SCOPED_TRACE(std::to_string(experts) + " experts");
    CudaWorld world;
    auto& m = world.memory;
    std::mt19937 random(7);
    const int64_t tokens = rows / 2 + 1;
    std::vector<int32_t> offsets(static_cast<size_t>(experts) + 1), gather(static_cast<size_t>(rows));
    for (int32_t& g : gather) g = static_cast<int32_t>(random() % static_cast<uint32_t>(tokens));
    for (int64_t r = 0; r < rows; ++r) ++offsets[random() % static_cast<uint32_t>(experts) + 1];
    for (int64_t e = 0; e < experts; ++e) offsets[static_cast<size_t>(e) + 1] += offsets[static_cast<size_t>(e)];
    const Tensor x = world.Put(m.Random(DType::kBF16, {tokens, k}, "x"));
    const Tensor w = world.Put(m.Random(DType::kBF16, {experts, 2 * features, k}, "w", 0.2));
    const Tensor on_gpu = world.Put(Tensor(offsets.data(), DType::kI32, {experts + 1})), rows_on_gpu = world.Put(Tensor(gather.data(), DType::kI32, {rows}));
    const Tensor both = world.New(DType::kBF16, {rows, 2 * features}), want = world.New(DType::kBF16, {rows, features});
    GroupedLinear(world.gpu, x, on_gpu, rows_on_gpu, w, nullptr, both);
    SwiGlu(world.gpu, both, want);
    const Tensor kept = world.New(DType::kBF16, {rows, 2 * features}), got = world.New(DType::kBF16, {rows, features}),
                 alone = world.New(DType::kBF16, {rows, features});
    GroupedLinearSwiGlu(world.gpu, x, on_gpu, rows_on_gpu, w, nullptr, kept, got);
    GroupedLinearSwiGlu(world.gpu, x, on_gpu, rows_on_gpu, w, nullptr, {}, alone);
    EXPECT_TRUE(Same(world.Get(kept), world.Get(both)));
    EXPECT_TRUE(Same(world.Get(got), world.Get(want)));
    EXPECT_TRUE(Same(world.Get(alone), world.Get(want)));
  }
}

// Where the tokens of experts end who have any number of them.
std::vector<int32_t> EndsOfExperts() {
  std::vector<int32_t> ends = {0};
  for (const int32_t length : {1, 0, 15, 16, 127, 128, 129, 143, 0, 255, 256, 257, 300, 0, 512}) ends.push_back(ends.back() + length);
  return ends;
}

// Forward and dx by tiles that take turns and by others: one product, a batch of them, experts whose tokens end anywhere.
TEST(GemmCudaTest, TilesThatTakeTurnsHaveTheBitsOfTheOthers) {
  GROUPER_NEEDS_CUDA();
  std::vector<int32_t> ends = EndsOfExperts();
  const auto experts = static_cast<int64_t>(ends.size()) - 1;
  struct Case {
    int64_t tokens, n, k, batch;
    bool by_expert;
  };
  std::vector<Case> cases = {{1, 8, 8, 1, false},       {129, 72, 72, 3, false},         {700, 392, 64, 1, false},         {300, 576, 576, 1, false},
                             {515, 200, 192, 2, false}, {ends.back(), 136, 72, experts, true}, {ends.back(), 456, 64, experts, true}};
  if (!testing::kEmulated) {  // several turns of each of a card's blocks, which the emulator's few have in the cases above
    cases.push_back({5000, 2312, 72, 1, false});
    cases.push_back({1300, 1544, 576, 4, false});
    cases.push_back({ends.back(), 3080, 64, experts, true});
  }
  for (const Case& c : cases) {
    for (const bool input : {false, true}) {
      SCOPED_TRACE(std::to_string(c.batch) + " of " + std::to_string(c.tokens) + " x " + std::to_string(c.n) + " x " + std::to_string(c.k) +
                   (input ? " dx" : "") + (c.by_expert ? " by expert" : ""));
      CudaWorld world;
      auto& m = world.memory;
      const int64_t rows = (c.by_expert ? 1 : c.batch) * c.tokens, pitch = c.n + 8;
      const Tensor x = world.Put(m.Random(DType::kBF16, {rows, c.k}, "x")), w = world.Put(m.Random(DType::kBF16, {c.batch * c.n, c.k}, "w"));
      const Tensor offsets = world.Put(Tensor(ends.data(), DType::kI32, {static_cast<int64_t>(ends.size())}));
      const auto product = [&](bool turns) {
        const Tensor y = world.New(DType::kBF16, {rows, pitch});
        cuda::GemmProblem p = {.k = c.k,
                               .batch = c.batch,
                               .x = {x.raw(), c.tokens, c.k, 1, c.tokens * c.k},
                               .w = {w.raw(), c.n, input ? 1 : c.k, input ? c.n : 1, c.n * c.k},
                               .y = y.raw(),
                               .y_stride = pitch,
                               .y_batch_stride = c.tokens * pitch};
        cuda::GemmVariant v;
        v.mn_w = input;
        if (c.by_expert) p.groups = v.groups = cuda::GemmGroups::kRows, p.offsets = offsets.data<int32_t>();
        v.turns = turns;
        v.tile_n = 128;
        cuda::LaunchGemm(world.gpu, v, p);
        return world.Get(y);
      };
      const Tensor got = product(true), want = product(false);
      EXPECT_TRUE(Same(got, want));
      for (int64_t row = 0; row < rows; ++row) {
        ASSERT_FALSE(std::isnan(Get(got, row * pitch + c.n - 1))) << "row " << row;
        ASSERT_TRUE(std::isnan(Get(got, row * pitch + c.n)) && std::isnan(Get(got, (row + 1) * pitch - 1))) << "wrote beside its columns, row " << row;
      }
    }
  }
}

// The gate behind other tiles' products, and its gradient, by one layer and by experts: the bits of the product and of SwiGLU after it.
TEST(GemmCudaTest, TilesThatTakeTurnsGateTheirSums) {
  GROUPER_NEEDS_CUDA();
  std::vector<int32_t> ends = EndsOfExperts();
  const auto experts = static_cast<int64_t>(ends.size()) - 1;
  struct Case {
    int64_t tokens, features, k, batch;
  };
  std::vector<Case> cases = {{1, 8, 8, 1},   {129, 40, 72, 1},  {300, 96, 64, 1},  {200, 104, 576, 1}, {131, 160, 136, 1}, {515, 1000, 192, 1}, {700, 392, 64, 1},
                             {130, 184, 72, 1}, {260, 72, 64, 1}, {0, 8, 8, experts}, {0, 64, 72, experts}, {0, 232, 64, experts}, {0, 88, 136, experts}};
  if (!testing::kEmulated) {
    cases.push_back({5000, 2312, 72, 1});
    cases.push_back({0, 3080, 64, experts});
  }
  for (Case c : cases) {
    const bool by_expert = c.batch > 1;
    if (by_expert) c.tokens = ends.back();
    SCOPED_TRACE(std::to_string(c.batch) + " of " + std::to_string(c.tokens) + " x " + std::to_string(c.features) + " x " + std::to_string(c.k));
    CudaWorld world;
    auto& m = world.memory;
    const int64_t n = c.features, wide = 2 * n + 8, narrow = n + 16;  // with columns beside them
    const Tensor offsets = world.Put(Tensor(ends.data(), DType::kI32, {static_cast<int64_t>(ends.size())}));
    const Tensor x = world.Put(m.Random(DType::kBF16, {c.tokens, c.k}, "x")), w = world.Put(m.Random(DType::kBF16, {c.batch * 2 * n, c.k}, "w", 0.3));
    const auto columns = [&](const Tensor& t, int64_t count) { return t.Columns(0, count); };
    const auto read = [&](const Tensor& t, int64_t count) {
      const Tensor all = world.Get(t), some = m.New(DType::kBF16, {t.dim(0), count});
      Copy(world.cpu, columns(all, count), some);
      return some;
    };
    const auto launch = [&](cuda::GemmProblem p, bool turns, bool input) {
      cuda::GemmVariant v;
      v.mn_w = input;
      if (by_expert) p.groups = v.groups = cuda::GemmGroups::kRows, p.offsets = offsets.data<int32_t>();
      v.turns = turns;
      v.tile_n = 128;
      cuda::LaunchGemm(world.gpu, v, p);
    };
    const auto unwritten = [&](const Tensor& t, int64_t used) {
      const Tensor got = world.Get(t);
      const int64_t pitch = t.dim(1);
      for (int64_t row = 0; row < c.tokens; ++row) {
        ASSERT_FALSE(std::isnan(Get(got, row * pitch + used - 1))) << "row " << row;
        ASSERT_TRUE(std::isnan(Get(got, row * pitch + used)) && std::isnan(Get(got, (row + 1) * pitch - 1))) << "wrote beside its columns, row " << row;
      }
    };
    const cuda::GemmProblem forward = {.k = c.k, .batch = c.batch, .x = {x.raw(), c.tokens, c.k, 1, 0}, .w = {w.raw(), 2 * n, c.k, 1, 2 * n * c.k}};
    const Tensor gate_up = world.New(DType::kBF16, {c.tokens, wide}), want = world.New(DType::kBF16, {c.tokens, n});
    {
      cuda::GemmProblem p = forward;
      p.y = gate_up.raw(), p.y_stride = wide;
      launch(p, false, false);
      SwiGlu(world.gpu, columns(gate_up, 2 * n), want);
    }
    for (const bool keep : {true, false}) {
      const Tensor kept = world.New(DType::kBF16, {c.tokens, wide}), got = world.New(DType::kBF16, {c.tokens, narrow});
      cuda::GemmProblem p = forward;
      if (keep) p.y = kept.raw(), p.y_stride = wide;
      p.gated = got.raw(), p.gated_stride = narrow;
      launch(p, true, false);
      EXPECT_TRUE(Same(read(got, n), world.Get(want)));
      unwritten(got, n);
      if (!keep) continue;
      EXPECT_TRUE(Same(read(kept, 2 * n), read(gate_up, 2 * n)));
      unwritten(kept, 2 * n);
    }
    // Back: dy [tokens, k] times a second layer's weights [k, features].
    const cuda::GemmProblem backward = {.k = c.k, .batch = c.batch, .x = {x.raw(), c.tokens, c.k, 1, 0}, .w = {w.raw(), n, 1, n, c.k * n}};
    const Tensor d_out = world.New(DType::kBF16, {c.tokens, n}), d_want = world.New(DType::kBF16, {c.tokens, 2 * n}),
                 d_got = world.New(DType::kBF16, {c.tokens, wide});
    {
      cuda::GemmProblem p = backward;
      p.y = d_out.raw(), p.y_stride = n;
      launch(p, false, true);
      SwiGluBackward(world.gpu, d_out, columns(gate_up, 2 * n), d_want);
      p.y = d_got.raw(), p.y_stride = wide;
      p.gate_up = gate_up.raw(), p.gate_up_stride = wide;
      launch(p, true, true);
    }
    EXPECT_TRUE(Same(read(d_got, 2 * n), world.Get(d_want)));
    unwritten(d_got, 2 * n);
  }
}

// As training calls it: the same in one pass and in two, and in one pass where that is what is measured to be faster.
TEST(LinearCudaTest, BackThroughAGateIsLinearAndSwiGlu) {
  GROUPER_NEEDS_CUDA();
  struct Case {
    int64_t tokens, features, k, experts;
    bool one_pass;
  };
  std::vector<Case> cases = {{5, 24, 40, 1, false}, {300, 200, 72, 1, false}, {700, 96, 64, 4, false}};
  if (!testing::kEmulated) {
    cases.push_back({16384, 1536, 576, 1, false});  // in one pass on cards with 132 multiprocessors
    cases.push_back({16384, 1408, 2048, 8, true});
  } else if (!testing::FewCases()) {
    cases.push_back({3200, 2112, 2688, 1, true});
  }
  for (const Case& c : cases) {
    SCOPED_TRACE(std::to_string(c.experts) + " of " + std::to_string(c.tokens) + " x " + std::to_string(c.features) + " x " + std::to_string(c.k));
    CudaWorld world;
    auto& m = world.memory;
    const Tensor dy = world.Put(m.Random(DType::kBF16, {c.tokens, c.k}, "dy")), gate_up = world.Put(m.Random(DType::kBF16, {c.tokens, 2 * c.features}, "gate_up"));
    const Tensor w = world.Put(m.Random(DType::kBF16, {c.experts, c.k, c.features}, "w", 0.1));
    std::vector<int32_t> offsets = {0};
    for (int64_t e = 0; e < c.experts; ++e) offsets.push_back(static_cast<int32_t>(e + 1 == c.experts ? c.tokens : c.tokens * (e + 1) / (c.experts + 1)));
    const Tensor ends = world.Put(Tensor(offsets.data(), DType::kI32, {c.experts + 1}));
    const Tensor d_out = world.New(DType::kBF16, {c.tokens, c.features}), between = world.New(DType::kBF16, {c.tokens, c.features});
    const Tensor want = world.New(DType::kBF16, {c.tokens, 2 * c.features}), got = world.New(DType::kBF16, {c.tokens, 2 * c.features});
    if (c.experts > 1) {
      GroupedLinearBackwardInput(world.gpu, dy, ends, w, d_out);
      GroupedLinearBackwardSwiGlu(world.gpu, dy, ends, w, gate_up, between, got);
    } else {
      LinearBackwardInput(world.gpu, dy, w.Reshape({c.k, c.features}), d_out, false);
      LinearBackwardSwiGlu(world.gpu, dy, w.Reshape({c.k, c.features}), gate_up, between, got);
    }
    SwiGluBackward(world.gpu, d_out, gate_up, want);
    EXPECT_TRUE(Same(world.Get(got), world.Get(want)));
    if (c.one_pass) {
      EXPECT_TRUE(std::isnan(Get(world.Get(between), 0))) << "there was something between";
    }
  }
}

TEST(GemmCudaTest, EveryOrientationOfABatchIsNearDouble) {
  GROUPER_NEEDS_CUDA();
  const int64_t batch = 3, rows = 70, columns = 72, depth = 40;
  for (int orientation = 0; orientation < 8; ++orientation) {
    SCOPED_TRACE(orientation);
    const bool a_turned = orientation & 1, b_turned = orientation & 2, accumulate = orientation & 4;
    CudaWorld world;
    auto& m = world.memory;
    const Tensor a = m.Random(DType::kBF16, {batch, rows, depth}, "a", 0.3),
                 b = m.Random(DType::kBF16, {batch, depth, columns}, "b");
    const Tensor c = m.Random(DType::kBF16, {batch, rows, columns}, "c");
    const auto product = [&](Stream& stream, const Tensor& x, const Tensor& y, const Tensor& z) {
      // The same memory read as its own transpose.
      const GemmParams p = {.batch = batch,
                            .m = rows,
                            .n = columns,
                            .k = depth,
                            .a = {x.raw(), a_turned ? 1 : depth, a_turned ? rows : 1, rows * depth},
                            .b = {y.raw(), b_turned ? 1 : columns, b_turned ? depth : 1, depth * columns},
                            .c = {z.raw(), columns, 1, rows * columns},
                            .dtype = z.dtype(),
                            .accumulate = accumulate};
      Gemm(stream, p);
    };
    const Tensor got = world.Put(c), want = m.Convert(c, DType::kF64);
    product(world.gpu, world.Put(a), world.Put(b), got);
    product(world.cpu, m.Convert(a, DType::kF64), m.Convert(b, DType::kF64), want);
    EXPECT_TRUE(NearDouble(world.Get(got), want));
    const Tensor got32 = world.Put(m.Convert(c, DType::kF32)), want32 = m.Convert(c, DType::kF32);
    product(world.gpu, world.Put(m.Convert(a, DType::kF32)), world.Put(m.Convert(b, DType::kF32)), got32);
    product(world.cpu, m.Convert(a, DType::kF32), m.Convert(b, DType::kF32), want32);
    EXPECT_TRUE(Same(world.Get(got32), want32));
  }
}

}  // namespace
}  // namespace grouper::kernels
