#include "trainer/reward_client.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "common/rpc/context.h"
#include "common/rpc/server.h"
#include "common/rpc/status.h"
#include "proto/reward.grpc.pb.h"

namespace grouper {
namespace {

constexpr size_t kMessageBytes = kMaxMessageBytes / 4;  // leaves room for the answer's reasons
constexpr absl::Duration kStatusTimeout = absl::Seconds(5);
constexpr absl::Duration kPrintEvery = absl::Seconds(10);
constexpr absl::Duration kPrintScoringEvery = absl::Minutes(1);
constexpr absl::Duration kLookEvery = absl::Milliseconds(100);  // whether a stop was asked for

bool Passes(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kResourceExhausted ||
         code == absl::StatusCode::kDeadlineExceeded || code == absl::StatusCode::kCancelled || code == absl::StatusCode::kAborted;
}

class RetryingRewardClient : public RewardClient {
 public:
  RetryingRewardClient(std::string name, std::shared_ptr<grpc::Channel> channel, const Options& options, Clock& clock)
      : name_(std::move(name)), stub_(v1::RewardService::NewStub(std::move(channel))), options_(options), clock_(clock) {}

  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request, AtStop at_stop) override {
    v1::ScoreResponse all;
    all.set_request_id(request.request_id());
    for (int begin = 0; begin < request.groups_size();) {
      v1::ScoreRequest part;
      part.set_request_id(request.request_id());
      part.set_max_new_tokens(request.max_new_tokens());
      size_t bytes = 0;
      int end = begin;
      while (end < request.groups_size() && (end == begin || bytes + request.groups(end).ByteSizeLong() <= kMessageBytes)) {
        bytes += request.groups(end).ByteSizeLong();
        *part.add_groups() = request.groups(end++);
      }
      ASSIGN_OR_RETURN(v1::ScoreResponse response, Call(part, at_stop));
      RETURN_IF_ERROR(CheckAnswer(part, response));
      RETURN_IF_ERROR(CheckRules(response));
      MarkFailedRules(response);
      if (begin == 0) {
        *all.mutable_rule_names() = response.rule_names();
        *all.mutable_weights() = response.weights();
      }
      for (v1::GroupScore& group : *response.mutable_groups()) *all.add_groups() = std::move(group);
      begin = end;
    }
    return all;
  }

  std::vector<std::string> RuleNames() override {
    v1::RewardStatus answer;
    const auto context = MakeClientContext(kStatusTimeout);
    if (!stub_->GetStatus(context.get(), {}, &answer).ok()) return {};
    return {answer.rule_names().begin(), answer.rule_names().end()};
  }

  int64_t retries() const override { return retries_; }

 private:
  absl::StatusOr<v1::ScoreResponse> Call(const v1::ScoreRequest& request, AtStop at_stop) {
    const absl::Time start = clock_.Now();
    absl::Time next_print = start + kPrintEvery;
    absl::Duration pause = absl::Milliseconds(50);
    while (true) {
      v1::ScoreResponse response;
      const absl::Status status = Try(request, at_stop, &response);
      if (status.ok()) return response;
      const absl::Duration waited = clock_.Now() - start;
      std::string what = absl::StrCat("reward service ", name_, ": Score of request ", request.request_id(), ": ", status.message());
      if (waited >= absl::Seconds(1)) absl::StrAppend(&what, " (after ", absl::FormatDuration(absl::Trunc(waited, absl::Milliseconds(100))), ")");
      if (!Passes(status.code()) || waited >= options_.give_up) return absl::Status(status.code(), what);
      if (StopRequested()) return absl::CancelledError(absl::StrCat(what, "; not waited for any longer, a stop was asked for"));
      if (clock_.Now() >= next_print) {
        LOG(WARNING) << what << "; still trying";
        next_print += kPrintEvery;
      }
      ++retries_;
      clock_.Sleep(pause);
      pause = std::min(pause * 2, absl::Seconds(2));
    }
  }

  absl::Status Try(const v1::ScoreRequest& request, AtStop at_stop, v1::ScoreResponse* response) {
    const absl::Duration patience = at_stop == AtStop::kCancel ? absl::ZeroDuration() : options_.patience_at_stop;
    if (at_stop == AtStop::kCancel && StopRequested()) return absl::CancelledError("not asked any more");
    const auto context = MakeClientContext(options_.timeout);
    grpc::CompletionQueue queue;
    grpc::Status status;
    const auto call = stub_->AsyncScore(context.get(), request, &queue);
    call->Finish(response, &status, nullptr);
    const absl::Time start = clock_.Now();
    absl::Time next_print = start + kPrintScoringEvery, stop_seen = absl::InfiniteFuture();
    void* tag;
    bool ok;
    while (queue.AsyncNext(&tag, &ok, absl::ToChronoTime(absl::Now() + kLookEvery)) == grpc::CompletionQueue::TIMEOUT) {
      const absl::Time now = clock_.Now();
      if (now >= next_print) {
        LOG(WARNING) << "reward service " << name_ << ": Score of request " << request.request_id() << " takes "
                     << absl::FormatDuration(absl::Trunc(now - start, absl::Seconds(1))) << " so far";
        next_print += kPrintScoringEvery;
      }
      if (StopRequested()) stop_seen = std::min(stop_seen, now);
      if (now - stop_seen >= patience) context->TryCancel();
    }
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
    return FromGrpc(status);
  }

  bool StopRequested() const { return options_.stop_requested && options_.stop_requested(); }

  // A service of somebody else's may answer anything.
  absl::Status CheckAnswer(const v1::ScoreRequest& request, const v1::ScoreResponse& response) const {
    bool fits = response.groups_size() == request.groups_size() && response.weights_size() == response.rule_names_size();
    for (int g = 0; fits && g < request.groups_size(); ++g) {
      fits = response.groups(g).completions_size() == request.groups(g).completions_size() &&
             response.groups(g).group_serial() == request.groups(g).group_serial();
      for (const v1::CompletionScore& score : response.groups(g).completions()) {
        fits &= score.rules_size() == response.rule_names_size();
      }
    }
    if (fits) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("reward service ", name_, ": the answer's shape is not the request's (groups, completions, rules)"));
  }

  void CompareWithRecipe(const v1::ScoreResponse& response) const {
    std::vector<std::pair<std::string, double>> rules;
    for (int r = 0; r < response.rule_names_size(); ++r) rules.emplace_back(response.rule_names(r), response.weights(r));
    if (options_.recipe_rules.empty() || rules == options_.recipe_rules) return;
    const auto text = [](const std::vector<std::pair<std::string, double>>& list) {
      return absl::StrJoin(list, ", ", [](std::string* out, const auto& rule) { absl::StrAppend(out, rule.first, " x ", rule.second); });
    };
    LOG(WARNING) << "reward service " << name_ << " scores by " << text(rules) << "; the recipe's reward.rules, which are not used, say "
                 << text(options_.recipe_rules);
  }

  // Whoever reads rule i of a score finds its name at place i, whichever answer the score came with.
  absl::Status CheckRules(const v1::ScoreResponse& response) {
    const std::vector<std::string> names(response.rule_names().begin(), response.rule_names().end());
    if (!rule_names_) {
      rule_names_ = names;
      CompareWithRecipe(response);
    }
    if (names == *rule_names_) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("reward service ", name_, ": it scores by the rules \"", absl::StrJoin(names, "\", \""),
                                                      "\" now, and scored by \"", absl::StrJoin(*rule_names_, "\", \""),
                                                      "\" before; expected the same rules throughout a run"));
  }

  // A rule whose score is none (IsScore) has failed, as with our own service: no reward, unless the sum already says that it is none.
  static void MarkFailedRules(v1::ScoreResponse& response) {
    for (v1::GroupScore& group : *response.mutable_groups()) {
      for (v1::CompletionScore& completion : *group.mutable_completions()) {
        for (v1::RuleResult& rule : *completion.mutable_rules()) {
          if (rule.status() != v1::RULE_STATUS_SCORED || IsScore(rule.score())) continue;
          rule.set_reason(absl::StrCat("the service's score is ", rule.score(), ", expected at most 1e30 in magnitude"));
          rule.set_status(v1::RULE_STATUS_ERROR);
          rule.set_score(0);
          if (std::isfinite(completion.reward())) completion.set_has_reward(false);
        }
      }
    }
  }

  const std::string name_;
  std::unique_ptr<v1::RewardService::Stub> stub_;
  const Options options_;
  Clock& clock_;
  int64_t retries_ = 0;
  std::optional<std::vector<std::string>> rule_names_;  // of the first answer
};

}  // namespace

std::unique_ptr<RewardClient> RewardClient::Create(std::string name, std::shared_ptr<grpc::Channel> channel, const Options& options,
                                                   Clock& clock) {
  return std::make_unique<RetryingRewardClient>(std::move(name), std::move(channel), options, clock);
}

}  // namespace grouper
