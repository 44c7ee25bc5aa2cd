// The benchmarks of the CUDA kernels, small: each of their checks passes, and a filter leaves what it names.
#include "absl/strings/match.h"
#include "tests/kernels/bench_output.h"
#include "tests/testing/cuda_world.h"

namespace grouper::kernels {
namespace {

absl::StatusOr<std::vector<std::string>> Lines(const std::string& filter) {
  return grouper::testing::BenchLines(filter, [](const BenchOptions& options) { return BenchCuda(options).status(); });
}

TEST(BenchCudaTest, EveryLineIsRight) {
  GROUPER_NEEDS_CUDA();
  const absl::StatusOr<std::vector<std::string>> lines = Lines("cuda");
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_GT(lines->size(), 100u);
  for (const std::string& line : *lines) {
    if (absl::StartsWith(line, "  ")) continue;  // a note to the line before
    // name   us   GB/s or TFLOP/s   %
    EXPECT_TRUE(absl::StartsWith(line, "cuda ") && absl::StrContains(line, " us")) << line;
  }
}

TEST(BenchCudaTest, AFilterLeavesWhatItNames) {
  GROUPER_NEEDS_CUDA();
  for (const std::string filter : {"cuda dx", "cuda dw", "cuda grouped dw in bf16", "cuda attention gradients 9/3", "cuda logprobs gradient", "preparing",
                                   "cuda rms_norm gradient", "cuda adamw", "cuda route gradient"}) {
    const absl::StatusOr<std::vector<std::string>> lines = Lines(filter);
    ASSERT_TRUE(lines.ok()) << lines.status();
    ASSERT_GT(lines->size(), 2u) << filter;
    for (size_t i = 0; i < lines->size(); ++i) {  // after the ceilings
      EXPECT_EQ(absl::StrContains((*lines)[i], filter), i >= 2) << (*lines)[i];
    }
  }
}

TEST(BenchCudaTest, AFilterThatLeavesNothingMeasuresNothing) {
  GROUPER_NEEDS_CUDA();
  const absl::StatusOr<std::vector<std::string>> lines = Lines("cuda nothing");
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_TRUE(lines->empty());
}

}  // namespace
}  // namespace grouper::kernels
