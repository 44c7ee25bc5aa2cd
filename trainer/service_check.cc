#include "trainer/service_check.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/context.h"
#include "common/rpc/status.h"
#include "proto/reward.grpc.pb.h"
#include "proto/rollout.grpc.pb.h"

namespace grouper {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(5);

}  // namespace

absl::Status CheckRolloutWorker(const std::string& address, const std::shared_ptr<grpc::Channel>& channel, const Model& model, bool exact_on_policy) {
  const std::string where = absl::StrCat("rollout.addresses: rollout worker ", address);
  v1::RolloutStatus worker;
  const absl::Status answer =
      FromGrpc(v1::RolloutService::NewStub(channel)->GetStatus(MakeClientContext(kPatience).get(), v1::RolloutStatusRequest(), &worker));
  if (absl::IsUnimplemented(answer)) return Annotate(answer, absl::StrCat(where, ": GetStatus"));
  if (!answer.ok()) return absl::OkStatus();
  const std::string numerics = NumericsId(model.dtype(), model.device());
  if (exact_on_policy && !worker.numerics_id().empty() && worker.numerics_id() != numerics) {
    return absl::FailedPreconditionError(absl::StrCat(where, ": numerics_id: the trainer has \"", numerics, "\", this worker \"", worker.numerics_id(),
                                                      "\"; exact_on_policy needs the same"));
  }
  const Sha256Digest tensors = TensorsDigest(model);
  if (!worker.tensors_digest().empty() && worker.tensors_digest() != std::string(tensors.begin(), tensors.end())) {
    return absl::FailedPreconditionError(absl::StrCat(where, ": its model (", worker.model(), ", ", worker.numerics_id(), ") has tensors of other names, types or ",
                                                      "shapes than the trainer's (", model.config().architecture, ", ", model.config().NumParameters(),
                                                      " parameters, ", numerics, "); expected `grouper serve rollout` with the run's recipe"));
  }
  return absl::OkStatus();
}

absl::Status CheckRewardService(const std::string& address, const std::shared_ptr<grpc::Channel>& channel) {
  const auto stub = v1::RewardService::NewStub(channel);
  v1::RewardStatus status;
  if (!absl::IsUnimplemented(FromGrpc(stub->GetStatus(MakeClientContext(kPatience).get(), v1::RewardStatusRequest(), &status)))) return absl::OkStatus();
  v1::ScoreResponse scores;
  const absl::Status answer = FromGrpc(stub->Score(MakeClientContext(kPatience).get(), v1::ScoreRequest(), &scores));
  if (!absl::IsUnimplemented(answer)) return absl::OkStatus();
  return Annotate(answer, absl::StrCat("reward.address: reward service ", address, ": Score"));
}

}  // namespace grouper
