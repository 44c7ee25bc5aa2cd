#include "kernels/rope.h"

#include "kernels/dispatch.h"
#include "kernels/row_ops_cuda.h"

namespace grouper::kernels {

namespace {

void CheckResult(const Tensor& x, const Tensor& y) {
  bool same = y.rank() == x.rank() && y.dtype() == x.dtype();
  for (int d = 0; same && d < x.rank(); ++d) same = y.dim(d) == x.dim(d);
  CHECK(same) << y.ShapeString() << " for " << x.ShapeString();
}

}  // namespace

namespace cpu {  // rope_cpu.cc
template <typename S>
void Rope(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse, const Tensor& y);
}

void Rope(Stream& stream, const Tensor& x, const int32_t* positions, const RopeTable& table, bool inverse, const Tensor& y) {
  CHECK(x.rank() == 3 && x.dim(2) % 2 == 0) << x.ShapeString();
  CheckResult(x, y);
  for (const Tensor* t : {&table.cos, &table.sin}) {
    CHECK(t->rank() == 2 && t->dtype() == AccumulatorOf(x.dtype()) && t->dim(1) == x.dim(2) / 2)
        << t->ShapeString() << " for " << x.ShapeString();
  }
  CHECK_EQ(table.cos.dim(0), table.sin.dim(0));
  for (int64_t t = 0; t < x.dim(0); ++t) {
    CHECK(positions[t] >= 0 && positions[t] < table.cos.dim(0)) << "position " << positions[t] << " of " << table.cos.dim(0);
  }
  ByStorage(x, [&](auto s) { cpu::Rope<decltype(s)>(stream, x, positions, table, inverse, y); },
            [&](auto) { cuda::Rope(stream, x, positions, table, inverse, y); });
}

void Rope(Stream& stream, const Tensor& x, const Tensor& positions, const RopeTable& table, bool inverse, const Tensor& y) {
  CheckResult(x, y);
  CHECK(positions.rank() == 1 && positions.dim(0) == x.dim(0) && positions.device() == stream.device) << positions.ShapeString();
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) return cuda::RopeDevice(stream, x, positions.data<int32_t>(), table, inverse, y);
  }
  Rope(stream, x, positions.data<int32_t>(), table, inverse, y);
}

}  // namespace grouper::kernels
