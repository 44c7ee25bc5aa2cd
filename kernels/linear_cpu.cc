#include "absl/types/span.h"
#include "kernels/linear.h"

#include <new>

#include "kernels/gemm_cpu.h"
#include "kernels/packed_matrix.h"
#include "kernels/round_output.h"

namespace grouper::kernels::cpu {
namespace {

// y = x W^T: A is x, B is W read as its transpose.
template <typename S>
Product<S, Compute<S>> Forward(const Tensor& x, const Tensor& weight, const S* packed) {
  Product<S, Compute<S>> p;
  p.m = x.dim(0);
  p.n = weight.dim(0);
  p.k = weight.dim(1);
  p.a = x.data<S>();
  p.a_row = x.stride(0);
  p.b = weight.data<S>();
  p.b_row = 1;
  p.b_col = weight.stride(0);
  p.b_packed = packed;
  return p;
}

// dx = dy W.
template <typename S>
Product<S, Compute<S>> BackwardInput(const Tensor& dy, const Tensor& weight) {
  Product<S, Compute<S>> p;
  p.m = dy.dim(0);
  p.n = weight.dim(1);
  p.k = weight.dim(0);
  p.a = dy.data<S>();
  p.a_row = dy.stride(0);
  p.b = weight.data<S>();
  p.b_row = weight.stride(0);
  return p;
}

// dW += (or =) dy^T x: the chain runs over tokens.
template <typename S>
Product<S, Compute<S>> BackwardWeight(const Tensor& dy, const Tensor& x, const Tensor& dweight, bool accumulate) {
  Product<S, Compute<S>> p;
  p.m = dy.dim(1);
  p.n = x.dim(1);
  p.k = dy.dim(0);
  p.a = dy.data<S>();
  p.a_row = 1;
  p.a_col = dy.stride(0);
  p.b = x.data<S>();
  p.b_row = x.stride(0);
  p.c = dweight.data<Compute<S>>();
  p.c_row = dweight.stride(0);
  p.accumulate = accumulate;
  return p;
}

template <typename S>
Product<S, Compute<S>>* NewProducts(Stream& stream, size_t count) {
  auto* products = static_cast<Product<S, Compute<S>>*>(stream.scratch.Allocate(count * sizeof(Product<S, Compute<S>>)));
  for (size_t i = 0; i < count; ++i) new (products + i) Product<S, Compute<S>>;
  return products;
}

// sums [N] += column sums of x [T, N], tokens ascending. Threads share the columns.
template <typename S>
void ColumnSums(Stream& stream, const Tensor& x, const Tensor& sums) {
  using T = Compute<S>;
  const int64_t rows = x.dim(0), columns = x.dim(1);
  constexpr int64_t kStrip = 32;
  stream.threads.ParallelFor((columns + kStrip - 1) / kStrip, std::max<int64_t>(1, 2048 / std::max<int64_t>(rows, 1)),
                             [&](int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t first = strip * kStrip, width = std::min(kStrip, columns - first);
      T* out = sums.data<T>() + first;
      T acc[kStrip];
      for (int64_t j = 0; j < width; ++j) acc[j] = out[j];
      for (int64_t t = 0; t < rows; ++t) {
        const S* row = x.row<S>(t) + first;
        if (width == kStrip) {
          for (int64_t j = 0; j < kStrip; j += kLanes) Store(acc + j, Load(acc + j) + Load(row + j));
        } else {
          for (int64_t j = 0; j < width; ++j) acc[j] += static_cast<T>(row[j]);
        }
      }
      for (int64_t j = 0; j < width; ++j) out[j] = acc[j];
    }
  });
}

// A vector of storage S as Compute<S>.
template <typename S>
const Compute<S>* Widened(Stream& stream, const Tensor& vector) {
  if (vector.empty()) return nullptr;
  if constexpr (std::is_same_v<S, Compute<S>>) {
    return vector.data<S>();
  } else {
    auto* wide = static_cast<Compute<S>*>(stream.scratch.Allocate(sizeof(Compute<S>) * static_cast<size_t>(vector.dim(0))));
    for (int64_t i = 0; i < vector.dim(0); ++i) wide[i] = static_cast<Compute<S>>(vector.data<S>()[i]);
    return wide;
  }
}

}  // namespace

template <typename S>
void Linear(Stream& stream, const Tensor& x, const Tensor& weight, const PackedMatrix* packed, const Tensor& bias,
            const Tensor& y) {
  using T = Compute<S>;
  const Arena::Mark mark = stream.scratch.mark();
  Product<S, T> p = Forward<S>(x, weight, packed == nullptr ? nullptr : static_cast<const S*>(packed->layout()->data));
  p.bias = Widened<S>(stream, bias);
  const RoundedOutput<S> out(stream, y.data<S>(), y.stride(0), p.m, p.n, false);
  p.c = out.data();
  p.c_row = out.row_stride();
  RunProducts<S, T>(stream, {&p, 1});
  out.Finish(stream);
  stream.scratch.Release(mark);
}

template <typename S>
void LinearBackwardInput(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate) {
  const Arena::Mark mark = stream.scratch.mark();
  Product<S, Compute<S>> p = BackwardInput<S>(dy, weight);
  p.accumulate = accumulate;
  const RoundedOutput<S> out(stream, dx.data<S>(), dx.stride(0), p.m, p.n, accumulate);
  p.c = out.data();
  p.c_row = out.row_stride();
  RunProducts<S, Compute<S>>(stream, {&p, 1});
  out.Finish(stream);
  stream.scratch.Release(mark);
}

template <typename S>
void LinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dweight, const Tensor& dbias, bool accumulate) {
  if (dy.dim(0) == 0) return;
  const Product<S, Compute<S>> p = BackwardWeight<S>(dy, x, dweight, accumulate);
  RunProducts<S, Compute<S>>(stream, {&p, 1});
  if (!dbias.empty()) ColumnSums<S>(stream, dy, dbias);
}

template <typename S>
void GroupedLinear(Stream& stream, const Tensor& x, absl::Span<const int32_t> offsets, absl::Span<const int32_t> gather,
                   const Tensor& weight, const PackedMatrix* packed, const Tensor& y) {
  using T = Compute<S>;
  const Arena::Mark mark = stream.scratch.mark();
  const size_t experts = offsets.size() - 1;
  const RoundedOutput<S> out(stream, y.data<S>(), y.stride(0), y.dim(0), y.dim(1), false);
  Product<S, T>* products = NewProducts<S>(stream, experts);
  for (size_t e = 0; e < experts; ++e) {
    const int64_t begin = offsets[e], end = offsets[e + 1], expert = static_cast<int64_t>(e);
    const S* panels = packed == nullptr ? nullptr
                                        : static_cast<const S*>(packed->layout()->data) + expert * packed->layout()->expert_stride;
    Product<S, T>& p = products[e];
    p = Forward<S>(gather.empty() ? x.Rows(begin, end) : x, weight[expert], panels);
    if (!gather.empty()) p.m = end - begin, p.a_gather = gather.data() + begin;
    p.c = out.data() + begin * out.row_stride();
    p.c_row = out.row_stride();
  }
  RunProducts<S, T>(stream, {products, experts});
  out.Finish(stream);
  stream.scratch.Release(mark);
}

template <typename S>
void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, absl::Span<const int32_t> offsets, const Tensor& weight,
                                const Tensor& dx) {
  const Arena::Mark mark = stream.scratch.mark();
  const size_t experts = offsets.size() - 1;
  const RoundedOutput<S> out(stream, dx.data<S>(), dx.stride(0), dx.dim(0), dx.dim(1), false);
  Product<S, Compute<S>>* products = NewProducts<S>(stream, experts);
  for (size_t e = 0; e < experts; ++e) {
    products[e] = BackwardInput<S>(dy.Rows(offsets[e], offsets[e + 1]), weight[static_cast<int64_t>(e)]);
    products[e].c = out.data() + offsets[e] * out.row_stride();
    products[e].c_row = out.row_stride();
  }
  RunProducts<S, Compute<S>>(stream, {products, experts});
  out.Finish(stream);
  stream.scratch.Release(mark);
}

template <typename S>
void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, absl::Span<const int32_t> offsets,
                                 absl::Span<const int32_t> gather, const Tensor& dweight, bool accumulate) {
  const Arena::Mark mark = stream.scratch.mark();
  const size_t experts = offsets.size() - 1;
  Product<S, Compute<S>>* products = NewProducts<S>(stream, experts);
  size_t count = 0;
  for (size_t e = 0; e < experts; ++e) {
    const int64_t begin = offsets[e], end = offsets[e + 1];
    if (begin == end && accumulate) continue;
    Product<S, Compute<S>>& p = products[count++];
    p = BackwardWeight<S>(dy.Rows(begin, end), gather.empty() ? x.Rows(begin, end) : x, dweight[static_cast<int64_t>(e)], accumulate);
    if (!gather.empty()) p.b_gather = gather.data() + begin;
  }
  RunProducts<S, Compute<S>>(stream, {products, count});
  stream.scratch.Release(mark);
}

template void Linear<float>(Stream&, const Tensor&, const Tensor&, const PackedMatrix*, const Tensor&, const Tensor&);
template void Linear<double>(Stream&, const Tensor&, const Tensor&, const PackedMatrix*, const Tensor&, const Tensor&);
template void Linear<bf16>(Stream&, const Tensor&, const Tensor&, const PackedMatrix*, const Tensor&, const Tensor&);
template void LinearBackwardInput<float>(Stream&, const Tensor&, const Tensor&, const Tensor&, bool);
template void LinearBackwardInput<double>(Stream&, const Tensor&, const Tensor&, const Tensor&, bool);
template void LinearBackwardInput<bf16>(Stream&, const Tensor&, const Tensor&, const Tensor&, bool);
template void LinearBackwardWeight<float>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool);
template void LinearBackwardWeight<double>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool);
template void LinearBackwardWeight<bf16>(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool);
using Rows = absl::Span<const int32_t>;
template void GroupedLinear<float>(Stream&, const Tensor&, Rows, Rows, const Tensor&, const PackedMatrix*, const Tensor&);
template void GroupedLinear<double>(Stream&, const Tensor&, Rows, Rows, const Tensor&, const PackedMatrix*, const Tensor&);
template void GroupedLinear<bf16>(Stream&, const Tensor&, Rows, Rows, const Tensor&, const PackedMatrix*, const Tensor&);
template void GroupedLinearBackwardInput<float>(Stream&, const Tensor&, Rows, const Tensor&, const Tensor&);
template void GroupedLinearBackwardInput<double>(Stream&, const Tensor&, Rows, const Tensor&, const Tensor&);
template void GroupedLinearBackwardInput<bf16>(Stream&, const Tensor&, Rows, const Tensor&, const Tensor&);
template void GroupedLinearBackwardWeight<float>(Stream&, const Tensor&, const Tensor&, Rows, Rows, const Tensor&, bool);
template void GroupedLinearBackwardWeight<double>(Stream&, const Tensor&, const Tensor&, Rows, Rows, const Tensor&, bool);
template void GroupedLinearBackwardWeight<bf16>(Stream&, const Tensor&, const Tensor&, Rows, Rows, const Tensor&, bool);

}  // namespace grouper::kernels::cpu
