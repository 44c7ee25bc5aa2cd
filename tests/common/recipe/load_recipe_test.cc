#include "common/recipe/load_recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_replace.h"
#include "common/base/file.h"

namespace grouper {
namespace {

using ::testing::HasSubstr;

constexpr char kGood[] = R"(
model { config: "config.json" }
stages {
  name: "rl" steps: 3
  data { generator { addition {} } }
  optimizer { lr: 1e-3 }
  grpo {}
}
reward { rules { name: "format" format {} } }
)";

std::string Write(const std::string& text) {
  const std::string directory = JoinPath(::testing::TempDir(), "recipe_test_" + std::to_string(getpid()));
  EXPECT_TRUE(DefaultFileSystem().CreateDirectories(directory).ok());
  const std::string path = directory + "/r.textproto";
  std::ofstream(path) << text;
  return path;
}

TEST(LoadRecipeTest, FillsDefaultsAndMakesPathsAbsolute) {
  const std::string path = Write(kGood);
  auto recipe = LoadRecipe(path, {});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->name(), "r");
  EXPECT_EQ(recipe->model().config(), Dirname(path) + "/config.json");
  EXPECT_EQ(recipe->stages(0).grpo().group_size(), 8);
  EXPECT_EQ(recipe->stages(0).grpo().clip_high(), 0.2);
  EXPECT_EQ(recipe->stages(0).optimizer().max_grad_norm(), 1);
  EXPECT_TRUE(recipe->exact_on_policy());
}

TEST(LoadRecipeTest, OverridesWinAndTheirPathsAreRelativeToTheCurrentFolder) {
  auto recipe = LoadRecipe(Write(kGood), {"model.config=other.json", "stages[rl].steps=9"});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  char here[4096];
  ASSERT_NE(getcwd(here, sizeof here), nullptr);
  EXPECT_EQ(recipe->model().config(), std::string(here) + "/other.json");
  EXPECT_EQ(recipe->stages(0).steps(), 9);
}

TEST(LoadRecipeTest, AFileHasOneSpellingButForALinkBeforeDots) {
  const std::string path = Write(kGood), folder = Dirname(path);
  for (const std::string& spelling : {folder + "/./r.textproto", folder + "/../" + Basename(folder) + "//r.textproto"}) {
    auto recipe = LoadRecipe(spelling, {});
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    EXPECT_EQ(recipe->model().config(), folder + "/config.json");
  }
  std::filesystem::create_directories(folder + "/elsewhere/below");
  std::filesystem::remove(folder + "/link");
  std::filesystem::create_directory_symlink(folder + "/elsewhere/below", folder + "/link");
  const struct {
    std::string given, expected;
  } cases[] = {
      {"/link/config.json", "/link/config.json"},
      {"/link/../config.json", "/link/../config.json"},  // elsewhere/config.json
      {"/elsewhere/../link/./config.json", "/link/config.json"},
      {"/absent/../config.json", "/config.json"},
  };
  for (const auto& c : cases) {
    auto recipe = LoadRecipe(path, {"model.config=" + folder + c.given});
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    EXPECT_EQ(recipe->model().config(), folder + c.expected);
  }
}

TEST(LoadRecipeTest, ErrorsNameLineAndColumn) {
  const struct {
    const char* text;
    const char* expected;
  } cases[] = {
      {"seed: 1\nsteps: 5\n", "r.textproto:2:6: Message type \"grouper.v1.Recipe\" has no field named \"steps\""},
      {"seed: \"x\"\n", "r.textproto:1:7"},
      {"stages {\n  name: \"a\"\n", "r.textproto:3:"},
      {"seed: 1 seed: 2\n", "specified multiple times"},
      {"stages {\n  steps: 99999999999 }", "r.textproto:2:10: stages[0].steps: Integer out of range"},
      // Values that are well-formed and wrong.
      {"model { config: 'c' }\nstages {\n  name: 'rl'\n  steps: -3 sft {}\n}", "r.textproto:4:3: stages[rl].steps: -3, expected 0..1073741824"},
      {"model { config: 'c' }\nstages { sft {} }\n", "r.textproto:2:1: stages[0].data: expected train"},
      {"model { config: 'c' dtype: 'int8' }\n", "r.textproto:1:21: model.dtype: \"int8\""},
      {"model { config: 'c' }\n", "r.textproto: stages: expected at least one stage"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(LoadRecipe(Write(c.text), {}).status().message(), HasSubstr(c.expected)) << c.text;
  }
}

TEST(LoadRecipeTest, StringsAreUtf8AndAByteOrderMarkIsSkipped) {
  const struct {
    const char* text;
    const char* expected;
  } cases[] = {
      {"name: \"a\"\nprompt { text: \"ab\xe9\" }", "r.textproto:2:10: prompt.text: byte 3 of the text is not UTF-8, expected UTF-8"},
      {"prompt { text: \"\\351\" }", "r.textproto:1:10: prompt.text: byte 1"},
      {"reward {\n rules { name: \"r\" }\n rules { name: \"\xc3\" } }", "r.textproto:3:10: reward.rules[1].name: byte 1"},
      {"stages { grpo { sampling { stop_strings: \"a\" stop_strings: \"\xff\" } } }", "r.textproto:1:46: stages[0].grpo.sampling.stop_strings[1]: byte 1"},
      {"stages { data { fields { key: \"a\" value: \"\xff\" } } }", "r.textproto:1:10: stages[0].data.fields[0].value: byte 1"},
      {"\xef\xbb\xbfseed: x", "r.textproto:1:7: seed: "},
  };
  for (const auto& c : cases) EXPECT_THAT(LoadRecipe(Write(c.text), {}).status().message(), HasSubstr(c.expected)) << c.text;
  EXPECT_TRUE(LoadRecipe(Write(std::string("\xef\xbb\xbf") + kGood), {}).ok());
}

TEST(LoadRecipeTest, DeepNestingIsAnErrorNotACrash) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "stages { data { generator {";
  EXPECT_FALSE(LoadRecipe(Write(text), {}).ok());
}

// The names of a service's rules are known when it answers.
TEST(LoadRecipeTest, ARewardServiceBringsItsOwnRules) {
  EXPECT_TRUE(LoadRecipe(Write(kGood), {"reward.address=127.0.0.1:1", "stages[rl].eval.rule=theirs"}).ok());
  v1::Recipe without = *LoadRecipe(Write(kGood), {"stages[rl].eval.rule="});
  EXPECT_TRUE(CheckRecipe(without).ok());
  without.mutable_reward()->clear_rules();
  EXPECT_THAT(std::string(CheckRecipe(without).message()), HasSubstr("reward.rules: none"));
  without.mutable_reward()->set_address("127.0.0.1:1");
  EXPECT_TRUE(CheckRecipe(without).ok());
}

TEST(LoadRecipeTest, RangesAreCheckedByFieldPath) {
  const struct {
    const char* override_text;
    const char* expected;
  } cases[] = {
      {"stages[rl].optimizer.lr=0", "--set stages[rl].optimizer.lr=0: stages[rl].optimizer.lr: 0, expected more than 0"},
      {"stages[rl].optimizer.lr=-1", "stages[rl].optimizer.lr"},
      {"stages[rl].optimizer.schedule=wave", "expected one of: constant, linear, cosine"},
      {"stages[rl].steps=0", "stages[rl].steps"},
      {"stages[rl].steps=-3", "stages[rl].steps"},
      {"stages[rl].grpo.sampling.temperature=0", "stages[rl].grpo.sampling.temperature: expected more than 0"},
      {"stages[rl].grpo.sampling.temperature=1e-40", "stages[rl].grpo.sampling.temperature: 1e-40, expected at least 1e-6"},
      {"stages[rl].grpo.sampling.temperature=1e-300", "stages[rl].grpo.sampling.temperature: 1e-300, expected at least 1e-6"},
      {"stages[rl].grpo.sampling.temperature=1e-400", "expected a number, got \"1e-400\""},
      {"stages[rl].eval.sampling.temperature=9e-7", "stages[rl].eval.sampling.temperature: 9e-07, expected 0 (greedy) or at least 1e-6"},
      {"stages[rl].sft.batch_size=3", "field sft is asked for, but field grpo is set"},
      {"stages[rl].grpo.sampling.top_p=1.5", "top_p"},
      {"stages[rl].grpo.advantage_std=mean", "advantage_std"},
      {"stages[rl].grpo.clip_low=-0.1", "clip_low"},
      {"stages[rl].grpo.updates_per_batch=100", "updates_per_batch"},
      {"stages[rl].eval.rule=nope", "no rule named \"nope\""},
      {"model.dtype=int8", "model.dtype"},
      {"model.path=x", "expected one of: path (a model), config (random weights)"},
      {"prompt.template=custom", "prompt.text"},
      {"threads=-1", "threads"},
      {"stages[rl].data.too_long=cut", "too_long"},
      {"stages[rl].evaluate.x=1", "field evaluate is asked for, but field grpo is set"},
      {"rollout.addresses=node:1,127.0.0.1", "rollout.addresses[1]: \"127.0.0.1\", expected HOST:PORT with a port of 1..65535"},
      {"reward.address=127.0.0.1:99999", "reward.address: \"127.0.0.1:99999\", expected HOST:PORT"},
      {"logging.trainer_address=127.0.0.1:", "logging.trainer_address: \"127.0.0.1:\", expected HOST:PORT with a port of 0..65535"},
  };
  for (const auto& c : cases) {
    const auto recipe = LoadRecipe(Write(kGood), {c.override_text});
    EXPECT_FALSE(recipe.ok()) << c.override_text;
    EXPECT_THAT(recipe.status().message(), HasSubstr(c.expected)) << c.override_text;
  }
}

TEST(LoadRecipeTest, TheLeastTemperatureIsTaken) {
  for (const char* given : {"stages[rl].grpo.sampling.temperature=1e-6", "stages[rl].eval.sampling.temperature=0"}) {
    EXPECT_TRUE(LoadRecipe(Write(kGood), {given}).ok()) << LoadRecipe(Write(kGood), {given}).status();
  }
}

TEST(LoadRecipeTest, NamesAreShortAndPrintable) {
  const std::string long_name(201, 'n'), longest_name(200, 'n');
  const struct {
    std::string override_text;
    const char* expected;
  } cases[] = {
      {"name=a\nb", "--set name=a\\nb: name: \"a\\nb\", expected a name without control characters"},
      {std::string("name=a\0b", 8), "name: \"a\\x00b\", expected a name without control characters"},
      {"name=" + long_name, "name: a name of 201 bytes, expected at most 200"},
      {"stages[rl].name=\x1b[31m", "stages[0].name: \"\\x1b[31m\", expected a name without control characters"},
      {"stages[rl].name=" + long_name, "stages[0].name: a name of 201 bytes, expected at most 200"},
      {"stages[rl].name=", "--set stages[rl].name=: expected a name, got an empty one"},
      {"stages[rl].data.fields[]=x", "expected fields[KEY]"},
  };
  for (const auto& c : cases) EXPECT_THAT(LoadRecipe(Write(kGood), {c.override_text}).status().message(), HasSubstr(c.expected)) << c.override_text;
  EXPECT_TRUE(LoadRecipe(Write(kGood), {"name=" + longest_name}).ok());
  EXPECT_TRUE(LoadRecipe(Write(kGood), {"name=東京 1"}).ok());
  EXPECT_THAT(LoadRecipe(Write("name: 'a\\nb'\n" + std::string(kGood)), {}).status().message(), HasSubstr("r.textproto:1:1: name: \"a\\nb\", expected"));
}

TEST(LoadRecipeTest, AnEmptyColumnNameIsRefused) {
  const auto with = [&](const std::string& key, const std::string& value) {
    std::string text = kGood;
    const std::string old = "data { generator { addition {} } }";
    text.replace(text.find(old), old.size(), "data { train: 'rows.jsonl' fields { key: '" + key + "' value: '" + value + "' } }");
    return std::string(LoadRecipe(Write(text), {}).status().message());
  };
  EXPECT_EQ(with("answer", "solution"), "");
  EXPECT_THAT(with("", "solution"), HasSubstr("stages[rl].data.fields: an empty key, expected our name for the column"));
  EXPECT_THAT(with("answer", ""), HasSubstr("stages[rl].data.fields[answer]: empty, expected the file's column"));
}

TEST(LoadRecipeTest, MissingFileIsNamed) {
  EXPECT_THAT(LoadRecipe("/nonexistent.textproto", {}).status().message(), HasSubstr("/nonexistent.textproto"));
}

TEST(RecipeDifferenceTest, SpeedFieldsMayDifferAndResultFieldsShow) {
  auto a = LoadRecipe(Write(kGood), {});
  auto b = LoadRecipe(Write(kGood), {"threads=2", "rollout.addresses=localhost:5", "stages[rl].optimizer.micro_batch_tokens=7"});
  auto c = LoadRecipe(Write(kGood), {"seed=5", "stages[rl].optimizer.lr=0.5"});
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_EQ(RecipeDifference(*a, *b), "");
  const std::string difference = RecipeDifference(*a, *c);
  EXPECT_THAT(difference, HasSubstr("+seed: 5\n"));
  EXPECT_THAT(difference, HasSubstr("-    lr: 0.001\n"));
  EXPECT_THAT(difference, HasSubstr("+    lr: 0.5\n"));
}

TEST(RecipeDifferenceTest, WhatACheckpointKnowsMayLieElsewhereAndAProgramMayNot) {
  const std::vector<std::string> files = {"model.config=a/config.json", "model.tokenizer=a/tokenizer.json", "stages[rl].data.train=a/rows.jsonl",
                                          "stages[rl].data.eval=a/held.jsonl", "reward.rules[1].code.checker=a/checker.py"};
  const std::string path = Write(absl::StrReplaceAll(kGood, {{"format {} }", "format {} } rules { code {} }"}}));
  const auto load = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = files;
    all.insert(all.end(), more.begin(), more.end());
    auto recipe = LoadRecipe(path, all);
    EXPECT_TRUE(recipe.ok()) << recipe.status();
    return *recipe;
  };
  EXPECT_EQ(RecipeDifference(load({}), load({"model.config=b/c.json", "model.tokenizer=b/t.json", "stages[rl].data.train=b/r.jsonl",
                                             "stages[rl].data.eval=b/h.jsonl"})),
            "");
  EXPECT_THAT(RecipeDifference(load({}), load({"stages[rl].data.eval="})), HasSubstr("a/held.jsonl"));
  EXPECT_THAT(RecipeDifference(load({}), load({"reward.rules[1].code.checker=b/checker.py"})), HasSubstr("b/checker.py"));
}

TEST(RecipesTest, EveryRecipeInTheTreeLoads) {
  auto& fs = DefaultFileSystem();
  const std::string folder = std::string(GROUPER_SOURCE_DIR) + "/recipes";
  auto names = fs.ListDirectory(folder);
  ASSERT_TRUE(names.ok());
  int loaded = 0;
  for (const std::string& name : *names) {
    if (name.size() < 10 || name.substr(name.size() - 10) != ".textproto") continue;
    EXPECT_TRUE(LoadRecipe(folder + "/" + name, {}).ok()) << LoadRecipe(folder + "/" + name, {}).status();
    ++loaded;
  }
  EXPECT_GE(loaded, 4);
}

}  // namespace
}  // namespace grouper
