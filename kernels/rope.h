// Rotary position embedding (Su et al. 2021): pairs of a head's elements are turned by position * frequency.
#pragma once

#include "common/tensor/stream.h"

namespace grouper::kernels {

// Which elements form pair i of a rotated width D. Wrong choice = silently wrong model.
enum class RopePairing {
  kHalfSplit,    // (x[i], x[i + D/2]): Llama, Qwen, as stored by Hugging Face
  kInterleaved,  // (x[2i], x[2i + 1]): DeepSeek-V2/V3
};

// cos, sin [max_position, D/2] float (double for F64 x), with any scaling (llama3, YaRN) and attention factor already in them.
struct RopeTable {
  Tensor cos, sin;
  RopePairing pairing = RopePairing::kHalfSplit;
};

// x [T, H, D] turned, to y [T, H, D] (both strided), which is x or shares nothing with it: row t is at positions[t] < max_position. inverse: the
// transposed rotation, which is the gradient of the forward one.
void Rope(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse, const Tensor& y);
// positions [T] int32 on the stream's device, where they are not checked.
void Rope(Stream& stream, const Tensor& x, const Tensor& positions, const RopeTable& table, bool inverse, const Tensor& y);

// In place.
inline void Rope(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse) {
  Rope(stream, x, positions, table, inverse, x);
}
inline void Rope(Stream& stream, const Tensor& x, const Tensor& positions, const RopeTable& table, bool inverse) {
  Rope(stream, x, positions, table, inverse, x);
}

}  // namespace grouper::kernels
