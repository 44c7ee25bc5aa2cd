// The pairs of math_pairs.tsv: a new case is one line there.
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "reward/math/check.h"

namespace grouper::math {
namespace {

TEST(MathPairs, EachLineIsDecidedAsItSays) {
  std::ifstream in(GROUPER_SOURCE_DIR "/tests/reward/math_pairs.tsv");
  ASSERT_TRUE(in.good());
  size_t number = 0, same = 0, different = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.empty() || line[0] == '#') continue;
    const std::vector<std::string> columns = absl::StrSplit(line, '\t');
    ASSERT_EQ(columns.size(), 3u) << "line " << number;
    const bool right = Check(columns[1], columns[2], {}).status == CheckResult::Status::kRight;
    EXPECT_EQ(right, columns[0] == "=") << "line " << number << ": " << line;
    ++(columns[0] == "=" ? same : different);
  }
  EXPECT_GT(same, 500u);
  EXPECT_GT(different, 500u);
}

}  // namespace
}  // namespace grouper::math
