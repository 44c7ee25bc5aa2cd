#include <cmath>
#include <limits>

#include "common/base/failpoint.h"
#include "gmock/gmock.h"
#include "tests/trainer/stage_world.h"

namespace grouper {
namespace {

using ::testing::AllOf;
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

// What the KL is taken against only runs: it keeps no matrix twice, and stays the weights of the stage's beginning.
TEST(GrpoStageTest, TheReferenceIsTheFirstWeightsInAModelForForwardPasses) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    StageWorld world(Alternating, {"stages[rl].grpo.kl_coef=0.1", std::string("model.dtype=") + dtype});
    const std::string before = world.WeightBits();
    ASSERT_TRUE(world.Step().ok());
    ASSERT_NE(world.stage->reference(), nullptr);
    const Model& reference = *world.stage->reference();
    EXPECT_EQ(Hex(WeightsDigest(reference, world.threads)), before) << dtype;
    EXPECT_NE(world.WeightBits(), before);
    EXPECT_EQ(reference.use(), WeightUse::kForward);
    EXPECT_EQ(reference.PackedBytes(), 0u);
    EXPECT_EQ(reference.dtype(), world.loaded.model->dtype());
    EXPECT_NEAR(static_cast<double>(world.loaded.model->ForwardWeightBytes()), static_cast<double>(reference.WeightBytes()),
                0.02 * static_cast<double>(reference.WeightBytes()));
  }
}

TEST(GrpoStageTest, DynamicSamplingDropsEqualGroupsAndAsksForMore) {
  StageWorld world(EveryThird, {"stages[rl].grpo.dynamic_sampling_max_batches=5"});
  ASSERT_TRUE(world.Step().ok());
  // Batches 0 1 | 2 3: groups 0 and 3 are kept.
  EXPECT_THAT(world.rollout->serials, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(world.state.data_position, 4);
  EXPECT_EQ(world.Metric("reward/frac_zero_std"), 0.5) << "of all four";
  EXPECT_EQ(world.result.completions.size(), 8u);
}

TEST(GrpoStageTest, DynamicSamplingGoesOnWithWhatThereIsAfterTheLastBatch) {
  StageWorld world(EveryThird, {"stages[rl].grpo.dynamic_sampling_max_batches=1"});
  ASSERT_TRUE(world.Step().ok());
  EXPECT_THAT(world.rollout->serials, ElementsAre(0, 1));
  EXPECT_EQ(world.result.completions.size(), 4u) << "group 0 alone";
  EXPECT_EQ(world.Metric("reward/frac_zero_std"), 0.5) << "of all that was sampled";
}

TEST(GrpoStageTest, WhenNoGroupIsLeftNothingIsTrainedAndTheStepCounts) {
  StageWorld world(Equal, {"stages[rl].grpo.dynamic_sampling_max_batches=2"});
  const std::string before = world.WeightBits();
  ASSERT_TRUE(world.Step().ok());
  EXPECT_EQ(world.WeightBits(), before);
  EXPECT_EQ(world.optimizer->steps_applied(), 0);
  EXPECT_EQ(world.state.step, 1);
  EXPECT_EQ(world.state.group_serial, 4u);
  EXPECT_EQ(world.Metric("reward/frac_zero_std"), 1);
  EXPECT_GT(world.Metric("completions/mean_length"), 0) << "four groups were sampled";
  EXPECT_EQ(world.Metric("policy/entropy"), -1) << "nothing was computed: left out";
  EXPECT_EQ(world.Metric("fault/skipped_steps"), 0);
}

TEST(GrpoStageTest, WhereRulesFailOnAllCompletionsTheStepIsSkippedAndSoonTheRunEnds) {
  for (const char* batches : {"0", "2"}) {
    StageWorld world([](uint64_t, uint32_t) { return Scripted{}; }, {absl::StrCat("stages[rl].grpo.dynamic_sampling_max_batches=", batches)});
    const std::string before = world.WeightBits();
    for (int step = 0; step < 2; ++step) {
      ASSERT_TRUE(world.Step().ok());
      EXPECT_EQ(world.Metric("fault/skipped_steps"), 1);
      EXPECT_EQ(world.Metric("fault/samples_without_reward"), *batches == '0' ? 8 : 16);
      EXPECT_EQ(world.Metric("fault/reward_errors"), *batches == '0' ? 8 : 16);
      EXPECT_EQ(world.Metric("reward/mean"), -1) << "a failed reward is never a 0";
    }
    EXPECT_THAT(std::string(world.Step().message()), AllOf(HasSubstr("no completion has a reward: rule correct failed on"), HasSubstr("no reason given")));
    EXPECT_EQ(world.WeightBits(), before);
  }
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
  EXPECT_THAT(std::string(status.message()), HasSubstr("exact_on_policy: stage rl step 1, group 0 sample 0, token 0"));
  EXPECT_EQ(world.state.step, 0) << "a failed step leaves the state";
}

TEST(GrpoStageTest, GeneratedPromptsThatNeverFitAreAnErrorAndNotAnEndlessSearch) {
  StageWorld error(Alternating, {"model.max_context=4"});
  EXPECT_THAT(std::string(CheckGrpoData(*error.context, kAnyRow).status().message()), HasSubstr("addition:0: a prompt of "));
  EXPECT_THAT(std::string(error.Step().message()), HasSubstr("expected at most 3"));
  StageWorld skip(Alternating, {"model.max_context=4", "stages[rl].data.too_long=skip"});
  EXPECT_THAT(std::string(skip.Step().message()), HasSubstr("none of 10000 rows in a row fits"));
}

// --- not finite ------------------------------------------------------------------------------------------------------------

const double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

// `what` for one sample of the first step's second group, which is groups 0 and 1; else as Alternating.
Script OneIs(const Scripted& what) {
  return [what](uint64_t group, uint32_t sample) { return group == 1 && sample == 2 ? what : Alternating(group, sample); };
}

class NotFiniteTest : public testing::Test {
 protected:
  ~NotFiniteTest() override { EXPECT_TRUE(failpoint::Arm("").ok()); }

  // A step that is skipped for `reason`, and one more, which is not.
  static void ExpectSkipped(StageWorld& world, const std::string& reason) {
    const std::string before = world.TrainingBits();
    testing::internal::CaptureStderr();
    const absl::Status status = world.Step();
    const std::string log = testing::internal::GetCapturedStderr();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(world.TrainingBits(), before) << reason;
    EXPECT_THAT(log, HasSubstr("stage rl step 1: not finite: " + reason));
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
    EXPECT_EQ(world.Metric("fault/skipped_steps"), 1) << reason;
    EXPECT_EQ(world.state.skipped_in_row, 1);
    EXPECT_EQ(world.state.step, 1);
    EXPECT_EQ(world.state.data_position, 2);
    EXPECT_EQ(world.state.group_serial, 2u);
    ASSERT_TRUE(failpoint::Arm("").ok());
    ASSERT_TRUE(world.Step().ok());
    EXPECT_NE(world.TrainingBits(), before);
    EXPECT_EQ(world.Metric("fault/skipped_steps"), 0);
    EXPECT_EQ(world.state.skipped_in_row, 0);
    EXPECT_EQ(world.state.data_position, 4);
  }
};

TEST_F(NotFiniteTest, NothingIsSkippedWhereAllIsFinite) {
  StageWorld world(OneIs({.reward = 7}));
  const std::string before = world.TrainingBits();
  ASSERT_TRUE(world.Step().ok());
  EXPECT_NE(world.TrainingBits(), before);
  EXPECT_EQ(world.Metric("fault/skipped_steps"), 0);
}

TEST_F(NotFiniteTest, ARewardSkipsTheStepAndIsRecordedAsNone) {
  for (const double reward : {kNan, kInfinity, -kInfinity}) {
    StageWorld world(OneIs({.reward = reward}));
    ASSERT_NO_FATAL_FAILURE(
        ExpectSkipped(world, absl::StrCat("the rewards of 1 of 8 completions, the first: group 1 sample 2 (addition:1), reward ", reward)));
  }
  StageWorld world(OneIs({.reward = kNan}));
  ASSERT_TRUE(world.Step().ok());
  EXPECT_EQ(world.Metric("fault/samples_without_reward"), 1);
  EXPECT_DOUBLE_EQ(world.Metric("reward/mean"), 4.0 / 7);
  EXPECT_TRUE(std::isnan(world.Metric("loss")));
  EXPECT_EQ(world.Metric("policy/entropy"), -1) << "no trainer's pass was made, and a 0 would be a lie";
  ASSERT_EQ(world.result.completions.size(), 8u);
  EXPECT_THAT(world.result.completions[6], HasSubstr("\"reward\":null"));
  EXPECT_EQ(world.result.tokens, 0);
}

TEST_F(NotFiniteTest, LogitsOfTheSamplerSkipTheStepAndNothingIsScored) {
  StageWorld world(OneIs({.broken = true}));
  ASSERT_NO_FATAL_FAILURE(
      ExpectSkipped(world, "the logits of 1 of 8 completions, the first: group 1 sample 2 (addition:1), token 2 of the completion"));
  EXPECT_EQ(world.reward.calls, 1) << "the second step's";
  StageWorld alone(OneIs({.broken = true}));
  ASSERT_TRUE(alone.Step().ok());
  EXPECT_EQ(alone.result.completions.size(), 0u);
  EXPECT_EQ(alone.result.digest_input, "");
  EXPECT_EQ(alone.result.tokens, 0);
  EXPECT_EQ(alone.Metric("reward/mean"), -1);
}

TEST_F(NotFiniteTest, AnAdvantageSkipsTheStep) {
  StageWorld far_apart([](uint64_t group, uint32_t sample) {
    return Scripted{.reward = group == 1 ? (sample % 2 ? 1e200 : -1e200) : static_cast<double>(sample % 2)};
  });
  ASSERT_NO_FATAL_FAILURE(ExpectSkipped(far_apart, "the advantage of group 1 sample 0 (addition:1), nan"));
}

TEST_F(NotFiniteTest, LogitsLossAndGradientOfTheTrainerSkipTheStep) {
  const std::pair<const char*, const char*> cases[] = {
      {"trainer.logits:1:nan", "the trainer's logits: group 0 sample 0, token 0 of the completion"},
      {"trainer.loss:1:nan", "the loss"},
      {"trainer.gradient:1:nan", "the gradient of lm_head.weight"},
  };
  for (const char* loss : {"ppo_clip", "gspo", "cispo"}) {
    for (const auto& [where, reason] : cases) {
      StageWorld world(Alternating, {absl::StrCat("stages[rl].grpo.policy_loss=", loss)});
      ASSERT_TRUE(failpoint::Arm(where).ok());
      ASSERT_NO_FATAL_FAILURE(ExpectSkipped(world, reason)) << loss;
    }
  }
}

TEST_F(NotFiniteTest, WeightsThatAreNotNumbersAreNoMismatchWithTheSampler) {
  StageWorld world(Alternating, {"exact_on_policy=true"});
  const int index = world.loaded.model->FindTensor("model.norm.weight");
  world.loaded.model->tensors()[static_cast<size_t>(index)].value.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  world.loaded.model->WeightsChanged(world.stream);
  const std::string before = world.TrainingBits();
  for (int step = 0; step < 2; ++step) ASSERT_TRUE(world.Step().ok());
  EXPECT_EQ(world.TrainingBits(), before);
  EXPECT_THAT(std::string(world.Step().message()), HasSubstr("the trainer's logits: group 4 sample 0"));
}

TEST_F(NotFiniteTest, ThreeStepsInARowEndTheRunWhateverWasNotFinite) {
  StageWorld world([](uint64_t group, uint32_t sample) {
    if (group < 2) return Scripted{.broken = true};
    return Scripted{.reward = group < 4 ? kNan : sample % 2};
  });
  const std::string before = world.TrainingBits();
  ASSERT_TRUE(world.Step().ok());
  ASSERT_TRUE(world.Step().ok());
  ASSERT_TRUE(failpoint::Arm("trainer.loss:1:nan").ok());
  const absl::Status third = world.Step();
  EXPECT_EQ(third.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(third.message()), HasSubstr("stage rl step 3: not finite: the loss; so ended 3 steps in a row"));
  EXPECT_EQ(world.TrainingBits(), before);
  EXPECT_EQ(world.state.step, 2) << "a failed step leaves the state";
  // With one finite step between them they are not in a row.
  StageWorld apart([](uint64_t group, uint32_t sample) { return Scripted{.reward = group / 2 % 2 ? kNan : sample % 2}; });
  for (int step = 0; step < 8; ++step) ASSERT_TRUE(apart.Step().ok()) << step;
}

TEST_F(NotFiniteTest, DynamicSamplingAsksForNoMoreAfterIt) {
  for (const Scripted& what : {Scripted{.reward = kNan}, Scripted{.broken = true}}) {
    const Script script = [&](uint64_t group, uint32_t sample) {
      return group == 2 && sample == 1 ? what : Scripted{.reward = group % 2 ? sample % 2 : 1};
    };
    StageWorld world(script, {"stages[rl].grpo.dynamic_sampling_max_batches=5"});
    const std::string before = world.TrainingBits();
    ASSERT_TRUE(world.Step().ok());
    EXPECT_THAT(world.rollout->serials, ElementsAre(0, 1, 2, 3));
    EXPECT_EQ(world.Metric("fault/skipped_steps"), 1);
    EXPECT_EQ(world.TrainingBits(), before);
  }
}

TEST_F(NotFiniteTest, OfSeveralUpdatesTheOneIsLeftOutAndNamed) {
  StageWorld world(Alternating, {"stages[rl].grpo.updates_per_batch=2"});
  ASSERT_TRUE(failpoint::Arm("trainer.loss:2:nan").ok());
  testing::internal::CaptureStderr();
  ASSERT_TRUE(world.Step().ok());
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("not finite: the loss, in update 2 of 2"));
  EXPECT_EQ(world.optimizer->steps_applied(), 1);
  EXPECT_EQ(world.Metric("fault/skipped_steps"), 1);
}

}  // namespace
}  // namespace grouper
