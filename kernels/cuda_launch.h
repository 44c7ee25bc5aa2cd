// Launching CUDA kernels: errors end the process with the call's name; limits of the current device.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>
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
void AllowSharedMemory(Kernel* kernel, int bytes, std::atomic<uint64_t>& done) {
  int device = 0;
  GROUPER_CUDA_CHECK(cudaGetDevice(&device));
  if (done >> device & 1) return;
  GROUPER_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  done |= uint64_t{1} << device;
}

#ifdef GROUPER_CUDA_EMULATED  // kernels/emulator: a kernel is a function that every thread calls, one kernel after another

inline void KernelBegin() {}

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

// Every kernel calls it, all of its threads, before anything in global memory is read or written: a kernel's blocks start when the last ones of the
// kernel before it in the stream leave their multiprocessors (programmatic dependent launch), with their barriers and tensor maps ready when what
// that one wrote is there. Waits until then. (Started earlier, when that one's blocks begin, they settle two on a multiprocessor beside others that
// have none: V2-Lite's decode loses 2%.)
__device__ __forceinline__ void KernelBegin() {
#ifdef __CUDA_ARCH__
  cudaGridDependencySynchronize();
#endif
}

// By clusters of `cluster` blocks that follow one another in x; `ahead`: before the kernel before it has ended (KernelBegin).
class LaunchConfig {
 public:
  LaunchConfig(const Stream& stream, unsigned cluster, dim3 grid, dim3 block, size_t shared_bytes, bool ahead) {
    config_.gridDim = grid;
    config_.blockDim = block;
    config_.dynamicSmemBytes = shared_bytes;
    config_.stream = HandleOf(stream);
    config_.attrs = attributes_;
    if (cluster > 1) {
      cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {cluster, 1, 1};
    }
    if (ahead) {
      cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;
  const cudaLaunchConfig_t* get() const { return &config_; }

 private:
  cudaLaunchAttribute attributes_[2] = {};
  cudaLaunchConfig_t config_ = {};
};

// kernel(args...) by `grid` blocks of `block` threads with so much dynamic shared memory, in clusters of `cluster` blocks.
template <typename... P, typename... A>
void LaunchClusters(const Stream& stream, unsigned cluster, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A&&... args) {
  const LaunchConfig config(stream, cluster, grid, block, shared_bytes, /*ahead=*/true);
  GROUPER_CUDA_CHECK(cudaLaunchKernelEx(config.get(), kernel, static_cast<P>(args)...));
}
template <typename... P, typename... A>
void LaunchKernel(const Stream& stream, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A&&... args) {
  LaunchClusters(stream, 1, grid, block, shared_bytes, kernel, args...);
}

#endif

// Clusters of so many blocks that the current device runs at once: a GPC's multiprocessors need not be a multiple of one.
template <typename... P>
int ActiveClusters(const Stream& stream, unsigned cluster, dim3 block, size_t shared_bytes, void (*kernel)(P...)) {
#ifdef GROUPER_CUDA_EMULATED
  return static_cast<int>(NumMultiprocessors() / cluster);
#else
  int clusters = 0;
  if (cluster == 1) {
    GROUPER_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&clusters, kernel, static_cast<int>(block.x * block.y * block.z), shared_bytes));
    return clusters * NumMultiprocessors();
  }
  const LaunchConfig config(stream, cluster, dim3(cluster), block, shared_bytes, /*ahead=*/false);
  GROUPER_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, kernel, config.get()));
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
