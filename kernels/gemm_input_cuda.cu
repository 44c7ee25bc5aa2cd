// Gradients of inputs, dx = dy W: the sum runs over the weights' rows, so W is read MN-major. And products of an x that is stored by columns.
#include "kernels/gemm_turns.cuh"

namespace grouper::kernels::cuda {

void LaunchInputGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  CHECK(!v.y_float);
  if (v.groups == GemmGroups::kNone)
    return v.turns ? LaunchTurns<true, Grouping::kNone>(stream, p) : LaunchTrainingTile<false, true, Grouping::kNone>(stream, v.tile_n, p);
  CHECK(v.groups == GemmGroups::kRows);
  v.turns ? LaunchTurns<true, Grouping::kRows>(stream, p) : LaunchTrainingTile<false, true, Grouping::kRows>(stream, v.tile_n, p);
}

void LaunchColumnsGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  CHECK(!v.y_float && v.groups == GemmGroups::kNone) << "no tile for this product";
  if (v.mn_w) return LaunchTile<GemmTile<128, 128, 6, 1>, true, true, Grouping::kNone, false, __nv_bfloat16>(stream, p);
  LaunchTile<GemmTile<128, 128, 6, 1>, true, false, Grouping::kNone, false, __nv_bfloat16>(stream, p);
}

}  // namespace grouper::kernels::cuda
