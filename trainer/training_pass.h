// TrainingPass: forward, loss and backward over a list of sequences, cut into ragged micro-batches of whole sequences. No padding.
//
// Gradients do not depend on the cut, bit for bit: every weight's gradient is one ascending chain over the list's tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "common/model/model.h"
#include "common/model/pass_memory.h"
#include "common/tensor/turn_memory.h"
#include "kernels/sampling.h"
#include "trainer/expert_load.h"

namespace grouper {

struct TrainSequence {
  std::vector<int32_t> token_ids;
  std::vector<uint8_t> trained;   // [tokens]: is token i (i >= 1) a target in the loss?
  kernels::SamplingFilter filter;  // the distribution whose log-probability counts
  int64_t num_trained() const;
};

class TrainingPass {
 public:
  struct Options {
    int64_t micro_batch_tokens = 4096;  // a longer sequence goes alone
    bool recompute = false;
    int64_t logits_bytes = 0;      // of logits held at once; 0: 64 MB, on a GPU 1 GB (there at least 2048 tokens')
    TurnMemory* memory = nullptr;  // for activations, keys and values, as far as it goes; this pass' turn during Run and Score
  };
  TrainingPass(const Model& model, Stream& stream, const Options& options);

  // Trained tokens of a list are numbered through, sequence by sequence. `first` is the number of the first trained token of sequence `begin`.
  //   slopes[i] (=) d(loss)/d(logprob of token first + i), for sequences [begin, end)
  using Loss = absl::FunctionRef<void(size_t begin, size_t end, int64_t first, absl::Span<const float> logprobs,
                                      absl::Span<const float> entropies, absl::Span<float> slopes)>;

  // Forward and backward: calls `loss` once a micro-batch, in order; gradients +=. expert_load += tokens, when not null.
  void Run(const std::vector<TrainSequence>& sequences, Loss loss, Gradients& gradients, ExpertLoad* expert_load);

  // Forward only: the log-probability of each trained token.
  std::vector<float> Score(const std::vector<TrainSequence>& sequences);

  // Memory for lists whose largest micro-batch has `tokens` tokens in `sequences` sequences, for Run (backward) or for Score. A pass takes it at
  // once, before a list's first micro-batch, so that lengths that vary leave no holes in its arena.
  struct Memory {
    size_t activations = 0, logits = 0, keys_and_values = 0, scratch = 0;  // used; what is held for it: HeldBytes
    size_t largest = 0;  // piece of activations and logits: beyond the end of a block's memory there is room for one more
  };
  static Memory MemoryFor(const Model& model, Device device, const Options& options, bool backward, int64_t tokens,
                          int64_t sequences, int64_t longest);

  // [begin, end) of each micro-batch.
  static std::vector<std::pair<size_t, size_t>> Cut(const std::vector<TrainSequence>& sequences, int64_t micro_batch_tokens);

 private:
  struct MicroBatch;
  static int64_t LogitRows(const Model& model, Device device, const Options& options);
  // Tokens that memory is taken for when the largest micro-batch has `tokens`: lengths vary from list to list.
  static int64_t RoundTokens(const Options& options, int64_t tokens);
  void Reserve(const std::vector<TrainSequence>& sequences, const std::vector<std::pair<size_t, size_t>>& cuts, bool backward);
  void EndTurn();
  Tensor OnHost(const Tensor& values);    // [n] float: a copy in host_, or the same on the CPU; waits
  Tensor OnDevice(const Tensor& values);  // [n] float of host_: a copy in arena_, or the same on the CPU
  void Prepare(const std::vector<TrainSequence>& sequences, size_t begin, size_t end, MicroBatch& micro);

  const Model& model_;
  Stream& stream_;
  const Options options_;
  std::optional<Arena> arena_;
  Arena host_;  // what the loss reads and writes when the model is on a device
  PassSize reserved_;  // what arena_ is large enough for: tokens, sequences, the longest one, pages
  std::unique_ptr<KvPool> kv_;
  size_t lent_to_kv_ = 0;  // bytes of options_.memory
};

}  // namespace grouper
