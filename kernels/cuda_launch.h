// Launching CUDA kernels: errors end the process with the call's name; limits of the current device.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <tuple>

#include "common/base/check.h"
#include "common/tensor/stream.h"
#ifdef GROUPER_CUDA_EMULATED
#include "kernels/emulator/emulator.h"
#endif

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
  GROUPER_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  done |= uint64_t{1} << device;
}

#ifdef GROUPER_CUDA_EMULATED  // kernels/emulator: a kernel is a function that every thread calls

template <typename... P, typename... A>
void LaunchClusters(const Stream& stream, unsigned cluster, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A&&... args) {
  emulator::Launch(HandleOf(stream), {grid, block, shared_bytes, cluster},
                   [kernel, values = std::tuple<P...>(static_cast<P>(args)...)] { std::apply(kernel, values); });
}
template <typename... P, typename... A>
void LaunchKernel(const Stream& stream, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A&&... args) {
  LaunchClusters(stream, 1, grid, block, shared_bytes, kernel, args...);
}

#else

// The block's dynamic shared memory, in a kernel: GROUPER_DYNAMIC_SHARED(__align__(16) char, shared);
#define GROUPER_DYNAMIC_SHARED(type, name) extern __shared__ type name[]

// kernel(args...) by `grid` blocks of `block` threads with so much dynamic shared memory.
template <typename... P, typename... A>
void LaunchKernel(const Stream& stream, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A&&... args) {
  kernel<<<grid, block, shared_bytes, HandleOf(stream)>>>(static_cast<P>(args)...);
  GROUPER_CUDA_CHECK(cudaGetLastError());
}

inline cudaLaunchConfig_t ClusterConfig(const Stream& stream, cudaLaunchAttribute& cluster, unsigned blocks, dim3 grid, dim3 block, size_t shared_bytes) {
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {blocks, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = HandleOf(stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  return config;
}

// The same by clusters of `cluster` blocks that follow one another in x.
template <typename... P, typename... A>
void LaunchClusters(const Stream& stream, unsigned cluster, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A&&... args) {
  cudaLaunchAttribute attribute = {};
  const cudaLaunchConfig_t config = ClusterConfig(stream, attribute, cluster, grid, block, shared_bytes);
  GROUPER_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...));
}

#endif

// Clusters of so many blocks that the current device runs at once: a GPC's multiprocessors need not be a multiple of one.
template <typename... P>
int ActiveClusters(const Stream& stream, unsigned cluster, dim3 block, size_t shared_bytes, void (*kernel)(P...)) {
#ifdef GROUPER_CUDA_EMULATED
  return static_cast<int>(NumMultiprocessors() / cluster);
#else
  cudaLaunchAttribute attribute = {};
  const cudaLaunchConfig_t config = ClusterConfig(stream, attribute, cluster, dim3(cluster), block, shared_bytes);
  int clusters = 0;
  GROUPER_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
  return clusters;
#endif
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
