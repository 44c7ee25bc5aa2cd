// The inner loops of paged attention on the CPU, forward and backward. A page holds 64 tokens: keys transposed,
// [key_dim][64] a kv head, so that the scores of 64 tokens are eight vectors, each lane one ascending fma chain over
// the key's elements; then, unless values are part of the keys, values [64][value_dim].
//
// n is the number of the page's tokens that count (1..64). Lanes at and beyond n are never used: what lies there may be
// NaN.
#pragma once

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/simd.h"

namespace grouper::kernels::cpu {

inline constexpr int kPageVectors = kPageTokens / kLanes;

// Where one kv head's keys and values lie in a page.
template <typename S>
struct PageView {
  const S* keys;    // [key_dim][64]
  const S* values;  // [64][value_dim]; null when values are in the keys
};

template <typename S>
S* KeysOf(const PagedKv& kv, int32_t page, int64_t head) {
  const int64_t width = kv.layout.key_dim + (kv.layout.values_in_keys ? 0 : kv.layout.value_dim);
  return reinterpret_cast<S*>(static_cast<char*>(kv.base) + static_cast<size_t>(page) * kv.page_stride) +
         head * width * kPageTokens;
}

template <typename S>
PageView<S> ViewPage(const PagedKv& kv, int32_t page, int64_t head) {
  const S* keys = KeysOf<S>(kv, page, head);
  return {keys, kv.layout.values_in_keys ? nullptr : keys + static_cast<int64_t>(kv.layout.key_dim) * kPageTokens};
}

// scores[r][j] = sum_d q[r][d] * keys[d][j], d ascending, for kRows rows and the first 8 * kVectors tokens.
template <int kRows, int kVectors, typename T, typename S>
inline void ScoreTile(const T* const* q, const S* keys, int64_t dim, T* const* scores) {
  Vec<T> acc[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) acc[r][v] = Vec<T>::Zero();
  }
  for (int64_t d = 0; d < dim; ++d) {
    const S* key = keys + d * kPageTokens;
    Vec<T> x[kRows];
    for (int r = 0; r < kRows; ++r) x[r] = Vec<T>::Broadcast(q[r][d]);
    for (int v = 0; v < kVectors; ++v) {
      const Vec<T> k = Load(key + v * kLanes);
      for (int r = 0; r < kRows; ++r) acc[r][v] = Fma(x[r], k, acc[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) Store(scores[r] + v * kLanes, acc[r][v]);
  }
}

template <int kVectors, typename T, typename S>
inline void ScoreRows(const T* const* q, const S* keys, int64_t dim, int64_t rows, T* const* scores) {
  constexpr int kRows = kVectors <= 2 ? 4 : kVectors <= 4 ? 2 : 1;  // accumulators stay in registers
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) ScoreTile<kRows, kVectors>(q + r, keys, dim, scores + r);
  for (; r < rows; ++r) ScoreTile<1, kVectors>(q + r, keys, dim, scores + r);
}

// The same for any number of rows; vectors = ceil(tokens / 8).
template <typename T, typename S>
void Scores(const T* const* q, const S* keys, int64_t dim, int64_t rows, int64_t vectors, T* const* scores) {
  switch (vectors) {
    case 1:
      return ScoreRows<1>(q, keys, dim, rows, scores);
    case 2:
      return ScoreRows<2>(q, keys, dim, rows, scores);
    case 3:
      return ScoreRows<3>(q, keys, dim, rows, scores);
    case 4:
      return ScoreRows<4>(q, keys, dim, rows, scores);
    case 5:
      return ScoreRows<5>(q, keys, dim, rows, scores);
    case 6:
      return ScoreRows<6>(q, keys, dim, rows, scores);
    case 7:
      return ScoreRows<7>(q, keys, dim, rows, scores);
    default:
      return ScoreRows<8>(q, keys, dim, rows, scores);
  }
}

// The tree of ReduceAdd for four vectors at once: out[i] = ReduceAdd(a[i]).
inline void ReduceAdd4(const Vec<float>* a, float* out) {
#if defined(__AVX2__) && defined(__FMA__)
  __m128 s[4];
  for (int i = 0; i < 4; ++i) s[i] = _mm_add_ps(_mm256_castps256_ps128(a[i].v), _mm256_extractf128_ps(a[i].v, 1));
  const __m128 t01 = _mm_add_ps(_mm_movelh_ps(s[0], s[1]), _mm_movehl_ps(s[1], s[0]));
  const __m128 t23 = _mm_add_ps(_mm_movelh_ps(s[2], s[3]), _mm_movehl_ps(s[3], s[2]));
  _mm_storeu_ps(out, _mm_hadd_ps(t01, t23));
#else
  for (int i = 0; i < 4; ++i) out[i] = ReduceAdd(a[i]);
#endif
}
inline void ReduceAdd4(const Vec<double>* a, double* out) {
  for (int i = 0; i < 4; ++i) out[i] = ReduceAdd(a[i]);
}

// out[d] = sum_j p[j] * rows[d][j] over the first n tokens, lanes j mod 8 ascending, then the fixed tree; add: out[d]
// += that. rows [dim][64]; p has zeros from n up to a multiple of 8.
template <typename T, typename S>
void LaneDots(const T* p, const S* rows, int64_t dim, int64_t n, bool add, T* out) {
  const int64_t full = n / kLanes, rest = n % kLanes;
  Vec<T> weight[kPageVectors];
  for (int64_t v = 0; v < full + (rest > 0); ++v) weight[v] = Load(p + v * kLanes);
  int64_t d = 0;
  for (; d + 4 <= dim; d += 4) {
    Vec<T> acc[4] = {Vec<T>::Zero(), Vec<T>::Zero(), Vec<T>::Zero(), Vec<T>::Zero()};
    const S* row = rows + d * kPageTokens;
    for (int64_t v = 0; v < full; ++v) {
      for (int i = 0; i < 4; ++i) acc[i] = Fma(weight[v], Load(row + i * kPageTokens + v * kLanes), acc[i]);
    }
    if (rest > 0) {
      for (int i = 0; i < 4; ++i)
        acc[i] = Fma(weight[full], LoadPartial(row + i * kPageTokens + full * kLanes, rest), acc[i]);
    }
    T sums[4];
    ReduceAdd4(acc, sums);
    for (int i = 0; i < 4; ++i) out[d + i] = add ? out[d + i] + sums[i] : sums[i];
  }
  for (; d < dim; ++d) {
    Vec<T> acc = Vec<T>::Zero();
    for (int64_t v = 0; v < full; ++v) acc = Fma(weight[v], Load(rows + d * kPageTokens + v * kLanes), acc);
    if (rest > 0) acc = Fma(weight[full], LoadPartial(rows + d * kPageTokens + full * kLanes, rest), acc);
    const T sum = ReduceAdd(acc);
    out[d] = add ? out[d] + sum : sum;
  }
}

// out[d] = sum_j p[j] * values[j][d], j ascending: one chain an element. values [64][dim].
template <int kVectors, typename T, typename S>
inline void ValueTile(const T* p, const S* values, int64_t dim, int64_t n, T* out) {
  Vec<T> acc[kVectors];
  for (int v = 0; v < kVectors; ++v) acc[v] = Vec<T>::Zero();
  for (int64_t j = 0; j < n; ++j) {
    const Vec<T> w = Vec<T>::Broadcast(p[j]);
    for (int v = 0; v < kVectors; ++v) acc[v] = Fma(w, Load(values + j * dim + v * kLanes), acc[v]);
  }
  for (int v = 0; v < kVectors; ++v) Store(out + v * kLanes, acc[v]);
}

template <typename T, typename S>
void WeightedValues(const T* p, const S* values, int64_t dim, int64_t n, T* out) {
  int64_t d = 0;
  for (; d + 8 * kLanes <= dim; d += 8 * kLanes) ValueTile<8>(p, values + d, dim, n, out + d);
  if (d + 4 * kLanes <= dim) {
    ValueTile<4>(p, values + d, dim, n, out + d);
    d += 4 * kLanes;
  }
  if (d + 2 * kLanes <= dim) {
    ValueTile<2>(p, values + d, dim, n, out + d);
    d += 2 * kLanes;
  }
  if (d + kLanes <= dim) {
    ValueTile<1>(p, values + d, dim, n, out + d);
    d += kLanes;
  }
  for (; d < dim; ++d) {
    T acc = 0;
    for (int64_t j = 0; j < n; ++j) acc = std::fma(p[j], static_cast<T>(values[j * dim + d]), acc);
    out[d] = acc;
  }
}

// acc[d][j] = fma(w[r][j], x[r][d], acc[d][j]) for r ascending; acc [dim][64], first 8 * vectors tokens.
template <int kVectors, typename T>
inline void OuterTile(const T* const* w, const T* const* x, int64_t rows, int64_t dim, T* acc) {
  for (int64_t d = 0; d < dim; ++d) {
    Vec<T> a[kVectors];
    T* row = acc + d * kPageTokens;
    for (int v = 0; v < kVectors; ++v) a[v] = Load(row + v * kLanes);
    for (int64_t r = 0; r < rows; ++r) {
      const Vec<T> b = Vec<T>::Broadcast(x[r][d]);
      for (int v = 0; v < kVectors; ++v) a[v] = Fma(Load(w[r] + v * kLanes), b, a[v]);
    }
    for (int v = 0; v < kVectors; ++v) Store(row + v * kLanes, a[v]);
  }
}

template <typename T>
void OuterProducts(const T* const* w, const T* const* x, int64_t rows, int64_t dim, int64_t vectors, T* acc) {
  switch (vectors) {
    case 1:
      return OuterTile<1>(w, x, rows, dim, acc);
    case 2:
      return OuterTile<2>(w, x, rows, dim, acc);
    case 3:
      return OuterTile<3>(w, x, rows, dim, acc);
    case 4:
      return OuterTile<4>(w, x, rows, dim, acc);
    case 5:
      return OuterTile<5>(w, x, rows, dim, acc);
    case 6:
      return OuterTile<6>(w, x, rows, dim, acc);
    case 7:
      return OuterTile<7>(w, x, rows, dim, acc);
    default:
      return OuterTile<8>(w, x, rows, dim, acc);
  }
}

// A row of storage type S as numbers to compute with: itself when it is that already, else widened into `buffer`.
template <typename T, typename S>
const T* Widen(const S* row, int64_t n, T* buffer) {
  if constexpr (std::is_same_v<S, T>) {
    return row;
  } else {
    for (int64_t i = 0; i < n; ++i) buffer[i] = static_cast<T>(row[i]);
    return buffer;
  }
}

}  // namespace grouper::kernels::cpu
