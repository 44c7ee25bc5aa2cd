// How a PackedMatrix (linear.h) lies in memory on the CPU: per expert, panels of B = weight^T over the whole of k (gemm_pack.h).
#pragma once

#include "kernels/linear.h"

namespace grouper::kernels {

struct PackedMatrix::Layout {
  Layout() = default;
  ~Layout();
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;

  DType dtype = DType::kF32;  // of the weight and of the panels
  int64_t experts = 0, n = 0, k = 0;
  int64_t expert_stride = 0;  // elements between experts
  void* data = nullptr;
  bool owned = false;  // else an arena's
  size_t bytes = 0;
};

}  // namespace grouper::kernels
