// What the benchmarks of the CUDA kernels share (*_cuda_bench.cc): random tensors that the host knows, checks, and lines.
//
// Times are medians between events: of single launches, or, for decode, of a graph of many, as the engine's steps are (only there does a kernel start
// before the one before it has ended). Percentages are of
// what this card did on the first two lines, copying and multiplying.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/tensor/cuda.h"
#include "common/tensor/stream.h"
#include "kernels/bench.h"

namespace grouper::kernels {

// What an element should be, and by how much the sums in front of it may err. Its own type's rounding comes on top (CudaBench::Check).
inline double AsDouble(int64_t n) { return static_cast<double>(n); }

struct Expected {
  double value = 0, error = 0;
};

// A sum of products of two bf16 numbers in float, in any order: the expected value is exact.
class FloatSum {
 public:
  explicit FloatSum(double start = 0) : value_(start) {}
  void Add(double term) {
    value_ += term;
    magnitude_ += term < 0 ? -term : term;
  }
  // Some 2^-17 of the terms: less than one of them where there are 100,000.
  operator Expected() const { return {value_, 8e-6 * magnitude_}; }

 private:
  double value_, magnitude_ = 0;
};

// The same where one factor of each term was rounded to bf16, to within 2^-8, before it was multiplied: such errors add up as their squares do.
class RoundedSum {
 public:
  void Add(double term) {
    value_ += term;
    squares_ += term * term;
  }
  operator Expected() const;

 private:
  double value_ = 0, squares_ = 0;
};

// Normal numbers, rounded to bf16, times a scale (a power of two).
class RandomTensor : public Tensor {
 public:
  RandomTensor(const Tensor& tensor, const std::vector<double>& table, int64_t first, double scale)
      : Tensor(tensor), table_(&table), first_(first), scale_(scale) {}
  // Element i, rows after one another.
  double Number(int64_t i) const { return (*table_)[static_cast<size_t>((first_ + i) % kPeriod)] * scale_; }

  static constexpr int64_t kPeriod = (1 << 20) - 3;  // a prime, so that no row repeats its neighbour

 private:
  const std::vector<double>* table_;
  int64_t first_;
  double scale_;
};

// sum over i of x[xi + i * xs] w[wi + i * ws].
FloatSum Dot(const RandomTensor& x, int64_t xi, int64_t xs, const RandomTensor& w, int64_t wi, int64_t ws, int64_t count);

class CudaBench {
 public:
  // What a line counts, and how it is timed. Without flops (bytes) it says nothing of them.
  struct Work {
    double flops = 0, bytes = 0;
    bool recorded = false;  // in a graph of many
  };

  explicit CudaBench(const BenchOptions& options);
  ~CudaBench();

  Stream& stream() { return stream_; }
  Stream& cpu() { return cpu_; }
  Arena& memory() { return storage_; }
  // Whether one of these lines is asked for, and has not been printed. (With few cases several shapes become one.)
  bool Wants(std::initializer_list<std::string> names) const;
  // How many that were asked for have been printed.
  int64_t lines() const;

  // n, or in few cases a part of it, 8 at least.
  int64_t Fewer(int64_t n, int64_t divisor) const { return few_ ? std::max(n / divisor, std::min<int64_t>(n, 8)) : n; }
  int64_t FewTokens(int64_t n) const { return Fewer(n, 128); }
  int64_t FewColumns(int64_t n) const { return Fewer(n, n > 8192 ? 64 : 8); }
  bool few() const { return few_; }
  // How many sets of so many bytes go through more memory than L2 holds: a line's runs take them in turns.
  int64_t Sets(int64_t bytes, int64_t most) const;

  // Device tensors, until Reset.
  RandomTensor Random(std::initializer_list<int64_t> shape, double scale = 1);
  RandomTensor RandomFloat(std::initializer_list<int64_t> shape);  // the same numbers in float
  Tensor New(DType dtype, std::initializer_list<int64_t> shape) { return storage_.New(dtype, shape); }
  template <typename T>
  T* Put(const std::vector<T>& values) {
    T* const device = static_cast<T*>(storage_.Allocate(sizeof(T) * values.size()));
    grouper::cuda::CopyToDevice(stream_.device.index, device, values.data(), sizeof(T) * values.size(), stream_.handle);
    return device;
  }
  Tensor PutInts(const std::vector<int32_t>& values);
  void Reset();

  // Elements [begin, begin + count) of a contiguous tensor.
  std::vector<double> Read(const Tensor& t, int64_t begin, int64_t count);
  double Read(const Tensor& t, int64_t i) { return Read(t, i, 1)[0]; }
  // Copies on the host, until Reset: of all rows, of some. Rows are contiguous.
  Tensor Host(const Tensor& t);
  Tensor Host(const Tensor& t, const std::vector<int64_t>& rows);
  // Some of n rows, ascending: the first, the last, and between.
  static std::vector<int64_t> SomeRows(int64_t n, int64_t count = 8);
  // The i-th of some places among n; the 0-th is the last.
  static int64_t Place(int64_t i, int64_t n) { return i == 0 ? n - 1 : i * 7919 % n; }

  // Element i is `want`, rounded to t's type.
  absl::Status Check(const Tensor& t, int64_t i, const Expected& want);
  // At some places of t's rows (of its last dimension).
  absl::Status CheckSome(const Tensor& t, int samples, const std::function<Expected(int64_t row, int64_t column)>& want);
  // The same bits as on the host.
  absl::Status CheckSame(const Tensor& got, const Tensor& want);
  absl::Status CheckSameRows(const Tensor& got, const std::vector<int64_t>& rows, const Tensor& want);

  // A line, if it is asked for: run(0), check() of what that leaves, then run(i) many times, i counting up.
  absl::Status Line(const std::string& name, const Work& work, const std::function<void(int)>& run, const std::function<absl::Status()>& check);
  void Note(const std::string& text);
  // Microseconds of run(i), the median; recorded: of many in a graph.
  double Time(const std::function<void(int)>& run);
  double RecordedTime(const std::function<void(int)>& run);
  // The first two lines: alone if they are asked for, and before any other.
  absl::Status CeilingLines();

 private:
  bool Matches(const std::string& name) const { return name.find(options_.filter) != std::string::npos; }
  absl::Status Ceilings();
  absl::Status Print(const std::string& name, const Work& work, const std::function<void(int)>& run, const std::function<absl::Status()>& check);

  const BenchOptions options_;
  const bool few_;
  ThreadPool pool_;
  Stream stream_, cpu_;
  Arena storage_, host_;
  std::vector<double> table_;
  int64_t next_ = 0;  // where the next random tensor begins
  std::vector<cudaEvent_t> events_;
  const int64_t copy_bytes_, product_size_;  // the ceilings'
  const std::string copy_name_, product_name_;
  double copy_ = 0, product_ = 0;
  std::set<std::string> printed_;
};

// Lines of y = x w^T, dx = dy w and dw += dy^T x: x [t, k], w [n, k], bf16 or float, dx in x's type; y and dy in w's; dw is float. Without an input's name the first alone.
// linear_cuda_bench.cc.
struct ProductNames {
  std::string forward, input{}, weight{};
};
absl::Status ProductLines(CudaBench& bench, const ProductNames& names, const CudaBench::Work& work, const RandomTensor& x, const RandomTensor& w);

absl::Status BenchLinearCuda(CudaBench& bench);     // linear_cuda_bench.cc: products of layers and experts, gates, products in two halves
absl::Status BenchAttentionCuda(CudaBench& bench);  // attention_cuda_bench.cc: decode, training, gradients
absl::Status BenchSamplingCuda(CudaBench& bench);   // sampling_cuda_bench.cc: sampling, log-probabilities and their gradient
absl::Status BenchRowOpsCuda(CudaBench& bench);     // row_ops_cuda_bench.cc: norms, gates, rope, embedding, AdamW
absl::Status BenchMoeCuda(CudaBench& bench);        // moe_cuda_bench.cc: routing, sorting, combining

}  // namespace grouper::kernels
