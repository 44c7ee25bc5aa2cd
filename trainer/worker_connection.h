// WorkerConnection: one rollout worker as the trainer sees it: its stub, what weights it has, and how to bring it up to date.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/model/model.h"
#include "proto/rollout.grpc.pb.h"
#include "trainer/rollout_client.h"

namespace grouper {

// The weights that every worker must have. The model stays unchanged while this is in use.
struct PublishedWeights {
  const Model* model = nullptr;
  uint64_t version = 0;
  Sha256Digest digest = {};
  std::vector<Sha256Digest> tensor_digests;
  bool exact_on_policy = true;
};

// One thread uses a connection at a time.
class WorkerConnection {
 public:
  explicit WorkerConnection(RolloutClient::Worker worker);

  const std::string& name() const { return worker_.name; }
  bool in_process() const { return worker_.in_process; }
  v1::RolloutService::Stub& stub() { return *stub_; }

  // Asks for the worker's status. True when its weights are `weights` and it is the process that took them. Errors name the worker and the RPC.
  absl::StatusOr<bool> IsUpToDate(const PublishedWeights& weights);
  // IsUpToDate, and Push when it is not.
  absl::Status BringUpToDate(const PublishedWeights& weights);
  // Sends the weights without asking first.
  absl::Status Push(const PublishedWeights& weights);
  // The worker can no longer be trusted to have anything.
  void Forget() { version_ = 0; }
  bool Has(const PublishedWeights& weights) const { return version_ == weights.version; }

 private:
  RolloutClient::Worker worker_;
  std::unique_ptr<v1::RolloutService::Stub> stub_;
  uint64_t version_ = 0;  // that it took from us; 0: unknown
  std::string process_id_;
};

}  // namespace grouper
