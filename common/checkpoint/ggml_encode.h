// Floats to ggml's blocks, the way back of ggml_blocks.h. Q8_0 and Q4_0 choose as ggml's reference quantisers do; Q4_K searches each sub-block's scale
// and minimum for the least squared error, then rounds both to six bits of the block's largest.
#pragma once

#include <cstdint>

#include "common/checkpoint/stored_tensor.h"

namespace grouper {

// True for Q8_0, Q4_0, Q4_K.
bool CanEncodeGgmlBlocks(StorageType type);

// blocks[num_blocks * BlockBytes(type)] = the nearest to in[num_blocks * BlockElements(type)]. REQUIRES: CanEncodeGgmlBlocks(type); `in` finite.
void EncodeGgmlBlocks(StorageType type, const float* in, int64_t num_blocks, char* blocks);

// IEEE half, to nearest even; beyond its range infinity.
uint16_t HalfFromFloat(float value);

}  // namespace grouper
