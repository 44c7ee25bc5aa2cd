// SHA-256 (OpenSSL) for digests of weights, files and completions; CRC32C for the manifest's quick check.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace grouper {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest Sha256(absl::string_view data);
std::string Hex(const Sha256Digest& digest);  // 64 lower-case digits

class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(const Sha256Stream&) = delete;
  Sha256Stream& operator=(const Sha256Stream&) = delete;
  void Update(absl::string_view data);
  void UpdateUint64(uint64_t value);  // little endian
  Sha256Digest Finish();              // once

 private:
  void* context_;
};

// CRC32C (Castagnoli), as in RFC 3720; `crc` continues an earlier value. Uses the SSE4.2 instruction where there is
// one.
uint32_t Crc32c(absl::string_view data, uint32_t crc = 0);

}  // namespace grouper
