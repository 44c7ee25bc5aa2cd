#include "common/checkpoint/ggml_blocks.h"

#include <immintrin.h>

#include <cstring>

#include "common/base/check.h"

namespace grouper {
namespace {

float LoadHalf(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return _cvtsh_ss(half);
}

uint32_t LoadUint32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

// 16 bytes of nibbles and up to 32 fifth bits to 32 small integers.
template <bool kFifthBit>
void UnpackNibbles(const uint8_t* qs, uint32_t qh, int* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = qs[i] & 15;
    q[i + 16] = qs[i] >> 4;
  }
  if constexpr (kFifthBit) {
    for (int i = 0; i < 32; ++i) q[i] |= static_cast<int>((qh >> i) & 1) << 4;
  }
}

void DecodeQ4_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  int q[32];
  UnpackNibbles<false>(block + 2, 0, q);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(q[i] - 8);
}

void DecodeQ4_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block), m = LoadHalf(block + 2);
  int q[32];
  UnpackNibbles<false>(block + 4, 0, q);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(q[i]) + m;
}

void DecodeQ5_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  int q[32];
  UnpackNibbles<true>(block + 6, LoadUint32(block + 2), q);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(q[i] - 16);
}

void DecodeQ5_1(const uint8_t* block, float* out) {
  const float d = LoadHalf(block), m = LoadHalf(block + 2);
  int q[32];
  UnpackNibbles<true>(block + 8, LoadUint32(block + 4), q);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(q[i]) + m;
}

void DecodeQ8_0(const uint8_t* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * d;
}

// The j-th (0..7) scale and minimum of a K block: six bits each, packed in twelve bytes. The first four of each lie in
// the low six bits of bytes 0..3 and 4..7; the last four have their low nibbles in bytes 8..11 and their high two bits
// in the tops of the bytes before.
void UnpackScaleMin(const uint8_t* scales, int j, int* scale, int* minimum) {
  if (j < 4) {
    *scale = scales[j] & 63;
    *minimum = scales[j + 4] & 63;
  } else {
    *scale = (scales[j + 4] & 15) | ((scales[j - 4] >> 6) << 4);
    *minimum = (scales[j + 4] >> 4) | ((scales[j] >> 6) << 4);
  }
}

// Q4_K, and Q5_K with fifth bits in `qh` (bit j of byte i belongs to element 32 j + i); qh == nullptr: none.
void DecodeQ4Or5K(const uint8_t* block, const uint8_t* qh, const uint8_t* qs, float* out) {
  const float d = LoadHalf(block), dmin = LoadHalf(block + 2);
  const uint8_t* scales = block + 4;
  for (int j = 0; j < 8; ++j) {
    int scale, minimum;
    UnpackScaleMin(scales, j, &scale, &minimum);
    const float ds = d * static_cast<float>(scale), dm = dmin * static_cast<float>(minimum);
    const uint8_t* q = qs + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    int value[32];
    for (int i = 0; i < 32; ++i) value[i] = (q[i] >> shift) & 15;
    if (qh != nullptr) {
      for (int i = 0; i < 32; ++i) value[i] |= ((qh[i] >> j) & 1) << 4;
    }
    for (int i = 0; i < 32; ++i) out[32 * j + i] = ds * static_cast<float>(value[i]) - dm;
  }
}

void DecodeQ6_K(const uint8_t* block, float* out) {
  const uint8_t* ql = block;
  const uint8_t* qh = block + 128;
  const uint8_t* scales = block + 192;
  const float d = LoadHalf(block + 208);
  for (int group = 0; group < 8; ++group) {  // 32 elements each; four groups share 64 bytes of ql and 32 of qh
    const int half = group / 4, part = group % 4;
    const uint8_t* low = ql + 64 * half + 32 * (part % 2);
    const uint8_t* high = qh + 32 * half;
    for (int i = 0; i < 32; ++i) {
      const int q = ((low[i] >> (4 * (part / 2))) & 15) | (((high[i] >> (2 * part)) & 3) << 4);
      const float ds = d * static_cast<float>(static_cast<int8_t>(scales[2 * group + i / 16]));
      out[32 * group + i] = ds * static_cast<float>(q - 32);
    }
  }
}

}  // namespace

void DecodeGgmlBlocks(StorageType type, const char* blocks, int64_t num_blocks, float* out) {
  const int64_t elements = BlockElements(type), size = BlockBytes(type);
  const uint8_t* block = reinterpret_cast<const uint8_t*>(blocks);
  for (int64_t b = 0; b < num_blocks; ++b, block += size, out += elements) {
    switch (type) {
      case StorageType::kQ4_0: DecodeQ4_0(block, out); break;
      case StorageType::kQ4_1: DecodeQ4_1(block, out); break;
      case StorageType::kQ5_0: DecodeQ5_0(block, out); break;
      case StorageType::kQ5_1: DecodeQ5_1(block, out); break;
      case StorageType::kQ8_0: DecodeQ8_0(block, out); break;
      case StorageType::kQ4_K: DecodeQ4Or5K(block, nullptr, block + 16, out); break;
      case StorageType::kQ5_K: DecodeQ4Or5K(block, block + 16, block + 48, out); break;
      case StorageType::kQ6_K: DecodeQ6_K(block, out); break;
      default: CHECK(false) << Name(type) << " is not a quantised type";
    }
  }
}

}  // namespace grouper
