// Stream: where an op runs and what it may use while running. Ops take it first.
//
// CPU: the op has finished when it returns; `threads` does the work. CUDA (later): the op is enqueued on `handle`.
// `scratch` is for temporaries of one op: it releases what it took before it returns. One thread uses a Stream at a time.
#pragma once

#include "common/base/thread_pool.h"
#include "common/tensor/arena.h"
#include "common/tensor/tensor.h"

namespace grouper {

struct Stream {
  explicit Stream(ThreadPool& threads) : threads(threads), scratch(Device{}) {}

  Device device;
  ThreadPool& threads;
  Arena scratch;
  void* handle = nullptr;  // cudaStream_t
};

}  // namespace grouper
