#include "kernels/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/tensor/cuda.h"
#include "kernels/dispatch.h"

namespace grouper::kernels {
namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double TimeOf(const std::function<void()>& run, int64_t repeats) {
  const double start = Now();
  for (int64_t i = 0; i < repeats; ++i) run();
  return (Now() - start) / static_cast<double>(repeats);
}

}  // namespace

bool FewCases() {
  const char* few = std::getenv("GROUPER_FEW_CASES");
  return few != nullptr && few[0] == '1';
}

Bench::Bench(const BenchOptions& options) : options_(options), pool_(options.threads), stream_(pool_) {}

bool Bench::Wants(const std::string& name) const { return name.find(options_.filter) != std::string::npos; }

void Bench::Line(const std::string& name, double work, const char* unit, const std::function<void()>& run,
                 const std::function<void()>& reference, const char* reference_name) {
  if (!Wants(name)) return;
  ++lines_;
  // Batches of about a millisecond; the first ones warm the caches.
  constexpr double kBatch = 1e-3;
  const auto repeats_for = [](const std::function<void()>& f) {
    const double once = std::max(TimeOf(f, 1), 1e-9);
    return std::max<int64_t>(1, static_cast<int64_t>(kBatch / std::min(once, std::max(TimeOf(f, 1), 1e-9))));
  };
  const int64_t repeats = repeats_for(run), reference_repeats = reference ? repeats_for(reference) : 0;
  double best = std::numeric_limits<double>::infinity(), best_reference = best;
  const double end = Now() + options_.seconds;
  int rounds = 0;
  do {
    for (int i = 0; i < 5; ++i) best = std::min(best, TimeOf(run, repeats));
    if (reference) {  // whose threads spin for some milliseconds after their last loop
      for (int i = 0; i < 5; ++i) best_reference = std::min(best_reference, TimeOf(reference, reference_repeats));
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  } while (++rounds < 2 || Now() < end);
  std::fprintf(options_.out, "%-44s %10.1f us %8.1f %s", name.c_str(), best * 1e6, work / best / 1e9, unit);
  if (reference) {
    const double ratio = best_reference / best;
    std::fprintf(options_.out, "  %5.2f x %s", ratio, reference_name);
    if (ratios_.empty() || ratio < *std::min_element(ratios_.begin(), ratios_.end())) lowest_ = name;
    ratios_.push_back(ratio);
  }
  std::fprintf(options_.out, "\n");
  std::fflush(options_.out);
}

void Bench::Summary(const char* title) {
  if (!ratios_.empty()) {
    double logs = 0;
    for (double r : ratios_) logs += std::log(r);
    std::fprintf(options_.out, "%s, %d threads: %zu lines, geometric mean %.2f, lowest %.2f (%s)\n", title, threads(),
                 ratios_.size(), std::exp(logs / static_cast<double>(ratios_.size())),
                 *std::min_element(ratios_.begin(), ratios_.end()), lowest_.c_str());
  }
  ratios_.clear();
}

absl::Status BenchKernels(const BenchOptions& options) {
  Bench bench(options);
  RETURN_IF_ERROR(BenchGemm(bench));
  RETURN_IF_ERROR(BenchRowOps(bench));
  RETURN_IF_ERROR(BenchAttention(bench));
  RETURN_IF_ERROR(BenchSampling(bench));
  int64_t lines = bench.lines();
  if constexpr (kWithCuda) {
    if (NumCudaDevices() > 0) {
      ASSIGN_OR_RETURN(const int64_t cuda_lines, BenchCuda(options));
      lines += cuda_lines;
    }
  }
  if (lines > 0) return absl::OkStatus();
  const std::string message = absl::StrCat("--filter \"", options.filter, "\": no benchmark's name contains it");
  const absl::Status cuda = FindDevice("cuda").status();
  if (cuda.ok()) return absl::NotFoundError(message);
  return absl::FailedPreconditionError(absl::StrCat(message, " on the CPU, and those of CUDA's kernels were skipped, for there is no usable GPU: ", cuda.message()));
}

}  // namespace grouper::kernels
