// Routing and combination on CUDA: moe.h's functions for F32 and BF16, with the CPU's bits. Nothing waits for the device, so
// that a step with experts can be captured as a graph.
#pragma once

#include "kernels/moe.h"

namespace grouper::kernels::cuda {

void Route(Stream& stream, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
           const Tensor& expert_ids, const Tensor& weights, const Tensor& scores);
void RouteBackward(Stream& stream, const RouterConfig& config, const Tensor& scores, const Tensor& expert_ids,
                   const Tensor& dweights, const Tensor& dlogits);

// Fills `order`, whose tensors are there.
void SortByExpert(Stream& stream, const Tensor& expert_ids, const ExpertOrder& order);

void CombineExperts(Stream& stream, const ExpertOrder& order, const Tensor& expert_out, const Tensor& weights,
                    const Tensor& y, bool accumulate);
void CombineExpertsBackward(Stream& stream, const ExpertOrder& order, const Tensor& dy, const Tensor& expert_out,
                            const Tensor& weights, const Tensor& d_expert_out, const Tensor& dweights);
void ScatterExpertRows(Stream& stream, const ExpertOrder& order, const Tensor& d_rows, int top_k, const Tensor& dx);

void AddExpertLoad(Stream& stream, const Tensor& offsets, const Tensor& load);
void UpdateExpertBias(Stream& stream, const Tensor& load, double rate, const Tensor& bias);

}  // namespace grouper::kernels::cuda
