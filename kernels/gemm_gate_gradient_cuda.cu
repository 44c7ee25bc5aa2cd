// dx = dy W of a feed-forward's second layer, and the gradient through the gate before it, in one: the gradient of silu(gate) * up is not stored.
#include "kernels/gemm_turns.cuh"

namespace grouper::kernels::cuda {

void LaunchGateGradientGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  CHECK(v.turns && v.mn_w && !v.mn_x);
  if (v.groups == GemmGroups::kNone) return LaunchTurns<true, Grouping::kNone, TurnsEnd::kGateGradient>(stream, p);
  CHECK(v.groups == GemmGroups::kRows);
  LaunchTurns<true, Grouping::kRows, TurnsEnd::kGateGradient>(stream, p);
}

}  // namespace grouper::kernels::cuda
