#include "kernels/embedding.h"

#include "kernels/rows.h"

namespace grouper::kernels::cpu {

template <typename S>
void Embedding(Stream& stream, const Tensor& table, const int32_t* ids, const Tensor& out) {
  const size_t bytes = static_cast<size_t>(out.dim(1)) * sizeof(S);
  if (bytes == 0) return;
  stream.threads.ParallelFor(out.dim(0), RowGrain(out.dim(1), 65536), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) std::memcpy(static_cast<void*>(out.row<S>(t)), table.row<S>(ids[t]), bytes);
  });
}

// Threads share the columns, so that each row of the table is summed in token order.
template <typename S>
void EmbeddingBackward(Stream& stream, const Tensor& dout, const int32_t* ids, const Tensor& dtable) {
  using T = Compute<S>;
  const int64_t tokens = dout.dim(0), width = dout.dim(1);
  const int64_t vectors = (width + kLanes - 1) / kLanes;
  stream.threads.ParallelFor(vectors, RowGrain(tokens * kLanes), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kLanes, columns = std::min(end * kLanes, width) - first;
    for (int64_t t = 0; t < tokens; ++t) {
      const S* const from = dout.row<S>(t) + first;
      T* const to = dtable.row<T>(ids[t]) + first;
      ForEachVector(columns, [&](int64_t i, int64_t n) { VecStore(to + i, VecLoad(to + i, n) + VecLoad(from + i, n), n); });
    }
  });
}

template void Embedding<float>(Stream&, const Tensor&, const int32_t*, const Tensor&);
template void Embedding<double>(Stream&, const Tensor&, const int32_t*, const Tensor&);
template void Embedding<bf16>(Stream&, const Tensor&, const int32_t*, const Tensor&);
template void EmbeddingBackward<float>(Stream&, const Tensor&, const int32_t*, const Tensor&);
template void EmbeddingBackward<double>(Stream&, const Tensor&, const int32_t*, const Tensor&);
template void EmbeddingBackward<bf16>(Stream&, const Tensor&, const int32_t*, const Tensor&);

}  // namespace grouper::kernels::cpu
