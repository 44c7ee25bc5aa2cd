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

namespace {

// From the driver, found at run time: the binary starts without one.
CUresult Encode(CUtensorMap* map, cuuint32_t rank, const void* data, const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                bool is_float = false) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    GROUPER_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    CHECK(found == cudaDriverEntryPointSuccess) << "the driver has no cuTensorMapEncodeTiled";
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  const cuuint32_t step[5] = {1, 1, 1, 1, 1};
  return encode(map, is_float ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<void*>(data), sizes, strides, box, step,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

}  // namespace

CUtensorMap MakeTensorMap(const void* data, int64_t inner, int64_t outer, int64_t batch, int64_t outer_stride,
                          int64_t batch_stride, int box_outer, bool is_float) {
  CUtensorMap map;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(std::max<int64_t>(inner, 1)),
                               static_cast<cuuint64_t>(std::max<int64_t>(outer, 1)),
                               static_cast<cuuint64_t>(std::max<int64_t>(batch, 1))};
  // Strides that are never used must still be valid.
  const int64_t row = outer > 1 ? outer_stride : std::max<int64_t>((inner + 7) / 8 * 8, 8);
  const int64_t plane = batch > 1 ? batch_stride : std::max<int64_t>(row, 8);
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(row) * (is_float ? 4 : 2), static_cast<cuuint64_t>(plane) * (is_float ? 4 : 2)};
  const cuuint32_t box[3] = {is_float ? 32u : 64u, static_cast<cuuint32_t>(box_outer), 1};
  const CUresult result = Encode(&map, 3, data, sizes, strides, box, is_float);
  CHECK(result == CUDA_SUCCESS) << "cuTensorMapEncodeTiled: error " << static_cast<int>(result) << " for " << inner
                                << " x " << outer << " x " << batch << ", strides " << row << ", " << plane;
  return map;
}

CUtensorMap MakeGatedMap(const void* data, int64_t k, int64_t features, int64_t batch, int64_t row_stride, int64_t batch_stride,
                         int box_rows) {
  CUtensorMap map;
  const auto size = [](int64_t n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t sizes[5] = {size(k), 8, 2, size(features / 8), size(batch)};
  const cuuint64_t strides[4] = {size(row_stride) * 2, size(features * row_stride) * 2, size(8 * row_stride) * 2,
                                 size(batch > 1 ? batch_stride : 2 * features * row_stride) * 2};
  const cuuint32_t box[5] = {64, 8, 2, static_cast<cuuint32_t>(box_rows / 16), 1};
  const CUresult result = Encode(&map, 5, data, sizes, strides, box);
  CHECK(result == CUDA_SUCCESS) << "cuTensorMapEncodeTiled: error " << static_cast<int>(result) << " for gated weights of " << features
                                << " features x " << k << ", " << batch << " experts";
  return map;
}

}  // namespace grouper::kernels::cuda
