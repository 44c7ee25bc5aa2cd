// The compiled tiles of gemm_wgmma.cuh, one file per family, so that they compile side by side.
#pragma once

#include "kernels/gemm_cuda.h"

namespace grouper::kernels::cuda {

inline constexpr int kMaxExperts = 1024;

struct GemmVariant {
  bool mn_x = false, mn_w = false;  // the operand's rows, not k, are contiguous
  bool tokens_on_n = false, y_float = false;
  bool pairs = false;  // kReduction: two blocks share what they read of w
  bool turns = false;  // forward and dx: warpgroups take turns, tiles are 192 wide (gemm_turns.cuh)
  int tile_n = 0;
  GemmGroups groups = GemmGroups::kNone;
};

// Whether gemm_turns.cuh writes y: bf16 in rows of whole 16 bytes, nothing added to it.
bool CanTakeTurns(const GemmProblem& problem);
// Whether it, or gemm_gated_cuda.cu's decode tiles, can end with problem.gated; and it with the gradient of problem.gate_up.
bool CanEndGated(const GemmProblem& problem);
bool CanEndWithGateGradient(const GemmProblem& problem);

// REQUIRES: operands that the copy engine reads. Ends the process for a variant that no caller needs.
void LaunchGemm(Stream& stream, const GemmVariant& variant, const GemmProblem& problem);

void LaunchGatedGemm(Stream& stream, const GemmVariant& variant, const GemmProblem& problem);    // gemm_gated_cuda.cu
void LaunchGateGradientGemm(Stream& stream, const GemmVariant& variant, const GemmProblem& problem);  // gemm_gate_gradient_cuda.cu
void LaunchDecodeGemm(Stream& stream, const GemmVariant& variant, const GemmProblem& problem);   // gemm_decode_cuda.cu
void LaunchForwardGemm(Stream& stream, const GemmVariant& variant, const GemmProblem& problem);  // gemm_forward_cuda.cu
void LaunchInputGemm(Stream& stream, const GemmVariant& variant, const GemmProblem& problem);    // gemm_input_cuda.cu
void LaunchWeightGemm(Stream& stream, const GemmVariant& variant, const GemmProblem& problem);   // gemm_weight_cuda.cu
void LaunchColumnsGemm(Stream& stream, const GemmVariant& variant, const GemmProblem& problem);  // gemm_input_cuda.cu: x by columns

}  // namespace grouper::kernels::cuda
