// Client contexts: every call has a deadline, so every context is made here (a test greps for others).
#pragma once

#include <chrono>
#include <memory>

#include "absl/time/time.h"
#include "grpcpp/client_context.h"

namespace grouper {

inline std::unique_ptr<grpc::ClientContext> MakeClientContext(absl::Duration timeout) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
  return context;
}

}  // namespace grouper
