// A rule set behind a RewardService in this process.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "common/rpc/context.h"
#include "common/rpc/server.h"
#include "gtest/gtest.h"
#include "proto/reward.grpc.pb.h"
#include "reward/reward_service.h"

namespace grouper {

class ServedRules {
 public:
  explicit ServedRules(const RuleSet* rules, const RewardServiceOptions& options = {})
      : service_(CreateRewardService(rules, nullptr, options)),
        server_(*RpcServer::Start("", {}, {service_.get()})),
        stub_(v1::RewardService::NewStub(server_->InProcessChannel())) {}
  ~ServedRules() { server_->Shutdown(0); }

  grpc::Status Score(const v1::ScoreRequest& request, v1::ScoreResponse* response, absl::Duration timeout = absl::Seconds(30)) {
    const auto context = MakeClientContext(timeout);
    return stub_->Score(context.get(), request, response);
  }
  v1::RewardStatus GetStatus() {
    v1::RewardStatus status;
    const auto context = MakeClientContext(absl::Seconds(30));
    EXPECT_TRUE(stub_->GetStatus(context.get(), {}, &status).ok());
    return status;
  }

 private:
  std::unique_ptr<v1::RewardService::Service> service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::RewardService::Stub> stub_;
};

}  // namespace grouper
