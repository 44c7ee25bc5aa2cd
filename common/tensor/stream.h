// Stream: where an op runs and what it may use while running. Ops take it first.
//
// CPU: the op has finished when it returns; `threads` does the work. CUDA: the op is enqueued on `handle`, a stream of this object's own.
// `scratch` is for temporaries of one op: it releases what it took before it returns (on CUDA the next op on the stream may have it at
// once). One thread uses a Stream at a time.
#pragma once

#include "common/base/thread_pool.h"
#include "common/tensor/arena.h"
#include "common/tensor/tensor.h"

namespace grouper {

struct Stream {
  explicit Stream(ThreadPool& threads, Device device = {});
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Waits until everything enqueued has run.
  void Synchronize();

  const Device device;
  ThreadPool& threads;
  void* const handle;  // cudaStream_t, or null on the CPU
  Arena scratch;
};

// Copies contiguous tensors of one shape and type between the host and the stream's device, and waits for the copy.
void Upload(Stream& stream, const Tensor& host, const Tensor& device);
// Without waiting: the host's memory has been read when it returns, and may change.
void UploadAsync(Stream& stream, const Tensor& host, const Tensor& device);
void Download(Stream& stream, const Tensor& device, const Tensor& host);

}  // namespace grouper
