// Whether the services at a recipe's addresses are the ones that its run needs, as far as their GetStatus says: asked before the first step, where
// the first weights and the first completions may be hours away.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/model/model.h"
#include "grpcpp/channel.h"

namespace grouper {

// Errors begin with the recipe's field and name the address. OK where nobody answers: what is away is waited for later.

// Unimplemented: another service. FailedPrecondition: a worker whose model has other tensors than `model`, or, with exact_on_policy, other numerics.
absl::Status CheckRolloutWorker(const std::string& address, const std::shared_ptr<grpc::Channel>& channel, const Model& model, bool exact_on_policy);

// Unimplemented: another service. One of somebody else's need not have GetStatus: it is sent a request without completions.
absl::Status CheckRewardService(const std::string& address, const std::shared_ptr<grpc::Channel>& channel);

}  // namespace grouper
