#include "kernels/embedding.h"

#include "kernels/dispatch.h"
#include "kernels/row_ops_cuda.h"

namespace grouper::kernels {

namespace cpu {  // embedding_cpu.cc
template <typename S>
void Embedding(Stream& stream, const Tensor& table, const int32_t* ids, const Tensor& out);
template <typename S>
void EmbeddingBackward(Stream& stream, const Tensor& dout, const int32_t* ids, const Tensor& dtable);
}  // namespace cpu

namespace {
void CheckIds(const Tensor& table, const int32_t* ids, const Tensor& out) {
  CHECK(table.rank() == 2 && out.rank() == 2 && table.dim(1) == out.dim(1)) << table.ShapeString() << " " << out.ShapeString();
  for (int64_t t = 0; t < out.dim(0); ++t) CHECK(ids[t] >= 0 && ids[t] < table.dim(0)) << "id " << ids[t] << " of " << table.dim(0);
}
}  // namespace

void Embedding(Stream& stream, const Tensor& table, const int32_t* ids, const Tensor& out) {
  CheckIds(table, ids, out);
  CHECK(table.dtype() == out.dtype()) << table.ShapeString() << " " << out.ShapeString();
  ByStorage(table, [&](auto s) { cpu::Embedding<decltype(s)>(stream, table, ids, out); },
            [&](auto) { cuda::Embedding(stream, table, ids, out); });
}

void Embedding(Stream& stream, const Tensor& table, const Tensor& ids, const Tensor& out) {
  CHECK(ids.rank() == 1 && ids.dim(0) == out.dim(0) && ids.device() == stream.device) << ids.ShapeString();
  if constexpr (kWithCuda) {
    if (stream.device.kind == Device::Kind::kCuda) return cuda::EmbeddingDevice(stream, table, ids.data<int32_t>(), out);
  }
  Embedding(stream, table, ids.data<int32_t>(), out);
}

void EmbeddingBackward(Stream& stream, const Tensor& dout, const int32_t* ids, const Tensor& dtable) {
  CheckIds(dtable, ids, dout);
  CHECK(dtable.dtype() == AccumulatorOf(dout.dtype())) << dtable.ShapeString() << " " << dout.ShapeString();
  ByStorage(dout, [&](auto s) { cpu::EmbeddingBackward<decltype(s)>(stream, dout, ids, dtable); },
            [&](auto) { cuda::EmbeddingBackward(stream, dout, ids, dtable); });
}

}  // namespace grouper::kernels
