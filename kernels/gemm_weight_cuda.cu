// Gradients of weights, dW += dy^T x in float or bf16: the sum runs over tokens, so both operands are read MN-major. A product
// of matrices that are both stored by columns is the same with bf16 out.
#include "kernels/gemm_launch.cuh"

namespace grouper::kernels::cuda {

void LaunchWeightGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  if (v.y_float && v.mn_w && v.groups == GemmGroups::kNone)
    return LaunchTrainingTile<true, true, Grouping::kNone, float>(stream, v.tile_n, p);
  if (v.y_float && v.mn_w && v.groups == GemmGroups::kReduction)
    return LaunchTrainingTile<true, true, Grouping::kReduction, float>(stream, v.tile_n, p);
  CHECK(!v.y_float) << "no tile for this product";
  if (v.mn_w && v.groups == GemmGroups::kReduction)
    return LaunchTile<GemmTile<128, 128, 6, 1>, true, true, Grouping::kReduction, false, __nv_bfloat16>(stream, p);
  CHECK(v.groups == GemmGroups::kNone) << "no tile for this product";
  if (v.mn_w) return LaunchTile<GemmTile<128, 128, 6, 1>, true, true, Grouping::kNone, false, __nv_bfloat16>(stream, p);
  LaunchTile<GemmTile<128, 128, 6, 1>, true, false, Grouping::kNone, false, __nv_bfloat16>(stream, p);
}

}  // namespace grouper::kernels::cuda
