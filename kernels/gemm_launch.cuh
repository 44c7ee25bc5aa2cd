// Arguments and launch of one compiled tile of gemm_wgmma.cuh.
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/cuda_launch.h"
#include "kernels/gemm_tiles_cuda.h"
#include "kernels/gemm_wgmma.cuh"

namespace grouper::kernels::cuda {

inline CUtensorMap OperandMap(const GemmOperand& x, bool mn_major, int64_t k, int64_t batch, int tile) {
  return mn_major ? MakeTensorMap(x.data, x.rows, k, batch, x.k_stride, x.batch_stride, 64)
                  : MakeTensorMap(x.data, k, x.rows, batch, x.row_stride, x.batch_stride, tile);
}

template <typename Tile, bool kMnX, bool kMnW, Grouping kGrouping, bool kTokensOnN, typename Out, bool kGated = false>
GemmArguments ArgumentsOf(const GemmProblem& p) {
  const int64_t batch_x = kGrouping == Grouping::kNone ? p.batch : 1;
  const int64_t batch_w = kGrouping == Grouping::kReduction ? 1 : p.batch;
  GemmArguments args;
  const CUtensorMap x = OperandMap(p.x, kMnX, p.k, batch_x, kTokensOnN ? Tile::kTileN : Tile::kTileM);
  const int rows_w = kTokensOnN ? Tile::kTileM : Tile::kTileN;
  const CUtensorMap w = kGated ? MakeGatedMap(p.w.data, p.k, p.w.rows / 2, batch_w, p.w.row_stride, p.w.batch_stride, rows_w)
                               : OperandMap(p.w, kMnW, p.k, batch_w, rows_w);
  args.a = kTokensOnN ? w : x;
  args.b = kTokensOnN ? x : w;
  args.m = static_cast<int>(kTokensOnN ? p.w.rows : p.x.rows);
  args.n = static_cast<int>(kTokensOnN ? p.x.rows : p.w.rows);
  args.k = static_cast<int>(p.k);
  args.batch = static_cast<int>(p.batch);
  args.c = p.y;
  args.c_stride = p.y_stride;
  args.c_batch_stride = p.y_batch_stride;
  args.accumulate = p.accumulate;
  // Units of the widest store: 16 bytes; 4 when transposed.
  const int64_t unit = kTokensOnN ? 2 : 16 / sizeof(Out);
  args.vector_store = reinterpret_cast<uintptr_t>(p.y) % (unit * sizeof(Out)) == 0 && p.y_stride % unit == 0 &&
                      p.y_batch_stride % unit == 0 && p.w.rows % unit == 0;
  const int tiles_m = (args.m + Tile::kTileM - 1) / Tile::kTileM, tiles_n = (args.n + Tile::kTileN - 1) / Tile::kTileN;
  const int tokens = kTokensOnN ? tiles_n : tiles_m, others = kTokensOnN ? tiles_m : tiles_n;
  args.order = kGrouping == Grouping::kRows ? TileOrder::WithoutTokens(others) : TileOrder(tokens, others);
  args.bias = static_cast<const __nv_bfloat16*>(p.bias);
  args.offsets = p.offsets;
  args.chunk = static_cast<int>(p.chunk);
  args.groups = kGrouping == Grouping::kNone ? 0 : static_cast<int>(p.batch);
  args.gated = static_cast<__nv_bfloat16*>(p.gated);
  args.gated_stride = p.gated_stride;
  args.gate_up = static_cast<const __nv_bfloat16*>(p.gate_up);
  args.gate_up_stride = p.gate_up_stride;
  return args;
}

// On as many blocks as run at once, at most `tiles`.
template <typename Tile, typename Arguments>
void LaunchPersistent(Stream& stream, void (*kernel)(Arguments), const Arguments& args, int64_t tiles, std::atomic<uint64_t>& allowed) {
  AllowSharedMemory(kernel, Tile::kSharedBytes, allowed);
  const int64_t slots = NumMultiprocessors() * Tile::kBlocks;
  LaunchKernel(stream, static_cast<unsigned>(std::min(tiles, slots)), Tile::kThreads, Tile::kSharedBytes, kernel, args);
}

// With tokens by expert only the device knows how many tiles there are.
template <Grouping kGrouping>
int64_t MostTiles(const GemmArguments& args) {
  return kGrouping == Grouping::kRows ? std::numeric_limits<int64_t>::max() : int64_t{args.order.matrix_tiles()} * args.batch;
}

template <typename Tile, bool kMnX, bool kMnW, Grouping kGrouping, bool kTokensOnN, typename Out, bool kGated = false>
void LaunchTile(Stream& stream, const GemmProblem& p) {
  const GemmArguments args = ArgumentsOf<Tile, kMnX, kMnW, kGrouping, kTokensOnN, Out, kGated>(p);
  constexpr bool kMnA = kTokensOnN ? kMnW : kMnX, kMnB = kTokensOnN ? kMnX : kMnW;
  static std::atomic<uint64_t> allowed = 0;
  LaunchPersistent<Tile>(stream, GemmKernel<Tile, kMnA, kMnB, kGrouping, kTokensOnN, Out, kGated>, args, MostTiles<kGrouping>(args), allowed);
}

// Tiles with the tokens on M, by width.
template <bool kMnX, bool kMnW, Grouping kGrouping>
void LaunchTrainingTile(Stream& stream, int tile_n, const GemmProblem& p) {
  switch (tile_n) {
    case 128:
      return LaunchTile<GemmTile<128, 128, 6, 1>, kMnX, kMnW, kGrouping, false, __nv_bfloat16>(stream, p);
    case 192:
      return LaunchTile<GemmTile<128, 192, 5, 1>, kMnX, kMnW, kGrouping, false, __nv_bfloat16>(stream, p);
    case 256:
      return LaunchTile<GemmTile<128, 256, 4, 1>, kMnX, kMnW, kGrouping, false, __nv_bfloat16>(stream, p);
  }
  CHECK(false) << "no training tile of width " << tile_n;
}

}  // namespace grouper::kernels::cuda
