// What this machine does at most, measured: the denominators of `grouper bench train`, `rollout` and `step`.
#pragma once

#include "common/tensor/stream.h"

namespace grouper::kernels {

struct Ceilings {
  double copy = 0;           // bytes read and written a second by a large copy
  double product = 0;        // operations a second of Linear on a large square of random numbers
  int64_t product_size = 0;  // of the square: 8192 on a GPU, smaller where that takes long
};

// In `dtype` on the stream's device, some tenths of a second; takes up to 2 GiB there. Of a copy and a product timed by
// the host, the best of several: `grouper bench kernels --filter cuda` prints the median of the same two, timed by the device. On a CPU the product reads unpacked weights.
Ceilings MeasureCeilings(Stream& stream, DType dtype);

namespace cuda {
void CopyBytes(Stream& stream, const void* from, void* to, size_t bytes);  // cudaMemcpyAsync within the device
}

}  // namespace grouper::kernels
