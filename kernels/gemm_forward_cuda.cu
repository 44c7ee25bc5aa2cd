// Training's forward: tokens on M, x and the weights with k contiguous. Bound by the tensor cores, and by L2 where k is
// short.
#include "kernels/gemm_turns.cuh"

namespace grouper::kernels::cuda {

void LaunchForwardGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  CHECK(!v.y_float);
  if (v.groups == GemmGroups::kNone)
    return v.turns ? LaunchTurns<false, Grouping::kNone>(stream, p) : LaunchTrainingTile<false, false, Grouping::kNone>(stream, v.tile_n, p);
  CHECK(v.groups == GemmGroups::kRows);
  v.turns ? LaunchTurns<false, Grouping::kRows>(stream, p) : LaunchTrainingTile<false, false, Grouping::kRows>(stream, v.tile_n, p);
}

}  // namespace grouper::kernels::cuda
