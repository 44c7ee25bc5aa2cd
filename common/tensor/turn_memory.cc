#include "common/tensor/turn_memory.h"

#include <cstdlib>

#include "common/tensor/cuda.h"

namespace grouper {
namespace {
bool OnCuda(Device device) { return device.kind == Device::Kind::kCuda; }
}  // namespace

TurnMemory::TurnMemory(Device device, size_t bytes)
    : device_(device),
      size_(bytes),
      data_(static_cast<char*>(OnCuda(device) ? cuda::Allocate(device.index, bytes) : std::aligned_alloc(64, (bytes + 63) / 64 * 64))) {
  CHECK(data_ != nullptr) << "out of memory: " << bytes << " bytes";
}

TurnMemory::~TurnMemory() { OnCuda(device_) ? cuda::Free(device_.index, data_) : std::free(data_); }

void TurnMemory::Take(const void* user) {
  const void* before = nullptr;
  CHECK(user_.compare_exchange_strong(before, user) || before == user) << "the memory is still in use: sampling and training must take turns";
}

void TurnMemory::Give(const void* user) { user_.compare_exchange_strong(user, nullptr); }

}  // namespace grouper
