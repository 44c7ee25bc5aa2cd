#include "common/tensor/turn_memory.h"

#include <cstdlib>

#include "common/tensor/cuda.h"

namespace grouper {

TurnMemory::TurnMemory(Device device, size_t bytes)
    : device_(device),
      size_(bytes),
      data_(static_cast<char*>(device.is_cuda() ? cuda::Allocate(device.index, bytes) : std::aligned_alloc(64, (bytes + 63) / 64 * 64))) {
  CHECK(data_ != nullptr) << "out of memory: " << bytes << " bytes";
}

TurnMemory::~TurnMemory() { device_.is_cuda() ? cuda::Free(device_.index, data_) : std::free(data_); }

void TurnMemory::Take(const void* user) {
  const void* before = nullptr;
  CHECK(user_.compare_exchange_strong(before, user) || before == user) << "the memory is still in use: sampling and training must take turns";
}

void TurnMemory::Give(const void* user) { user_.compare_exchange_strong(user, nullptr); }

}  // namespace grouper
