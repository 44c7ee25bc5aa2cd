// RewardService over a RuleSet: the same object serves in process and over TCP.
//
// At most `max_waiting` requests are scored or wait to be; one more is refused at once with RESOURCE_EXHAUSTED, and the
// client retries. The rules compute on `pool`; rules that wait (processes) use threads of their own. A request that was
// cancelled, or whose deadline has passed, is scored no further than the completions that were begun.
#pragma once

#include <memory>
#include <string>

#include "common/base/thread_pool.h"
#include "grpcpp/support/status.h"
#include "proto/reward.grpc.pb.h"
#include "reward/rule.h"

namespace grouper {

struct RewardServiceOptions {
  int max_waiting = 256;
  std::string process_id;  // shown in GetStatus; default: host name, process id and start time
};

// `rules` and `pool` must outlive the service. `pool` may be null: each request is scored on its own RPC thread.
std::unique_ptr<v1::RewardService::Service> CreateRewardService(const RuleSet* rules, ThreadPool* pool,
                                                                const RewardServiceOptions& options = {});

}  // namespace grouper
