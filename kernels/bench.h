// Benchmarks of the ops, for `grouper bench kernels`: each result is checked first against a plain loop, then timed, one line a shape.
//
// Where a system library does the same (OpenBLAS, opened at run time as libopenblas.so.0, never linked), the two are timed in turns
// in this process and the ratio is printed: above 1 is faster than the library. Times are the best of many batches.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/tensor/stream.h"

namespace grouper::kernels {

// GROUPER_FEW_CASES=1, as for tests: for the emulator, and under compute-sanitizer.
bool FewCases();

struct BenchOptions {
  int threads = 0;        // 0: one per core this process may use
  double seconds = 0.15;  // spent on each line, about
  std::string filter;     // only lines whose name contains this
  bool few_cases = FewCases();  // CUDA's lines small and short: every kernel runs and is checked, its time says nothing
  std::FILE* out = stdout;
};

// All benchmarks below. INTERNAL when a result is wrong, with the line's name. NOT_FOUND when the filter leaves no line; FAILED_PRECONDITION when
// it may have meant CUDA's, and there is no GPU.
absl::Status BenchKernels(const BenchOptions& options);

// The CUDA lines (their names begin with "cuda"): cuda_bench.cc. How many the filter left. REQUIRES: a GPU.
absl::StatusOr<int64_t> BenchCuda(const BenchOptions& options);

// What a benchmark file uses.
class Bench {
 public:
  explicit Bench(const BenchOptions& options);

  Stream& stream() { return stream_; }
  int threads() const { return pool_.num_threads(); }
  bool Wants(const std::string& name) const;
  int64_t lines() const { return lines_; }

  // One line, if it is wanted: `run` timed (and `reference`, in turns with it, unless null); `work` flops or bytes of one run in units of `unit`
  // ("GFLOP/s", "GB/s").
  void Line(const std::string& name, double work, const char* unit, const std::function<void()>& run,
            const std::function<void()>& reference = nullptr, const char* reference_name = "");
  // The ratios of all lines since the last call: lowest and geometric mean.
  void Summary(const char* title);

 private:
  BenchOptions options_;
  ThreadPool pool_;
  Stream stream_;
  int64_t lines_ = 0;
  std::vector<double> ratios_;
  std::string lowest_;
};

absl::Status BenchGemm(Bench& bench);  // gemm_bench.cc: the linear layers of both models in all three orientations
absl::Status BenchRowOps(Bench& bench);  // row_ops_bench.cc: norms, gates, rope, AdamW against copying the same bytes
absl::Status BenchAttention(Bench& bench);  // attention_bench.cc: decode, prefill and training
absl::Status BenchSampling(Bench& bench);  // attention_bench.cc: sampling and log-probabilities

}  // namespace grouper::kernels
