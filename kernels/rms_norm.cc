#include "kernels/rms_norm.h"

#include "kernels/dispatch.h"
#include "kernels/row_ops_cuda.h"

namespace grouper::kernels {

namespace cpu {  // rms_norm_cpu.cc
template <typename S>
void RmsNorm(Stream& stream, const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& rstd);
template <typename S>
void AddRmsNorm(Stream& stream, const Tensor& delta, const Tensor& residual, const Tensor& sum, const Tensor& weight, double eps,
                const Tensor& y, const Tensor& rstd);
template <typename S>
void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dx,
                     bool accumulate, const Tensor& dweight);
}  // namespace cpu

namespace {

void CheckSame(const Tensor& t, const Tensor& x, const char* name) {
  bool same = t.dtype() == x.dtype() && t.rank() == x.rank();
  for (int d = 0; same && d < x.rank(); ++d) same = t.dim(d) == x.dim(d);
  CHECK(same) << name << " is " << t.ShapeString() << ", x " << x.ShapeString();
}

void CheckNorm(const Tensor& x, const Tensor& weight, const Tensor& rstd) {
  CHECK(x.rank() == 2 || x.rank() == 3) << x.ShapeString();
  CHECK(weight.rank() == 1 && weight.dim(0) == x.dim(-1) && weight.dtype() == x.dtype())
      << weight.ShapeString() << " for " << x.ShapeString();
  if (rstd.empty()) return;
  CHECK(rstd.dtype() == AccumulatorOf(x.dtype()) && rstd.contiguous() &&
        rstd.size() == x.dim(0) * (x.rank() == 3 ? x.dim(1) : 1))
      << rstd.ShapeString() << " for " << x.ShapeString();
}

}  // namespace

void RmsNorm(Stream& stream, const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& rstd) {
  CheckNorm(x, weight, rstd);
  CheckSame(y, x, "y");
  ByStorage(x, [&](auto s) { cpu::RmsNorm<decltype(s)>(stream, x, weight, eps, y, rstd); },
            [&](auto) { cuda::RmsNorm(stream, x, weight, eps, y, rstd); });
}

void AddRmsNorm(Stream& stream, const Tensor& delta, const Tensor& residual, const Tensor& sum, const Tensor& weight, double eps,
                const Tensor& y, const Tensor& rstd) {
  CheckNorm(residual, weight, rstd);
  CheckSame(delta, residual, "delta");
  CheckSame(sum, residual, "sum");
  CheckSame(y, residual, "y");
  ByStorage(residual, [&](auto s) { cpu::AddRmsNorm<decltype(s)>(stream, delta, residual, sum, weight, eps, y, rstd); },
            [&](auto) { cuda::AddRmsNorm(stream, delta, residual, sum, weight, eps, y, rstd); });
}

void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dx,
                     bool accumulate, const Tensor& dweight) {
  CheckNorm(x, weight, rstd);
  CHECK(!rstd.empty() || x.size() == 0) << "backward needs the forward's rstd";
  CheckSame(dy, x, "dy");
  CheckSame(dx, x, "dx");
  CHECK(dweight.rank() == 1 && dweight.dim(0) == x.dim(-1) && dweight.dtype() == AccumulatorOf(x.dtype()))
      << dweight.ShapeString() << " for " << x.ShapeString();
  ByStorage(x, [&](auto s) { cpu::RmsNormBackward<decltype(s)>(stream, dy, x, weight, rstd, dx, accumulate, dweight); },
            [&](auto) { cuda::RmsNormBackward(stream, dy, x, weight, rstd, dx, accumulate, dweight); });
}

}  // namespace grouper::kernels
