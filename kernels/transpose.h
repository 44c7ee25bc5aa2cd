// Transposing on the CPU, eight by eight. Values move as they are, or from bf16 to float; never to a narrower type that would round them.
#pragma once

#include <bit>
#include <type_traits>

#include "kernels/simd.h"

namespace grouper::kernels {

// Values that `p`'s type holds as they are: bf16 that was widened loses its zero bits again, whatever it says (NaN too).
inline void StoreExact(float* p, Vec<float> a) { Store(p, a); }
inline void StoreExact(bf16* p, Vec<float> a) {
#if defined(__AVX2__) && defined(__FMA__)
  const __m256i high = _mm256_srli_epi32((__m256i)a.v, 16);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
#else
  for (int i = 0; i < kLanes; ++i) p[i].bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(a.v[i]) >> 16);
#endif
}

// 8 rows of 8 elements, transposed: to[j * ldt + i] = from[i * ldf + j].
template <typename T, typename S>
inline void Transpose8x8(const S* from, int64_t ldf, T* to, int64_t ldt) {
#if defined(__AVX2__) && defined(__FMA__)
  if constexpr (!std::is_same_v<T, double>) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; ++i) r[i] = Load(from + i * ldf).v;
    for (int i = 0; i < 8; i += 2) t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      StoreExact(to + i * ldt, Vec<float>{(F32x8)_mm256_permute2f128_ps(r[i], r[i + 4], 0x20)});
      StoreExact(to + (i + 4) * ldt, Vec<float>{(F32x8)_mm256_permute2f128_ps(r[i], r[i + 4], 0x31)});
    }
    return;
  }
#endif
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 8; ++i) to[j * ldt + i] = static_cast<T>(from[i * ldf + j]);
  }
}

// rows x columns, transposed: to[j * ldt + i] = from[i * ldf + j].
template <typename T, typename S>
inline void Transpose(const S* from, int64_t ldf, int64_t rows, int64_t columns, T* to, int64_t ldt) {
  int64_t i = 0;
  for (; i + 8 <= rows; i += 8) {
    int64_t j = 0;
    for (; j + 8 <= columns; j += 8) Transpose8x8(from + i * ldf + j, ldf, to + j * ldt + i, ldt);
    for (; j < columns; ++j) {
      for (int64_t r = i; r < i + 8; ++r) to[j * ldt + r] = static_cast<T>(from[r * ldf + j]);
    }
  }
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j * ldt + i] = static_cast<T>(from[i * ldf + j]);
  }
}

}  // namespace grouper::kernels
