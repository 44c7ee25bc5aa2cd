#include "gmock/gmock.h"
#include "tests/trainer/stage_world.h"

namespace grouper {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Status (*kAnyRow)(const json::Json&) = [](const json::Json&) { return absl::OkStatus(); };

Scripted Alternating(uint64_t, uint32_t sample) { return {.reward = sample % 2}; }
Scripted Equal(uint64_t, uint32_t) { return {.reward = 0.5}; }
// Groups 0, 3, 6, ... can teach something, the others' rewards are equal.
Scripted EveryThird(uint64_t group, uint32_t sample) { return {.reward = group % 3 == 0 ? sample % 2 : 1}; }

TEST(GrpoStageTest, AStepTakesItsPromptsAndMovesTheWeights) {
  StageWorld world(Alternating);
  const std::string before = world.WeightBits();
  ASSERT_TRUE(world.Step().ok());
  EXPECT_NE(world.WeightBits(), before);
  EXPECT_EQ(world.state.step, 1);
  EXPECT_EQ(world.state.data_position, 2);
  EXPECT_EQ(world.state.group_serial, 2u);
  EXPECT_EQ(world.Metric("reward/mean"), 0.5);
  EXPECT_EQ(world.Metric("reward/frac_zero_std"), 0);
  EXPECT_EQ(world.result.completions.size(), 8u);
}

TEST(GrpoStageTest, DynamicSamplingDropsEqualGroupsAndAsksForMore) {
  StageWorld world(EveryThird, {"stages[rl].grpo.dynamic_sampling_max_batches=5"});
  ASSERT_TRUE(world.Step().ok());
  // Batches 0 1 | 2 3: groups 0 and 3 are kept.
  EXPECT_THAT(world.rollout->serials, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(world.state.data_position, 4);
  EXPECT_EQ(world.Metric("reward/frac_zero_std"), 0);
  EXPECT_EQ(world.result.completions.size(), 8u);
}

TEST(GrpoStageTest, DynamicSamplingGoesOnWithWhatThereIsAfterTheLastBatch) {
  StageWorld world(EveryThird, {"stages[rl].grpo.dynamic_sampling_max_batches=1"});
  ASSERT_TRUE(world.Step().ok());
  EXPECT_THAT(world.rollout->serials, ElementsAre(0, 1));
  EXPECT_EQ(world.result.completions.size(), 4u) << "group 0 alone";
}

TEST(GrpoStageTest, WhenNoGroupIsLeftNothingIsTrainedAndTheStepCounts) {
  StageWorld world(Equal, {"stages[rl].grpo.dynamic_sampling_max_batches=2"});
  const std::string before = world.WeightBits();
  ASSERT_TRUE(world.Step().ok());
  EXPECT_EQ(world.WeightBits(), before);
  EXPECT_EQ(world.optimizer->steps_applied(), 0);
  EXPECT_EQ(world.state.step, 1);
  EXPECT_EQ(world.state.group_serial, 4u);
}

TEST(GrpoStageTest, WithoutDynamicSamplingEqualGroupsStayAndAreCounted) {
  StageWorld world(EveryThird);
  ASSERT_TRUE(world.Step().ok());
  EXPECT_EQ(world.Metric("reward/frac_zero_std"), 0.5);
  EXPECT_EQ(world.result.completions.size(), 8u);
}

TEST(GrpoStageTest, AFailedRewardLeavesTheGroupOrIsAskedAgainThreeTimes) {
  const Script one_fails = [](uint64_t, uint32_t sample) {
    return sample == 3 ? Scripted{} : Scripted{.reward = sample};
  };
  StageWorld exclude(one_fails);
  ASSERT_TRUE(exclude.Step().ok());
  EXPECT_EQ(exclude.reward.calls, 1);
  EXPECT_EQ(exclude.Metric("fault/samples_without_reward"), 2);
  EXPECT_EQ(exclude.Metric("reward/mean"), 1) << "0, 1 and 2; a failure is never a 0";
  StageWorld retry(one_fails, {"stages[rl].grpo.failed_reward=retry"});
  ASSERT_TRUE(retry.Step().ok());
  EXPECT_EQ(retry.reward.calls, 4);
  EXPECT_EQ(retry.Metric("reward/mean"), 1);
  EXPECT_EQ(retry.WeightBits(), exclude.WeightBits());
}

TEST(GrpoStageTest, MaskedTruncatedCompletionsCountInTheGroupButNotInTheLoss) {
  const Script half = [](uint64_t, uint32_t sample) { return Scripted{.reward = sample % 2, .extracted = "", .truncated = sample >= 2}; };
  StageWorld keep(half), mask(half, {"stages[rl].grpo.truncated=mask"});
  ASSERT_TRUE(keep.Step().ok());
  ASSERT_TRUE(mask.Step().ok());
  EXPECT_EQ(keep.Metric("completions/clipped_ratio"), 0.5);
  EXPECT_EQ(mask.Metric("completions/clipped_ratio"), 0.5);
  EXPECT_EQ(mask.Metric("reward/mean"), keep.Metric("reward/mean"));
  EXPECT_LT(mask.result.tokens, keep.result.tokens);
  EXPECT_NE(mask.WeightBits(), keep.WeightBits());
}

TEST(GrpoStageTest, SeveralUpdatesCutTheBatchByGroups) {
  StageWorld world(Alternating, {"stages[rl].grpo.updates_per_batch=2"});
  ASSERT_TRUE(world.Step().ok());
  EXPECT_EQ(world.optimizer->steps_applied(), 2);
  EXPECT_EQ(world.state.step, 1);
}

TEST(GrpoStageTest, ASingleCompletionAGroupTeachesNothing) {
  StageWorld world(Alternating, {"stages[rl].grpo.group_size=1"});
  const std::string before = world.WeightBits();
  ASSERT_TRUE(world.Step().ok());
  EXPECT_EQ(world.WeightBits(), before);
}

TEST(GrpoStageTest, WithExactOnPolicyASamplersOtherLogprobEndsTheRunAndIsNamed) {
  StageWorld world(Alternating, {"exact_on_policy=true"});
  const absl::Status status = world.Step();
  EXPECT_THAT(std::string(status.message()), HasSubstr("exact_on_policy: stage rl step 0, group 0 sample 0, token 0"));
  EXPECT_EQ(world.state.step, 0) << "a failed step leaves the state";
}

TEST(GrpoStageTest, GeneratedPromptsThatNeverFitAreAnErrorAndNotAnEndlessSearch) {
  StageWorld error(Alternating, {"model.max_context=4"});
  EXPECT_THAT(std::string(CheckGrpoData(*error.context, kAnyRow).status().message()), HasSubstr("addition:0: a prompt of "));
  EXPECT_THAT(std::string(error.Step().message()), HasSubstr("expected at most 3"));
  StageWorld skip(Alternating, {"model.max_context=4", "stages[rl].data.too_long=skip"});
  EXPECT_THAT(std::string(skip.Step().message()), HasSubstr("none of 10000 rows in a row fits"));
}

}  // namespace
}  // namespace grouper
