#include "common/rpc/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/common/rpc/key_pair.h"

namespace grouper {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing::KeyPair;
using testing::WriteText;

v1::Credentials Tls(const std::string& certificate, const std::string& key, const std::string& ca) {
  v1::Credentials tls;
  tls.set_certificate(certificate);
  tls.set_key(key);
  tls.set_ca(ca);
  return tls;
}

TEST(Credentials, WhatBelongsTogetherIsRead) {
  const KeyPair pair = KeyPair::Make(), authority = KeyPair::Make();
  const std::string chain = WriteText("chain.pem", pair.certificate + authority.certificate), key = WriteText("own.key", pair.key);
  const auto pem = ReadCredentials(Tls(chain, key, WriteText("ca.pem", authority.certificate)), "rollout.tls");
  ASSERT_TRUE(pem.ok()) << pem.status();
  EXPECT_EQ(pem->certificate, pair.certificate + authority.certificate);
  EXPECT_EQ(pem->key, pair.key);
  EXPECT_EQ(pem->ca, authority.certificate);
  EXPECT_TRUE(ReadCredentials({}, "rollout.tls").ok());
}

TEST(Credentials, WhatDoesNotNamesFieldAndFile) {
  const KeyPair pair = KeyPair::Make(), other = KeyPair::Make();
  const std::string certificate = WriteText("a.pem", pair.certificate), key = WriteText("a.key", pair.key), text = WriteText("rules.textproto", "rules {}\n");
  const std::string cut = WriteText("cut.pem", pair.certificate.substr(0, pair.certificate.size() / 2));
  const std::string broken_chain = WriteText("broken.pem", pair.certificate + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
  const struct {
    v1::Credentials tls;
    std::string begins, says;
  } cases[] = {
      {Tls(certificate, WriteText("b.key", other.key), ""), "rollout.tls.key: ", "b.key: is not the key of the certificate " + certificate},
      {Tls(text, key, ""), "rollout.tls.certificate: " + text, "no certificate in PEM, expected -----BEGIN CERTIFICATE-----"},
      {Tls(cut, key, ""), "rollout.tls.certificate: " + cut, "no certificate in PEM"},
      {Tls(broken_chain, key, ""), "rollout.tls.certificate: " + broken_chain, "no certificate in PEM"},
      {Tls(certificate, certificate, ""), "rollout.tls.key: " + certificate, "no private key in PEM"},
      {Tls(certificate, WriteText("locked.key", pair.locked_key), ""), "rollout.tls.key: ", "without a password"},
      {Tls("", "", key), "rollout.tls.ca: " + key, "no certificate in PEM"},
      {Tls(certificate, "", ""), "rollout.tls: ", "certificate and key go together"},
      {Tls("", key, ""), "rollout.tls: ", "certificate and key go together"},
      {Tls("/nonexistent.pem", key, ""), "rollout.tls.certificate: /nonexistent.pem", "No such file"},
  };
  for (const auto& c : cases) {
    const auto pem = ReadCredentials(c.tls, "rollout.tls");
    ASSERT_FALSE(pem.ok()) << c.says;
    EXPECT_THAT(std::string(pem.status().message()), AllOf(StartsWith(c.begins), HasSubstr(c.says)));
  }
}

}  // namespace
}  // namespace grouper
