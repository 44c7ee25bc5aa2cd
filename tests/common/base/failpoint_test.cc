#include "common/base/failpoint.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper::failpoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Failpoint : public ::testing::Test {
 protected:
  ~Failpoint() override { EXPECT_TRUE(Arm("").ok()); }

  // "..E" : OK, OK, error
  static std::string Hits(const char* name, int count) {
    std::string result;
    for (int i = 0; i < count; ++i) result += Hit(name).ok() ? '.' : 'E';
    return result;
  }
};

TEST_F(Failpoint, FiresAtItsCount) {
  EXPECT_EQ(Hits("a", 2), "..");
  ASSERT_TRUE(Arm("a:3:error,b:2+:error").ok());
  EXPECT_EQ(Hits("a", 5), "..E..");
  EXPECT_EQ(Hits("b", 4), ".EEE");
  EXPECT_EQ(Hits("c", 2), "..");
  EXPECT_EQ(Hits("a", 2), "..");
}

TEST_F(Failpoint, OneNameMayHaveSeveralEntries) {
  ASSERT_TRUE(Arm("a:1:error,a:3:error").ok());
  EXPECT_EQ(Hits("a", 4), "E.E.");
}

TEST_F(Failpoint, ArmingAgainReplacesAndCountsAnew) {
  ASSERT_TRUE(Arm("a:2:error").ok());
  EXPECT_EQ(Hits("a", 1), ".");
  ASSERT_TRUE(Arm("a:2:error").ok());
  EXPECT_EQ(Hits("a", 3), ".E.");
  ASSERT_TRUE(Arm("").ok());
  EXPECT_EQ(Hits("a", 3), "...");
}

TEST_F(Failpoint, TheErrorNamesThePlace) {
  ASSERT_TRUE(Arm("rollout.first_token:1:error").ok());
  const absl::Status status = Hit("rollout.first_token");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "injected failure at rollout.first_token");
}

TEST_F(Failpoint, NanPoisonsOnlyWhereThereIsANumber) {
  ASSERT_TRUE(Arm("loss:2:nan,other:1:error").ok());
  EXPECT_FALSE(HitNan("loss"));
  EXPECT_TRUE(HitNan("loss"));
  EXPECT_FALSE(HitNan("loss"));
  EXPECT_FALSE(HitNan("other"));
  ASSERT_TRUE(Arm("loss:1:nan").ok());
  EXPECT_TRUE(Hit("loss").ok());
}

TEST_F(Failpoint, DelayWaits) {
  ASSERT_TRUE(Arm("slow:1:delay=30").ok());
  const absl::Time start = absl::Now();
  EXPECT_TRUE(Hit("slow").ok());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(29));
}

TEST_F(Failpoint, KillAndStopReachTheProcess) {
  for (const bool kill_it : {true, false}) {
    const pid_t child = fork();
    if (child == 0) {
      const bool armed = Arm(kill_it ? "x:2:kill" : "x:2:stop").ok() && Hit("x").ok();
      if (armed) Hit("x").IgnoreError();
      _exit(3);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
    if (kill_it) {
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      continue;
    }
    EXPECT_TRUE(WIFSTOPPED(status));
    kill(child, SIGCONT);
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3);
  }
}

TEST_F(Failpoint, RefusesWhatItDoesNotUnderstandAndKeepsWhatWasArmed) {
  ASSERT_TRUE(Arm("a:1+:error").ok());
  const std::pair<const char*, const char*> cases[] = {
      {"x", "expected NAME:COUNT:ACTION"},
      {"x:1", "expected NAME:COUNT:ACTION"},
      {"x:1:kill:2", "expected NAME:COUNT:ACTION"},
      {":1:kill", "expected NAME:COUNT:ACTION"},
      {"x:0:kill", "expected a count of at least 1"},
      {"x:-1:kill", "count"},
      {"x::kill", "count"},
      {"x:+:kill", "count"},
      {"x:1x:kill", "count"},
      {"x:1:explode", "expected an action"},
      {"x:1:", "expected an action"},
      {"x:1:delay", "expected an action"},
      {"x:1:delay=", "expected an action"},
      {"x:1:delay=-5", "expected an action"},
      {"x:1:delay=soon", "expected an action"},
      {"x:1:kill,y", "failpoint \"y\""},
  };
  for (const auto& [spec, error] : cases) {
    const absl::Status status = Arm(spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << spec;
    EXPECT_THAT(std::string(status.message()), HasSubstr(error)) << spec;
  }
  EXPECT_EQ(Hits("a", 1), "E");
}

TEST_F(Failpoint, TheEnvironmentArms) {
  ASSERT_EQ(setenv("GROUPER_FAIL", "rollout.decode:1:error", 1), 0);
  EXPECT_TRUE(InitFromEnvironment().ok());
  EXPECT_EQ(Hits("rollout.decode", 2), "E.");
  ASSERT_EQ(setenv("GROUPER_FAIL", "rollout.decode:1:error,rollout.prefil:1:kill", 1), 0);
  EXPECT_THAT(std::string(InitFromEnvironment().message()),
              AllOf(HasSubstr("GROUPER_FAIL: no failpoint \"rollout.prefil\", expected one of: rollout.before_swap, "), HasSubstr("rollout.prefill"),
                    Not(HasSubstr("trainer."))));
  ASSERT_EQ(setenv("GROUPER_FAIL", "nosuch:1:kill", 1), 0);
  EXPECT_THAT(std::string(InitFromEnvironment().message()), AllOf(HasSubstr("trainer.step_end"), HasSubstr("rollout.decode")));
  ASSERT_EQ(setenv("GROUPER_FAIL", "env", 1), 0);
  EXPECT_THAT(std::string(InitFromEnvironment().message()), HasSubstr("GROUPER_FAIL: failpoint \"env\""));
  ASSERT_EQ(unsetenv("GROUPER_FAIL"), 0);
  EXPECT_TRUE(InitFromEnvironment().ok());
}

}  // namespace
}  // namespace grouper::failpoint
