// How tokens lie in a page on the device, per kv head.
//
// Tiled (bf16, widths that are multiples of 64 and that the tensor cores' kernels take): [key_dim / 64] boxes of 64
// tokens x 128 bytes, 128-byte swizzled, then values likewise: the very image that wgmma reads in shared memory, so
// that a page is fetched by plain bulk copies. Otherwise as on the CPU: keys [key_dim][64], values [64][value_dim].
#pragma once

#include <cstdint>

#include "kernels/attention_cuda.h"

namespace grouper::kernels::cuda {

__host__ __device__ inline int PagesOf(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
__host__ __device__ inline int SplitsOf(int tokens, int split_pages) { return (PagesOf(tokens) + split_pages - 1) / split_pages; }

inline bool TiledPages(const KvLayout& layout) {
  if (layout.dtype != DType::kBF16) return false;
  if (layout.values_in_keys) return layout.num_kv_heads == 1 && layout.key_dim == 576 && layout.value_dim == 512;
  const int key = layout.key_dim, value = layout.value_dim;
  return (key == 64 && value == 64) || (key == 128 && (value == 64 || value == 128)) || (key == 192 && value == 128);
}

struct PageView {
  char* base;
  int64_t page_stride;  // bytes
  int num_kv_heads, key_dim, value_dim, element_bytes;
  bool values_in_keys, tiled;

  explicit PageView(const PagedKv& kv)
      : base(static_cast<char*>(kv.base)),
        page_stride(static_cast<int64_t>(kv.page_stride)),
        num_kv_heads(kv.layout.num_kv_heads),
        key_dim(kv.layout.key_dim),
        value_dim(kv.layout.value_dim),
        element_bytes(static_cast<int>(SizeOf(kv.layout.dtype))),
        values_in_keys(kv.layout.values_in_keys),
        tiled(TiledPages(kv.layout)) {}

  __host__ __device__ int64_t HeadBytes() const {
    return int64_t{64} * (key_dim + (values_in_keys ? 0 : value_dim)) * element_bytes;
  }
  __device__ char* Head(int64_t page, int head) const { return base + page * page_stride + head * HeadBytes(); }
  // Byte offsets inside a head's part.
  __device__ static int64_t Box(int token, int d) {
    return int64_t{d / 64} * 8192 + token * 128 + ((d % 64 * 2) ^ ((token & 7) << 4));
  }
  __device__ int64_t KeyOffset(int token, int d) const {
    return tiled ? Box(token, d) : (int64_t{d} * 64 + token) * element_bytes;
  }
  __device__ int64_t ValueOffset(int token, int d) const {
    const int64_t keys = int64_t{64} * key_dim * element_bytes;
    if (values_in_keys) return KeyOffset(token, d);
    return keys + (tiled ? Box(token, d) : (int64_t{token} * value_dim + d) * element_bytes);
  }
};

}  // namespace grouper::kernels::cuda
