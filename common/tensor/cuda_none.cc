#include "common/tensor/cuda.h"

namespace grouper {
namespace {
[[noreturn]] void NoCuda() {
  CHECK(false) << "this build has no CUDA";
  __builtin_unreachable();
}
}  // namespace

const CudaDevices& ListCudaDevices() {
  static const CudaDevices& none = *new CudaDevices{{}, false, "this program was built without CUDA"};
  return none;
}

namespace cuda {
std::string CardName(int) { NoCuda(); }
void* Allocate(int, size_t) { NoCuda(); }
MemoryInfo Memory(int) { NoCuda(); }
void Free(int, void*) { NoCuda(); }
AllocationBytes Allocated(int) { return {}; }
void* NewStream(int) { NoCuda(); }
void DeleteStream(int, void*) { NoCuda(); }
void Zero(int, void*, size_t, void*) { NoCuda(); }
void CopyToDevice(int, void*, const void*, size_t, void*) { NoCuda(); }
void CopyToHost(int, void*, const void*, size_t, void*) { NoCuda(); }
void Synchronize(int, void*) { NoCuda(); }
void* AllocatePinned(int, size_t) { NoCuda(); }
void FreePinned(int, void*) { NoCuda(); }
void* NewEvent(int) { NoCuda(); }
void RecordEvent(int, void*, void*) { NoCuda(); }
void WaitForEvent(int, void*) { NoCuda(); }
void DeleteEvent(int, void*) { NoCuda(); }
void BeginCapture(int, void*) { NoCuda(); }
void* EndCapture(int, void*) { NoCuda(); }
void LaunchGraph(int, void*, void*) { NoCuda(); }
void DeleteGraph(int, void*) { NoCuda(); }
}  // namespace cuda
}  // namespace grouper
