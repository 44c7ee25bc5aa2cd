// What an emulated build keeps in a CUtensorMap.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace grouper::emulator {

struct TensorMap {
  static constexpr int kMaxRank = 5;
  char* data;
  uint64_t sizes[kMaxRank];
  uint64_t strides[kMaxRank - 1];  // bytes, of dimensions 1 on
  uint16_t box[kMaxRank];
  uint8_t rank, element_bytes;
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

}  // namespace grouper::emulator
