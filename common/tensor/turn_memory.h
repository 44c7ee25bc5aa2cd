// TurnMemory: a piece of a device's memory that several users have in turn, keys and values while sampling, activations while training. What a
// turn leaves there is lost.
#pragma once

#include <atomic>
#include <cstddef>

#include "common/tensor/tensor.h"

namespace grouper {

class TurnMemory {
 public:
  TurnMemory(Device device, size_t bytes);  // on the CPU ordinary memory
  ~TurnMemory();
  TurnMemory(const TurnMemory&) = delete;
  TurnMemory& operator=(const TurnMemory&) = delete;

  char* data() const { return data_; }
  size_t size() const { return size_; }

  // Begins `user`'s turn; nothing when it has begun. REQUIRES: it is nobody else's.
  void Take(const void* user);
  // Ends it; nothing when it is not `user`'s. REQUIRES: no work on the device still uses the memory, or all later work is ordered after it.
  void Give(const void* user);

 private:
  const Device device_;
  const size_t size_;
  char* const data_;
  std::atomic<const void*> user_{nullptr};
};

}  // namespace grouper
