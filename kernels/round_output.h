// An output matrix [rows, columns] of storage S that is computed in Compute<S>: itself for float and double; for bf16 a float copy
// from the stream's scratch, rounded into place by Finish.
#pragma once

#include "common/tensor/stream.h"
#include "kernels/simd.h"

namespace grouper::kernels {

template <typename S>
class RoundedOutput {
 public:
  using T = Compute<S>;

  // `keep`: the computation starts from what is in the output.
  RoundedOutput(Stream& stream, S* output, int64_t row_stride, int64_t rows, int64_t columns, bool keep)
      : output_(output), output_stride_(row_stride), rows_(rows), columns_(columns) {
    if constexpr (std::is_same_v<S, T>) {
      data_ = output;
      stride_ = row_stride;
    } else {
      stride_ = columns;
      data_ = static_cast<T*>(stream.scratch.Allocate(sizeof(T) * static_cast<size_t>(rows * columns)));
      if (keep) {
        stream.threads.ParallelFor(rows, 64, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            for (int64_t j = 0; j < columns; ++j) data_[i * stride_ + j] = static_cast<T>(output[i * row_stride + j]);
          }
        });
      }
    }
  }

  T* data() const { return data_; }
  int64_t row_stride() const { return stride_; }

  void Finish(Stream& stream) const {
    if constexpr (!std::is_same_v<S, T>) {
      stream.threads.ParallelFor(rows_, 64, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const T* from = data_ + i * stride_;
          S* to = output_ + i * output_stride_;
          int64_t j = 0;
          for (; j + kLanes <= columns_; j += kLanes) Store(to + j, Load(from + j));
          for (; j < columns_; ++j) to[j] = S(from[j]);
        }
      });
    }
  }

 private:
  S* output_;
  int64_t output_stride_, rows_, columns_;
  T* data_ = nullptr;
  int64_t stride_ = 0;
};

}  // namespace grouper::kernels
