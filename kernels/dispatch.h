// The one place where an op's device and storage type become an implementation.
//
//   void Linear(Stream& stream, const Tensor& x, ...) {
//     ... checks ...
//     ByStorage(x, [&](auto s) { cpu::Linear<decltype(s)>(stream, x, ...); }, [&](auto) { cuda::Linear(stream, x, ...); });
//   }
//
// Each op_cpu.cc instantiates its namespace cpu template for float, double and bf16; op_cuda.cu looks at the dtype itself. In a build
// without CUDA the second function is never instantiated, so that nothing refers to kernels that are not there.
#pragma once

#include <type_traits>

#include "common/tensor/tensor.h"

namespace grouper::kernels {

#ifdef GROUPER_WITH_CUDA
inline constexpr bool kWithCuda = true;
#else
inline constexpr bool kWithCuda = false;
#endif

// Where an op has no CUDA kernels.
struct NoCudaKernel {};

// On the CPU, calls cpu with a float, a double or a bf16 (its type is the message); on CUDA, cuda with anything.
template <typename Cpu, typename Cuda = NoCudaKernel>
void ByStorage(DType dtype, Device device, Cpu cpu, Cuda cuda = {}) {
  if (device.is_cuda()) {
    if constexpr (kWithCuda && !std::is_same_v<Cuda, NoCudaKernel>) {
      return cuda(0);
    } else {
      CHECK(false) << "this build has no kernel of this op for CUDA tensors";
    }
  }
  switch (dtype) {
    case DType::kF32: return cpu(float{});
    case DType::kF64: return cpu(double{});
    case DType::kBF16: return cpu(bf16{});
    case DType::kI32: break;
  }
  CHECK(false) << "no kernel for " << Name(dtype);
}

template <typename Cpu, typename Cuda = NoCudaKernel>
void ByStorage(const Tensor& tensor, Cpu cpu, Cuda cuda = {}) {
  ByStorage(tensor.dtype(), tensor.device(), cpu, cuda);
}

// The type of sums, statistics and weight gradients that belong to storage type `dtype`: F64 for F64, else F32.
inline DType AccumulatorOf(DType dtype) { return dtype == DType::kF64 ? DType::kF64 : DType::kF32; }

}  // namespace grouper::kernels
