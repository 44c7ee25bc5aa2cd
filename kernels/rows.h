// Rows of a tensor of any rank with strided outer dimensions, and a loop over a row in vectors.
#pragma once

#include <algorithm>

#include "common/tensor/tensor.h"
#include "kernels/simd.h"

namespace grouper::kernels {

// The innermost dimension is the row; rows are counted over all outer dimensions, last one fastest.
template <typename S>
class RowsOf {
 public:
  explicit RowsOf(const Tensor& t) : data_(t.size() == 0 ? nullptr : t.data<S>()), width_(t.rank() == 0 ? 1 : t.dim(-1)) {
    for (int d = 0; d + 1 < t.rank(); ++d) count_ *= t.dim(d);
    if (t.rank() <= 2) {
      stride_ = t.rank() == 2 ? t.stride(0) : 0;
      return;
    }
    CHECK_EQ(t.rank(), 3);
    inner_ = t.dim(1);
    stride_ = t.stride(0);
    inner_stride_ = t.stride(1);
  }

  int64_t count() const { return count_; }
  int64_t width() const { return width_; }
  S* operator[](int64_t row) const {
    return inner_ == 1 ? data_ + row * stride_ : data_ + row / inner_ * stride_ + row % inner_ * inner_stride_;
  }

 private:
  S* data_;
  int64_t count_ = 1, width_;
  int64_t stride_ = 0, inner_ = 1, inner_stride_ = 0;
};

// f(i, n) for each vector of n = 8 lanes at i, and once more with n < 8 for the rest. VecLoad and VecStore take that n.
template <typename F>
inline void ForEachVector(int64_t width, F f) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) f(i, int64_t{kLanes});
  if (i < width) f(i, width - i);
}
template <typename S>
inline Vec<Compute<S>> VecLoad(const S* p, int64_t n) {
  return n == kLanes ? Load(p) : LoadPartial(p, n);
}
template <typename S>
inline void VecStore(S* p, Vec<Compute<S>> v, int64_t n) {
  n == kLanes ? Store(p, v) : StorePartial(p, v, n);
}

// Rows for one thread at least, so that a thread has some 10 microseconds of element-wise work.
inline int64_t RowGrain(int64_t width, int64_t elements = 16384) { return std::max<int64_t>(1, elements / std::max<int64_t>(1, width)); }

}  // namespace grouper::kernels
