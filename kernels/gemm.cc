#include "kernels/gemm.h"

#include "kernels/dispatch.h"
#include "kernels/elementwise.h"
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

namespace {

// x [T, H, n]: one matrix of T rows a head.
MatrixRef HeadsOf(const Tensor& x) { return {x.raw(), x.stride(0), 1, x.stride(1)}; }

}  // namespace

void HeadWeightGradient(Stream& stream, const Tensor& a, const Tensor& b, const MatrixRef& c, DType type) {
  CHECK(a.rank() == 3 && b.rank() == 3 && a.dtype() == b.dtype() && a.dim(0) == b.dim(0) && a.dim(1) == b.dim(1) && c.col_stride == 1)
      << a.ShapeString() << " " << b.ShapeString();
  if (a.size() == 0 || b.size() == 0) return;
  const DType acc = AccumulatorOf(a.dtype());
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda() && a.dtype() == DType::kBF16) return cuda::HeadWeightGradient(stream, a, b, c, type);
  }
  CHECK(type == acc) << Name(type);
  const Arena::Mark mark = stream.scratch.mark();
  Tensor wide_a = a, wide_b = b;
  if (a.dtype() != acc) {
    wide_a = stream.scratch.New(acc, {a.dim(0), a.dim(1), a.dim(2)});
    wide_b = stream.scratch.New(acc, {b.dim(0), b.dim(1), b.dim(2)});
    Copy(stream, a, wide_a);
    Copy(stream, b, wide_b);
  }
  const MatrixRef rows = HeadsOf(wide_a);
  Gemm(stream, {.batch = a.dim(1),
                .m = a.dim(2),
                .n = b.dim(2),
                .k = a.dim(0),
                .a = {rows.data, rows.col_stride, rows.row_stride, rows.batch_stride},
                .b = HeadsOf(wide_b),
                .c = c,
                .dtype = acc,
                .accumulate = true});
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels
