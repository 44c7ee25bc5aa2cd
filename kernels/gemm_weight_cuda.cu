// Gradients of weights, dW += dy^T x in float or bf16: the sum runs over tokens, so both operands are read MN-major. A product of matrices that are
// both stored by columns is the same with bf16 out. Experts': gemm_experts_cuda.cu.
#include "kernels/gemm_launch.cuh"

namespace grouper::kernels::cuda {

void LaunchWeightGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  if (v.mn_w && v.groups == GemmGroups::kReduction && p.offsets != nullptr) return LaunchExpertsWeightGemm(stream, v, p);
  if (v.y_float && v.groups == GemmGroups::kNone) return LaunchTrainingTile<true, true, Grouping::kNone, float>(stream, v.tile_n, p);
  if (v.y_float && v.groups == GemmGroups::kReduction)
    return LaunchTrainingTile<true, true, Grouping::kReduction, float>(stream, v.tile_n, p);
  CHECK(!v.y_float && v.groups == GemmGroups::kNone) << "no tile for this product";
  if (v.mn_w) return LaunchTile<GemmTile<128, 128, 6, 1>, true, true, Grouping::kNone, false, __nv_bfloat16>(stream, p);
  LaunchTile<GemmTile<128, 128, 6, 1>, true, false, Grouping::kNone, false, __nv_bfloat16>(stream, p);
}

}  // namespace grouper::kernels::cuda
