#include "kernels/gemm.h"

#include "kernels/dispatch.h"
#include "kernels/linear_cuda.h"

namespace grouper::kernels {

namespace cpu {
template <typename S>
void Gemm(Stream& stream, const GemmParams& params);  // gemm_batch_cpu.cc
}

void Gemm(Stream& stream, const GemmParams& params) {
  CHECK(params.batch >= 0 && params.m >= 0 && params.n >= 0 && params.k >= 0)
      << params.batch << " x " << params.m << " x " << params.n << " x " << params.k;
  if (params.batch == 0 || params.m == 0 || params.n == 0) return;
  CHECK(params.k == 0 || params.a.row_stride == 1 || params.a.col_stride == 1 || params.m == 1 || params.k == 1);
  CHECK(params.k == 0 || params.b.row_stride == 1 || params.b.col_stride == 1 || params.n == 1 || params.k == 1);
  CHECK(params.c.col_stride == 1 || params.n == 1);
  ByStorage(
      params.dtype, stream.device, [&](auto s) { cpu::Gemm<decltype(s)>(stream, params); },
      [&](auto) { cuda::Gemm(stream, params); });
}

}  // namespace grouper::kernels
