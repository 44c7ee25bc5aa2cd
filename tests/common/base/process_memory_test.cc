#include "common/base/process_memory.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

class ControlGroupTest : public ::testing::Test {
 protected:
  ~ControlGroupTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = absl::StrCat(root_, "/", path);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  int64_t Limit(const std::string& memberships) { return ControlGroupLimit(memberships, root_); }

  const std::string root_ = absl::StrCat(::testing::TempDir(), "/process_memory_test_", getpid());
};

TEST_F(ControlGroupTest, TheSmallestOfAGroupAndThoseAroundItCounts) {
  Write("slurm/job_7/memory.max", "4000000000");
  Write("slurm/memory.max", "max");
  Write("slurm/job_7/step_0/memory.max", "max");
  EXPECT_EQ(Limit("0::/slurm/job_7/step_0\n"), 4000000000);
  Write("slurm/memory.max", "3000000000");
  EXPECT_EQ(Limit("0::/slurm/job_7/step_0\n"), 3000000000);
  EXPECT_EQ(Limit("0::/\n"), kNone) << "another group's";
}

TEST_F(ControlGroupTest, OfVersionOneTheMemoryControllersPath) {
  Write("memory/slurm/job_7/memory.limit_in_bytes", "5000000000");
  Write("memory/memory.limit_in_bytes", "9223372036854771712");
  const std::string memberships = "12:cpuset:/slurm/job_8\n9:cpu,memory:/slurm/job_7\n1:name=systemd:/user.slice\n0::/user.slice\n";
  EXPECT_EQ(Limit(memberships), 5000000000);
}

TEST_F(ControlGroupTest, WhereThePathIsTheHostsTheMountedGroupCounts) {
  Write("memory.max", "2000000000");
  EXPECT_EQ(Limit("0::/docker/0123abcd\n"), 2000000000);
  EXPECT_EQ(Limit("0::/\n"), 2000000000);
}

TEST_F(ControlGroupTest, NothingThatCanBeReadIsNoLimit) {
  EXPECT_EQ(Limit(""), kNone);
  EXPECT_EQ(Limit("0::/a\nnonsense\n:::\n"), kNone);
  Write("a/memory.max", "many");
  EXPECT_EQ(Limit("0::/a\n"), kNone);
}

TEST(ProcessMemoryTest, TheLimitIsMoreThanWhatIsHeld) {
  EXPECT_GT(ResidentBytes(), 1 << 20);
  EXPECT_GE(PeakResidentBytes(), ResidentBytes());
  EXPECT_GT(MemoryLimitBytes(), ResidentBytes());
}

}  // namespace
}  // namespace grouper
