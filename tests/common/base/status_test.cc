#include "common/base/status.h"

#include <memory>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

absl::StatusOr<int> ParseNumber(absl::string_view text) {
  int number;
  if (!absl::SimpleAtoi(text, &number)) {
    return absl::InvalidArgumentError(absl::StrCat("expected a number, got \"", text, "\""));
  }
  return number;
}

absl::StatusOr<int> Sum(absl::string_view a, absl::string_view b) {
  ASSIGN_OR_RETURN(const int first, ParseNumber(a));
  ASSIGN_OR_RETURN(const int second, Annotate(ParseNumber(b), "second"));
  return first + second;
}

absl::Status Check(absl::string_view text) {
  RETURN_IF_ERROR(ParseNumber(text));
  RETURN_IF_ERROR(absl::OkStatus());
  return absl::OkStatus();
}

TEST(Status, MacrosPassErrorsUp) {
  EXPECT_EQ(*Sum("2", "3"), 5);
  EXPECT_EQ(Sum("x", "3").status().message(), "expected a number, got \"x\"");
  EXPECT_EQ(Sum("2", "y").status().message(), "second: expected a number, got \"y\"");
  EXPECT_TRUE(Check("1").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Check("one")));
}

TEST(Status, AssignMovesWhatCannotBeCopied) {
  auto make = []() -> absl::StatusOr<std::unique_ptr<int>> { return std::make_unique<int>(7); };
  auto use = [&]() -> absl::StatusOr<int> {
    ASSIGN_OR_RETURN(std::unique_ptr<int> value, make());
    return *value;
  };
  EXPECT_EQ(*use(), 7);
}

TEST(Status, AnnotateKeepsCodeAndPayload) {
  absl::Status status = absl::DataLossError("broken");
  status.SetPayload("grouper/test", absl::Cord("payload"));
  const absl::Status annotated = Annotate(status, "file:3");
  EXPECT_TRUE(absl::IsDataLoss(annotated));
  EXPECT_EQ(annotated.message(), "file:3: broken");
  EXPECT_EQ(annotated.GetPayload("grouper/test"), absl::Cord("payload"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "file:3").ok());
}

TEST(CheckDeathTest, AFailedCheckEndsTheProcessWithItsValues) {
  EXPECT_DEATH(CHECK_EQ(1 + 1, 3) << "arithmetic", "CHECK failed: .*1 \\+ 1.*2 vs 3.*arithmetic");
  EXPECT_DEATH(CHECK(false), "status_test.cc:[0-9]+: CHECK failed: false");
  CHECK(true) << "not evaluated";
}

TEST(FakeClock, SleepMovesIt) {
  FakeClock clock(absl::FromUnixSeconds(100));
  clock.Sleep(absl::Seconds(5));
  clock.Advance(absl::Seconds(2));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(107));
}

}  // namespace
}  // namespace grouper
