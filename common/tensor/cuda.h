// The few things that the tensor layer asks of CUDA. A build without CUDA has them too (cuda_none.cc): no devices, and
// calls that need one end the process.
#pragma once

#include <cstddef>

#include "common/tensor/tensor.h"

namespace grouper {

// CUDA devices that can run this build's kernels: 0 without a driver, a card or a CUDA build. Starts no context.
int NumCudaDevices();

namespace cuda {

// Device memory, 256-byte aligned. Out of memory ends the process with how much was asked for and how much was free.
void* Allocate(int device, size_t bytes);
void Free(int device, void* data);

// A stream of its own (cudaStream_t), not ordered with the legacy default stream.
void* NewStream(int device);
void DeleteStream(int device, void* handle);

// Enqueued on `handle`. Host memory may be pageable: it is read before the call returns, and written when the stream
// has been waited for.
void Zero(int device, void* data, size_t bytes, void* handle);
void CopyToDevice(int device, void* to, const void* host, size_t bytes, void* handle);
void CopyToHost(int device, void* host, const void* from, size_t bytes, void* handle);
void Synchronize(int device, void* handle);

}  // namespace cuda
}  // namespace grouper
