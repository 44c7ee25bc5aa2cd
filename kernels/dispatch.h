// The one place where an op's device and storage type become an implementation.
//
//   void SwiGlu(Stream& stream, const Tensor& gate_up, const Tensor& out) {
//     ... checks ...
//     ByStorage(gate_up, [&](auto s) { cpu::SwiGlu<decltype(s)>(stream, gate_up, out); });
//   }
//
// Each op_cpu.cc instantiates its namespace cpu template for float, double and bf16.
#pragma once

#include "common/tensor/tensor.h"

namespace grouper::kernels {

// Calls f with a float, a double or a bf16 (its type is the message).
template <typename F>
void ByStorage(DType dtype, Device device, F f) {
  CHECK(device.kind == Device::Kind::kCpu) << "this build has no kernel for the tensor's device";
  switch (dtype) {
    case DType::kF32: return f(float{});
    case DType::kF64: return f(double{});
    case DType::kBF16: return f(bf16{});
    case DType::kI32: break;
  }
  CHECK(false) << "no kernel for " << Name(dtype);
}

template <typename F>
void ByStorage(const Tensor& tensor, F f) {
  ByStorage(tensor.dtype(), tensor.device(), f);
}

// The type of sums, statistics and weight gradients that belong to storage type `dtype`: F64 for F64, else F32.
inline DType AccumulatorOf(DType dtype) { return dtype == DType::kF64 ? DType::kF64 : DType::kF32; }

}  // namespace grouper::kernels
