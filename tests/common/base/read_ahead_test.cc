#include "common/base/read_ahead.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

constexpr int64_t kSize = 5 << 20;

class ReadAheadTest : public ::testing::Test {
 protected:
  ReadAheadTest() {
    path_ = absl::StrCat(::testing::TempDir(), "/read_ahead_test_", getpid());
    EXPECT_TRUE(WriteFileAtomically(DefaultFileSystem(), path_, std::string(kSize, 'x')).ok());
  }
  ~ReadAheadTest() override { unlink(path_.c_str()); }

  // True when it has fetched exactly `bytes`, and fetches no more for a while.
  static bool Settles(const ReadAhead& ahead, int64_t bytes) {
    for (int i = 0; i < 2000 && ahead.fetched() < bytes; ++i) absl::SleepFor(absl::Milliseconds(5));
    absl::SleepFor(absl::Milliseconds(20));
    return ahead.fetched() == bytes;
  }

  std::string path_;
};

TEST_F(ReadAheadTest, FetchesAllFilesAndPassesOverThoseThatAreNotThere) {
  ReadAhead ahead({path_, path_ + "/none", "", path_});
  EXPECT_TRUE(Settles(ahead, 2 * kSize));
}

TEST_F(ReadAheadTest, StaysItsDistanceAheadOfWhoReads) {
  ReadAhead ahead({path_}, /*distance=*/2 << 20);
  EXPECT_TRUE(Settles(ahead, 2 << 20));
  ahead.Took(1 << 20);
  EXPECT_TRUE(Settles(ahead, 3 << 20));
  ahead.Took(kSize);
  EXPECT_TRUE(Settles(ahead, kSize));
}

TEST_F(ReadAheadTest, EndsWhereverItIs) {
  for (int i = 0; i < 100; ++i) ReadAhead ahead({path_, path_, path_}, /*distance=*/i << 18);
}

}  // namespace
}  // namespace grouper
