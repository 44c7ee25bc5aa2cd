// The PEM files of a recipe's `tls`, read and checked: gRPC says of a wrong one only that the server did not start.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "proto/recipe.pb.h"

namespace grouper {

struct Pem {
  std::string certificate, key, ca;  // texts; empty where the recipe names no file
};

// InvalidArgument or what the file system says, beginning with the field (FIELD.certificate: FILE: ...): a file that cannot be read or holds no
// certificate or no private key, a key with a password, a certificate without its key or with another one's.
absl::StatusOr<Pem> ReadCredentials(const v1::Credentials& tls, const std::string& field);

}  // namespace grouper
