#include "trainer/advantages.h"

#include <cmath>

#include "gtest/gtest.h"

namespace grouper {
namespace {

using Rewards = std::vector<std::vector<std::optional<double>>>;
constexpr std::optional<double> kNone;

TEST(AdvantagesTest, GroupStdHasOneDegreeOfFreedomLessAndAnEpsilon) {
  // Mean 0.25, squares 0.5625 + 3 * 0.0625 = 0.75, std = sqrt(0.75 / 3) = 0.5.
  const auto a = Advantages(Rewards{{1.0, 0.0, 0.0, 0.0}}, AdvantageStd::kGroup);
  EXPECT_NEAR(a[0][0], 0.75 / 0.5001, 1e-12);
  for (int i = 1; i < 4; ++i) EXPECT_NEAR(a[0][i], -0.25 / 0.5001, 1e-12);
}

TEST(AdvantagesTest, BatchStdIsOverEveryScoredCompletion) {
  const Rewards rewards = {{1.0, 0.0}, {3.0, kNone, 2.0}};
  // Values 1, 0, 3, 2: mean 1.5, squares 5, std = sqrt(5 / 3).
  const auto a = Advantages(rewards, AdvantageStd::kBatch);
  const double divisor = std::sqrt(5.0 / 3) + 1e-4;
  EXPECT_NEAR(a[0][0], 0.5 / divisor, 1e-12);
  EXPECT_NEAR(a[0][1], -0.5 / divisor, 1e-12);
  EXPECT_NEAR(a[1][0], 0.5 / divisor, 1e-12);
  EXPECT_EQ(a[1][1], 0.0);
  EXPECT_NEAR(a[1][2], -0.5 / divisor, 1e-12);
}

TEST(AdvantagesTest, WithoutStdItIsTheDifferenceFromTheMean) {
  const auto a = Advantages(Rewards{{4.0, 1.0, 1.0}}, AdvantageStd::kNone);
  EXPECT_EQ(a[0], (std::vector<double>{2.0, -1.0, -1.0}));
}

TEST(AdvantagesTest, EqualRewardsGiveExactlyZero) {
  // 0.1 has no exact mean of ten: recognised by equality, not by a small deviation.
  for (AdvantageStd std : {AdvantageStd::kGroup, AdvantageStd::kBatch, AdvantageStd::kNone}) {
    const auto a = Advantages({std::vector<std::optional<double>>(10, 0.1), {0.0, 1.0}}, std);
    for (double value : a[0]) EXPECT_EQ(value, 0.0);
    EXPECT_NE(a[1][0], 0.0);
  }
}

TEST(AdvantagesTest, RewardsTooFarApartForADoubleGiveNaNAndNotZero) {
  for (AdvantageStd divisor : {AdvantageStd::kGroup, AdvantageStd::kBatch}) {
    const auto far = Advantages(Rewards{{1e200, -1e200, 0.0}}, divisor), nearer = Advantages(Rewards{{1e150, -1e150, 0.0}}, divisor);
    for (double value : far[0]) EXPECT_TRUE(std::isnan(value));
    for (double value : nearer[0]) EXPECT_TRUE(std::isfinite(value));
  }
  const auto sum_overflows = Advantages(Rewards{{1e308, 1.5e308}}, AdvantageStd::kNone);
  for (double value : sum_overflows[0]) EXPECT_FALSE(std::isfinite(value));
}

TEST(AdvantagesTest, ACompletionWithoutRewardLeavesTheStatistics) {
  const auto with = Advantages(Rewards{{1.0, kNone, 0.0, 0.5, kNone}}, AdvantageStd::kGroup);
  const auto without = Advantages(Rewards{{1.0, 0.0, 0.5}}, AdvantageStd::kGroup);
  EXPECT_EQ(with[0], (std::vector<double>{without[0][0], 0.0, without[0][1], without[0][2], 0.0}));
}

TEST(AdvantagesTest, ALoneScoredCompletionHasNoAdvantage) {
  const auto a = Advantages(Rewards{{5.0}, {kNone, 5.0, kNone}, {}, {kNone, kNone}}, AdvantageStd::kNone);
  for (const auto& group : a) {
    for (double value : group) EXPECT_EQ(value, 0.0);
  }
  EXPECT_EQ(a[1].size(), 3u);
  EXPECT_TRUE(a[2].empty());
}

TEST(AdvantagesTest, SumToZeroWithinAGroup) {
  const auto a = Advantages(Rewards{{0.3, 0.9, 0.1, 0.25, 0.7}}, AdvantageStd::kGroup);
  double sum = 0;
  for (double value : a[0]) sum += value;
  EXPECT_NEAR(sum, 0, 1e-14);
}

TEST(AdvantagesTest, SignalNeedsTwoDifferentRewards) {
  EXPECT_TRUE(HasSignal({0.0, kNone, 1.0}));
  EXPECT_FALSE(HasSignal({1.0, kNone, 1.0}));
  EXPECT_FALSE(HasSignal({1.0}));
  EXPECT_FALSE(HasSignal({}));
  EXPECT_FALSE(HasSignal({kNone, kNone}));
}

TEST(AdvantagesTest, NamesOfTheRecipe) {
  EXPECT_EQ(ParseAdvantageStd("group"), AdvantageStd::kGroup);
  EXPECT_EQ(ParseAdvantageStd("batch"), AdvantageStd::kBatch);
  EXPECT_EQ(ParseAdvantageStd("none"), AdvantageStd::kNone);
}

}  // namespace
}  // namespace grouper
