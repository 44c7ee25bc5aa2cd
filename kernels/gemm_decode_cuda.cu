// Decode: weights fill M's 64 rows, 8 to 128 tokens on N. Bound by reading the weights once: two blocks a
// multiprocessor, each with some 100 KB of loads in flight.
#include "kernels/gemm_launch.cuh"

namespace grouper::kernels::cuda {
namespace {

template <Grouping kGrouping>
void Launch(Stream& stream, int tile_n, const GemmProblem& p) {
  switch (tile_n) {
    case 8:
      return LaunchTile<GemmTile<64, 8, 11, 2>, false, false, kGrouping, true, __nv_bfloat16>(stream, p);
    case 16:
      return LaunchTile<GemmTile<64, 16, 10, 2>, false, false, kGrouping, true, __nv_bfloat16>(stream, p);
    case 32:
      return LaunchTile<GemmTile<64, 32, 8, 2>, false, false, kGrouping, true, __nv_bfloat16>(stream, p);
    case 64:
      return LaunchTile<GemmTile<64, 64, 6, 2>, false, false, kGrouping, true, __nv_bfloat16>(stream, p);
    case 128:
      return LaunchTile<GemmTile<64, 128, 4, 2>, false, false, kGrouping, true, __nv_bfloat16>(stream, p);
  }
  CHECK(false) << "no decode tile of width " << tile_n;
}

}  // namespace

void LaunchDecodeGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  if (v.groups == GemmGroups::kNone) return Launch<Grouping::kNone>(stream, v.tile_n, p);
  Launch<Grouping::kRows>(stream, v.tile_n, p);
}

void LaunchGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  if (p.gated != nullptr) return LaunchGatedGemm(stream, v, p);
  if (p.gate_up != nullptr) return LaunchGateGradientGemm(stream, v, p);
  if (v.tokens_on_n) return LaunchDecodeGemm(stream, v, p);
  if (v.groups == GemmGroups::kReduction) return LaunchWeightGemm(stream, v, p);
  if (v.mn_x) return LaunchColumnsGemm(stream, v, p);
  if (v.mn_w) return LaunchInputGemm(stream, v, p);
  LaunchForwardGemm(stream, v, p);
}

}  // namespace grouper::kernels::cuda
