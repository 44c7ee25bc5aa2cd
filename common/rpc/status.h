// absl::Status and grpc::Status meet here and nowhere else. Their codes are the same numbers.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/support/status.h"

namespace grouper {

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

inline absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  // gRPC's own errors may be the code alone.
  const std::string message = status.error_message().empty() ? absl::StatusCodeToString(code) + " without a message" : status.error_message();
  if (code != absl::StatusCode::kUnimplemented) return absl::Status(code, message);
  return absl::Status(code, absl::StrCat(message, ": another service answers at this address; expected `grouper serve rollout` at rollout.addresses, `grouper ",
                                         "serve reward` at reward.address"));
}

}  // namespace grouper
