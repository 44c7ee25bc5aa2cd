// What is at a recipe's addresses: real workers, a reward service without GetStatus, and each in the other's place.
#include "trainer/service_check.h"

#include "common/rpc/server.h"
#include "gmock/gmock.h"
#include "proto/reward.grpc.pb.h"
#include "rollout/rollout_service.h"
#include "tests/rollout/rollout_world.h"

namespace grouper {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class ServiceCheckTest : public testing::Test {
 protected:
  ServiceCheckTest() : threads_(1), stream_(threads_), model_(TinyModel("llama", DType::kF32, stream_)) {}
  ~ServiceCheckTest() override {
    if (server_ != nullptr) server_->Shutdown(0);
  }

  // A channel to a worker with this model.
  std::shared_ptr<grpc::Channel> Worker(const std::string& family, DType dtype) {
    worker_model_ = *Model::Create(TinyConfig(family), dtype, {}, WeightUse::kForward);
    worker_ = *MakeRolloutService(*worker_model_, TinyTokenizer(), threads_, {});
    return Serve(worker_.get());
  }
  std::shared_ptr<grpc::Channel> Serve(grpc::Service* service) {
    if (server_ != nullptr) server_->Shutdown(0);
    server_ = *RpcServer::Start("127.0.0.1:0", {}, {service});
    return *OpenChannel(absl::StrCat("127.0.0.1:", server_->port()), {});
  }

  ThreadPool threads_;
  Stream stream_;
  std::unique_ptr<Model> model_, worker_model_;
  std::unique_ptr<v1::RolloutService::Service> worker_;
  std::unique_ptr<RpcServer> server_;
};

TEST_F(ServiceCheckTest, AWorkerWithTheRunsModelIsTaken) {
  const absl::Status status = CheckRolloutWorker("w:1", Worker("llama", DType::kF32), *model_, true);
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ServiceCheckTest, AWorkerWithOtherNumericsOrAnotherModelIsRefused) {
  const absl::Status type = CheckRolloutWorker("w:1", Worker("llama", DType::kBF16), *model_, true);
  EXPECT_THAT(std::string(type.message()), AllOf(StartsWith("rollout.addresses: rollout worker w:1: numerics_id: the trainer has \""), HasSubstr("/F32/"),
                                                 HasSubstr("/BF16/"), HasSubstr("exact_on_policy needs the same")));
  // Without exact_on_policy other numerics are fine, other types of the weights are not: they could not be sent.
  const absl::Status loose = CheckRolloutWorker("w:1", Worker("llama", DType::kBF16), *model_, false);
  const absl::Status model = CheckRolloutWorker("w:1", Worker("qwen3", DType::kF32), *model_, true);
  for (const absl::Status& status : {loose, model}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), AllOf(StartsWith("rollout.addresses: rollout worker w:1: its model ("), HasSubstr("of other names, types or shapes")));
  }
}

TEST_F(ServiceCheckTest, ARewardServiceNeedNotTellItsStatus) {
  struct : v1::RewardService::Service {
    grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest*, v1::ScoreResponse*) override {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no completions");
    }
  } service;
  const absl::Status status = CheckRewardService("r:1", Serve(&service));
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ServiceCheckTest, AnotherServiceIsRefusedAndTheFieldNamed) {
  const absl::Status reward = CheckRewardService("r:1", Worker("llama", DType::kF32));
  EXPECT_THAT(std::string(reward.message()), AllOf(StartsWith("reward.address: reward service r:1: Score: "), HasSubstr("another service answers")));
  v1::RewardService::Service service;
  const absl::Status rollout = CheckRolloutWorker("w:1", Serve(&service), *model_, true);
  EXPECT_THAT(std::string(rollout.message()), AllOf(StartsWith("rollout.addresses: rollout worker w:1: GetStatus: "), HasSubstr("another service answers")));
}

TEST_F(ServiceCheckTest, WhoIsAwayIsNoMistake) {
  const auto channel = Worker("qwen3", DType::kF32);
  server_->Shutdown(0);
  EXPECT_TRUE(CheckRolloutWorker("w:1", channel, *model_, true).ok());
  EXPECT_TRUE(CheckRewardService("r:1", channel).ok());
}

}  // namespace
}  // namespace grouper
