#include "trainer/reward_client.h"

#include <atomic>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc/server.h"
#include "gmock/gmock.h"
#include "proto/reward.grpc.pb.h"

namespace grouper {
namespace {

using testing::HasSubstr;

// Scores a completion by the length of its text; `before` may spoil or refuse the n-th answer.
class DoubleRewards : public v1::RewardService::Service {
 public:
  std::function<grpc::Status(int call, v1::ScoreResponse&)> before = [](int, v1::ScoreResponse&) { return grpc::Status::OK; };
  std::function<void(grpc::ServerContext&)> during = [](grpc::ServerContext&) {};
  int calls = 0;

  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request, v1::ScoreResponse* response) override {
    during(*context);
    response->set_request_id(request->request_id());
    response->add_rule_names("length");
    response->add_weights(1);
    for (const v1::ScoreGroup& group : request->groups()) {
      v1::GroupScore* scores = response->add_groups();
      scores->set_group_serial(group.group_serial());
      for (const v1::ScoreCompletion& completion : group.completions()) {
        v1::CompletionScore* score = scores->add_completions();
        score->set_has_reward(true);
        score->set_reward(static_cast<double>(completion.text().size()));
        score->add_rules()->set_status(v1::RULE_STATUS_SCORED);
      }
    }
    return before(calls++, *response);
  }
};

class RewardClientTest : public testing::Test {
 protected:
  RewardClientTest() : server_(*RpcServer::Start("", {}, {&service_})), clock_(absl::UnixEpoch()) {
    RewardClient::Options options;
    options.give_up = absl::Seconds(60);
    client_ = RewardClient::Create("rewards:1", server_->InProcessChannel(), options, clock_);
    request_.set_request_id(12);
    for (uint64_t g = 0; g < 3; ++g) {
      v1::ScoreGroup* group = request_.add_groups();
      group->set_group_serial(g);
      for (uint64_t i = 0; i <= g; ++i) group->add_completions()->set_text(std::string(10 * g + i, 'a'));
    }
  }
  ~RewardClientTest() override { server_->Shutdown(0); }

  void ExpectGood(const absl::StatusOr<v1::ScoreResponse>& response) {
    ASSERT_TRUE(response.ok()) << response.status();
    ASSERT_EQ(response->groups_size(), request_.groups_size());
    for (int g = 0; g < request_.groups_size(); ++g) {
      for (int i = 0; i < request_.groups(g).completions_size(); ++i) {
        EXPECT_EQ(response->groups(g).completions(i).reward(), static_cast<double>(request_.groups(g).completions(i).text().size()));
      }
    }
    EXPECT_EQ(response->rule_names_size(), 1);
  }

  DoubleRewards service_;
  std::unique_ptr<RpcServer> server_;
  FakeClock clock_;
  std::unique_ptr<RewardClient> client_;
  v1::ScoreRequest request_;
};

TEST_F(RewardClientTest, BigRequestsAreCutByGroupsAndKeepTheirOrder) {
  request_.mutable_groups(0)->add_completions()->set_text(std::string(12 << 20, 'x'));
  request_.mutable_groups(2)->add_completions()->set_text(std::string(12 << 20, 'y'));
  ExpectGood(client_->Score(request_, AtStop::kFinish));
  EXPECT_EQ(service_.calls, 2);
}

TEST_F(RewardClientTest, AServiceThatIsAwayIsWaitedFor) {
  service_.before = [](int call, v1::ScoreResponse&) {
    return call < 8 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting") : grpc::Status::OK;
  };
  ExpectGood(client_->Score(request_, AtStop::kFinish));
  EXPECT_EQ(client_->retries(), 8);
}

TEST_F(RewardClientTest, AServiceThatStaysAwayIsNamedAtLast) {
  service_.before = [](int, v1::ScoreResponse&) { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone"); };
  const auto response = client_->Score(request_, AtStop::kFinish);
  EXPECT_EQ(response.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(response.status().message()), testing::AllOf(HasSubstr("rewards:1"), HasSubstr("request 12"), HasSubstr("gone")));
  EXPECT_LE(clock_.Now() - absl::UnixEpoch(), absl::Seconds(62));
}

TEST_F(RewardClientTest, AStopEndsTheWait) {
  service_.before = [](int, v1::ScoreResponse&) { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone"); };
  RewardClient::Options options;
  options.stop_requested = [this] { return service_.calls >= 3; };
  const auto client = RewardClient::Create("rewards:1", server_->InProcessChannel(), options, clock_);
  const absl::Status status = client->Score(request_, AtStop::kFinish).status();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::AllOf(HasSubstr("rewards:1"), HasSubstr("gone"), HasSubstr("a stop was asked for")));
  EXPECT_EQ(service_.calls, 3);
}

TEST_F(RewardClientTest, AStopGivesARequestUnderWaySomeTimeAndThenCancelsIt) {
  std::atomic<bool> stop = false, heard = false;
  RewardClient::Options options;
  options.stop_requested = [&] { return stop.load(); };
  service_.during = [&](grpc::ServerContext&) {
    stop = true;
    absl::SleepFor(absl::Milliseconds(400));
  };
  ExpectGood(RewardClient::Create("rewards:1", server_->InProcessChannel(), options, clock_)->Score(request_, AtStop::kFinish));

  stop = false;
  service_.during = [&](grpc::ServerContext& context) {
    stop = true;
    for (int i = 0; i < 1000 && !context.IsCancelled(); ++i) absl::SleepFor(absl::Milliseconds(10));
    heard = context.IsCancelled();
  };
  options.patience_at_stop = absl::ZeroDuration();
  const absl::Status status = RewardClient::Create("rewards:1", server_->InProcessChannel(), options, clock_)->Score(request_, AtStop::kFinish).status();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::AllOf(HasSubstr("rewards:1"), HasSubstr("a stop was asked for")));
  for (int i = 0; i < 1000 && !heard; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(heard);
}

TEST_F(RewardClientTest, AStopEndsWhatIsNotAStepAtOnce) {
  std::atomic<bool> stop = false, heard = false;
  RewardClient::Options options;
  options.stop_requested = [&] { return stop.load(); };
  service_.during = [&](grpc::ServerContext& context) {
    stop = true;
    for (int i = 0; i < 1000 && !context.IsCancelled(); ++i) absl::SleepFor(absl::Milliseconds(10));
    heard = context.IsCancelled();
  };
  const auto client = RewardClient::Create("rewards:1", server_->InProcessChannel(), options, clock_);
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsCancelled(client->Score(request_, AtStop::kCancel).status()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
  for (int i = 0; i < 1000 && !heard; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(heard);
  const int calls = service_.calls;
  EXPECT_TRUE(absl::IsCancelled(client->Score(request_, AtStop::kCancel).status()));
  EXPECT_EQ(service_.calls, calls) << "after a stop nothing is asked";
}

TEST_F(RewardClientTest, AnErrorOfTheRequestIsNotRetried) {
  service_.before = [](int, v1::ScoreResponse&) { return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "row_json"); };
  const absl::Status status = client_->Score(request_, AtStop::kFinish).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "reward service rewards:1: Score of request 12: row_json");
  EXPECT_EQ(service_.calls, 1);
}

TEST_F(RewardClientTest, AnswersOfAnotherShapeAreErrorsNotRewards) {
  const std::function<void(v1::ScoreResponse&)> damages[] = {
      [](auto& r) { r.mutable_groups()->RemoveLast(); },
      [](auto& r) { r.mutable_groups(1)->mutable_completions()->RemoveLast(); },
      [](auto& r) { r.mutable_groups(1)->mutable_completions(0)->clear_rules(); },
      [](auto& r) { r.clear_weights(); },
      [](auto& r) { r.mutable_groups()->SwapElements(0, 1); },
  };
  for (const auto& damage : damages) {
    service_.before = [&](int, v1::ScoreResponse& response) {
      damage(response);
      return grpc::Status::OK;
    };
    const auto response = client_->Score(request_, AtStop::kFinish);
    EXPECT_THAT(std::string(response.status().message()), HasSubstr("reward service rewards:1"));
  }
}

TEST_F(RewardClientTest, OtherRulesThanTheFirstAnswersAreAnErrorThatNamesBoth) {
  ExpectGood(client_->Score(request_, AtStop::kFinish));
  const std::function<void(v1::ScoreResponse&)> changes[] = {
      [](auto& r) { r.set_rule_names(0, "short"); },  // as many rules, none of them the same
      [](auto& r) {
        r.add_rule_names("more");
        r.add_weights(1);
        for (auto& group : *r.mutable_groups()) {
          for (auto& completion : *group.mutable_completions()) completion.add_rules();
        }
      },
  };
  for (const auto& change : changes) {
    service_.before = [&](int, v1::ScoreResponse& response) {
      change(response);
      return grpc::Status::OK;
    };
    const absl::Status status = client_->Score(request_, AtStop::kFinish).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), testing::AllOf(HasSubstr("rewards:1"), HasSubstr("before"), HasSubstr("\"length\""),
                                                              testing::AnyOf(HasSubstr("\"short\""), HasSubstr("\"length\", \"more\""))));
  }
  service_.before = [](int, v1::ScoreResponse&) { return grpc::Status::OK; };
  ExpectGood(client_->Score(request_, AtStop::kFinish));
}

TEST_F(RewardClientTest, OtherRulesOrWeightsThanTheRecipesAreSaidOnce) {
  const std::pair<std::vector<std::pair<std::string, double>>, bool> cases[] = {
      {{}, false}, {{{"length", 1}}, false}, {{{"length", 0.5}}, true}, {{{"format", 0.1}, {"correct", 0.9}}, true}};
  for (const auto& [rules, differ] : cases) {
    RewardClient::Options options;
    options.recipe_rules = rules;
    const auto client = RewardClient::Create("rewards:1", server_->InProcessChannel(), options, clock_);
    testing::internal::CaptureStderr();
    ExpectGood(client->Score(request_, AtStop::kFinish));
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_EQ(log.find("rewards:1 scores by length x 1; the recipe's") != std::string::npos, differ) << log;
    testing::internal::CaptureStderr();
    ExpectGood(client->Score(request_, AtStop::kFinish));
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  }
}

TEST_F(RewardClientTest, OtherRulesInALaterPartOfOneRequestAreAnErrorToo) {
  request_.mutable_groups(0)->add_completions()->set_text(std::string(12 << 20, 'x'));
  request_.mutable_groups(2)->add_completions()->set_text(std::string(12 << 20, 'y'));
  service_.before = [](int call, v1::ScoreResponse& response) {
    if (call == 1) response.set_rule_names(0, "short");
    return grpc::Status::OK;
  };
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->Score(request_, AtStop::kFinish).status()));
}

TEST_F(RewardClientTest, ARewardThatIsNotFiniteIsHandedOn) {
  for (const double value : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    service_.before = [&](int, v1::ScoreResponse& response) {
      v1::CompletionScore* score = response.mutable_groups(2)->mutable_completions(1);
      score->set_reward(value);
      score->mutable_rules(0)->set_score(value);
      return grpc::Status::OK;
    };
    const auto response = client_->Score(request_, AtStop::kFinish);
    ASSERT_TRUE(response.ok()) << response.status();
    const v1::CompletionScore& score = response->groups(2).completions(1);
    EXPECT_TRUE(score.has_reward());
    EXPECT_FALSE(std::isfinite(score.reward()));
    EXPECT_EQ(score.rules(0).status(), v1::RULE_STATUS_ERROR);
    EXPECT_THAT(score.rules(0).reason(), HasSubstr(absl::StrCat("the service's score is ", value)));
  }
}

TEST_F(RewardClientTest, ARulesScoreThatNoStatisticCanHoldCostsThatCompletionItsReward) {
  for (const double value : {1e308, -1e31}) {
    service_.before = [&](int, v1::ScoreResponse& response) {
      response.mutable_groups(2)->mutable_completions(1)->mutable_rules(0)->set_score(value);
      return grpc::Status::OK;
    };
    const auto response = client_->Score(request_, AtStop::kFinish);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_TRUE(response->groups(2).completions(0).has_reward());
    EXPECT_FALSE(response->groups(2).completions(1).has_reward()) << value;
    EXPECT_EQ(response->groups(2).completions(1).rules(0).status(), v1::RULE_STATUS_ERROR) << value;
  }
}

TEST_F(RewardClientTest, ARulesScoreThatIsNotFiniteCostsThatCompletionItsReward) {
  service_.before = [](int, v1::ScoreResponse& response) {
    response.mutable_groups(2)->mutable_completions(1)->mutable_rules(0)->set_score(std::numeric_limits<double>::infinity());
    return grpc::Status::OK;
  };
  const auto response = client_->Score(request_, AtStop::kFinish);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_TRUE(response->groups(2).completions(0).has_reward());
  EXPECT_FALSE(response->groups(2).completions(1).has_reward());
  EXPECT_EQ(response->groups(2).completions(1).rules(0).status(), v1::RULE_STATUS_ERROR);
  EXPECT_EQ(response->groups(2).completions(1).rules(0).score(), 0);
}

}  // namespace
}  // namespace grouper
