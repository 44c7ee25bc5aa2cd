// RewardClient: scores groups through a RewardService, in process or remote, with retries.
//
// UNAVAILABLE, RESOURCE_EXHAUSTED and a passed deadline are retried with back-off; while the service is away its name is printed every 10 s and
// the trainer waits up to `give_up`, then the call fails naming the address. A stop ends the wait: Cancelled, at once while the service is away,
// after `patience_at_stop` while it scores, or at once where the caller says so (at_stop.h). A request that is given up is cancelled, so that its
// service stops scoring it. Scores are pure functions of the request, so a retry gives the same bits.
//
// All answers of a client are by the same rules, whose names are in the same order: when those of a later answer are not those of the first (a
// service that was started again with other rules, two of them behind one address), Score fails with FailedPrecondition and names both.
//
// A rule's score that is not finite becomes that rule's ERROR. A reward that is not finite is handed on as it is: what becomes of it is the
// caller's word (scored_groups.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "grpcpp/channel.h"
#include "proto/reward.pb.h"
#include "trainer/at_stop.h"

namespace grouper {

class RewardClient {
 public:
  struct Options {
    absl::Duration timeout = absl::Seconds(60);    // one request; its completions are up to a whole batch
    absl::Duration give_up = absl::Minutes(10);    // of trying
    absl::Duration patience_at_stop = absl::Seconds(20);  // with a request under way
    std::function<bool()> stop_requested;          // may be empty
    // The recipe's own rules with their weights; a service that scores by others (which is its right) is warned of once. Empty: not compared
    std::vector<std::pair<std::string, double>> recipe_rules;
  };
  static std::unique_ptr<RewardClient> Create(std::string name, std::shared_ptr<grpc::Channel> channel, const Options& options,
                                              Clock& clock = RealClock());
  virtual ~RewardClient() = default;

  // Splits the request by groups into messages below the size limit, keeps order. AtStop::kCancel: a stop ends it at once, also while it scores.
  virtual absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request, AtStop at_stop) = 0;

  // The names of the service's rules by its GetStatus, asked once. Empty where it does not say: a service of somebody else's need not.
  virtual std::vector<std::string> RuleNames() = 0;

  virtual int64_t retries() const = 0;
};

}  // namespace grouper
