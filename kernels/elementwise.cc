#include "kernels/elementwise.h"

#include "kernels/dispatch.h"
#include "kernels/row_ops_cuda.h"

namespace grouper::kernels {

namespace cpu {  // elementwise_cpu.cc
template <typename S>
void Add(Stream& stream, const Tensor& x, const Tensor& y);
template <typename From, typename To>
void Copy(Stream& stream, const Tensor& x, const Tensor& y);
template <typename S>
void Fill(Stream& stream, const Tensor& y, double value);
}  // namespace cpu

namespace {
void CheckSameShape(const Tensor& x, const Tensor& y) {
  bool same = x.rank() == y.rank();
  for (int d = 0; same && d < x.rank(); ++d) same = x.dim(d) == y.dim(d);
  CHECK(same) << x.ShapeString() << " and " << y.ShapeString();
}
}  // namespace

void Add(Stream& stream, const Tensor& x, const Tensor& y) {
  CheckSameShape(x, y);
  CHECK(x.dtype() == y.dtype()) << x.ShapeString() << " and " << y.ShapeString();
  ByStorage(y, [&](auto s) { cpu::Add<decltype(s)>(stream, x, y); }, [&](auto) { cuda::Add(stream, x, y); });
}

void Copy(Stream& stream, const Tensor& x, const Tensor& y) {
  CheckSameShape(x, y);
  ByStorage(
      x,
      [&](auto from) {
        ByStorage(y, [&](auto to) { cpu::Copy<decltype(from), decltype(to)>(stream, x, y); });
      },
      [&](auto) { cuda::Copy(stream, x, y); });
}

void Fill(Stream& stream, const Tensor& y, double value) {
  ByStorage(y, [&](auto s) { cpu::Fill<decltype(s)>(stream, y, value); }, [&](auto) { cuda::Fill(stream, y, value); });
}

}  // namespace grouper::kernels
