// What `grouper bench kernels` prints for a filter. The benchmarks check their results themselves.
#include "kernels/bench.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "tests/kernels/bench_output.h"

namespace grouper::kernels {
namespace {

using grouper::testing::BenchLines;

TEST(BenchTest, AFilterIsOfALinesOwnName) {
  const absl::StatusOr<std::vector<std::string>> lines = BenchLines("logprobs backward 256 x 31, top_k 0", BenchKernels);
  ASSERT_TRUE(lines.ok()) << lines.status();
  ASSERT_EQ(lines->size(), 2u);
  for (const std::string& line : *lines) EXPECT_TRUE(absl::StartsWith(line, "logprobs backward 256 x 31, top_k 0, top_p ")) << line;
}

TEST(BenchTest, AFilterThatLeavesNothingIsAnError) {
  const absl::Status status = BenchLines("cuda nothing", BenchKernels).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "no benchmark's name contains it")) << status;
  // Where there is no GPU, that is why.
  EXPECT_TRUE(absl::IsNotFound(status) || (absl::IsFailedPrecondition(status) && absl::StrContains(status.message(), "no usable GPU: "))) << status;
}

}  // namespace
}  // namespace grouper::kernels
