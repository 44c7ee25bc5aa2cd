// What every op's test needs: tensors with reproducible contents, comparisons that say where, central differences, and the two
// properties of the numerics contract (kernels/README.md) as assertions.
//
//   Memory memory;
//   Tensor x = memory.Random(DType::kF32, {7, 96}, "x");
//   EXPECT_TRUE(Same(y, expected));
//   EXPECT_TRUE(RowInvariant(7, y, [&](Stream& s, int64_t begin, int64_t end, const Tensor& out) {
//     SwiGlu(s, x.Rows(begin, end), out);
//   }));
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "common/tensor/stream.h"

namespace grouper::testing {

// Owns the tensors of one test.
class Memory {
 public:
  // Uninitialised memory is full of NaN (kI32: of a large number), so that an op that reads it is seen.
  Tensor New(DType dtype, std::initializer_list<int64_t> shape);
  Tensor Zero(DType dtype, std::initializer_list<int64_t> shape);
  // Normal numbers from Philox, keyed by the label and the shape's element index: the same for every dtype up to rounding.
  Tensor Random(DType dtype, std::initializer_list<int64_t> shape, const std::string& label, double scale = 1);
  // The same numbers with `gap` NaN elements after each row.
  Tensor RandomStrided(DType dtype, std::initializer_list<int64_t> shape, int64_t gap, const std::string& label, double scale = 1);
  // A contiguous tensor with t's elements, in t's type or another.
  Tensor Clone(const Tensor& t);
  Tensor Convert(const Tensor& t, DType dtype);

 private:
  void* Allocate(size_t bytes);
  std::deque<std::vector<char>> blocks_;
};

// Element at flat index `i` of the logical tensor (outer dimensions slowest), whatever its type and strides.
double Get(const Tensor& t, int64_t i);
void Set(const Tensor& t, int64_t i, double value);

// A stream with threads of its own.
struct TestStream {
  explicit TestStream(int num_threads) : threads(num_threads), stream(threads) {}
  ThreadPool threads;
  Stream stream;
};

// Equal shapes and elements: NaN and Inf in the same places first, then == (so 0 == -0).
::testing::AssertionResult Same(const Tensor& got, const Tensor& want);
// |got - want| <= absolute + relative * |want|, NaN and Inf in the same places first. Shows the worst element.
::testing::AssertionResult Near(const Tensor& got, const Tensor& want, double absolute, double relative);
// got (BF16) is within one rounding of want (float): |got - want| <= 2^-8 |want|.
::testing::AssertionResult WithinOneRounding(const Tensor& got, const Tensor& want);

// gradient == d loss / d input by central differences, all in F64, for at most `samples` elements spread over the input.
::testing::AssertionResult GradientMatches(const std::function<double()>& loss, const Tensor& input, const Tensor& gradient,
                                           int samples = 64);

// op computes rows [begin, end) of a batch into `out`, a tensor with that many rows. Whole, row by row, in ragged pieces, on one,
// two and three threads: the same bits. Leaves the result in `out_like`.
using RowOp = std::function<void(Stream& stream, int64_t begin, int64_t end, const Tensor& out)>;
::testing::AssertionResult RowInvariant(int64_t rows, const Tensor& out_like, const RowOp& op);

// op adds the contribution of tokens [begin, end) to `sum`. From the same start: all at once, token by token, in ragged pieces, on
// one, two and three threads: the same bits. Leaves the result in `sum`.
using SumOp = std::function<void(Stream& stream, int64_t begin, int64_t end, const Tensor& sum)>;
::testing::AssertionResult CutInvariant(int64_t rows, const Tensor& sum, const SumOp& op);

}  // namespace grouper::testing
