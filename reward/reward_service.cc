#include "reward/reward_service.h"

#include <unistd.h>

#include <atomic>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/failpoint.h"

namespace grouper {
namespace {

std::string DefaultProcessId() {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return absl::StrCat(host, "-", getpid(), "-", absl::ToUnixMicros(absl::Now()));
}

// Whether a call's client has gone. Any thread asks before each completion; gRPC, which takes microseconds and a thread
// at a time, is asked every 10 ms.
class Cancellation {
 public:
  explicit Cancellation(const grpc::ServerContext& context) : context_(context) {}

  bool Seen() {
    if (seen_ || !mutex_.TryLock()) return seen_;
    const absl::Time now = absl::Now();
    if (now >= next_) {
      next_ = now + absl::Milliseconds(10);
      seen_ = context_.IsCancelled();
    }
    mutex_.Unlock();
    return seen_;
  }

 private:
  const grpc::ServerContext& context_;
  std::atomic<bool> seen_{false};
  absl::Mutex mutex_;
  absl::Time next_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

class RewardServiceOverRules : public v1::RewardService::Service {
 public:
  RewardServiceOverRules(const RuleSet* rules, ThreadPool* pool, const RewardServiceOptions& options)
      : rules_(*rules),
        pool_(pool),
        max_waiting_(options.max_waiting),
        process_id_(options.process_id.empty() ? DefaultProcessId() : options.process_id) {}

  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request, v1::ScoreResponse* response) override {
    struct Place {
      explicit Place(std::atomic<int>& count) : count(count), index(count.fetch_add(1)) {}
      ~Place() { count.fetch_sub(1); }
      std::atomic<int>& count;
      const int index;
    } place(waiting_);
    if (place.index >= max_waiting_) {
      return {grpc::StatusCode::RESOURCE_EXHAUSTED,
              absl::StrCat("reward service: ", max_waiting_, " requests are waiting; retry")};
    }
    Cancellation cancellation(*context);
    absl::StatusOr<v1::ScoreResponse> scores = rules_.Score(*request, pool_, [&] { return cancellation.Seen(); });
    if (!scores.ok()) {
      return {static_cast<grpc::StatusCode>(scores.status().code()), std::string(scores.status().message())};
    }
    if (failpoint::HitNan("reward.total") && scores->groups_size() > 0 && scores->groups(0).completions_size() > 0) {
      v1::CompletionScore* first = scores->mutable_groups(0)->mutable_completions(0);
      first->set_has_reward(true);
      first->set_reward(std::numeric_limits<double>::quiet_NaN());
    }
    uint64_t completions = 0, errors = 0, timeouts = 0;
    for (const v1::GroupScore& group : scores->groups()) {
      for (const v1::CompletionScore& completion : group.completions()) {
        ++completions;
        for (const v1::RuleResult& result : completion.rules()) {
          errors += result.status() == v1::RULE_STATUS_ERROR;
          timeouts += result.status() == v1::RULE_STATUS_TIMEOUT;
        }
      }
    }
    completions_ += completions;
    errors_ += errors;
    timeouts_ += timeouts;
    response->Swap(&*scores);
    return grpc::Status::OK;
  }

  grpc::Status GetStatus(grpc::ServerContext*, const v1::RewardStatusRequest*, v1::RewardStatus* status) override {
    for (const std::string& name : rules_.rule_names()) status->add_rule_names(name);
    status->set_scored_completions(completions_);
    status->set_errors(errors_);
    status->set_timeouts(timeouts_);
    status->set_process_id(process_id_);
    status->set_rules_digest(rules_.digest());
    return grpc::Status::OK;
  }

 private:
  const RuleSet& rules_;
  ThreadPool* const pool_;
  const int max_waiting_;
  const std::string process_id_;
  std::atomic<int> waiting_{0};
  std::atomic<uint64_t> completions_{0}, errors_{0}, timeouts_{0};
};

}  // namespace

std::unique_ptr<v1::RewardService::Service> CreateRewardService(const RuleSet* rules, ThreadPool* pool,
                                                                const RewardServiceOptions& options) {
  return std::make_unique<RewardServiceOverRules>(rules, pool, options);
}

}  // namespace grouper
