// Engine: continuous batching over one model. Groups in, finished samples out.
//
// A forward pass is a ragged batch: first one token for each running sequence (decode), then prefill in chunks up to max_batch_tokens. A group's prompt is computed once: its full pages are shared by the samples, the last page is copied. When pages run
// out a sequence of the youngest group is preempted: its pages are freed and it is computed again later, to the same bits. What a sample becomes
// depends on (seed, stage, group_serial, sample_index) and the weights alone, never on the batch it happened to be in.
//
// Passes run ahead on a GPU: the host sees a token while the next one is being sampled.
//
// Not thread-safe: one thread owns an engine (rollout_service.h has that thread).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/model.h"
#include "common/model/pass_memory.h"
#include "common/tensor/turn_memory.h"
#include "common/text/tokenizer.h"
#include "proto/rollout.pb.h"
#include "proto/sample.pb.h"

namespace grouper {

struct EngineOptions {
  int32_t max_batch_tokens = 2048;  // tokens in one forward pass
  int32_t max_sequences = 256;      // running at once
  int32_t cache_pages = 0;  // 0: enough for max_sequences full contexts, up to a quarter of the machine's memory
  bool share_prefix = true;  // off: each sample computes its own prompt (same bits; for tests)
  // A pass is launched before the results of the one before are known, those that only decode as graphs (pass_queue.h; same bits): when it runs on
  // a GPU, always, never.
  enum class Ahead { kOnCuda, kAlways, kNever };
  Ahead ahead = Ahead::kOnCuda;
  // Where the cache lies, if not in memory of the engine's own; others may have it while nothing runs or waits. Its size bounds cache_pages.
  std::shared_ptr<TurnMemory> memory = nullptr;
};

// Internal, naming group, sample and token, for a sample that ended with FINISH_REASON_NOT_FINITE.
absl::Status CheckFinite(const v1::Sample& sample);

class Engine {
 public:
  // `model` must outlive the engine; `tokenizer` is needed for stop strings. InvalidArgument: a cache too small for one full context.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Model& model, std::shared_ptr<const Tokenizer> tokenizer,
                                                        ThreadPool& threads, const EngineOptions& options);
  ~Engine();
  // Bytes of the cache that Create makes for these options.
  static size_t CacheBytes(const Model& model, const EngineOptions& options);
  // What an engine takes for its passes' input, of the device and of the host.
  struct InputBytes {
    size_t device, pinned;
  };
  static InputBytes PassInputBytes(const ModelConfig& config, const EngineOptions& options);
  // The pass for which an engine on a device takes memory when it is made: with the longest contexts.
  static PassSize LargestPass(const ModelConfig& config, const EngineOptions& options);

  // Called on the engine's thread when a sample is finished, in no promised order.
  using OnFinished = std::function<void(v1::Sample sample)>;
  // Called on the engine's thread for each sampled token, in order within a sample. May be empty.
  using OnToken = std::function<void(const v1::SampleId& id, int32_t token)>;

  // Queues a group. InvalidArgument: empty prompt, unknown token id, prompt longer than the context leaves room for, bad sampling
  // parameters, doubled sample indices (the message names the group and the field). `weight_version` is recorded on the samples. `owner`: any
  // address, for AbortOwner.
  absl::Status Add(const v1::GenerateRequest& request, uint64_t weight_version, OnFinished on_finished, OnToken on_token = {},
                   const void* owner = nullptr);

  // Runs one forward pass and samples; or, ahead, launches one, takes the results of the one before, or both. False when there was nothing to do:
  // then nothing is under way either, and the weights may be changed. A sample whose logits are not numbers is finished by that (FINISH_REASON_NOT_FINITE);
  // the others go on. An error is an injected failure; the engine must be aborted then.
  absl::StatusOr<bool> Step();

  // Drops everything queued and running without calling back.
  void Abort();
  // Drops the groups that were added with this owner.
  void AbortOwner(const void* owner);

  struct Stats {
    int32_t running = 0, waiting = 0, free_pages = 0, total_pages = 0;
    uint64_t sampled_tokens = 0, prefill_tokens = 0, preemptions = 0, steps = 0, ahead = 0;  // ahead: steps launched before the results of the last
  };
  Stats stats() const;
  int64_t max_context() const;

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace grouper
