// Engine: continuous batching over one model. Groups in, finished samples out.
//
// One Step() = one forward pass over a ragged batch: first one token for each running sequence (decode), then prefill in chunks up to
// max_batch_tokens. A group's full prompt pages are computed once and shared by its samples; the partly filled last page is copied. When
// pages run out the youngest sequence is preempted: its pages are freed and it is computed again later, to the same bits. What a sample
// becomes depends on (seed, stage, group_serial, sample_index) and the weights alone, never on the batch it happened to be in.
//
// Not thread-safe: one thread owns an engine (rollout_service.h has that thread).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"
#include "proto/rollout.pb.h"
#include "proto/sample.pb.h"

namespace grouper {

struct EngineOptions {
  int32_t max_batch_tokens = 2048;
  int32_t max_sequences = 256;
  int32_t cache_pages = 0;  // 0: enough for max_sequences full contexts, up to half of the machine's memory
  bool share_prefix = true;  // off: each sample computes its own prompt (same bits; for tests)
};

class Engine {
 public:
  // `model` and `tokenizer` (for stop strings) must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Model& model, std::shared_ptr<const Tokenizer> tokenizer,
                                                        ThreadPool& threads, const EngineOptions& options);
  virtual ~Engine() = default;

  // Called on the engine's thread when a sample is finished, in no promised order.
  using OnFinished = std::function<void(v1::Sample sample)>;

  // Queues a group. InvalidArgument: empty prompt, unknown token id, prompt longer than the context leaves room for, bad sampling
  // parameters (the message names the group and the field). The request's weights are the model's present ones: `weight_version` is
  // recorded on the samples.
  virtual absl::Status Add(const v1::GenerateRequest& request, uint64_t weight_version, OnFinished on_finished) = 0;

  // Runs one forward pass and samples. False when there was nothing to do.
  virtual absl::StatusOr<bool> Step() = 0;

  // Drops everything queued and running without calling back.
  virtual void Abort() = 0;

  struct Stats {
    int32_t running = 0, waiting = 0, free_pages = 0, total_pages = 0;
    uint64_t sampled_tokens = 0, prefill_tokens = 0, preemptions = 0, steps = 0;
  };
  virtual Stats stats() const = 0;
};

}  // namespace grouper
