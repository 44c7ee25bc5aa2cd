// Routing and combination on CUDA: moe.h's functions for F32 and BF16, with the CPU's bits. What `Device` names stays on the device,
// so that a step with experts can be captured as a graph and never waits for the host.
#pragma once

#include <vector>

#include "kernels/linear_cuda.h"
#include "kernels/moe.h"

namespace grouper::kernels::cuda {

// moe.h's ExpertOrder on the device.
struct DeviceExpertOrder {
  int32_t* offsets = nullptr;  // [experts + 1]
  int32_t* token = nullptr;    // [slots]
  int32_t* row_of = nullptr;   // [slots]
  int64_t slots = 0;           // T * top_k
  int num_experts = 0;

  // For the grouped layer that reads tokens, and for the one that reads sorted rows.
  DeviceGroups gathered() const { return {offsets, token, slots}; }
  DeviceGroups sorted() const { return {offsets, nullptr, slots}; }
};

void Route(Stream& stream, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
           const Tensor& expert_ids, const Tensor& weights, const Tensor& scores);
void RouteBackward(Stream& stream, const RouterConfig& config, const Tensor& scores, const Tensor& expert_ids,
                   const Tensor& dweights, const Tensor& dlogits);

// In `memory`, which must be of the stream's device. expert_ids [T, top_k] are Route's: not checked.
DeviceExpertOrder SortByExpertDevice(Stream& stream, const Tensor& expert_ids, int num_experts, Arena& memory);
// Waits for the device.
ExpertOrder SortByExpert(const Tensor& expert_ids, int num_experts);

void CombineExperts(Stream& stream, const DeviceExpertOrder& order, const Tensor& expert_out, const Tensor& weights,
                    const Tensor& y, bool accumulate);
void CombineExpertsBackward(Stream& stream, const DeviceExpertOrder& order, const Tensor& dy, const Tensor& expert_out,
                            const Tensor& weights, const Tensor& d_expert_out, const Tensor& dweights);
void ScatterExpertRows(Stream& stream, const DeviceExpertOrder& order, const Tensor& d_rows, int top_k, const Tensor& dx);

void CombineExperts(Stream& stream, const ExpertOrder& order, const Tensor& expert_out, const Tensor& weights,
                    const Tensor& y, bool accumulate);
void CombineExpertsBackward(Stream& stream, const ExpertOrder& order, const Tensor& dy, const Tensor& expert_out,
                            const Tensor& weights, const Tensor& d_expert_out, const Tensor& dweights);
void ScatterExpertRows(Stream& stream, const ExpertOrder& order, const Tensor& d_rows, int top_k, const Tensor& dx);

// load [experts] on the device += tokens per expert.
void AddExpertLoad(Stream& stream, const DeviceExpertOrder& order, int64_t* load);
// Waits for the device.
void UpdateExpertBias(const std::vector<int64_t>& load, double rate, const Tensor& bias);
void UpdateExpertBiasDevice(Stream& stream, const int64_t* load, double rate, const Tensor& bias);

}  // namespace grouper::kernels::cuda
