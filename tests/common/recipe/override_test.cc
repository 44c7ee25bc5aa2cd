#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/recipe/load_recipe.h"
#include "google/protobuf/text_format.h"

namespace grouper {
namespace {

v1::Recipe Base() {
  v1::Recipe recipe;
  const absl::Status status = ParseTextProto(R"(
    seed: 1
    stages { name: "sft" steps: 10 sft { batch_size: 4 } }
    stages { name: "rl" steps: 20 grpo { group_size: 8 } }
    reward { rules { name: "format" weight: 0.1 format {} } })",
                                             "base", &recipe);
  EXPECT_TRUE(status.ok()) << status;
  return recipe;
}

TEST(OverrideTest, SetsFieldsOfEveryKind) {
  const struct {
    const char* text;
    const char* expected;  // part of the canonical text afterwards
  } cases[] = {
      {"seed=7", "seed: 7"},
      {"threads=2", "threads: 2"},
      {"stages[rl].steps=5", "name: \"rl\"\n  steps: 5"},
      {"stages[1].steps=6", "name: \"rl\"\n  steps: 6"},
      {"stages[rl].data.train=/x/y.jsonl", "train: \"/x/y.jsonl\""},
      {"stages[sft].optimizer.lr=3e-4", "lr: 0.0003"},
      {"stages[rl].grpo.sampling.temperature=0.7", "temperature: 0.7"},
      {"stages[rl].grpo.sampling.stop_strings=a,b", "stop_strings: \"a\"\n      stop_strings: \"b\""},
      {"rollout.addresses=localhost:1,localhost:2", "addresses: \"localhost:1\"\n  addresses: \"localhost:2\""},
      {"reward.rules[format].weight=0.5", "weight: 0.5"},
      {"reward.rules[0].format.nonempty=true", "nonempty: true"},
      {"exact_on_policy=false", "exact_on_policy: false"},
      {"stages[rl].data.fields[answer]=final", "key: \"answer\"\n      value: \"final\""},
      {"model.path=a=b", "path: \"a=b\""},
  };
  for (const auto& c : cases) {
    v1::Recipe recipe = Base();
    const absl::Status status = ApplyOverride(c.text, &recipe);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_THAT(RecipeText(recipe), ::testing::HasSubstr(c.expected)) << c.text;
  }
}

TEST(OverrideTest, TextIsUtf8) {
  v1::Recipe recipe = Base();
  EXPECT_EQ(ApplyOverride("stages[rl].grpo.sampling.stop_strings=\xe9", &recipe).message(),
            "--set stages[rl].grpo.sampling.stop_strings=\\xe9: byte 39 is not UTF-8, expected UTF-8");
  EXPECT_TRUE(ApplyOverride("stages[rl].grpo.sampling.stop_strings=\xc3\xa9", &recipe).ok());
}

TEST(OverrideTest, EmptyValueClearsARepeatedField) {
  v1::Recipe recipe = Base();
  ASSERT_TRUE(ApplyOverride("rollout.addresses=localhost:1", &recipe).ok());
  ASSERT_TRUE(ApplyOverride("rollout.addresses=", &recipe).ok());
  EXPECT_EQ(recipe.rollout().addresses_size(), 0);
}

TEST(OverrideTest, AnotherAlternativeOfAOneofIsRefusedAndNothingIsLost) {
  v1::Recipe recipe = Base();
  recipe.mutable_stages(0)->mutable_data()->mutable_generator()->mutable_addition()->set_digits(3);
  const std::string before = RecipeText(recipe);
  const struct {
    const char* text;
    const char* expected;
  } cases[] = {
      {"stages[rl].sft.batch_size=3", "field sft is asked for, but field grpo is set, and a Stage has only one type"},
      {"stages[sft].grpo.group_size=4", "field grpo is asked for, but field sft is set"},
      {"stages[sft].grpo.sampling.temperature=1", "field grpo is asked for, but field sft is set"},
      {"reward.rules[format].regex.pattern=x", "field regex is asked for, but field format is set, and a Rule has only one kind"},
      {"stages[sft].data.generator.countdown.max_number=9", "field countdown is asked for, but field addition is set, and a Generator has only one task"},
  };
  for (const auto& c : cases) {
    const std::string message(ApplyOverride(c.text, &recipe).message());
    EXPECT_EQ(message.rfind(std::string("--set ") + c.text + ": " + c.expected, 0), 0u) << message;
    EXPECT_EQ(RecipeText(recipe), before) << c.text;
  }
}

TEST(OverrideTest, AnAlternativeIsSetWhereThereIsNoneYet) {
  v1::Recipe recipe;
  recipe.add_stages()->set_name("rl");
  ASSERT_TRUE(ApplyOverride("stages[rl].grpo.group_size=4", &recipe).ok());
  EXPECT_EQ(recipe.stages(0).grpo().group_size(), 4);
  EXPECT_FALSE(ApplyOverride("stages[rl].sft.batch_size=3", &recipe).ok());
  ASSERT_TRUE(ApplyOverride("stages[rl].grpo.kl_coef=0.5", &recipe).ok());
  EXPECT_EQ(recipe.stages(0).grpo().group_size(), 4);
  // Fields that are optional in the text are no alternatives of each other.
  ASSERT_TRUE(ApplyOverride("stages[rl].grpo.clip_low=0.1", &recipe).ok());
  ASSERT_TRUE(ApplyOverride("stages[rl].grpo.clip_high=0.2", &recipe).ok());
  EXPECT_EQ(recipe.stages(0).grpo().clip_low(), 0.1);
}

TEST(OverrideTest, MistakesAreNamed) {
  const struct {
    const char* text;
    const char* expected;
  } cases[] = {
      {"seed", "expected FIELD=VALUE"},
      {"sed=1", "no field \"sed\" in Recipe; it has: name, seed"},
      {"seed=-1", "expected an integer of at least 0, got \"-1\""},
      {"seed=abc", "got \"abc\""},
      {"stages.steps=5", "is a list: expected stages[NAME or INDEX]"},
      {"stages[nope].steps=5", "no \"nope\" in stages; expected an index below 2 or one of: sft, rl"},
      {"stages[7].steps=5", "no \"7\""},
      {"stages[rl.steps=5", "expected ']'"},
      {"stages[rl]=5", "cannot be indexed"},
      {"model=5", "is a message: set one of its fields: path, config"},
      {"model.path.x=5", "has no fields inside"},
      {"threads=99999999999", "expected an integer"},
      {"exact_on_policy=yes", "expected true or false"},
      {"stages[rl].optimizer.lr=nan", "expected a number"},
      {".seed=1", "expected a field name"},
      {"=1", "expected a field name"},
      {"stages[rl].name=", "expected a name, got an empty one"},
      {"name=", "expected a name, got an empty one"},
      {"stages[rl].data.fields[]=answer", "expected fields[KEY]"},
  };
  for (const auto& c : cases) {
    v1::Recipe recipe = Base();
    const absl::Status status = ApplyOverride(c.text, &recipe);
    EXPECT_FALSE(status.ok()) << c.text;
    EXPECT_THAT(status.message(), ::testing::HasSubstr(c.expected)) << c.text;
    EXPECT_THAT(status.message(), ::testing::HasSubstr(c.text));
  }
}

}  // namespace
}  // namespace grouper
