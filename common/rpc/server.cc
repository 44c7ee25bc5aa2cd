#include "common/rpc/server.h"

#include <sys/un.h>

#include <chrono>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/address.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/rpc/credentials.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"

namespace grouper {
namespace {

constexpr int kMaxMetadataBytes = 16 << 10;
constexpr int kMaxStreams = 256;  // of one connection

// Why nothing listens at `listen`, as far as it can be said.
std::string WhyNotListening(const std::string& listen) {
  absl::string_view path = listen;
  if (!absl::ConsumePrefix(&path, "unix:")) return "the port is in use, or the address is not this machine's";
  absl::ConsumePrefix(&path, "//");  // unix:///tmp/s is unix:/tmp/s
  const size_t most = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > most) return absl::StrCat("a path of ", path.size(), " bytes, expected at most ", most);
  const std::string folder = Dirname(path);
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) return absl::StrCat("there is no folder ", folder);
  const auto there = std::filesystem::symlink_status(std::string(path), error).type();
  if (there != std::filesystem::file_type::not_found && there != std::filesystem::file_type::socket) {
    return "a file that is no socket lies there";
  }
  return absl::StrCat("a socket cannot be made in ", folder);
}

class Server : public RpcServer {
 public:
  Server(std::unique_ptr<grpc::Server> server, std::string listen, int port) : server_(std::move(server)), listen_(std::move(listen)), port_(port) {}
  ~Server() override { Shutdown(0); }

  int port() const override { return port_; }
  std::string ListensOn() const override { return absl::StartsWith(listen_, "unix") ? listen_ : absl::StrCat("port ", port_); }
  std::shared_ptr<grpc::Channel> InProcessChannel() override {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetMaxSendMessageSize(kMaxMessageBytes);
    return server_->InProcessChannel(arguments);
  }
  void Shutdown(double grace_seconds) override {
    if (down_) return;
    down_ = true;
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(static_cast<int64_t>(grace_seconds * 1000)));
  }

 private:
  std::unique_ptr<grpc::Server> server_;
  const std::string listen_;
  int port_;
  bool down_ = false;
};

}  // namespace

bool IsLoopback(absl::string_view target) {
  for (absl::string_view prefix : {"dns:///", "ipv4:", "ipv6:"}) {
    if (absl::StartsWith(target, prefix)) target.remove_prefix(prefix.size());
  }
  // "127." alone would take the host name 127.example.org too.
  const absl::string_view host = target.substr(0, target.rfind(':'));
  const bool ipv4_loopback = absl::StartsWith(host, "127.") && host.find_first_not_of("0123456789.") == host.npos;
  return ipv4_loopback || absl::StartsWith(target, "localhost:") || absl::StartsWith(target, "[::1]:") ||
         absl::StartsWith(target, "unix:") || absl::StartsWith(target, "unix-abstract:");
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const std::string& listen, const v1::Credentials& tls,
                                                            const std::vector<grpc::Service*>& services) {
  static const bool plugins = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(plugins);
  ASSIGN_OR_RETURN(const Pem pem, ReadCredentials(tls, "tls"));
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreams);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // A client that vanished or froze must not hold a stream (or a weight update) for ever.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server on the port is an error, not a silent share
  int port = 0;
  if (!listen.empty()) {
    RETURN_IF_ERROR(Annotate(CheckListenAddress(listen), "listen address"));
    std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
    if (!pem.certificate.empty()) {
      grpc::SslServerCredentialsOptions options(pem.ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                               : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
      options.pem_root_certs = pem.ca;
      options.pem_key_cert_pairs.push_back({pem.key, pem.certificate});
      credentials = grpc::SslServerCredentials(options);
    } else if (!IsLoopback(listen) && !tls.insecure()) {
      return absl::InvalidArgumentError(
          absl::StrCat("listen address ", listen, ": not loopback; expected tls certificate, key and ca in the recipe, or insecure: true"));
    }
    builder.AddListeningPort(listen, credentials, &port);
  }
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || (!listen.empty() && port == 0)) {
    if (listen.empty()) return absl::UnavailableError("cannot start the in-process server");
    return absl::UnavailableError(absl::StrCat("cannot listen on ", listen, ": ", WhyNotListening(listen)));
  }
  return std::make_unique<Server>(std::move(server), listen, port);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& target, const v1::Credentials& tls, const std::string& tls_field) {
  RETURN_IF_ERROR(Annotate(CheckPeerAddress(target), "address"));
  ASSIGN_OR_RETURN(const Pem pem, ReadCredentials(tls, tls_field));
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!pem.ca.empty()) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = pem.ca;
    options.pem_private_key = pem.key;
    options.pem_cert_chain = pem.certificate;
    credentials = grpc::SslCredentials(options);
  } else if (!IsLoopback(target) && !tls.insecure()) {
    return absl::InvalidArgumentError(absl::StrCat("address ", target, ": not loopback; expected tls ca in the recipe, or insecure: true"));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  // A dead peer is noticed within a few seconds, also while nothing is sent.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Two channels to one address are two connections: a test's double must not share a socket.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return std::shared_ptr<grpc::Channel>(grpc::CreateCustomChannel(target, credentials, arguments));
}

}  // namespace grouper
