// Floating-point operations a second that the hardware under a stream can do at most: the denominator of perf/mfu.
//
// CPU: fused multiply-adds of eight floats on registers alone, measured on the calling thread (about 1 ms, the best of several tries), times the
// stream's threads. Two threads of one core share what one has, so the ratio is then a lower bound. CUDA: the data sheet of H100 and H200 SXM, dense:
// 989.4e12 with bf16, 66.9e12 with float.
#pragma once

#include "common/tensor/stream.h"
#include "common/tensor/tensor.h"

namespace grouper::kernels {

double PeakFlops(const Stream& stream, DType dtype);

}  // namespace grouper::kernels
