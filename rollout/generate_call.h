// GenerateCall: one client's Generate stream. Groups that come in are handed to `enqueue`, finished samples go out one write at a time, and the
// first error ends the stream with its own status.
//
// gRPC calls the On... methods on its threads, the engine's thread delivers; all methods are thread-safe and none blocks on the network.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/support/server_callback.h"
#include "proto/rollout.pb.h"

namespace grouper {

class GenerateCall : public grpc::ServerBidiReactor<v1::GenerateRequest, v1::GenerateResponse> {
 public:
  using Enqueue = std::function<absl::Status(const std::shared_ptr<GenerateCall>& call, const v1::GenerateRequest& request)>;

  // Lives until gRPC is done with the stream and nobody else holds it.
  static GenerateCall* Start(Enqueue enqueue);

  // Announces that `samples` more will be delivered: the stream stays open for them.
  void Expect(int64_t samples);
  void Deliver(v1::Sample sample);
  // Ends the stream with `status`; samples not yet sent are dropped. Only the first call counts.
  void Fail(const absl::Status& status);
  // kFailed: an error or the client's going away ended it, its work can be dropped.
  enum class State { kOpen, kServed, kFailed };
  State state() const;

 private:
  explicit GenerateCall(Enqueue enqueue) : enqueue_(std::move(enqueue)) {}
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  // Writes the next sample, or finishes when there is nothing left to do.
  void Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Enqueue enqueue_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone
  v1::GenerateRequest request_;         // being read
  v1::GenerateResponse response_;       // being written

  mutable absl::Mutex mutex_;
  std::deque<v1::Sample> ready_ ABSL_GUARDED_BY(mutex_);
  int64_t expected_ ABSL_GUARDED_BY(mutex_) = 0;  // announced and not yet written
  bool no_more_groups_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace grouper
