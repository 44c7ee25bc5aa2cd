#include "trainer/evaluate.h"

#include <limits>

#include "gmock/gmock.h"
#include "tests/trainer/stage_world.h"

namespace grouper {
namespace {

using ::testing::HasSubstr;

v1::Evaluation Config(int samples, int problems) {
  v1::Evaluation config;
  config.set_samples(samples);
  config.set_max_problems(problems);
  config.set_rule("correct");
  config.mutable_sampling()->set_temperature(1);
  config.mutable_sampling()->set_top_p(1);
  config.mutable_sampling()->set_max_new_tokens(8);
  return config;
}

EvaluationResult Evaluated(const Script& script, int samples, int problems) {
  StageWorld world(script);
  // The scripted service has one rule.
  world.recipe.mutable_reward()->clear_rules();
  world.recipe.mutable_reward()->add_rules()->set_name("correct");
  auto result = Evaluate(*world.context, world.data->eval_rows(), Config(samples, problems));
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

TEST(EvaluateTest, PassAtOneIsTheMeanShareAndPassAtKTheShareOfSolvedProblems) {
  // Right samples of four: 4, 1, 0.
  const EvaluationResult r = Evaluated(
      [](uint64_t problem, uint32_t sample) {
        return Scripted{.reward = problem == 0 || (problem == 1 && sample == 2) ? 1 : 0};
      },
      4, 3);
  EXPECT_EQ(r.problems, 3);
  EXPECT_DOUBLE_EQ(r.accuracy, (1 + 0.25 + 0) / 3);
  // Over k = n samples the unbiased estimator 1 - C(n - c, k) / C(n, k) is 1 for any c > 0, else 0.
  EXPECT_DOUBLE_EQ(r.pass_at_k, 2.0 / 3);
}

TEST(EvaluateTest, TheMajorityIsTheMostFrequentAnswerAndTheFirstOfEquals) {
  const std::vector<std::vector<std::string>> answers = {{"7", "8", "7", "9"}, {"8", "8", "7", "7"}, {"7", "7", "8", "8"}};
  const EvaluationResult r = Evaluated(
      [&](uint64_t problem, uint32_t sample) {
        const std::string& answer = answers[problem][sample];
        return Scripted{.reward = answer == "7" ? 1 : 0, .extracted = answer};
      },
      4, 3);
  EXPECT_DOUBLE_EQ(r.majority, 2.0 / 3);
  EXPECT_DOUBLE_EQ(r.pass_at_k, 1);
}

TEST(EvaluateTest, WhatCouldNotBeScoredLeavesTheStatistics) {
  const EvaluationResult r = Evaluated(
      [](uint64_t problem, uint32_t sample) {
        if (problem == 0) return Scripted{};
        return sample < 2 ? Scripted{} : Scripted{.reward = sample == 2 ? 1 : 0};
      },
      4, 2);
  EXPECT_EQ(r.problems, 1);
  EXPECT_EQ(r.unscored, 1);
  EXPECT_DOUBLE_EQ(r.accuracy, 0.5) << "one right of the two that were scored";
}

TEST(EvaluateTest, ScoresBelowOneAreNotRight) {
  EXPECT_EQ(Evaluated([](uint64_t, uint32_t) { return Scripted{.reward = 0.999}; }, 1, 2).accuracy, 0);
  EXPECT_EQ(Evaluated([](uint64_t, uint32_t) { return Scripted{.reward = 1.5}; }, 1, 2).accuracy, 1);
}

TEST(EvaluateTest, WhatIsNotFiniteIsAnErrorThatNamesTheModel) {
  const std::pair<Scripted, const char*> cases[] = {
      {{.reward = 1}, ""},
      {{.broken = true}, "not finite: the logits of 1 of 4 completions, the first: group 1 sample 1"},
      {{.reward = std::numeric_limits<double>::quiet_NaN()}, "not finite: the rewards of 1 of 4 completions, the first: group 1 sample 1"},
  };
  for (const auto& [what, expected] : cases) {
    StageWorld world([&](uint64_t problem, uint32_t sample) { return problem == 1 && sample == 1 ? what : Scripted{.reward = 1}; });
    world.recipe.mutable_reward()->clear_rules();
    world.recipe.mutable_reward()->add_rules()->set_name("correct");
    const auto result = Evaluate(*world.context, world.data->eval_rows(), Config(2, 2));
    EXPECT_EQ(result.ok(), *expected == 0) << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(expected));
    if (result.ok()) continue;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("evaluation of model " + world.recipe.model().config()));
  }
}

TEST(EvaluateTest, EvaluationNoiseIsNotTrainingNoise) {
  StageWorld world([](uint64_t, uint32_t) { return Scripted{.reward = 1}; });
  ASSERT_TRUE(SampleAndScore(*world.context, {}, 1, world.recipe.stages(1).grpo().sampling(), 1, false).ok()) << "an empty batch is fine";
}

TEST(CheckEvaluationTest, WhatWouldFailAfterHoursIsSaidAtTheStart) {
  StageWorld world([](uint64_t, uint32_t) { return Scripted{.reward = 1}; });
  auto message = [&](const std::vector<DataRow>& rows, const v1::Evaluation& config, bool scorable = true) {
    return std::string(CheckEvaluation(*world.context, rows, config, [&](const json::Json&) {
                         return scorable ? absl::OkStatus() : absl::InvalidArgumentError("no gold");
                       }).message());
  };
  const std::vector<DataRow> good = world.data->eval_rows();
  EXPECT_EQ(message(good, Config(1, 0)), "");
  std::vector<DataRow> bad = good;
  bad.push_back({json::Json{{"answer", "2"}}, "held_out.jsonl:9"});
  EXPECT_THAT(message(bad, Config(1, 0)), HasSubstr("held_out.jsonl:9"));
  EXPECT_EQ(message(bad, Config(1, 3)), "") << "only the rows that will be taken";
  EXPECT_THAT(message(good, Config(1, 0), false), HasSubstr("no held-out row can be scored"));
  v1::Evaluation config = Config(1, 0);
  config.set_rule("nope");
  EXPECT_THAT(message(good, config), HasSubstr("nope"));
  config = Config(1, 0);
  config.mutable_sampling()->add_stop_tokens("<nope>");
  EXPECT_THAT(message(good, config), HasSubstr("<nope>"));
}

TEST(DecidingRuleTest, IsTheNamedOneOrTheHeaviestAndTheLastOfEquals) {
  v1::Reward reward;
  for (const auto& [name, weight] : {std::pair{"a", 1.0}, {"b", 2.0}, {"c", 2.0}, {"d", 0.5}}) {
    v1::Rule* rule = reward.add_rules();
    rule->set_name(name);
    rule->set_weight(weight);
  }
  EXPECT_EQ(*DecidingRule(reward, ""), 2);
  EXPECT_EQ(*DecidingRule(reward, "d"), 3);
  EXPECT_FALSE(DecidingRule(reward, "e").ok());
  EXPECT_FALSE(DecidingRule({}, "").ok());
}

}  // namespace
}  // namespace grouper
