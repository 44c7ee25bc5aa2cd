#include <cuda_runtime_api.h>

#include "kernels/ceilings.h"

namespace grouper::kernels::cuda {

void CopyBytes(Stream& stream, const void* from, void* to, size_t bytes) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream.handle));
  CHECK(error == cudaSuccess) << "cudaMemcpyAsync: " << cudaGetErrorString(error);
}

}  // namespace grouper::kernels::cuda
