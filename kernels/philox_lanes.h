// Philox4x32-10 for eight consecutive counters at once: lane l of word w is word w of Philox(key, {first + l, ...}).
// Same bits as common/base/philox.h.
#pragma once

#include "common/base/philox.h"
#include "kernels/simd.h"

namespace grouper::kernels {

struct PhiloxLanes {
  U32x8 word[4];
};

// High and low halves of m * x per lane.
inline void MultiplyLanes(uint32_t m, U32x8 x, U32x8* high, U32x8* low) {
#if defined(__AVX2__) && defined(__FMA__)
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(m));
  const __m256i even = _mm256_mul_epu32((__m256i)x, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)x, 32), factor);
  *low = (U32x8)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  *high = (U32x8)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
  for (int i = 0; i < 8; ++i) {
    const uint64_t product = static_cast<uint64_t>(m) * x[i];
    (*high)[i] = static_cast<uint32_t>(product >> 32);
    (*low)[i] = static_cast<uint32_t>(product);
  }
#endif
}

// Counters {first + lane, c1, c2, c3}.
inline PhiloxLanes PhiloxEight(PhiloxKey key, uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3) {
  const U32x8 lane = {0, 1, 2, 3, 4, 5, 6, 7};
  U32x8 a = lane + first, b = lane * 0 + c1, c = lane * 0 + c2, d = lane * 0 + c3;
  for (int round = 0; round < 10; ++round) {
    U32x8 high0, low0, high1, low1;
    MultiplyLanes(0xD2511F53u, a, &high0, &low0);
    MultiplyLanes(0xCD9E8D57u, c, &high1, &low1);
    a = high1 ^ b ^ key.lo;
    b = low1;
    c = high0 ^ d ^ key.hi;
    d = low0;
    key.lo += 0x9E3779B9u;
    key.hi += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

}  // namespace grouper::kernels
