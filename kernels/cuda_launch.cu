#include "kernels/cuda_launch.h"

#include <algorithm>
#include <atomic>

namespace grouper::kernels::cuda {

int NumMultiprocessors() {
  static std::atomic<int> counts[64];
  int device = 0;
  GROUPER_CUDA_CHECK(cudaGetDevice(&device));
  int count = counts[device];
  if (count == 0) {
    GROUPER_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    counts[device] = count;
  }
  return count;
}

CUtensorMap MakeTensorMap(const void* data, int64_t inner, int64_t outer, int64_t batch, int64_t outer_stride,
                          int64_t batch_stride, int box_outer) {
  // From the driver, found at run time: the binary starts without one.
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    GROUPER_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    CHECK(found == cudaDriverEntryPointSuccess) << "the driver has no cuTensorMapEncodeTiled";
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  CUtensorMap map;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(std::max<int64_t>(inner, 1)),
                               static_cast<cuuint64_t>(std::max<int64_t>(outer, 1)),
                               static_cast<cuuint64_t>(std::max<int64_t>(batch, 1))};
  // Strides that are never used must still be valid.
  const int64_t row = outer > 1 ? outer_stride : std::max<int64_t>((inner + 7) / 8 * 8, 8);
  const int64_t plane = batch > 1 ? batch_stride : std::max<int64_t>(row, 8);
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(row) * 2, static_cast<cuuint64_t>(plane) * 2};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_outer), 1}, step[3] = {1, 1, 1};
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(data), sizes, strides,
                                 box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK(result == CUDA_SUCCESS) << "cuTensorMapEncodeTiled: error " << static_cast<int>(result) << " for " << inner
                                << " x " << outer << " x " << batch << ", strides " << row << ", " << plane;
  return map;
}

}  // namespace grouper::kernels::cuda
