// Gradients of inputs, dx = dy W: the sum runs over the weights' rows, so W is read MN-major.
#include "kernels/gemm_launch.cuh"

namespace grouper::kernels::cuda {

void LaunchInputGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  CHECK(!v.y_float);
  if (v.groups == GemmGroups::kNone)
    return LaunchTrainingTile<false, true, Grouping::kNone, __nv_bfloat16>(stream, v.tile_n, p);
  CHECK(v.groups == GemmGroups::kRows);
  LaunchTrainingTile<false, true, Grouping::kRows, __nv_bfloat16>(stream, v.tile_n, p);
}

}  // namespace grouper::kernels::cuda
