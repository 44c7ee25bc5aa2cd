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

TEST(EvaluateTest, NothingScoredIsAnErrorAndNoAccuracy) {
  StageWorld world([](uint64_t, uint32_t) { return Scripted{}; });
  const auto result = Evaluate(*world.context, world.data->eval_rows(), Config(1, 2));
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("no held-out problem could be scored by rule correct; no completion has a reward: rule correct failed on 2 of 2"));
}

TEST(EvaluateTest, WithoutANameTheRuleOfMostWeightThatCanSayRightDecides) {
  v1::Reward reward;
  const auto add = [&](const std::string& name, double weight) {
    v1::Rule* rule = reward.add_rules();
    rule->set_name(name);
    rule->set_weight(weight);
    return rule;
  };
  add("correct", 1)->mutable_exact();
  add("overlong", 1)->mutable_overlong();
  add("repeats", 2)->mutable_repetition();
  EXPECT_EQ(*DecidingRule(reward, ""), "correct");
  add("numeric", 1)->mutable_numeric();
  EXPECT_EQ(*DecidingRule(reward, ""), "numeric") << "the last of equals";
  EXPECT_EQ(*DecidingRule(reward, "repeats"), "repeats") << "who names it, means it";
  v1::Reward shaping;
  shaping.add_rules()->mutable_overlong();
  EXPECT_THAT(std::string(DecidingRule(shaping, "").status().message()), HasSubstr("never score 1"));
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
    const auto result = Evaluate(*world.context, world.data->eval_rows(), Config(2, 2));
    EXPECT_EQ(result.ok(), *expected == 0) << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(expected));
    if (result.ok()) continue;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("evaluation of model " + world.recipe.model().config()));
  }
}

TEST(EvaluateTest, EvaluationNoiseIsNotTrainingNoise) {
  StageWorld world([](uint64_t, uint32_t) { return Scripted{.reward = 1}; });
  ASSERT_TRUE(SampleAndScore(*world.context, {}, 1, world.recipe.stages(1).grpo().sampling(), 1, false, AtStop::kFinish).ok()) << "an empty batch is fine";
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

// The recipe has low_pair, plus and correct; what scores is the service.
TEST(EvaluateTest, TheDecidingRuleIsFoundByItsNameAmongTheServicesRules) {
  StageWorld world([](uint64_t problem, uint32_t) { return Scripted{.reward = problem == 0 ? 1 : 0}; });
  world.recipe.mutable_reward()->set_address("rewards:1");
  auto evaluate = [&](const std::vector<std::string>& rule_names, const std::string& rule) {
    world.reward.rule_names = rule_names;
    v1::Evaluation config = Config(1, 2);
    config.set_rule(rule);
    return Evaluate(*world.context, world.data->eval_rows(), config);
  };
  for (const std::vector<std::string>& names : {std::vector<std::string>{"correct"}, {"format", "correct"}, {"a", "b", "c", "correct"}}) {
    const auto result = evaluate(names, "correct");
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_DOUBLE_EQ(result->accuracy, 0.5);
    EXPECT_EQ(result->rule, static_cast<int>(names.size()) - 1);
    EXPECT_TRUE(evaluate(names, "").ok()) << "the recipe's heaviest";
  }
  EXPECT_DOUBLE_EQ(evaluate({"short"}, "short")->accuracy, 0.5) << "a rule that only the service has";
  for (const char* rule : {"correct", ""}) {
    const absl::Status missing = evaluate({"long", "short"}, rule).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(missing)) << missing;
    EXPECT_THAT(std::string(missing.message()), testing::AllOf(HasSubstr("\"correct\""), HasSubstr("rewards:1"), HasSubstr("\"long\", \"short\""), HasSubstr("eval.rule")));
  }
  world.recipe.mutable_reward()->clear_rules();
  EXPECT_DOUBLE_EQ(evaluate({"long", "short"}, "")->accuracy, 0.5) << "the service's heaviest";
}

TEST(DecidingRuleTest, IsTheNamedOneOrTheHeaviestAndTheLastOfEquals) {
  v1::Reward reward;
  for (const auto& [name, weight] : {std::pair{"a", 1.0}, {"b", 2.0}, {"c", 2.0}, {"d", 0.5}}) {
    v1::Rule* rule = reward.add_rules();
    rule->set_name(name);
    rule->set_weight(weight);
  }
  EXPECT_EQ(*DecidingRule(reward, ""), "c");
  EXPECT_EQ(*DecidingRule(reward, "d"), "d");
  EXPECT_FALSE(DecidingRule(reward, "e").ok());
  EXPECT_FALSE(DecidingRule({}, "").ok());
  reward.add_rules()->mutable_math();
  EXPECT_EQ(*DecidingRule(reward, "math"), "math") << "a rule without a name has its kind's";
  reward.set_address("rewards:1");
  EXPECT_EQ(*DecidingRule(reward, ""), "c");
  EXPECT_EQ(*DecidingRule(reward, "e"), "e") << "the service may have it";
  reward.clear_rules();
  EXPECT_EQ(*DecidingRule(reward, ""), "");
  EXPECT_EQ(*FindDecidingRule(reward, "", {"a", "b", "c", "d"}, {1, 2, 2, 0.5}), 2);
  EXPECT_EQ(*FindDecidingRule(reward, "d", {"a", "b", "c", "d"}, {1, 2, 2, 0.5}), 3);
}

}  // namespace
}  // namespace grouper
