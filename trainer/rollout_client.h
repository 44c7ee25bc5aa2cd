// RolloutClient: the trainer's view of all rollout workers together. Hands out groups, collects finished samples, redoes what a lost
// worker had, and keeps every worker's weights current.
//
// A sample is the same bits whichever worker makes it, so losing a worker costs time only. A worker is given up when its stream breaks,
// when it has work and for `timeout` neither sends a sample nor is seen to work, or when its status shows another process_id. A silent worker is
// asked for its status eight times in `timeout` (progress_watch.h): as long as its count of engine steps rises it may take as long as its completions
// do. The unfinished samples of one that is given up go to the
// others with attempt + 1, late answers (older attempt, wrong weight version, already received) are dropped and counted. Given-up workers are
// tried again; one that answers again is brought to the current weights before it gets work. When no worker is left for 30 s, or all have hung
// three times in a row without a sample in between, the call fails and names the addresses. Of one worker's losses and refusals a line is printed
// every 10 s at most.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/model/model.h"
#include "grpcpp/channel.h"
#include "proto/rollout.pb.h"
#include "trainer/at_stop.h"

namespace grouper {

struct RolloutFaults {  // since the start, for the fault/* metrics
  int64_t worker_losses = 0, timeouts = 0, retried_samples = 0, late_answers = 0, weight_updates_refused = 0;
};

class RolloutClient {
 public:
  struct Worker {
    std::string name;  // the address, for messages
    std::shared_ptr<grpc::Channel> channel;
    bool in_process = false;  // shares the trainer's weight store: updates carry version and digest only
  };
  struct Options {
    absl::Duration timeout = absl::Seconds(120);     // of a worker that has work, without a sample and without an engine step
    absl::Duration no_worker_timeout = absl::Seconds(30);
    bool exact_on_policy = true;
    // May be empty. When true, workers that are away or silent are not waited for any longer: Cancelled.
    std::function<bool()> stop_requested;
  };

  static absl::StatusOr<std::unique_ptr<RolloutClient>> Create(std::vector<Worker> workers, const Options& options,
                                                               Clock& clock = RealClock());
  virtual ~RolloutClient() = default;

  // Brings every reachable worker to these weights under `version` (> all earlier ones); the others follow when they come back. `model` must
  // stay unchanged until the next UpdateWeights. Fails when no worker took them, or when one refuses by numerics_id.
  virtual absl::Status UpdateWeights(const Model& model, uint64_t version, ThreadPool& threads) = 0;

  // Makes all samples of all groups. Result [i][j]: groups[i], sample_indices[j]. on_sample (may be empty) is called on the calling thread as
  // each finishes. An error is one that retrying cannot mend (a prompt too long, say), that no worker is left, or a stop (Cancelled): with
  // AtStop::kCancel the workers drop the call's work at once.
  virtual absl::StatusOr<std::vector<std::vector<v1::Sample>>> Generate(
      const std::vector<v1::GenerateRequest>& groups, std::function<void(const v1::Sample&)> on_sample, AtStop at_stop) = 0;

  virtual RolloutFaults faults() const = 0;
};

}  // namespace grouper
