// The functions of the CUDA runtime that grouper calls. Device memory is the host's, each allocation apart, and begins as NaN.
//
// GROUPER_EMULATED_DEVICES says which devices there are, by their compute capability ("8.0,9.0"; default "9.0"; they share one memory); or which error
// CUDA answers instead ("35": the driver is too old); or "none": no driver.
#include "kernels/emulator/runtime.h"

#include <cuda.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "kernels/emulator/emulator.h"
#include "kernels/emulator/tensor_map.h"

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
  int device = 0;
  bool capturing = false;
  Work captured;
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point at;
};

namespace grouper::emulator {

void Submit(cudaStream_t stream, std::function<void()> work) {
  if (stream == nullptr || !stream->capturing) return work();
  stream->captured.push_back(std::move(work));
}

namespace {

constexpr size_t kDeviceBytes = size_t{8} << 30;

struct Devices {
  std::vector<std::pair<int, int>> capabilities;
  cudaError_t error = cudaSuccess;
  bool driver = true;
};
const Devices& TheDevices() {
  static const Devices& devices = *new Devices([] {
    const char* const given = std::getenv("GROUPER_EMULATED_DEVICES");
    std::istringstream text(given == nullptr ? "9.0" : given);
    Devices made;
    if (text.str() == "none") {
      made.driver = false;
      made.error = cudaErrorInsufficientDriver;
    } else if (text.str().find('.') == std::string::npos) {
      int error = cudaErrorUnknown;
      text >> error;
      made.error = static_cast<cudaError_t>(error);
    }
    char point, comma;
    for (int major, minor; made.error == cudaSuccess && text >> major >> point >> minor; text >> comma) made.capabilities.push_back({major, minor});
    return made;
  }());
  return devices;
}
thread_local int current_device = 0;

// Sizes of what cudaMalloc gave out.
struct Memory {
  std::mutex mutex;
  std::unordered_map<void*, size_t> sizes;
  size_t used = 0;
};
Memory& TheMemory() {
  static Memory& memory = *new Memory;
  return memory;
}

CUresult EncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* sizes, const cuuint64_t* strides,
                     const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                     CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  TensorMap m = {};
  m.data = static_cast<char*>(const_cast<void*>(data));
  m.rank = static_cast<uint8_t>(rank);
  m.element_bytes = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  // What the driver asks of tensor maps (CUDA Driver API, cuTensorMapEncodeTiled).
  bool good = rank >= 3 && rank <= TensorMap::kMaxRank && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
              interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * m.element_bytes <= 128;
  for (cuuint32_t d = 0; good && d < rank; ++d) {
    good = sizes[d] > 0 && sizes[d] <= uint64_t{1} << 32 && box[d] > 0 && box[d] <= 256 && steps[d] == 1;
    m.sizes[d] = sizes[d];
    m.box[d] = static_cast<uint16_t>(box[d]);
  }
  for (cuuint32_t d = 0; good && d + 1 < rank; ++d) {
    good = strides[d] % 16 == 0 && strides[d] < uint64_t{1} << 40;
    m.strides[d] = strides[d];
  }
  if (!good) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}

}  // namespace

void CheckCurrentDevice(cudaStream_t stream) {
  if (stream != nullptr) CHECK_EQ(stream->device, current_device) << "a kernel on another device's stream";
}

}  // namespace grouper::emulator

using grouper::emulator::current_device;
using grouper::emulator::Submit;
using grouper::emulator::TheDevices;
using grouper::emulator::TheMemory;

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    default:
      return "invalid value";
  }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(TheDevices().capabilities.size());
  return TheDevices().error;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = !TheDevices().driver ? 0 : TheDevices().error == cudaErrorInsufficientDriver ? 11040 : CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "emulated");
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || static_cast<size_t>(device) >= TheDevices().capabilities.size()) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || static_cast<size_t>(device) >= TheDevices().capabilities.size()) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = TheDevices().capabilities[static_cast<size_t>(device)].first;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = TheDevices().capabilities[static_cast<size_t>(device)].second;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = grouper::emulator::kMultiprocessors;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaMalloc(void** data, size_t bytes) {
  auto& memory = TheMemory();
  std::lock_guard<std::mutex> lock(memory.mutex);
  *data = nullptr;
  if (bytes == 0) return cudaSuccess;
  const size_t padded = (bytes + 511) / 512 * 512;
  if (memory.used + padded > grouper::emulator::kDeviceBytes) return cudaErrorMemoryAllocation;
  *data = std::aligned_alloc(512, padded);
  if (*data == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*data, 0xff, padded);
  memory.sizes[*data] = padded;
  memory.used += padded;
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  auto& memory = TheMemory();
  std::lock_guard<std::mutex> lock(memory.mutex);
  if (data == nullptr) return cudaSuccess;
  const auto found = memory.sizes.find(data);
  if (found == memory.sizes.end()) return cudaErrorInvalidValue;
  memory.used -= found->second;
  memory.sizes.erase(found);
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  auto& memory = TheMemory();
  std::lock_guard<std::mutex> lock(memory.mutex);
  *total = grouper::emulator::kDeviceBytes;
  *free = *total - memory.used;
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Submit(stream, [=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind,
                              cudaStream_t stream) {
  Submit(stream, [=] {
    for (size_t row = 0; row < height; ++row)
      std::memmove(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Submit(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  (*stream)->device = current_device;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return stream != nullptr && stream->capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capturing = true;
  stream->captured.clear();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capturing = false;
  *graph = new CUgraph_st{std::move(stream->captured)};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const std::function<void()>& work : executable->work) Submit(stream, work);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&grouper::emulator::EncodeTiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

}  // extern "C"
