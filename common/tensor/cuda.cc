#include "common/tensor/cuda.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>

#include "absl/strings/str_cat.h"

namespace grouper {

namespace {
void Require(cudaError_t error, const char* call) {
  CHECK(error == cudaSuccess) << call << ": " << cudaGetErrorString(error);
}
}  // namespace

#define REQUIRE_CUDA(call) Require(call, #call)

namespace {

std::string Version(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

CudaDevices AskCuda() {
  CudaDevices devices;
  int driver = 0, count = 0;
  devices.driver = cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  for (int i = 0; error == cudaSuccess && i < count; ++i) {
    CudaDevices::Card card;
    error = cudaDeviceGetAttribute(&card.major, cudaDevAttrComputeCapabilityMajor, i);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&card.minor, cudaDevAttrComputeCapabilityMinor, i);
    devices.cards.push_back(card);
  }
  if (error == cudaSuccess && count == 0) error = cudaErrorNoDevice;
  if (error == cudaSuccess) return devices;
  cudaGetLastError();
  devices.cards.clear();
  devices.error = !devices.driver ? "no NVIDIA driver is installed"
                                  : absl::StrCat("CUDA lists no device: ", cudaGetErrorString(error), " (the driver is for CUDA ", Version(driver),
                                                 ", this program for ", Version(CUDART_VERSION), ")");
  return devices;
}

}  // namespace

const CudaDevices& ListCudaDevices() {
  static const CudaDevices& devices = *new CudaDevices(AskCuda());
  return devices;
}

namespace cuda {
namespace {

// Sizes of what Allocate gave out.
class Ledger {
 public:
  void Add(int device, void* data, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    sizes_[data] = bytes;
    AllocationBytes& of = devices_[device];
    of.now += bytes;
    of.peak = std::max(of.peak, of.now);
  }
  void Remove(int device, void* data) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto it = sizes_.find(data);
    if (it == sizes_.end()) return;
    devices_[device].now -= it->second;
    sizes_.erase(it);
  }
  AllocationBytes Of(int device) {
    std::lock_guard<std::mutex> lock(mutex_);
    return devices_[device];
  }

 private:
  std::mutex mutex_;
  std::unordered_map<void*, size_t> sizes_;
  std::map<int, AllocationBytes> devices_;
};

Ledger& TheLedger() {
  static Ledger& ledger = *new Ledger;  // outlives every owner of device memory
  return ledger;
}

}  // namespace

std::string CardName(int device) {
  cudaDeviceProp properties;
  return cudaGetDeviceProperties(&properties, device) == cudaSuccess ? properties.name : "without a name";
}

void* Allocate(int device, size_t bytes) {
  REQUIRE_CUDA(cudaSetDevice(device));
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    const MemoryInfo info = Memory(device);
    CHECK(false) << "out of memory on cuda:" << device << ": " << bytes << " bytes wanted, " << info.free << " of " << info.total << " free, "
                 << Allocated(device).now << " taken by this process before; has another process memory there (nvidia-smi shows it)? Else take less; of a recipe: lower "
                 << "rollout.cache_pages, rollout.max_sequences or optimizer.micro_batch_tokens, or set model.recompute";
  }
  Require(error, "cudaMalloc");
  TheLedger().Add(device, data, bytes);
  return data;
}

AllocationBytes Allocated(int device) { return TheLedger().Of(device); }

MemoryInfo Memory(int device) {
  REQUIRE_CUDA(cudaSetDevice(device));
  MemoryInfo info;
  REQUIRE_CUDA(cudaMemGetInfo(&info.free, &info.total));
  return info;
}

void Free(int device, void* data) {
  REQUIRE_CUDA(cudaSetDevice(device));
  TheLedger().Remove(device, data);
  REQUIRE_CUDA(cudaFree(data));
}

namespace {

// Streams are kept for the next who wants one, the first ones made first: on an H100 every kernel of a stream that was made after some others, be
// they destroyed, took a third of a microsecond more (SmolLM2 decoding 64 sequences 8%).
class StreamPool {
 public:
  cudaStream_t Take(int device) {
    const std::lock_guard lock(mutex_);
    std::map<int, cudaStream_t>& idle = idle_[device];
    cudaStream_t stream = nullptr;
    if (!idle.empty()) {
      const auto first = idle.begin();
      stream = first->second;
      idle.erase(first);
    } else {
      REQUIRE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      const int number = static_cast<int>(numbers_.size());
      numbers_[stream] = number;
    }
    return stream;
  }
  void Return(int device, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    idle_[device][numbers_.at(stream)] = stream;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<cudaStream_t, int> numbers_;           // by when they were made
  std::unordered_map<int, std::map<int, cudaStream_t>> idle_;  // by device
};

StreamPool& Streams() {
  static StreamPool& pool = *new StreamPool;
  return pool;
}

}  // namespace

void* NewStream(int device) {
  REQUIRE_CUDA(cudaSetDevice(device));
  return Streams().Take(device);
}

void DeleteStream(int device, void* handle) { Streams().Return(device, static_cast<cudaStream_t>(handle)); }

void Zero(int device, void* data, size_t bytes, void* handle) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(handle)));
}

void CopyToDevice(int device, void* to, const void* host, size_t bytes, void* handle) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(handle)));
}

void CopyToHost(int device, void* host, const void* from, size_t bytes, void* handle) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, static_cast<cudaStream_t>(handle)));
}

void Synchronize(int device, void* handle) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaStreamSynchronize(static_cast<cudaStream_t>(handle)));
}

void* AllocatePinned(int device, size_t bytes) {
  REQUIRE_CUDA(cudaSetDevice(device));
  void* data = nullptr;
  REQUIRE_CUDA(cudaMallocHost(&data, bytes));
  return data;
}

void FreePinned(int device, void* data) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaFreeHost(data));
}

void* NewEvent(int device) {
  REQUIRE_CUDA(cudaSetDevice(device));
  cudaEvent_t event = nullptr;
  REQUIRE_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

void RecordEvent(int device, void* event, void* handle) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(handle)));
}

void WaitForEvent(int device, void* event) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
}

void DeleteEvent(int device, void* event) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaEventDestroy(static_cast<cudaEvent_t>(event)));
}

void BeginCapture(int device, void* handle) {
  REQUIRE_CUDA(cudaSetDevice(device));
  // Relaxed: an arena may still take memory, and other threads have streams of their own.
  REQUIRE_CUDA(cudaStreamBeginCapture(static_cast<cudaStream_t>(handle), cudaStreamCaptureModeRelaxed));
}

void* EndCapture(int device, void* handle) {
  REQUIRE_CUDA(cudaSetDevice(device));
  cudaGraph_t graph = nullptr;
  REQUIRE_CUDA(cudaStreamEndCapture(static_cast<cudaStream_t>(handle), &graph));
  cudaGraphExec_t executable = nullptr;
  REQUIRE_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  REQUIRE_CUDA(cudaGraphDestroy(graph));
  return executable;
}

void LaunchGraph(int device, void* graph, void* handle) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(handle)));
}

void DeleteGraph(int device, void* graph) {
  REQUIRE_CUDA(cudaSetDevice(device));
  REQUIRE_CUDA(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
}

}  // namespace cuda
}  // namespace grouper
