#include "common/checkpoint/ggml_encode.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/check.h"

namespace grouper {
namespace {

constexpr float kLeastScale = 1e-8f;  // a smaller scale is 0 as a half, and 1 / it may be infinite

void StoreHalf(float value, uint8_t* p) {
  const uint16_t half = HalfFromFloat(value);
  std::memcpy(p, &half, 2);
}

void EncodeQ8_0(const float* x, uint8_t* block) {
  float most = 0;
  for (int i = 0; i < 32; ++i) most = std::max(most, std::fabs(x[i]));
  const float d = most / 127, inverse = d > kLeastScale ? 1 / d : 0;
  StoreHalf(d, block);
  for (int i = 0; i < 32; ++i) block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::lround(x[i] * inverse)));
}

// d = (the element of largest size) / -8, so that it is met exactly.
void EncodeQ4_0(const float* x, uint8_t* block) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  }
  const float d = largest / -8, inverse = std::fabs(d) > kLeastScale ? 1 / d : 0;
  StoreHalf(d, block);
  auto quantised = [&](int i) { return static_cast<uint8_t>(std::clamp(static_cast<int>(x[i] * inverse + 8.5f), 0, 15)); };
  for (int i = 0; i < 16; ++i) block[2 + i] = static_cast<uint8_t>(quantised(i) | quantised(i + 16) << 4);
}

// x ~ scale * q - minimum with q in 0..15, scale and minimum not negative: tries scales around the range's, for each fits scale and minimum to the
// rounded numbers by least squares, and keeps the best.
struct ScaleMin {
  float scale = 0, minimum = 0;
};
ScaleMin FitSubBlock(const float* x) {
  float low = 0, high = x[0];
  for (int i = 0; i < 32; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  if (high <= low) return {0, -low};
  ScaleMin best{(high - low) / 15, -low};
  float best_error = INFINITY;
  for (int step = -8; step <= 8; ++step) {
    const float inverse = (15 + 0.1f * static_cast<float>(step)) / (high - low);
    double n = 32, sum_q = 0, sum_qq = 0, sum_x = 0, sum_qx = 0;
    for (int i = 0; i < 32; ++i) {
      const double q = std::clamp(std::round((x[i] - low) * inverse), 0.0f, 15.0f);
      sum_q += q;
      sum_qq += q * q;
      sum_x += x[i];
      sum_qx += q * x[i];
    }
    const double determinant = n * sum_qq - sum_q * sum_q;
    if (determinant <= 0) continue;
    double scale = (n * sum_qx - sum_q * sum_x) / determinant, offset = (sum_x - scale * sum_q) / n;
    if (offset > 0) {  // a minimum cannot be negative
      offset = 0;
      scale = sum_qq > 0 ? sum_qx / sum_qq : 0;
    }
    if (scale <= 0) continue;
    const ScaleMin candidate{static_cast<float>(scale), static_cast<float>(-offset)};
    float error = 0;
    for (int i = 0; i < 32; ++i) {
      const float q = std::clamp(std::round((x[i] + candidate.minimum) / candidate.scale), 0.0f, 15.0f);
      const float difference = candidate.scale * q - candidate.minimum - x[i];
      error += difference * difference;
    }
    if (error < best_error) {
      best_error = error;
      best = candidate;
    }
  }
  return best;
}

void EncodeQ4_K(const float* x, uint8_t* block) {
  ScaleMin fits[8];
  float most_scale = 0, most_minimum = 0;
  for (int j = 0; j < 8; ++j) {
    fits[j] = FitSubBlock(x + 32 * j);
    most_scale = std::max(most_scale, fits[j].scale);
    most_minimum = std::max(most_minimum, fits[j].minimum);
  }
  StoreHalf(most_scale / 63, block);
  StoreHalf(most_minimum / 63, block + 2);
  const float d = _cvtsh_ss(HalfFromFloat(most_scale / 63)), dmin = _cvtsh_ss(HalfFromFloat(most_minimum / 63));
  uint8_t* scales = block + 4;
  std::memset(scales, 0, 12);
  uint8_t* out = block + 16;
  std::memset(out, 0, 128);
  for (int j = 0; j < 8; ++j) {
    const int scale = d > 0 ? std::clamp(static_cast<int>(std::lround(fits[j].scale / d)), 0, 63) : 0;
    const int minimum = dmin > 0 ? std::clamp(static_cast<int>(std::lround(fits[j].minimum / dmin)), 0, 63) : 0;
    if (j < 4) {
      scales[j] = static_cast<uint8_t>(scales[j] | scale);
      scales[j + 4] = static_cast<uint8_t>(scales[j + 4] | minimum);
    } else {
      scales[j + 4] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
      scales[j - 4] = static_cast<uint8_t>(scales[j - 4] | (scale >> 4) << 6);
      scales[j] = static_cast<uint8_t>(scales[j] | (minimum >> 4) << 6);
    }
    // Numbers are rounded against the scale and minimum that the reader will see.
    const float step = d * static_cast<float>(scale), offset = dmin * static_cast<float>(minimum);
    for (int i = 0; i < 32; ++i) {
      const float q = step > 0 ? std::clamp(std::round((x[32 * j + i] + offset) / step), 0.0f, 15.0f) : 0;
      out[32 * (j / 2) + i] = static_cast<uint8_t>(out[32 * (j / 2) + i] | static_cast<uint8_t>(q) << (j % 2 ? 4 : 0));
    }
  }
}

}  // namespace

uint16_t HalfFromFloat(float value) { return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)); }

bool CanEncodeGgmlBlocks(StorageType type) {
  return type == StorageType::kQ8_0 || type == StorageType::kQ4_0 || type == StorageType::kQ4_K;
}

void EncodeGgmlBlocks(StorageType type, const float* in, int64_t num_blocks, char* blocks) {
  CHECK(CanEncodeGgmlBlocks(type)) << Name(type);
  const int64_t elements = BlockElements(type), bytes = BlockBytes(type);
  for (int64_t b = 0; b < num_blocks; ++b) {
    const float* x = in + b * elements;
    uint8_t* block = reinterpret_cast<uint8_t*>(blocks + b * bytes);
    if (type == StorageType::kQ8_0) {
      EncodeQ8_0(x, block);
    } else if (type == StorageType::kQ4_0) {
      EncodeQ4_0(x, block);
    } else {
      EncodeQ4_K(x, block);
    }
  }
}

}  // namespace grouper
