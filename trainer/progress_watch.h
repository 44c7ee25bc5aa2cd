// ProgressWatch: asks rollout workers whether their engines move, without ever waiting for an answer.
//
// A worker sends nothing while its completions grow, and a long one may take longer than any time-out. The count of engine steps in its status
// (RolloutStatus.engine_steps) tells a worker that is slow from one that hangs.
//
// Not thread-safe: one Generate call's, on its thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "grpcpp/completion_queue.h"
#include "proto/rollout.grpc.pb.h"

namespace grouper {

class ProgressWatch {
 public:
  explicit ProgressWatch(size_t workers);
  // Drops the questions that are open.
  ~ProgressWatch();
  ProgressWatch(const ProgressWatch&) = delete;
  ProgressWatch& operator=(const ProgressWatch&) = delete;

  // Asks a worker for its status; whatever has not come within `timeout` is no answer. While its last question is open: nothing.
  void Ask(size_t worker, v1::RolloutService::Stub& stub, absl::Duration timeout);

  // Takes the answers that have come. The workers whose engine has made a step since their answer before, in the same process.
  std::vector<size_t> Moved();

 private:
  struct Question;
  struct Seen {
    std::string process_id;
    uint64_t engine_steps = 0;
  };
  bool Close(size_t worker);  // its question is answered; true when it has moved

  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<Question>> open_;  // by worker; null: none
  std::vector<Seen> seen_;                       // the last answers
  int num_open_ = 0;
};

}  // namespace grouper
