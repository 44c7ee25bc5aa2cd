// Launching CUDA kernels: errors end the process with the call's name; limits of the current device.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "common/base/check.h"
#include "common/tensor/stream.h"

namespace grouper::kernels::cuda {

#define GROUPER_CUDA_CHECK(call)                                                         \
  do {                                                                                   \
    const cudaError_t cuda_error = (call);                                               \
    CHECK(cuda_error == cudaSuccess) << #call << ": " << cudaGetErrorString(cuda_error); \
  } while (0)

inline cudaStream_t HandleOf(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle); }

// Multiprocessors of the current device.
int NumMultiprocessors();

// Lets `kernel` use this much dynamic shared memory on the current device (asked for once a device and kernel; `done`
// is the kernel's own flag word).
template <typename Kernel>
void AllowSharedMemory(Kernel* kernel, int bytes, uint64_t& done) {
  int device = 0;
  GROUPER_CUDA_CHECK(cudaGetDevice(&device));
  if (done >> device & 1) return;
  GROUPER_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  done |= uint64_t{1} << device;
}

// A tensor map over bf16: `inner` contiguous elements, `outer` rows of stride `outer_stride`, `batch` of stride
// `batch_stride` (elements, multiples of 8; data 16-byte aligned); boxes of 64 x box_outer, 128-byte swizzled. Over float: strides multiples of
// 4, boxes of 32.
CUtensorMap MakeTensorMap(const void* data, int64_t inner, int64_t outer, int64_t batch, int64_t outer_stride,
                          int64_t batch_stride, int box_outer, bool is_float = false);

// Gated weights [batch][2 features, k], rows of the gate, then as many of up, read as if eight rows of each followed one another: boxes of 64
// elements times box_rows (a multiple of 16) such rows, 128-byte swizzled. features, row_stride and batch_stride: multiples of 8.
CUtensorMap MakeGatedMap(const void* data, int64_t k, int64_t features, int64_t batch, int64_t row_stride, int64_t batch_stride, int box_rows);

}  // namespace grouper::kernels::cuda
