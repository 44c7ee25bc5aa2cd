#include "kernels/elementwise.h"

#include <cstring>

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
template <typename S>
void SumHeads(Stream& stream, const Tensor& x, const Tensor& y);
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

namespace {

// Bytes of a row of both.
size_t CheckRows(const Stream& stream, const Tensor& all, const Tensor& rows, const Tensor& some) {
  CHECK(all.rank() == 2 && some.rank() == 2 && all.dtype() == some.dtype() && all.dim(1) == some.dim(1) &&
        all.contiguous() && some.contiguous())
      << all.ShapeString() << " and " << some.ShapeString();
  CHECK(rows.rank() == 1 && rows.dtype() == DType::kI32 && rows.dim(0) == some.dim(0)) << rows.ShapeString();
  CHECK(all.device() == stream.device && rows.device() == stream.device && some.device() == stream.device);
  return static_cast<size_t>(all.dim(1)) * SizeOf(all.dtype());
}

}  // namespace

void GatherRows(Stream& stream, const Tensor& all, const Tensor& rows, const Tensor& some) {
  const size_t bytes = CheckRows(stream, all, rows, some);
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) return cuda::GatherRows(stream, all, rows, some);
  }
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    std::memcpy(static_cast<char*>(some.raw()) + static_cast<size_t>(i) * bytes,
                static_cast<const char*>(all.raw()) + static_cast<size_t>(rows.data<int32_t>()[i]) * bytes, bytes);
  }
}

void ScatterRows(Stream& stream, const Tensor& some, const Tensor& rows, const Tensor& all) {
  const size_t bytes = CheckRows(stream, all, rows, some);
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) return cuda::ScatterRows(stream, some, rows, all);
  }
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    std::memcpy(static_cast<char*>(all.raw()) + static_cast<size_t>(rows.data<int32_t>()[i]) * bytes,
                static_cast<const char*>(some.raw()) + static_cast<size_t>(i) * bytes, bytes);
  }
}

void Fill(Stream& stream, const Tensor& y, double value) {
  ByStorage(y, [&](auto s) { cpu::Fill<decltype(s)>(stream, y, value); }, [&](auto) { cuda::Fill(stream, y, value); });
}

void SumHeads(Stream& stream, const Tensor& x, const Tensor& y) {
  CHECK(x.rank() == 3 && x.dim(1) >= 1) << "x is " << x.ShapeString() << ", expected [tokens, heads, width]";
  CHECK(y.rank() == 2 && y.dtype() == x.dtype() && y.dim(0) == x.dim(0) && y.dim(1) == x.dim(2))
      << "y is " << y.ShapeString() << ", expected " << Name(x.dtype()) << "[" << x.dim(0) << ", " << x.dim(2) << "]";
  ByStorage(x, [&](auto s) { cpu::SumHeads<decltype(s)>(stream, x, y); }, [&](auto) { cuda::SumHeads(stream, x, y); });
}

}  // namespace grouper::kernels
