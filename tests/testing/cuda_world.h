// A GPU for a test: tensors there and back. Tests begin with GROUPER_NEEDS_CUDA(), which skips where there is none.
//
//   CudaWorld world;
//   Tensor y = world.New(DType::kBF16, {7, 96});  // full of NaN
//   Linear(world.gpu, world.Put(x), world.Put(w), nullptr, {}, y);
//   EXPECT_TRUE(Same(world.Get(y), expected));
#pragma once

#include <cstdlib>

#include "common/tensor/cuda.h"
#include "tests/testing/op_harness.h"

namespace grouper::testing {

#define GROUPER_NEEDS_CUDA() \
  if (::grouper::NumCudaDevices() == 0) GTEST_SKIP() << "no GPU"

// Whether the GPU is the emulator (kernels/emulator), for which a test of a minute does with fewer repetitions.
#ifdef GROUPER_CUDA_EMULATED
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kEmulated = false;
#endif

// Whether compute-sanitizer looks on (GROUPER_FEW_CASES=1), hundreds of times slower: then long tests do with fewer repetitions and sizes, but
// every kernel still runs.
inline bool FewCases() {
  const char* few = std::getenv("GROUPER_FEW_CASES");
  return few != nullptr && few[0] == '1';
}

class CudaWorld {
 private:
  static constexpr Device kDevice = {Device::Kind::kCuda, 0};
  ThreadPool threads_{2};

 public:
  CudaWorld() : cpu(threads_), gpu(threads_, kDevice), storage_(kDevice, gpu.handle) {}
  ~CudaWorld() { gpu.Synchronize(); }

  Memory memory;  // host tensors
  Stream cpu, gpu;

  Tensor New(DType dtype, std::initializer_list<int64_t> shape) { return Put(memory.New(dtype, shape)); }

  // A contiguous copy of a host tensor, whatever its strides.
  Tensor Put(const Tensor& host) {
    if (host.empty()) return {};
    const Tensor dense = memory.Clone(host);
    const Tensor device = Like(storage_.Allocate(Bytes(dense)), dense, kDevice);
    if (Bytes(dense) > 0) Upload(gpu, dense, device);
    return device;
  }

  // REQUIRES: contiguous.
  Tensor Get(const Tensor& device) {
    const Tensor host = Like(memory.New(DType::kI32, {static_cast<int64_t>(Bytes(device) + 3) / 4}).raw(), device, {});
    if (Bytes(device) > 0) Download(gpu, device, host);
    return host;
  }

 private:
  static size_t Bytes(const Tensor& t) { return static_cast<size_t>(t.size()) * SizeOf(t.dtype()); }
  static Tensor Like(void* data, const Tensor& t, Device device) {
    switch (t.rank()) {
      case 1:
        return Tensor(data, t.dtype(), {t.dim(0)}, device);
      case 2:
        return Tensor(data, t.dtype(), {t.dim(0), t.dim(1)}, device);
      case 3:
        return Tensor(data, t.dtype(), {t.dim(0), t.dim(1), t.dim(2)}, device);
    }
    CHECK_EQ(t.rank(), 4);
    return Tensor(data, t.dtype(), {t.dim(0), t.dim(1), t.dim(2), t.dim(3)}, device);
  }

  Arena storage_;
};

}  // namespace grouper::testing
