// Row-wise ops on the GPU against the CPU, values and gradients: the same bits in float and bf16, for odd widths, views of wider
// rows (full of NaN where no row is, and still so afterwards), empty tensors, and outputs that are their own inputs.
#include <array>
#include <bit>
#include <cmath>
#include <random>

#include "kernels/adamw.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/row_ops_cuda.h"
#include "kernels/swiglu.h"
#include "tests/testing/cuda_world.h"

namespace grouper::kernels {
namespace {

using grouper::testing::CudaWorld;
using grouper::testing::Get;
using grouper::testing::Same;
using grouper::testing::Set;

// A tensor on both devices, inside one that is `gap` wider a row: the op's view, and all of it.
struct Twin {
  Tensor cpu, gpu, whole_cpu, whole_gpu;
};

Twin MakeTwin(CudaWorld& world, DType dtype, std::initializer_list<int64_t> shape, int64_t gap, const char* label,
              double scale = 1) {
  auto& m = world.memory;
  const Tensor values = m.Random(dtype, shape, label, scale);
  const int64_t width = values.dim(-1), before = gap / 2;
  Twin t;
  t.whole_cpu = values.rank() == 3 ? m.New(dtype, {values.dim(0), values.dim(1), width + gap})
                                   : m.New(dtype, {values.dim(0), width + gap});
  t.cpu = t.whole_cpu.Columns(before, before + width);
  for (int64_t i = 0; i < values.size(); ++i) Set(t.cpu, i, Get(values, i));
  t.whole_gpu = world.Put(t.whole_cpu);
  t.gpu = t.whole_gpu.Columns(before, before + width);
  return t;
}

// A vector on both devices.
Twin MakeVector(CudaWorld& world, DType dtype, int64_t size, const char* label, double scale = 1) {
  Twin t;
  t.cpu = t.whole_cpu = world.memory.Random(dtype, {size}, label, scale);
  t.gpu = t.whole_gpu = world.Put(t.cpu);
  return t;
}

::testing::AssertionResult Equal(CudaWorld& world, const Twin& t) { return Same(world.Get(t.whole_gpu), t.whole_cpu); }

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};
constexpr int64_t kWidths[] = {1, 7, 8, 33, 64, 576, 1000};
constexpr int64_t kRows[] = {0, 1, 5, 33, 300, 2100};

struct Case {
  DType dtype;
  int64_t rows, width, gap;
};
std::string Text(const Case& c) {
  return std::string(Name(c.dtype)) + " " + std::to_string(c.rows) + " x " + std::to_string(c.width) + " in rows of " +
         std::to_string(c.width + c.gap);
}
std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (DType dtype : kTypes) {
    for (int64_t width : kWidths) {
      for (int64_t rows : kRows) cases.push_back({dtype, rows, width, (rows + width) % 2 == 0 ? 0 : 5});
    }
  }
  for (int64_t width : {4096, 8192, 12288, 16384}) cases.push_back({DType::kBF16, 37, width, 8});
  cases.push_back({DType::kBF16, 37, 13001, 5});
  for (int64_t width : {2048, 4096}) cases.push_back({DType::kBF16, 300, width, 8});
  cases.push_back({DType::kBF16, 70, 5120, 8});  // rows of which one stage fits
  if (!testing::kEmulated) {  // several turns of each of a card's blocks, which the emulator's few have in the cases above
    cases.push_back({DType::kBF16, 8500, 64, 8});
    cases.push_back({DType::kBF16, 9000, 576, 0});
  }
  return cases;
}

// dweight [D] += the weight's gradient in bf16's order on the GPU (rms_norm_cuda.cu): chains of 4 rows, sums of 8 of those, of 64 of those,
// and then dweight. dy, x: row r of `rows`, as RmsNormBackward takes them.
void AddNarrowWeightGradient(const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& dweight) {
  const int64_t width = x.dim(-1), rows = x.size() / std::max<int64_t>(width, 1);
  const auto at = [&](const Tensor& t, int64_t row, int64_t i) { return static_cast<float>(Get(t, row * width + i)); };
  for (int64_t i = 0; i < width; ++i) {
    float total = dweight.data<float>()[i];
    for (int64_t piece = 0; piece < rows; piece += 2048) {
      float of_piece = 0;
      for (int64_t block = piece; block < std::min(rows, piece + 2048); block += 32) {
        float of_block = 0;
        for (int64_t group = block; group < block + 32; group += 4) {
          float chain = 0;
          for (int64_t row = group; row < std::min(rows, group + 4); ++row) {
            chain = std::fma(at(dy, row, i), at(x, row, i) * rstd.data<float>()[row], chain);
          }
          of_block = of_block + chain;
        }
        of_piece = of_piece + of_block;
      }
      total = total + of_piece;
    }
    dweight.data<float>()[i] = total;
  }
}

// RmsNormBackward on both devices; the weight's gradient on the CPU in the GPU's order.
void NormGradients(CudaWorld& world, const Twin& dy, const Twin& x, const Twin& weight, const Twin& rstd, const Twin& dx, bool accumulate,
                   const Twin& dweight) {
  const bool narrow = x.cpu.dtype() == DType::kBF16;
  const Tensor chain = narrow ? world.memory.Clone(dweight.cpu) : dweight.cpu;
  if (narrow) AddNarrowWeightGradient(dy.cpu, x.cpu, rstd.cpu, dweight.cpu);
  RmsNormBackward(world.cpu, dy.cpu, x.cpu, weight.cpu, rstd.cpu, dx.cpu, accumulate, chain);
  RmsNormBackward(world.gpu, dy.gpu, x.gpu, weight.gpu, rstd.gpu, dx.gpu, accumulate, dweight.gpu);
}

TEST(RowOpsCudaTest, RmsNormAndItsGradients) {
  GROUPER_NEEDS_CUDA();
  for (const Case& c : Cases()) {
    SCOPED_TRACE(Text(c));
    CudaWorld world;
    const Twin x = MakeTwin(world, c.dtype, {c.rows, c.width}, c.gap, "x"), y = MakeTwin(world, c.dtype, {c.rows, c.width}, c.gap, "y");
    const Twin weight = MakeVector(world, c.dtype, c.width, "weight"), rstd = MakeVector(world, DType::kF32, c.rows, "rstd");
    const Twin delta = MakeTwin(world, c.dtype, {c.rows, c.width}, 3, "delta");
    const Twin dy = MakeTwin(world, c.dtype, {c.rows, c.width}, c.gap, "dy"), dx = MakeTwin(world, c.dtype, {c.rows, c.width}, c.gap, "dx");
    const Twin dweight = MakeVector(world, DType::kF32, c.width, "dweight");
    RmsNorm(world.cpu, x.cpu, weight.cpu, 1e-5, y.cpu, rstd.cpu);
    RmsNorm(world.gpu, x.gpu, weight.gpu, 1e-5, y.gpu, rstd.gpu);
    EXPECT_TRUE(Equal(world, y));
    EXPECT_TRUE(Equal(world, rstd));
    for (const bool accumulate : {true, false}) {
      NormGradients(world, dy, x, weight, rstd, dx, accumulate, dweight);
      EXPECT_TRUE(Equal(world, dx)) << "accumulate " << accumulate;
      EXPECT_TRUE(Equal(world, dweight)) << "accumulate " << accumulate;
    }
    AddRmsNorm(world.cpu, delta.cpu, x.cpu, x.cpu, weight.cpu, 1e-6, y.cpu, {});
    AddRmsNorm(world.gpu, delta.gpu, x.gpu, x.gpu, weight.gpu, 1e-6, y.gpu, {});
    EXPECT_TRUE(Equal(world, x)) << "residual";
    EXPECT_TRUE(Equal(world, y)) << "of the sum";
    RmsNorm(world.cpu, x.cpu, weight.cpu, 1e-5, x.cpu, {});
    RmsNorm(world.gpu, x.gpu, weight.gpu, 1e-5, x.gpu, {});
    EXPECT_TRUE(Equal(world, x)) << "in place";
  }
}

TEST(RowOpsCudaTest, RmsNormOfHeads) {
  GROUPER_NEEDS_CUDA();
  for (DType dtype : kTypes) {
    for (const auto& [tokens, heads, width] : {std::array<int64_t, 3>{1, 1, 1}, {3, 9, 64}, {37, 3, 33}, {0, 2, 8}, {5, 16, 128}}) {
      SCOPED_TRACE(Text({dtype, tokens * heads, width, 7}));
      CudaWorld world;
      const Twin x = MakeTwin(world, dtype, {tokens, heads, width}, 7, "x"), dy = MakeTwin(world, dtype, {tokens, heads, width}, 3, "dy");
      const Twin weight = MakeVector(world, dtype, width, "weight"), rstd = MakeVector(world, DType::kF32, tokens * heads, "rstd");
      const Twin y = MakeTwin(world, dtype, {tokens, heads, width}, 1, "y"), dweight = MakeVector(world, DType::kF32, width, "dw");
      RmsNorm(world.cpu, x.cpu, weight.cpu, 1e-6, y.cpu, rstd.cpu);
      RmsNorm(world.gpu, x.gpu, weight.gpu, 1e-6, y.gpu, rstd.gpu);
      EXPECT_TRUE(Equal(world, y));
      EXPECT_TRUE(Equal(world, rstd));
      // In place: dx is dy.
      NormGradients(world, dy, x, weight, rstd, dy, false, dweight);
      EXPECT_TRUE(Equal(world, dy));
      EXPECT_TRUE(Equal(world, dweight));
    }
  }
}

TEST(RowOpsCudaTest, RmsNormOfSpecialNumbers) {
  GROUPER_NEEDS_CUDA();
  for (DType dtype : kTypes) {
    CudaWorld world;
    const Twin x = MakeTwin(world, dtype, {6, 40}, 0, "x"), y = MakeTwin(world, dtype, {6, 40}, 0, "y"), weight = MakeVector(world, dtype, 40, "w");
    const double special[] = {NAN, INFINITY, -INFINITY, 3e38, 1e-40, 0};
    for (int64_t r = 0; r < 6; ++r) {
      for (int64_t i = r < 4 ? 13 : 0; i < (r < 4 ? 14 : 40); ++i) Set(x.cpu, r * 40 + i, special[r]);
    }
    const Tensor gpu = world.Put(x.cpu);
    RmsNorm(world.cpu, x.cpu, weight.cpu, 0, y.cpu, {});
    RmsNorm(world.gpu, gpu, weight.gpu, 0, y.gpu, {});
    EXPECT_TRUE(Equal(world, y)) << Name(dtype);
  }
}

TEST(RowOpsCudaTest, RopeThereAndBack) {
  GROUPER_NEEDS_CUDA();
  std::mt19937 random(4);
  for (DType dtype : kTypes) {
    for (const auto& [tokens, heads, width] :
         {std::array<int64_t, 3>{1, 1, 2}, {5, 3, 14}, {33, 9, 64}, {70, 1, 66}, {0, 2, 8}, {9, 2, 128}}) {
      for (RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
        SCOPED_TRACE(Text({dtype, tokens * heads, width, 6}) + (pairing == RopePairing::kInterleaved ? ", interleaved" : ""));
        CudaWorld world;
        constexpr int64_t kPositions = 50;
        const Twin x = MakeTwin(world, dtype, {tokens, heads, width}, 6, "x"), cos = MakeTwin(world, DType::kF32, {kPositions, width / 2}, 0, "cos"),
                   sin = MakeTwin(world, DType::kF32, {kPositions, width / 2}, 2, "sin");
        std::vector<int32_t> positions(static_cast<size_t>(tokens) + 1);
        for (int32_t& p : positions) p = static_cast<int32_t>(random() % kPositions);
        for (const bool inverse : {false, true}) {
          Rope(world.cpu, x.cpu, positions.data(), {cos.cpu, sin.cpu, pairing}, inverse);
          Rope(world.gpu, x.gpu, positions.data(), {cos.gpu, sin.gpu, pairing}, inverse);
          EXPECT_TRUE(Equal(world, x)) << (inverse ? "inverse" : "forward");
          const Twin y = MakeTwin(world, dtype, {tokens, heads, width}, 2, "y");
          Rope(world.cpu, x.cpu, positions.data(), {cos.cpu, sin.cpu, pairing}, inverse, y.cpu);
          Rope(world.gpu, x.gpu, positions.data(), {cos.gpu, sin.gpu, pairing}, inverse, y.gpu);
          EXPECT_TRUE(Equal(world, x) && Equal(world, y)) << (inverse ? "inverse" : "forward") << ", to elsewhere";
        }
        const Tensor ids = world.memory.New(DType::kI32, {static_cast<int64_t>(positions.size())});
        for (size_t i = 0; i < positions.size(); ++i) Set(ids, static_cast<int64_t>(i), positions[i]);
        Rope(world.cpu, x.cpu, positions.data(), {cos.cpu, sin.cpu, pairing}, false);
        cuda::RopeDevice(world.gpu, x.gpu, world.Put(ids).data<int32_t>(), {cos.gpu, sin.gpu, pairing}, false, x.gpu);
        EXPECT_TRUE(Equal(world, x)) << "positions on the device";
      }
    }
  }
}

TEST(RowOpsCudaTest, SwiGluAndItsGradient) {
  GROUPER_NEEDS_CUDA();
  for (const Case& c : Cases()) {
    SCOPED_TRACE(Text(c));
    CudaWorld world;
    const Twin gate_up = MakeTwin(world, c.dtype, {c.rows, 2 * c.width}, c.gap, "gate_up", 20), out = MakeTwin(world, c.dtype, {c.rows, c.width}, 3, "out");
    const Twin d_out = MakeTwin(world, c.dtype, {c.rows, c.width}, c.gap, "d_out"), d = MakeTwin(world, c.dtype, {c.rows, 2 * c.width}, 1, "d");
    SwiGlu(world.cpu, gate_up.cpu, out.cpu);
    SwiGlu(world.gpu, gate_up.gpu, out.gpu);
    EXPECT_TRUE(Equal(world, out));
    SwiGluBackward(world.cpu, d_out.cpu, gate_up.cpu, d.cpu);
    SwiGluBackward(world.gpu, d_out.gpu, gate_up.gpu, d.gpu);
    EXPECT_TRUE(Equal(world, d));
    SwiGluBackward(world.cpu, d_out.cpu, gate_up.cpu, gate_up.cpu);
    SwiGluBackward(world.gpu, d_out.gpu, gate_up.gpu, gate_up.gpu);
    EXPECT_TRUE(Equal(world, gate_up)) << "in place";
  }
}

TEST(RowOpsCudaTest, SwiGluOfSpecialNumbers) {
  GROUPER_NEEDS_CUDA();
  const double special[] = {NAN, INFINITY, -INFINITY, 3e38, -3e38, 1e-40, 0, -0.0, 88.5, -88.5, 104, -104, 17, -17};
  constexpr int64_t kCount = std::size(special);
  for (DType dtype : kTypes) {
    CudaWorld world;
    const Tensor gate_up = world.memory.New(dtype, {kCount, 2 * kCount}), out = world.memory.New(dtype, {kCount, kCount});
    for (int64_t r = 0; r < kCount; ++r) {
      for (int64_t i = 0; i < kCount; ++i) Set(gate_up, r * 2 * kCount + i, special[i]), Set(gate_up, (r * 2 + 1) * kCount + i, special[r]);
    }
    const Tensor got = world.New(dtype, {kCount, kCount});
    SwiGlu(world.cpu, gate_up, out);
    SwiGlu(world.gpu, world.Put(gate_up), got);
    EXPECT_TRUE(Same(world.Get(got), out)) << Name(dtype);
  }
}

// Gates all over the floats: the division in the sigmoid takes no branch (math.cuh).
TEST(RowOpsCudaTest, SigmoidsHaveTheCpusBitsForAllKindsOfFloats) {
  GROUPER_NEEDS_CUDA();
  constexpr int64_t kWidth = 4096, kRows = 1024;
  CudaWorld world;
  const Tensor gate_up = world.memory.New(DType::kF32, {kRows, 2 * kWidth}), out = world.memory.New(DType::kF32, {kRows, kWidth});
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t i = 0; i < kWidth; ++i) {
      const uint64_t n = static_cast<uint64_t>(r * kWidth + i);
      // Half of them every 2048th float, half between -20 and 20.
      const float any = std::bit_cast<float>(static_cast<uint32_t>(n * 2048 + n % 2047));
      gate_up.row<float>(r)[i] = n % 2 == 0 ? any : static_cast<float>(n % 1048576) * 3.8147e-5f - 20;
      gate_up.row<float>(r)[kWidth + i] = 1;
    }
  }
  const Tensor got = world.New(DType::kF32, {kRows, kWidth});
  SwiGlu(world.cpu, gate_up, out);
  SwiGlu(world.gpu, world.Put(gate_up), got);
  EXPECT_TRUE(Same(world.Get(got), out));
}

TEST(RowOpsCudaTest, EmbeddingAndItsGradient) {
  GROUPER_NEEDS_CUDA();
  std::mt19937 random(9);
  for (const Case& c : Cases()) {
    SCOPED_TRACE(Text(c));
    CudaWorld world;
    constexpr int64_t kVocabulary = 41;
    std::vector<int32_t> ids(static_cast<size_t>(c.rows) + 1);
    for (int32_t& id : ids) id = random() % 3 == 0 ? 7 : static_cast<int32_t>(random() % kVocabulary);
    const Twin table = MakeTwin(world, c.dtype, {kVocabulary, c.width}, c.gap, "table"), out = MakeTwin(world, c.dtype, {c.rows, c.width}, 3, "out");
    const Twin dtable = MakeTwin(world, DType::kF32, {kVocabulary, c.width}, c.gap, "dtable"), dout = MakeTwin(world, c.dtype, {c.rows, c.width}, c.gap, "dout");
    Embedding(world.cpu, table.cpu, ids.data(), out.cpu);
    Embedding(world.gpu, table.gpu, ids.data(), out.gpu);
    EXPECT_TRUE(Equal(world, out));
    EmbeddingBackward(world.cpu, dout.cpu, ids.data(), dtable.cpu);
    EmbeddingBackward(world.gpu, dout.gpu, ids.data(), dtable.gpu);
    EXPECT_TRUE(Equal(world, dtable));
  }
}

TEST(RowOpsCudaTest, AddCopyAndFill) {
  GROUPER_NEEDS_CUDA();
  for (const Case& c : Cases()) {
    SCOPED_TRACE(Text(c));
    CudaWorld world;
    const Twin x = MakeTwin(world, c.dtype, {c.rows, c.width}, c.gap, "x"), y = MakeTwin(world, c.dtype, {c.rows, c.width}, std::max<int64_t>(3 - c.gap / 2, 0), "y");
    Add(world.cpu, x.cpu, y.cpu);
    Add(world.gpu, x.gpu, y.gpu);
    EXPECT_TRUE(Equal(world, y)) << "add";
    Add(world.cpu, y.cpu, y.cpu);
    Add(world.gpu, y.gpu, y.gpu);
    EXPECT_TRUE(Equal(world, y)) << "add to itself";
    for (DType to : kTypes) {
      const Twin z = MakeTwin(world, to, {c.rows, c.width}, 1, "z");
      Copy(world.cpu, x.cpu, z.cpu);
      Copy(world.gpu, x.gpu, z.gpu);
      EXPECT_TRUE(Equal(world, z)) << "copy to " << Name(to);
    }
    Fill(world.cpu, y.cpu, 0.1);
    Fill(world.gpu, y.gpu, 0.1);
    EXPECT_TRUE(Equal(world, y)) << "fill";
  }
}

// Rows that 16-byte words reach and others; one row for all heads; a part of each head.
TEST(RowOpsCudaTest, CopyAndSumOfHeads) {
  GROUPER_NEEDS_CUDA();
  for (DType dtype : kTypes) {
    for (const auto& [tokens, heads, width] : {std::array<int64_t, 3>{0, 3, 8}, {1, 1, 1}, {37, 3, 33}, {5, 16, 64}, {300, 128, 64}}) {
      for (const int64_t gap : {0, 5, 16}) {
        SCOPED_TRACE(Text({dtype, tokens * heads, width, gap}));
        CudaWorld world;
        const Twin row = MakeTwin(world, dtype, {tokens, 1, width}, gap, "row"), x = MakeTwin(world, dtype, {tokens, heads, width}, gap, "x");
        const Twin y = MakeTwin(world, dtype, {tokens, heads, width}, 16, "y"), sum = MakeTwin(world, dtype, {tokens, width}, gap, "sum");
        SumHeads(world.cpu, x.cpu, sum.cpu);
        SumHeads(world.gpu, x.gpu, sum.gpu);
        EXPECT_TRUE(Equal(world, sum));
        Copy(world.cpu, x.cpu, y.cpu);
        Copy(world.gpu, x.gpu, y.gpu);
        EXPECT_TRUE(Equal(world, y)) << "heads";
        Copy(world.cpu, row.cpu.Repeat(1, heads), y.cpu);
        Copy(world.gpu, row.gpu.Repeat(1, heads), y.gpu);
        EXPECT_TRUE(Equal(world, y)) << "a row for all heads";
      }
    }
  }
}

TEST(RowOpsCudaTest, AFloatCopiedToBf16RoundsToEvenAndKeepsSpecialNumbers) {
  GROUPER_NEEDS_CUDA();
  CudaWorld world;
  const uint32_t bits[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff, 0x7f800000, 0xff800000,
                           0x7fc00000, 0x7f800001, 0x00000001, 0x00008000, 0x80018000, 0x00400000, 0x80000000};
  const int64_t count = std::size(bits);
  const Tensor x = world.memory.New(DType::kF32, {count, 1}), y = world.memory.New(DType::kBF16, {count, 1});
  for (int64_t i = 0; i < count; ++i) x.data<float>()[i] = std::bit_cast<float>(bits[i]);
  const Tensor got = world.New(DType::kBF16, {count, 1});
  Copy(world.cpu, x, y);
  Copy(world.gpu, world.Put(x), got);
  EXPECT_TRUE(Same(world.Get(got), y));
}

TEST(RowOpsCudaTest, AdamWOverManySteps) {
  GROUPER_NEEDS_CUDA();
  for (DType dtype : kTypes) {
    for (const int64_t size : {0, 1, 7, 576, 100003}) {
      SCOPED_TRACE(std::string(Name(dtype)) + " " + std::to_string(size));
      CudaWorld world;
      auto& m = world.memory;
      const Twin master = MakeVector(world, DType::kF32, size, "master"), m1 = MakeVector(world, DType::kF32, size, "m", 0),
                 v1 = MakeVector(world, DType::kF32, size, "v", 0);
      const Twin weight = dtype == DType::kF32 ? master : MakeVector(world, dtype, size, "weight");
      for (int step = 1; step <= 30; ++step) {
        const Tensor gradient = m.Random(DType::kF32, {size}, "gradient" + std::to_string(step), step % 5 == 0 ? 1e-20 : 0.1);
        const AdamWParams params = {.lr = 1e-3 * step, .weight_decay = 0.01, .step = step, .gradient_scale = step % 3 == 0 ? 0.37 : 1};
        const double squares = SumOfSquares(world.cpu, gradient);
        const Tensor on_gpu = world.Put(gradient);
        EXPECT_EQ(SumOfSquares(world.gpu, on_gpu), squares) << "step " << step;
        AdamW(world.cpu, params, gradient, m1.cpu, v1.cpu, master.cpu, weight.cpu);
        AdamW(world.gpu, params, on_gpu, m1.gpu, v1.gpu, master.gpu, weight.gpu);
        if (size > 1000 && step == 6) break;
      }
      EXPECT_TRUE(Equal(world, m1)) << "m";
      EXPECT_TRUE(Equal(world, v1)) << "v";
      EXPECT_TRUE(Equal(world, master)) << "master";
      EXPECT_TRUE(Equal(world, weight)) << "weight";
    }
  }
}

TEST(RowOpsCudaTest, AdamWOfManyTensorsIsThatOfEach) {
  GROUPER_NEEDS_CUDA();
  for (DType dtype : kTypes) {
    CudaWorld world;
    std::vector<Twin> gradients, ms, vs, masters, weights;
    std::vector<AdamWTensors> together;
    std::vector<Tensor> gradients_gpu, gradients_cpu;
    const AdamWParams params = {.lr = 1e-3, .step = 3, .gradient_scale = 0.5};
    for (const int64_t size : {5, 4096, 0, 9001, 1}) {
      // Slices: the second begins one element in, where fours cannot be read at once.
      for (const int64_t offset : {0, 1}) {
        const auto make = [&](DType type, const char* label) {
          Twin t = MakeVector(world, type, size + offset, label);
          t.cpu = t.cpu.Columns(offset, size + offset);
          t.gpu = t.gpu.Columns(offset, size + offset);
          return t;
        };
        gradients.push_back(make(DType::kF32, "gradient"));
        ms.push_back(make(DType::kF32, "m"));
        vs.push_back(MakeVector(world, DType::kF32, size, "v", 0));
        masters.push_back(make(DType::kF32, "master"));
        weights.push_back(dtype == DType::kF32 ? masters.back() : make(dtype, "weight"));
        const double decay = offset == 0 ? 0.1 : 0;
        together.push_back({gradients.back().gpu, ms.back().gpu, vs.back().gpu, masters.back().gpu, weights.back().gpu, decay});
        gradients_gpu.push_back(gradients.back().gpu);
        gradients_cpu.push_back(gradients.back().cpu);
        AdamWParams own = params;
        own.weight_decay = decay;
        AdamW(world.cpu, own, gradients.back().cpu, ms.back().cpu, vs.back().cpu, masters.back().cpu, weights.back().cpu);
      }
    }
    AdamW(world.gpu, params, together);
    for (size_t i = 0; i < together.size(); ++i) {
      EXPECT_TRUE(Equal(world, ms[i]) && Equal(world, vs[i]) && Equal(world, masters[i]) && Equal(world, weights[i])) << i;
    }
    EXPECT_EQ(SumOfSquares(world.gpu, gradients_gpu), SumOfSquares(world.cpu, gradients_cpu));
  }
}

TEST(RowOpsCudaTest, SumOfSquaresOfAnySize) {
  GROUPER_NEEDS_CUDA();
  for (DType dtype : kTypes) {
    for (const int64_t size : {0, 1, 9, 4095, 4096, 4097, 300007}) {
      CudaWorld world;
      const Tensor x = world.memory.Random(dtype, {size}, "x", 3);
      EXPECT_EQ(SumOfSquares(world.gpu, world.Put(x)), SumOfSquares(world.cpu, x)) << Name(dtype) << " " << size;
      if (size == 0) continue;
      Set(x, size - 1, NAN);
      EXPECT_TRUE(std::isnan(SumOfSquares(world.gpu, world.Put(x))));
    }
  }
}

}  // namespace
}  // namespace grouper::kernels
