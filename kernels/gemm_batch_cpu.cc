#include <new>

#include "kernels/gemm.h"
#include "kernels/gemm_cpu.h"
#include "kernels/round_output.h"

namespace grouper::kernels::cpu {

template <typename S>
void Gemm(Stream& stream, const GemmParams& params) {
  using T = Compute<S>;
  const Arena::Mark mark = stream.scratch.mark();
  // A stride along a dimension of length 1 means nothing: let it be 1.
  MatrixRef a = params.a, b = params.b;
  if (a.row_stride != 1 && a.col_stride != 1) (params.m == 1 ? a.row_stride : a.col_stride) = 1;
  if (b.row_stride != 1 && b.col_stride != 1) (params.n == 1 ? b.col_stride : b.row_stride) = 1;

  const size_t batch = static_cast<size_t>(params.batch);
  auto* products = static_cast<Product<S, T>*>(stream.scratch.Allocate(batch * sizeof(Product<S, T>)));
  auto* outputs = static_cast<RoundedOutput<S>*>(stream.scratch.Allocate(batch * sizeof(RoundedOutput<S>)));
  for (size_t i = 0; i < batch; ++i) {
    const int64_t index = static_cast<int64_t>(i);
    Product<S, T>& p = *new (products + i) Product<S, T>;
    p.m = params.m;
    p.n = params.n;
    p.k = params.k;
    p.a = static_cast<const S*>(a.data) + index * a.batch_stride;
    p.a_row = a.row_stride;
    p.a_col = a.col_stride;
    p.b = static_cast<const S*>(b.data) + index * b.batch_stride;
    p.b_row = b.row_stride;
    p.b_col = b.col_stride;
    p.accumulate = params.accumulate;
    new (outputs + i) RoundedOutput<S>(stream, static_cast<S*>(params.c.data) + index * params.c.batch_stride,
                                       params.c.row_stride, params.m, params.n, params.accumulate);
    p.c = outputs[i].data();
    p.c_row = outputs[i].row_stride();
  }
  RunProducts<S, T>(stream, {products, batch});
  for (size_t i = 0; i < batch; ++i) outputs[i].Finish(stream);
  stream.scratch.Release(mark);
}

template void Gemm<float>(Stream&, const GemmParams&);
template void Gemm<double>(Stream&, const GemmParams&);
template void Gemm<bf16>(Stream&, const GemmParams&);

}  // namespace grouper::kernels::cpu
