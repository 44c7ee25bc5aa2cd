// The check that `grouper bench train`, `rollout` and `step` make before they time anything: the model's layers against the CPU's.
//
// The model is cut down (CutDown) so that the CPU takes a second or two, and gets random weights, norms and biases included; routers are made to
// choose by token id, with scores well apart, so that rounding does not choose other experts. An engine on the
// benchmark's device samples a few completions (prompts in chunks, groups that share theirs), and a training pass there computes the
// log-probability of every token and the gradients of all weights for random slopes. Sampler and trainer must agree by ==. Then, of the same
// weights and tokens:
//
//   device    type       reference                       allowed
//   a GPU     bfloat16   training pass on the CPU, bf16    kNarrow
//             float32    training pass on the CPU, float   ==
//   the CPU   float32    forward and backward in double    kFloat
//
// Where rounding nevertheless sends a token to another expert than in the reference (the experts' loads differ), other tokens are drawn, a few
// times.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/model/model.h"
#include "rollout/engine.h"

namespace grouper::cli {

struct ReferenceOptions {
  DType gradients = DType::kF32;  // of the bf16 model's matrices
  bool recompute = false;
  EngineOptions::Ahead ahead = EngineOptions::Ahead::kOnCuda;
};

// Prints one line a type. Internal: what differs, where, both values.
absl::Status CheckAgainstCpu(const ModelConfig& config, DType dtype, Device device, ThreadPool& threads, const ReferenceOptions& options);

// The same attention heads and router in at most two layers, one of them dense and one with experts where the model has both; at most 2048 of
// the vocabulary, of hidden_size and of context, 1024 of intermediate_size, 256 of moe_intermediate_size, about 16 experts.
ModelConfig CutDown(const ModelConfig& config);

// What a pass computed.
struct PassResult {
  std::vector<double> logprobs;
  std::vector<std::vector<double>> gradients;  // by tensor
  std::vector<std::vector<int64_t>> expert_load;
};

// Of a log-probability, the largest difference; of a tensor's gradient, the norm of the difference, over the tensor's own norm or a hundredth of
// all gradients', whichever is larger. 0: ==.
struct Tolerance {
  double logprob = 0, gradient = 0;
};
// Two ways of rounding to bf16 after each op. Over the families of tests/common/model and the models in recipes/ bf16 on the CPU is at most 0.036
// and 0.034 from double, and the emulator's tensor cores 0.036 and 0.027 from bf16 on the CPU, where a logit above 4 has places 0.031 apart; what
// is wrong is off by about 1.
inline constexpr Tolerance kNarrow = {0.08, 0.05};
// Float against double: at most 1.5e-5 and 7.5e-6 (hidden_size 2048), elsewhere 6e-6.
inline constexpr Tolerance kFloat = {1e-4, 1e-4};

// "275 log-probabilities within 0.08 (largest difference 0.011), ...", or Internal.
absl::StatusOr<std::string> Compare(const PassResult& got, const PassResult& want, const std::vector<LogicalTensor>& tensors, const Tolerance& allowed);

}  // namespace grouper::cli
