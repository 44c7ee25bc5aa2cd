#include "common/rpc/credentials.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace grouper {
namespace {

constexpr uint64_t kMaxPemBytes = 1 << 20;

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Freed<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

Bio Open(const std::string& text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

// A key with a password would otherwise be asked for on the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

// The first certificate, which is this side's own, of a file that may hold a chain; null: one of them is broken, or there is none.
Certificate FirstCertificate(const std::string& text) {
  const Bio bio = Open(text);
  Certificate first(PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr));
  while (first != nullptr) {
    const Certificate next(PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr));
    if (next != nullptr) continue;
    const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (!at_end) first.reset();
    break;
  }
  ERR_clear_error();
  return first;
}

Key PrivateKey(const std::string& text) {
  const Bio bio = Open(text);
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr));
  ERR_clear_error();
  return key;
}

}  // namespace

absl::StatusOr<Pem> ReadCredentials(const v1::Credentials& tls, const std::string& field) {
  const auto error = [&](const char* name, const std::string& path, const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(field, ".", name, ": ", path, ": ", what));
  };
  if (tls.certificate().empty() != tls.key().empty()) return absl::InvalidArgumentError(absl::StrCat(field, ": certificate and key go together"));
  Pem pem;
  const struct {
    const char* name;
    const std::string& path;
    std::string& text;
  } files[] = {{"certificate", tls.certificate(), pem.certificate}, {"key", tls.key(), pem.key}, {"ca", tls.ca(), pem.ca}};
  for (const auto& file : files) {
    if (file.path.empty()) continue;
    ASSIGN_OR_RETURN(file.text, Annotate(DefaultFileSystem().ReadFile(file.path, kMaxPemBytes), absl::StrCat(field, ".", file.name)));
  }
  constexpr char kNoCertificate[] = "no certificate in PEM, expected -----BEGIN CERTIFICATE----- and what belongs to it";
  if (!tls.ca().empty() && FirstCertificate(pem.ca) == nullptr) return error("ca", tls.ca(), kNoCertificate);
  if (tls.certificate().empty()) return pem;
  const Certificate certificate = FirstCertificate(pem.certificate);
  if (certificate == nullptr) return error("certificate", tls.certificate(), kNoCertificate);
  const Key key = PrivateKey(pem.key);
  if (key == nullptr) return error("key", tls.key(), "no private key in PEM, expected -----BEGIN PRIVATE KEY----- and what belongs to it, without a password");
  const bool belongs = X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (!belongs) return error("key", tls.key(), absl::StrCat("is not the key of the certificate ", tls.certificate()));
  return pem;
}

}  // namespace grouper
