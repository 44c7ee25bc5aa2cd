#include "common/base/address.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

TEST(AddressTest, HostAndPortAreBothRequired) {
  const struct {
    const char* address;
    bool listens, reaches;
  } cases[] = {
      {"127.0.0.1:50051", true, true},
      {"127.0.0.1:0", true, false},
      {"0.0.0.0:65535", true, true},
      {"localhost:1", true, true},
      {"node-7.example.org:443", true, true},
      {"my_host:8", true, true},
      {"[::1]:50051", true, true},
      {"[fe80::1%eth0]:50051", true, true},
      {"dns:///rollout:50051", true, true},
      {"dns:rollout:50051", true, true},
      {"ipv4:10.0.0.1:50051", true, true},
      {"ipv6:[::1]:50051", true, true},
      {"unix:/tmp/s", true, true},
      {"unix:relative", true, true},
      {"unix-abstract:name", true, true},
      {"", false, false},
      {"127.0.0.1", false, false},
      {"127.0.0.1:", false, false},
      {"127.0.0.1:foo", false, false},
      {"127.0.0.1:99999", false, false},
      {"127.0.0.1:65536", false, false},
      {"127.0.0.1:-1", false, false},
      {"127.0.0.1:+1", false, false},
      {"127.0.0.1: 1", false, false},
      {"127.0.0.1:18446744073709551617", false, false},
      {"127.0.0:1", false, false},
      {"256.0.0.1:1", false, false},
      {"50051", false, false},
      {":50051", false, false},
      {"localhost", false, false},
      {"::1:50051", false, false},
      {"[::1]", false, false},
      {"[::1]:", false, false},
      {"[::1:50051", false, false},
      {"[localhost]:1", false, false},
      {"a b:1", false, false},
      {"http://a:1", false, false},
      {"dns:///rollout", false, false},
      {"unix:", false, false},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(CheckListenAddress(c.address).ok(), c.listens) << c.address;
    EXPECT_EQ(CheckPeerAddress(c.address).ok(), c.reaches) << c.address;
  }
  EXPECT_EQ(CheckListenAddress("127.0.0.1:foo").message(),
            "\"127.0.0.1:foo\", expected HOST:PORT with a port of 0..65535 (IPv6 as [HOST]:PORT), or unix:PATH");
}

}  // namespace
}  // namespace grouper
