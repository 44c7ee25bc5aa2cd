#include "common/checkpoint/stored_tensor.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/quote.h"
#include "common/checkpoint/ggml_blocks.h"

namespace grouper {
namespace {

struct TypeTraits {
  const char* name;
  int64_t block_elements, block_bytes;
  bool decodes;
};

const TypeTraits& Traits(StorageType type) {
  static constexpr TypeTraits kTraits[] = {
      {"F32", 1, 4, true},       {"F64", 1, 8, true},       {"F16", 1, 2, true},       {"BF16", 1, 2, true},
      {"I64", 1, 8, false},      {"I32", 1, 4, false},      {"I16", 1, 2, false},      {"I8", 1, 1, false},
      {"U64", 1, 8, false},      {"U32", 1, 4, false},      {"U16", 1, 2, false},      {"U8", 1, 1, false},
      {"BOOL", 1, 1, false},     {"F8_E4M3", 1, 1, false},  {"F8_E5M2", 1, 1, false},  {"F8_E8M0", 1, 1, false},
      {"C64", 1, 8, false},      {"Q4_0", 32, 18, true},    {"Q4_1", 32, 20, true},    {"Q5_0", 32, 22, true},
      {"Q5_1", 32, 24, true},    {"Q8_0", 32, 34, true},    {"Q4_K", 256, 144, true},  {"Q5_K", 256, 176, true},
      {"Q6_K", 256, 210, true},
  };
  return kTraits[static_cast<int>(type)];
}

void DecodeF64(const char* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    double value;
    std::memcpy(&value, in + 8 * i, 8);
    out[i] = static_cast<float>(value);
  }
}

void DecodeF16(const char* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * i))));
  }
  for (; i < n; ++i) {
    uint16_t half;
    std::memcpy(&half, in + 2 * i, 2);
    out[i] = _cvtsh_ss(half);
  }
}

void DecodeBF16(const char* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * i));
    _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(packed), 16)));
  }
  for (; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, in + 2 * i, 2);
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    std::memcpy(out + i, &wide, 4);
  }
}

}  // namespace

const char* Name(StorageType type) { return Traits(type).name; }
int64_t BlockElements(StorageType type) { return Traits(type).block_elements; }
int64_t BlockBytes(StorageType type) { return Traits(type).block_bytes; }
bool CanDecodeToFloat(StorageType type) { return Traits(type).decodes; }

int64_t StoredTensor::num_elements() const {
  int64_t product = 1;
  for (int64_t dim : shape) product *= dim;
  return product;
}

std::string StoredTensor::ShapeString() const { return absl::StrCat(Name(type), "[", absl::StrJoin(shape, ", "), "]"); }

absl::Status DecodeToFloat(const StoredTensor& tensor, int64_t begin, int64_t end, float* out) {
  const TypeTraits& traits = Traits(tensor.type);
  if (!traits.decodes) {
    return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", QuoteName(tensor.name),
                                                   ": expected a floating-point type, got ", traits.name));
  }
  CHECK(0 <= begin && begin <= end && end <= tensor.num_elements()) << tensor.name << " " << begin << " " << end;
  CHECK(begin % traits.block_elements == 0 && end % traits.block_elements == 0)
      << tensor.name << " " << begin << " " << end;
  DecodeToFloat(tensor.type, tensor.bytes.data() + begin / traits.block_elements * traits.block_bytes, end - begin, out);
  return absl::OkStatus();
}

void DecodeToFloat(StorageType type, const char* in, int64_t n, float* out) {
  if (n == 0) return;
  switch (type) {
    case StorageType::kF32: std::memcpy(out, in, static_cast<size_t>(n) * 4); break;
    case StorageType::kF64: DecodeF64(in, n, out); break;
    case StorageType::kF16: DecodeF16(in, n, out); break;
    case StorageType::kBF16: DecodeBF16(in, n, out); break;
    default: DecodeGgmlBlocks(type, in, n / BlockElements(type), out); break;
  }
}

absl::Status StorageBytes(StorageType type, const std::vector<int64_t>& shape, uint64_t* bytes) {
  const TypeTraits& traits = Traits(type);
  uint64_t product = 1;
  bool fits = true;
  for (int64_t dim : shape) {
    if (dim < 0) return absl::InvalidArgumentError(absl::StrCat("negative dimension ", dim));
    fits &= !__builtin_mul_overflow(product, static_cast<uint64_t>(dim), &product);
  }
  // A zero dimension after an overflow would hide it; an overflowing shape is refused either way.
  if (traits.block_elements > 1 && (shape.empty() || shape.back() % traits.block_elements != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("innermost dimension of ", traits.name, " must be a multiple of ",
                                                   traits.block_elements, ", got shape [", absl::StrJoin(shape, ", "),
                                                   "]"));
  }
  fits &= !__builtin_mul_overflow(product / traits.block_elements, static_cast<uint64_t>(traits.block_bytes), bytes);
  if (!fits || *bytes > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError(absl::StrCat("shape [", absl::StrJoin(shape, ", "), "] is too large"));
  }
  return absl::OkStatus();
}

}  // namespace grouper
