// The product of a feed-forward's first layer, with the gate in its epilogue: silu(gate) * up leaves the registers instead of gate and up (which
// are stored too where the gradient needs them). The bits are those of Linear and SwiGlu one after the other.
//
// Decode: weights' rows are read eight of the gate, eight of up, so that both sums of a feature are one thread's. Up to 128 tokens: with 1024
// tokens x 3072 x 576 nothing runs beside the exponentials, which cost more than the launch and the traffic that they save (H100, 2026-11-26: 181K
// tokens/s against 203K of SmolLM2). Training: gemm_turns.cuh.
#include "kernels/gemm_turns.cuh"

namespace grouper::kernels::cuda {
namespace {

template <typename Tile, Grouping kGrouping>
void Launch(Stream& stream, const GemmProblem& p) {
  LaunchTile<Tile, false, false, kGrouping, /*kTokensOnN=*/true, __nv_bfloat16, /*kGated=*/true>(stream, p);
}

template <Grouping kGrouping>
void LaunchGrouped(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  switch (v.tile_n) {
    case 8:
      return Launch<GemmTile<64, 8, 11, 2>, kGrouping>(stream, p);
    case 16:
      return Launch<GemmTile<64, 16, 10, 2>, kGrouping>(stream, p);
    case 32:
      return Launch<GemmTile<64, 32, 8, 2>, kGrouping>(stream, p);
    case 64:
      return Launch<GemmTile<64, 64, 6, 2>, kGrouping>(stream, p);
    case 128:
      return Launch<GemmTile<64, 128, 4, 2>, kGrouping>(stream, p);
  }
  CHECK(false) << "no gated tile of width " << v.tile_n;
}

}  // namespace

void LaunchGatedGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  CHECK((v.tokens_on_n || v.turns) && !v.mn_x && !v.mn_w && !v.y_float && !p.accumulate);
  if (v.groups == GemmGroups::kNone) {
    return v.turns ? LaunchTurns<false, Grouping::kNone, TurnsEnd::kGated>(stream, p) : LaunchGrouped<Grouping::kNone>(stream, v, p);
  }
  CHECK(v.groups == GemmGroups::kRows);
  v.turns ? LaunchTurns<false, Grouping::kRows, TurnsEnd::kGated>(stream, p) : LaunchGrouped<Grouping::kRows>(stream, v, p);
}

}  // namespace grouper::kernels::cuda
