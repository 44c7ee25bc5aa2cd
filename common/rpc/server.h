// Servers and channels: health checking, reflection, TLS, message limits and deadlines in one place. absl::Status and grpc::Status meet in
// rpc/status.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/channel.h"
#include "grpcpp/impl/service_type.h"
#include "proto/recipe.pb.h"

namespace grouper {

inline constexpr int kMaxMessageBytes = 64 << 20;  // explicit on both sides

// Whether the address is of this machine alone, so that it needs no credentials.
bool IsLoopback(absl::string_view address);

class RpcServer {
 public:
  // listen: HOST:PORT (base/address.h; port 0: any free one), or "" for in-process only. A port in use, a folder without the socket's place and a wrong
  // PEM file are errors that say so. An address that is not loopback needs TLS credentials or `insecure: true`. Services must outlive the server.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const std::string& listen, const v1::Credentials& tls,
                                                          const std::vector<grpc::Service*>& services);
  virtual ~RpcServer() = default;

  virtual int port() const = 0;  // 0 when in-process only
  virtual std::string ListensOn() const = 0;  // for people: "port 50051", or an address that has none ("unix:/tmp/s")
  virtual std::shared_ptr<grpc::Channel> InProcessChannel() = 0;
  // Refuses new calls, cancels those still running after `grace_seconds`, returns when all have ended.
  virtual void Shutdown(double grace_seconds) = 0;
};

// Connects lazily; target is HOST:PORT or what else base/address.h has ("dns:///rollout:50051", "unix:/tmp/s"). Keep-alive pings notice a dead peer.
// `tls_field`: what errors of the PEM files begin with.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& target, const v1::Credentials& tls,
                                                         const std::string& tls_field = "tls");

}  // namespace grouper
