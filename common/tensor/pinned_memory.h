// PinnedMemory: host memory between the host and a device, for copies that run while the host goes on (ordered by a StreamEvent).
#pragma once

#include <cstddef>

#include "common/tensor/stream.h"

namespace grouper {

class PinnedMemory {
 public:
  // For the CPU ordinary memory. Contents are unspecified.
  PinnedMemory(Device device, size_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  char* data() const { return data_; }
  size_t size() const { return size_; }

  // Enqueues a copy of the first `bytes` to or from memory of the stream's device. The memory must not be touched until it has run.
  void CopyToDevice(Stream& stream, void* to, size_t bytes) const;
  void CopyFromDevice(Stream& stream, const void* from, size_t bytes);

 private:
  Device device_;
  size_t size_;
  char* data_;
};

}  // namespace grouper
