// The pairs of math_pairs.tsv and the completions of math_texts.tsv: a new case is one line there.
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "reward/math/check.h"

namespace grouper::math {
namespace {

void CheckLines(const std::string& name, size_t at_least_each) {
  std::ifstream in(std::string(GROUPER_SOURCE_DIR "/tests/reward/") + name);
  ASSERT_TRUE(in.good());
  size_t number = 0, same = 0, different = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.empty() || line[0] == '#') continue;
    const std::vector<std::string> columns = absl::StrSplit(line, '\t');
    ASSERT_EQ(columns.size(), 3u) << "line " << number;
    const std::string completion = absl::StrReplaceAll(columns[2], {{"\u23CE", "\n"}});
    const bool right = Check(columns[1], completion, {}).status == CheckResult::Status::kRight;
    EXPECT_EQ(right, columns[0] == "=") << name << ":" << number << ": " << line;
    ++(columns[0] == "=" ? same : different);
  }
  EXPECT_GT(same, at_least_each);
  EXPECT_GT(different, at_least_each);
}

TEST(MathPairs, EachLineIsDecidedAsItSays) { CheckLines("math_pairs.tsv", 900); }
TEST(MathTexts, EachLineIsDecidedAsItSays) { CheckLines("math_texts.tsv", 60); }

}  // namespace
}  // namespace grouper::math
