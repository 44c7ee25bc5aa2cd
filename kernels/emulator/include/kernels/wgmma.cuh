// kernels/wgmma.cuh in an emulated build.
#pragma once

#include <cstdint>

#include "kernels/emulator/emulator.h"

namespace grouper::kernels::cuda {

template <int kN>
struct WgmmaBF16 {
  static constexpr int kRegisters = kN / 2;

  template <int kMnMajorA, int kMnMajorB>
  static void Mma(float (&d)[kN / 2], uint64_t desc_a, uint64_t desc_b) {
    emulator::Product(kN, d, nullptr, desc_a, kMnMajorA, desc_b, kMnMajorB);
  }
  template <int kMnMajorB>
  static void MmaA(float (&d)[kN / 2], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t desc_b) {
    const uint32_t a[4] = {a0, a1, a2, a3};
    emulator::Product(kN, d, a, 0, false, desc_b, kMnMajorB);
  }
};

}  // namespace grouper::kernels::cuda
