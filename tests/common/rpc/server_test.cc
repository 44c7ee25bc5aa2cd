// Servers that start, and what is said of those that do not. Calls are in tests/rollout/rollout_service_test.cc.
#include "common/rpc/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "tests/common/rpc/key_pair.h"

namespace grouper {
namespace {

using ::testing::HasSubstr;
using testing::KeyPair;
using testing::WriteText;

TEST(Server, ListensWithItsCertificateAndRefusesAnothersKey) {
  const KeyPair pair = KeyPair::Make(), other = KeyPair::Make();
  v1::Credentials tls, client;
  tls.set_certificate(WriteText("server.pem", pair.certificate));
  tls.set_key(WriteText("server.key", pair.key));
  client.set_ca(tls.certificate());
  const auto server = RpcServer::Start("127.0.0.1:0", tls, {});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = OpenChannel("localhost:" + std::to_string((*server)->port()), client);
  ASSERT_TRUE(channel.ok()) << channel.status();
  EXPECT_TRUE((*channel)->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20)));
  tls.set_key(WriteText("other.key", other.key));
  EXPECT_THAT(std::string(RpcServer::Start("127.0.0.1:0", tls, {}).status().message()), HasSubstr("tls.key: " + tls.key() + ": is not the key of"));
}

TEST(Server, SaysWhyASocketCannotBeMade) {
  const std::string folder = JoinPath(::testing::TempDir(), "server_test_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const std::string file = WriteText("plain.txt", "text"), long_path = "unix:" + folder + "/" + std::string(150, 's');
  const std::pair<std::string, std::string> cases[] = {
      {"unix:" + folder + "/absent/s", "cannot listen on unix:" + folder + "/absent/s: there is no folder " + folder + "/absent"},
      {"unix://" + folder + "/absent/s", "there is no folder " + folder + "/absent"},
      {"unix:" + file, "a file that is no socket lies there"},
      {long_path, "bytes, expected at most 107"},
  };
  for (const auto& [address, expected] : cases) {
    const auto server = RpcServer::Start(address, {}, {});
    ASSERT_FALSE(server.ok()) << address;
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(expected));
  }
  const auto server = RpcServer::Start("unix:" + folder + "/s", {}, {});
  EXPECT_TRUE(server.ok()) << server.status();
}

}  // namespace
}  // namespace grouper
