#include "kernels/embedding.h"

#include "kernels/dispatch.h"
#include "kernels/packed_matrix.h"
#include "kernels/row_ops_cuda.h"
#include "kernels/rows.h"

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
    if (stream.device.is_cuda()) return cuda::EmbeddingDevice(stream, table, ids.data<int32_t>(), out);
  }
  Embedding(stream, table, ids.data<int32_t>(), out);
}

void Embedding(Stream& stream, const PackedMatrix& table, const Tensor& ids, const Tensor& out) {
  const PackedMatrix::Layout* layout = table.layout();
  CHECK(layout != nullptr && layout->experts == 1 && out.rank() == 2 && layout->k == out.dim(1) && layout->dtype == out.dtype()) << out.ShapeString();
  CHECK(ids.rank() == 1 && ids.dim(0) == out.dim(0)) << ids.ShapeString();
  const int32_t* const rows = ids.data<int32_t>();
  for (int64_t t = 0; t < out.dim(0); ++t) CHECK(rows[t] >= 0 && rows[t] < layout->n) << "id " << rows[t] << " of " << layout->n;
  stream.threads.ParallelFor(out.dim(0), RowGrain(out.dim(1), 4096), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) table.ReadRows(0, rows[t], out.Rows(t, t + 1));
  });
}

void EmbeddingBackward(Stream& stream, const Tensor& dout, const int32_t* ids, const Tensor& dtable) {
  CheckIds(dtable, ids, dout);
  CHECK(dtable.dtype() == AccumulatorOf(dout.dtype())) << dtable.ShapeString() << " " << dout.ShapeString();
  ByStorage(dout, [&](auto s) { cpu::EmbeddingBackward<decltype(s)>(stream, dout, ids, dtable); },
            [&](auto) { cuda::EmbeddingBackward(stream, dout, ids, dtable); });
}

}  // namespace grouper::kernels
