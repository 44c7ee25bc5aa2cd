// ggml's quantised blocks, decoded to float32 exactly as ggml's dequantize_row_* does: float32 products and sums in its
// order, no contraction. Each block holds its scales as IEEE halves (d, m) and its numbers in the order given below.
//
//   type  elements  bytes  layout                                element
//   Q4_0     32      18    d, qs[16]                             d * (q - 8)    q: low nibbles are elements 0..15,
//   Q4_1     32      20    d, m, qs[16]                          d * q + m         high nibbles 16..31
//   Q5_0     32      22    d, qh[4], qs[16]                      d * (q - 16)   fifth bit of element i: bit i of qh
//   Q5_1     32      24    d, m, qh[4], qs[16]                   d * q + m
//   Q8_0     32      34    d, qs[32]                             d * q          q: int8
//   Q4_K    256     144    d, dmin, scales[12], qs[128]          (d * sc) * q - (dmin * mn)
//   Q5_K    256     176    d, dmin, scales[12], qh[32], qs[128]  as Q4_K        sc, mn: 6 bits each, one pair per 32
//   Q6_K    256     210    ql[128], qh[64], scales[16], d        (d * sc) * (q - 32)   sc: int8, one per 16
//
// Checked bit for bit against PyPI's gguf.quants in tests/common/checkpoint/ggml_blocks_test.cc.
#pragma once

#include <cstdint>

#include "common/checkpoint/stored_tensor.h"

namespace grouper {

// out[num_blocks * BlockElements(type)] = the blocks' values. REQUIRES: a quantised type; `blocks` has num_blocks whole
// blocks.
void DecodeGgmlBlocks(StorageType type, const char* blocks, int64_t num_blocks, float* out);

}  // namespace grouper
