// The few things that the tensor layer asks of CUDA. A build without CUDA has them too (cuda_none.cc): no devices, and
// calls that need one end the process.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/tensor/tensor.h"

namespace grouper {

// What CUDA says of its devices, asked once a process. Starts no context.
struct CudaDevices {
  struct Card {
    int major = 0, minor = 0;                                    // compute capability
    bool usable() const { return major == 9 && minor == 0; }  // sm_90a code runs on 9.0 alone
  };
  std::vector<Card> cards;  // by CUDA's own index
  bool driver = false;      // is one installed?
  std::string error;        // why CUDA lists no card
};
const CudaDevices& ListCudaDevices();
// Devices that can run this build's kernels: 0 without a driver, a card or a CUDA build.
int NumCudaDevices();

// "cpu", "cuda" (the first that is usable), "cuda:N" (by CUDA's own index), or "auto" (or ""): AutoDevice.
absl::StatusOr<Device> ParseDevice(const std::string& name);  // InvalidArgument for other names
absl::StatusOr<Device> FindDevice(const std::string& name);   // and FailedPrecondition for a device that cannot be used: why, and what is here
absl::Status CheckDevice(Device device);                      // the latter alone
// The first CUDA device that is usable, else the CPU; warns once where that is a surprise: a driver is here.
Device AutoDevice();
std::string Name(Device device);  // "cpu", "cuda:0"

namespace cuda {

std::string CardName(int device);  // "NVIDIA H100 80GB HBM3"

// Device memory, 256-byte aligned. Out of memory ends the process with how much was asked for, how much was free, and what to do.
void* Allocate(int device, size_t bytes);
struct MemoryInfo {
  size_t free = 0, total = 0;
};
MemoryInfo Memory(int device);
void Free(int device, void* data);
// What Allocate has given out: now, and at most at once since the process began. 0 without CUDA.
struct AllocationBytes {
  size_t now = 0, peak = 0;
};
AllocationBytes Allocated(int device);

// A stream of its own (cudaStream_t), not ordered with the legacy default stream.
void* NewStream(int device);
void DeleteStream(int device, void* handle);

// Enqueued on `handle`. Host memory may be pageable: it is read before the call returns, and written when the stream
// has been waited for.
void Zero(int device, void* data, size_t bytes, void* handle);
void CopyToDevice(int device, void* to, const void* host, size_t bytes, void* handle);
void CopyToHost(int device, void* host, const void* from, size_t bytes, void* handle);
void Synchronize(int device, void* handle);

// Host memory that copies can use while the host goes on.
void* AllocatePinned(int device, size_t bytes);
void FreePinned(int device, void* data);

// A point in a stream (cudaEvent_t): recorded when everything before it has run.
void* NewEvent(int device);
void RecordEvent(int device, void* event, void* handle);
void WaitForEvent(int device, void* event);  // the host waits
void DeleteEvent(int device, void* event);

// Work of a stream between the two, as one executable graph (cudaGraphExec_t); it does not run.
void BeginCapture(int device, void* handle);
void* EndCapture(int device, void* handle);
void LaunchGraph(int device, void* graph, void* handle);
void DeleteGraph(int device, void* graph);

}  // namespace cuda
}  // namespace grouper
