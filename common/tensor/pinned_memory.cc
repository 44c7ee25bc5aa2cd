#include "common/tensor/pinned_memory.h"

#include <cstdlib>
#include <cstring>

#include "common/tensor/cuda.h"

namespace grouper {

PinnedMemory::PinnedMemory(Device device, size_t bytes)
    : device_(device),
      size_(bytes),
      data_(static_cast<char*>(device.is_cuda() ? cuda::AllocatePinned(device.index, bytes) : std::malloc(bytes))) {
  CHECK(data_ != nullptr) << "out of memory: " << bytes << " bytes";
}

PinnedMemory::~PinnedMemory() { device_.is_cuda() ? cuda::FreePinned(device_.index, data_) : std::free(data_); }

void PinnedMemory::CopyToDevice(Stream& stream, void* to, size_t bytes) const {
  CHECK(bytes <= size_ && stream.device == device_);
  if (bytes == 0) return;
  if (device_.is_cuda()) return cuda::CopyToDevice(device_.index, to, data_, bytes, stream.handle);
  std::memcpy(to, data_, bytes);
}

void PinnedMemory::CopyFromDevice(Stream& stream, const void* from, size_t bytes) {
  CHECK(bytes <= size_ && stream.device == device_);
  if (bytes == 0) return;
  if (device_.is_cuda()) return cuda::CopyToHost(device_.index, data_, from, bytes, stream.handle);
  std::memcpy(data_, from, bytes);
}

}  // namespace grouper
