#include "kernels/gemm_cuda.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda_launch.h"
#include "kernels/elementwise.h"
#include "kernels/gemm_tiles_cuda.h"

namespace grouper::kernels::cuda {
namespace {

// Tiles with the tokens on M: 128 rows, two warpgroups.
constexpr int kTrainingTiles[] = {128, 192, 256};
// Of gradients of weights, where a warpgroup holds a whole tile.
constexpr int kWeightTiles[] = {128, 192};
// Tiles with the tokens on N: 64 weight rows.
constexpr int kDecodeTiles[] = {8, 16, 32, 64, 128};
// Tokens (of an expert, on the average) up to which the gate belongs into the product's epilogue (gemm_gated_cuda.cu).
constexpr int64_t kMostGatedTokens = 128;

int64_t Tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// Cycles of 64 of k of a tile, by what bounds it: the tensor cores, or the copies into shared memory.
double StepCycles(int tile_m, int tile_n, double copied_rows) {
  const double multiply = 4.0 * std::max(tile_n / 2, 20) * (tile_m / 64);
  return std::max(multiply, copied_rows * 128 / 42);
}

// Of `blocks` tiles a multiprocessor at once.
double Cost(int64_t tiles, int64_t steps, int tile_m, int tile_n, int blocks) {
  const int64_t processors = NumMultiprocessors();
  const int together = static_cast<int>(std::min<int64_t>(blocks, Tiles(tiles, processors)));
  const int64_t waves = Tiles(tiles, processors * together);
  const double epilogue = 600 + tile_m * tile_n / 24.0;
  return 1500 + static_cast<double>(waves) * (static_cast<double>(steps) * together * StepCycles(tile_m, tile_n, tile_m + tile_n) + epilogue);
}

// Of tiles whose warpgroups take turns (gemm_turns.cuh): while one multiplies a tile in `multiply` cycles the other ends its own in `end`, so that
// one takes `tile` cycles. 920 cycles a step and 250 a tile choose what was faster on an H100 for nine to 44 steps (kernels/README.md).
double TurnsMultiply(int64_t steps) { return static_cast<double>(steps) * 920 + 250; }
double TurnsCost(int64_t tiles, double tile, double end) { return 1500 + static_cast<double>(Tiles(tiles, NumMultiprocessors())) * tile + end; }
double StoredTurnsCost(int64_t tiles, int64_t steps) {
  const double store = 600 + 128 * 192 / 12.0;
  return TurnsCost(tiles, std::max(TurnsMultiply(steps), store / 2), store);
}
// With a gate, or its gradient: a warpgroup does both, one after the other, for every second tile. Cycles as on an H100 (kernels/README.md).
constexpr double kGateEnd = 15000, kGateGradientEnd = 38000;
double GatedTurnsCost(int64_t tiles, int64_t steps, double end) {
  const double multiply = TurnsMultiply(steps);
  return TurnsCost(tiles, std::max(multiply, (multiply + end) / 2), end);
}

// Cycles of a pass of its own over so many bf16 numbers: a launch, and 1500 bytes a cycle (2.6 TB/s).
double PassCost(int64_t numbers) { return 3000 + static_cast<double>(numbers) * 2 / 1500; }

// Nanoseconds of gradients of weights (gemm_weight_cuda.cu), where a tile's sums move while another tile is multiplied. The numbers choose what was
// fastest on an H100 for 16 and 64 experts of 512 to 2048 tokens (kernels/README.md).
double WeightCost(int64_t tiles, int64_t steps, int tile_n, bool pairs, bool accumulate, int sum_bytes) {
  const double multiply = static_cast<double>(steps) * (tile_n == 192 ? 640 : 475) * (pairs ? 1 : 1.2);
  double sums = sum_bytes * 128 * tile_n / 18.5;  // a multiprocessor's share of the memory's bandwidth
  if (accumulate) {
    sums *= tile_n == 128 ? 2.25 : sum_bytes == 2 ? 2.5 : 3;  // with 192 fewer stages are left
  } else if (tile_n == 192 && sum_bytes == 4) {
    sums *= 1.3;
  }
  const double tile = 800 + std::cbrt(multiply * multiply * multiply + sums * sums * sums);
  return static_cast<double>(Tiles(tiles, NumMultiprocessors())) * tile + sums;
}

// Whether the rows, not k, are what is contiguous.
bool RowsContiguous(const GemmOperand& x) { return x.k_stride != 1; }

// Of an expert; which has how many, only the device knows.
int64_t AverageTokens(const GemmProblem& p) { return p.groups == GemmGroups::kRows ? Tiles(p.x.rows, p.batch) : p.x.rows; }

bool CopyEngineReads(const GemmOperand& x, bool mn_major, int64_t k, int64_t batch) {
  if ((mn_major ? x.row_stride : x.k_stride) != 1) return false;
  const int64_t outer = mn_major ? k : x.rows, outer_stride = mn_major ? x.k_stride : x.row_stride;
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && (outer <= 1 || outer_stride % 8 == 0) &&
         (batch <= 1 || x.batch_stride % 8 == 0);
}

// to[b][o][i] = from(b, o, i), i padded with zeros.
__global__ void PackKernel(const uint16_t* from, int64_t inner_stride, int64_t outer_stride, int64_t batch_stride,
                           int64_t inner, int64_t outer, int64_t batch, int64_t padded, uint16_t* to) {
  KernelBegin();
  const int64_t total = batch * outer * padded, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < total; e += step) {
    const int64_t i = e % padded, o = e / padded % outer, b = e / padded / outer;
    to[e] = i < inner ? from[b * batch_stride + o * outer_stride + i * inner_stride] : uint16_t{0};
  }
}

// The operand in an orientation and with strides that the copy engine reads: itself, or a copy.
GemmOperand Readable(Stream& stream, const GemmOperand& x, bool mn_major, int64_t k, int64_t batch) {
  if (k == 0 || CopyEngineReads(x, mn_major, k, batch)) return x;
  const int64_t inner = mn_major ? x.rows : k, outer = mn_major ? k : x.rows, padded = (inner + 7) / 8 * 8;
  const int64_t total = batch * outer * padded;
  auto* copy = static_cast<uint16_t*>(stream.scratch.Allocate(static_cast<size_t>(total) * 2));
  LaunchKernel(stream, static_cast<unsigned>(std::min<int64_t>((total + 255) / 256, 4096)), 256, 0, PackKernel,
               static_cast<const uint16_t*>(x.data), mn_major ? x.row_stride : x.k_stride, mn_major ? x.k_stride : x.row_stride,
               x.batch_stride, inner, outer, batch, padded, copy);
  return {copy, x.rows, mn_major ? 1 : padded, mn_major ? padded : 1, outer * padded};
}

// Sums over tokens are read and written 16 bytes at a time. Where y does not allow that they go to matrices that do, and from there to y.
class AlignedSums {
 public:
  AlignedSums(Stream& stream, GemmProblem& p) : stream_(stream), y_(p.y), stride_(p.y_stride), batch_stride_(p.y_batch_stride), p_(p) {
    const int64_t unit = p.y_float ? 4 : 8;
    if (reinterpret_cast<uintptr_t>(p.y) % 16 == 0 && p.y_stride % unit == 0 && p.y_batch_stride % unit == 0 && p.w.rows % unit == 0) return;
    copied_ = true;
    p.y_stride = (p.w.rows + unit - 1) / unit * unit;
    p.y_batch_stride = p.x.rows * p.y_stride;
    p.y = stream.scratch.Allocate(static_cast<size_t>(p.batch * p.y_batch_stride) * (p.y_float ? 4 : 2));
    for (int64_t b = 0; p.accumulate && b < p.batch; ++b) Copy(stream, Given(b), Aligned(b));
  }
  // After the product.
  void Finish() const {
    for (int64_t b = 0; copied_ && b < p_.batch; ++b) Copy(stream_, Aligned(b), Given(b));
  }

 private:
  Tensor Given(int64_t b) const { return Matrix(y_, b * batch_stride_, stride_); }
  Tensor Aligned(int64_t b) const { return Matrix(p_.y, b * p_.y_batch_stride, p_.y_stride); }
  Tensor Matrix(void* y, int64_t offset, int64_t stride) const {
    const DType dtype = p_.y_float ? DType::kF32 : DType::kBF16;
    char* const data = static_cast<char*>(y) + offset * static_cast<int64_t>(SizeOf(dtype));
    return Tensor(data, dtype, {p_.x.rows, std::max(stride, p_.w.rows)}, stream_.device).Columns(0, p_.w.rows);
  }

  Stream& stream_;
  void* const y_;
  const int64_t stride_, batch_stride_;
  const GemmProblem& p_;
  bool copied_ = false;
};

// An empty sum: y = bias or 0.
template <typename Out>
__global__ void EmptySumKernel(Out* y, int64_t stride, int64_t batch_stride, int64_t columns,
                               const __nv_bfloat16* bias) {
  KernelBegin();
  Out* row = y + blockIdx.y * batch_stride + blockIdx.x * stride;
  for (int64_t n = threadIdx.x; n < columns; n += blockDim.x)
    row[n] = bias != nullptr ? static_cast<Out>(bias[n]) : Out(0.0f);
}

void WriteEmptySum(Stream& stream, const GemmProblem& p) {
  if (p.accumulate) return;
  const dim3 grid(static_cast<unsigned>(p.x.rows), p.groups == GemmGroups::kRows ? 1 : static_cast<unsigned>(p.batch));
  const auto* bias = static_cast<const __nv_bfloat16*>(p.bias);
  if (p.y_float) {
    LaunchKernel(stream, grid, 128, 0, EmptySumKernel<float>, static_cast<float*>(p.y), p.y_stride, p.y_batch_stride, p.w.rows, bias);
  } else {
    LaunchKernel(stream, grid, 128, 0, EmptySumKernel<__nv_bfloat16>, static_cast<__nv_bfloat16*>(p.y), p.y_stride, p.y_batch_stride,
                 p.w.rows, bias);
  }
}

bool Sixteen(const void* data, int64_t stride) { return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0; }

struct Choice {
  GemmVariant variant;
  double cost;
};

GemmVariant VariantOf(const GemmProblem& p) {
  GemmVariant v;
  // Sums over tokens read both operands by their rows: a group's tail is then rows of a tile, which are easily zeroed.
  const bool sums_tokens = p.groups == GemmGroups::kReduction;
  v.mn_x = sums_tokens || RowsContiguous(p.x);
  v.mn_w = sums_tokens || RowsContiguous(p.w);
  v.groups = p.groups;
  v.y_float = p.y_float;
  return v;
}

int64_t TurnsTiles(const GemmProblem& p) { return Tiles(AverageTokens(p), 128) * Tiles(p.w.rows, 192) * p.batch; }

// The fastest variant without a gate, of operands that the copy engine reads.
Choice Choose(const GemmProblem& p) {
  const GemmVariant given = VariantOf(p);
  const bool sums_tokens = p.groups == GemmGroups::kReduction;
  const int64_t group_tokens = AverageTokens(p);
  const int64_t steps = sums_tokens ? Tiles(Tiles(p.k, p.batch), 64) : Tiles(p.k, 64);
  double best = std::numeric_limits<double>::infinity();
  GemmVariant v = given;
  const auto offer = [&](int tile_n, double cost, bool GemmVariant::* form = nullptr) {
    if (cost >= best) return;
    best = cost;
    v = given;
    v.tile_n = tile_n;
    if (form != nullptr) v.*form = true;
  };
  if (sums_tokens) {
    for (const bool pairs : {true, false}) {
      const int64_t tiles_m = pairs ? 2 * Tiles(p.x.rows, 256) : Tiles(p.x.rows, 128);
      for (int tile : kWeightTiles) {
        const double cost = WeightCost(tiles_m * Tiles(p.w.rows, tile) * p.batch, steps, tile, pairs, p.accumulate, p.y_float ? 4 : 2);
        offer(tile, cost, pairs ? &GemmVariant::pairs : nullptr);
      }
    }
    return {v, best};
  }
  for (int tile : kTrainingTiles) {
    offer(tile, Cost(Tiles(group_tokens, 128) * Tiles(p.w.rows, tile) * p.batch, steps, 128, tile, /*blocks=*/1));
  }
  if (!v.mn_x && CanTakeTurns(p)) offer(192, StoredTurnsCost(TurnsTiles(p), steps), &GemmVariant::turns);
  if (!v.mn_x && !v.mn_w && !p.accumulate) {
    for (int tile : kDecodeTiles) {
      const double cost = Cost(Tiles(group_tokens, tile) * Tiles(p.w.rows, 64) * p.batch, steps, 64, tile, /*blocks=*/2);
      offer(tile, cost, &GemmVariant::tokens_on_n);
    }
  }
  return {v, best};
}

// Whether a product whose tiles end with a gate is faster than one of the others and then a pass.
bool GateHides(const GemmProblem& p, double end, int64_t numbers_of_pass) {
  return !RowsContiguous(p.x) && GatedTurnsCost(TurnsTiles(p), Tiles(p.k, 64), end) < Choose(p).cost + PassCost(numbers_of_pass);
}

// Of a product with few tokens whose gate is in the epilogue: the fastest of those that there are.
GemmVariant ChooseGatedDecode(const GemmProblem& p) {
  GemmVariant v;
  v.groups = p.groups;
  v.tokens_on_n = true;
  double best = std::numeric_limits<double>::infinity();
  for (int tile : kDecodeTiles) {
    const double cost = Cost(Tiles(AverageTokens(p), tile) * Tiles(p.w.rows, 64) * p.batch, Tiles(p.k, 64), 64, tile, /*blocks=*/2);
    if (cost >= best) continue;
    best = cost;
    v.tile_n = tile;
  }
  return v;
}

}  // namespace

bool CanTakeTurns(const GemmProblem& p) {
  return !p.y_float && !p.accumulate && p.bias == nullptr && Sixteen(p.y, p.y_stride) && p.y_batch_stride % 8 == 0 && p.w.rows % 8 == 0;
}

bool CanEndGated(const GemmProblem& p) {
  return p.k > 0 && CanTakeTurns(p) && (p.groups == GemmGroups::kRows || (p.groups == GemmGroups::kNone && p.batch == 1)) && p.w.rows % 16 == 0 &&
         CopyEngineReads(p.w, false, p.k, p.batch) && p.w.row_stride % 8 == 0 && Sixteen(p.gated, p.gated_stride);
}

bool CanEndWithGateGradient(const GemmProblem& p) {
  return p.k > 0 && CanTakeTurns(p) && (p.groups == GemmGroups::kRows || (p.groups == GemmGroups::kNone && p.batch == 1)) &&
         Sixteen(p.gate_up, p.gate_up_stride) && RowsContiguous(p.w) && CopyEngineReads(p.w, true, p.k, p.batch);
}

bool CanGate(const GemmProblem& p) {
  return CanEndGated(p) && (AverageTokens(p) <= kMostGatedTokens || GateHides(p, kGateEnd, p.x.rows * p.w.rows / 2 * 3));
}

bool CanGateGradient(const GemmProblem& p) { return CanEndWithGateGradient(p) && GateHides(p, kGateGradientEnd, p.x.rows * p.w.rows * 5); }

void GemmBF16(Stream& stream, const GemmProblem& problem) {
  GemmProblem p = problem;
  if (p.x.rows == 0 || p.w.rows == 0 || p.batch == 0) return;
  if (p.k == 0) return WriteEmptySum(stream, p);
  CHECK(p.groups == GemmGroups::kNone || (p.batch <= kMaxExperts && (p.offsets != nullptr || p.chunk > 0)))
      << p.batch << " experts";
  CHECK(p.x.rows < std::numeric_limits<int>::max() - 4096 && p.w.rows < std::numeric_limits<int>::max() - 4096 &&
        p.k < std::numeric_limits<int>::max() - 4096);
  const Arena::Mark mark = stream.scratch.mark();
  const int64_t batch_x = p.groups == GemmGroups::kNone ? p.batch : 1;
  const int64_t batch_w = p.groups == GemmGroups::kReduction ? 1 : p.batch;
  const bool sums_tokens = p.groups == GemmGroups::kReduction;
  GemmVariant v = VariantOf(p);
  if (p.gated != nullptr && AverageTokens(p) <= kMostGatedTokens) {
    v = ChooseGatedDecode(p);
  } else if (p.gated != nullptr || p.gate_up != nullptr) {
    v.turns = true;
  } else {
    v = Choose(p).variant;
  }
  p.x = Readable(stream, p.x, v.mn_x, p.k, batch_x);
  p.w = Readable(stream, p.w, v.mn_w, p.k, batch_w);
  if (sums_tokens) {
    const AlignedSums sums(stream, p);
    LaunchGemm(stream, v, p);
    sums.Finish();
  } else {
    LaunchGemm(stream, v, p);
  }
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
