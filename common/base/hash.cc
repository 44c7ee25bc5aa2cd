#include "common/base/hash.h"

#include <nmmintrin.h>
#include <openssl/evp.h>

#include <cstring>

#include "common/base/check.h"

namespace grouper {
namespace {
EVP_MD_CTX* Context(void* context) { return static_cast<EVP_MD_CTX*>(context); }
}  // namespace

Sha256Stream::Sha256Stream() : context_(EVP_MD_CTX_new()) {
  CHECK(context_ != nullptr);
  CHECK_EQ(EVP_DigestInit_ex(Context(context_), EVP_sha256(), nullptr), 1);
}

Sha256Stream::~Sha256Stream() { EVP_MD_CTX_free(Context(context_)); }

void Sha256Stream::Update(absl::string_view data) {
  CHECK_EQ(EVP_DigestUpdate(Context(context_), data.data(), data.size()), 1);
}

void Sha256Stream::UpdateUint64(uint64_t value) {
  char bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
  Update({bytes, 8});
}

Sha256Digest Sha256Stream::Finish() {
  Sha256Digest digest;
  CHECK_EQ(EVP_DigestFinal_ex(Context(context_), digest.data(), nullptr), 1);
  return digest;
}

Sha256Digest Sha256(absl::string_view data) {
  Sha256Stream stream;
  stream.Update(data);
  return stream.Finish();
}

std::string Hex(const Sha256Digest& digest) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (uint8_t byte : digest) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

uint32_t Crc32c(absl::string_view data, uint32_t crc) {
  // SSE4.2 is part of the baseline (x86-64-v3).
  uint64_t state = ~crc;
  const char* p = data.data();
  size_t left = data.size();
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    state = _mm_crc32_u64(state, word);
  }
  uint32_t tail = static_cast<uint32_t>(state);
  for (; left > 0; --left, ++p) tail = _mm_crc32_u8(tail, static_cast<uint8_t>(*p));
  return ~tail;
}

}  // namespace grouper
