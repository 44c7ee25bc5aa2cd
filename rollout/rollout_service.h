// RolloutService over an Engine: the thread that runs the engine, the queue in front of it, and verified weight updates.
//
//   Generate RPC threads ──groups──► engine thread ──samples──► each RPC's own outbox ──► its stream
//   UpdateWeights RPC thread: waits for the engine thread to pause, drops what runs, writes the weights, lets it go on
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"
#include "proto/rollout.grpc.pb.h"
#include "rollout/engine.h"

namespace grouper {

struct RolloutServiceOptions {
  EngineOptions engine = {};
  // The trainer in this process owns the model and changes it only between UpdateWeights calls; updates carry version and digest only. Off:
  // the worker owns the model and receives chunks.
  bool shared_weights = false;
  int32_t max_queued_samples = 1 << 16;  // beyond: RESOURCE_EXHAUSTED
};

// Serves nothing until the first good UpdateWeights. Stops its thread in the destructor; all calls must have ended (RpcServer::Shutdown).
// `model` must outlive the service.
absl::StatusOr<std::unique_ptr<v1::RolloutService::Service>> MakeRolloutService(Model& model, std::shared_ptr<const Tokenizer> tokenizer,
                                                                               ThreadPool& threads,
                                                                               const RolloutServiceOptions& options);

}  // namespace grouper
