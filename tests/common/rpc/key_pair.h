// Certificates that name nobody, made on the spot.
#pragma once

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "common/base/file.h"

namespace grouper::testing {

inline std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

struct KeyPair {
  std::string certificate, key, locked_key;  // PEM; the last with a password

  static KeyPair Make() {
    KeyPair pair;
    EVP_PKEY* const key = EVP_EC_gen("P-256");
    X509* const certificate = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
    EXPECT_GT(X509_sign(certificate, key, EVP_sha256()), 0);
    BIO* out = BIO_new(BIO_s_mem());
    EXPECT_EQ(PEM_write_bio_X509(out, certificate), 1);
    pair.certificate = TextOf(out);
    out = BIO_new(BIO_s_mem());
    EXPECT_EQ(PEM_write_bio_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr), 1);
    pair.key = TextOf(out);
    out = BIO_new(BIO_s_mem());
    EXPECT_EQ(PEM_write_bio_PrivateKey(out, key, EVP_aes_128_cbc(), nullptr, 0, nullptr, const_cast<char*>("secret")), 1);
    pair.locked_key = TextOf(out);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return pair;
  }
};

inline std::string WriteText(const std::string& name, const std::string& text) {
  const std::string path = JoinPath(::testing::TempDir(), "rpc_test_" + std::to_string(getpid()) + "_" + name);
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

}  // namespace grouper::testing
