#include "common/recipe/text_locations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/recipe/load_recipe.h"

namespace grouper {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kText[] =
    "name: \"a\"\n"
    "stages { name: \"sft\" sft {} }\n"
    "stages {\n"
    "  name: \"rl\"\n"
    "  optimizer { lr: 1 }\n"
    "  grpo { sampling { stop_strings: \"x\" stop_strings: \"y\" } }\n"
    "}\n"
    "reward { rules { name: \"r\" regex {} } }\n";

class TextLocationsTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(ParseTextProto(kText, "f", &recipe_, &locations_).ok()); }
  v1::Recipe recipe_;
  TextLocations locations_;
};

TEST_F(TextLocationsTest, AFieldIsFoundByNameOrIndexAndWhatIsAbsentByTheMessageAroundIt) {
  const struct {
    const char* path;
    const char* place;
    int depth;
  } cases[] = {
      {"stages[rl].optimizer.lr", "f:5:15", 3},
      {"stages[1].optimizer.lr", "f:5:15", 3},
      {"stages[rl].optimizer.beta1", "f:5:3", 3},
      {"stages[rl].eval.every", "f:3:1", 3},
      {"stages[sft].type", "f:2:1", 1},
      {"stages[none].steps", "f:2:1", 1},
      {"stages[rl].grpo.sampling.stop_strings[1]", "f:6:39", 4},
      {"reward.rules[r].regex.pattern", "f:8:28", 4},
      {"rollout.cache_pages", "f", 2},
      {"nothing", "f", 0},
      {"named", "f", 0},
      {"", "f", 0},
  };
  for (const auto& c : cases) {
    int depth = -1;
    EXPECT_EQ(locations_.Find(recipe_, c.path, &depth), c.place) << c.path;
    EXPECT_EQ(depth, c.depth) << c.path;
  }
}

TEST_F(TextLocationsTest, AnOverrideIsTheOriginOfWhatItSet) {
  locations_.AddOverride("stages[1].optimizer.lr=-1");
  EXPECT_EQ(locations_.Find(recipe_, "stages[rl].optimizer.lr"), "--set stages[1].optimizer.lr=-1");
  EXPECT_EQ(locations_.Find(recipe_, "stages[rl].optimizer"), "f:5:3");
  locations_.AddOverride("stages[rl].grpo.sampling.stop_strings=a,b");
  EXPECT_EQ(locations_.Find(recipe_, "stages[1].grpo.sampling.stop_strings[1]"), "--set stages[rl].grpo.sampling.stop_strings=a,b");
  EXPECT_EQ(locations_.Find(recipe_, "stages[1].grpo.sampling"), "f:6:10");
}

TEST_F(TextLocationsTest, ErrorsThatBeginWithAPathGetItsPlace) {
  const auto located = [&](const char* message) { return std::string(locations_.Locate(recipe_, absl::InvalidArgumentError(message)).message()); };
  EXPECT_EQ(located("stages[rl]: optimizer.lr: bad"), "f:5:15: stages[rl]: optimizer.lr: bad");
  EXPECT_EQ(located("reward.rules[0].regex.pattern: bad"), "f:8:28: reward.rules[0].regex.pattern: bad");
  // A file's error keeps the file in front.
  EXPECT_EQ(located("stages[rl]: /rows.jsonl:2: bad"), "stages[rl]: /rows.jsonl:2: bad");
  EXPECT_EQ(located("cannot listen"), "cannot listen");
  EXPECT_TRUE(locations_.Locate(recipe_, absl::OkStatus()).ok());
  EXPECT_TRUE(absl::IsNotFound(locations_.Locate(recipe_, absl::NotFoundError("stages[rl].data.train: bad"))));
}

TEST(FieldPathAtTest, NamesTheFieldWhoseValueIsWrong) {
  const struct {
    const char* text;
    const char* expected;
  } cases[] = {
      {"seed: x", ":1:7: seed: "},
      {"stages {}\nstages { steps: \"}\" }", ":2:17: stages[1].steps: "},
      {"# a { comment\nreward { rules { weight: 'x' } }", ":2:26: reward.rules[0].weight: "},
      {"\tseed: x", ":1:15: seed: "},
      {"model { nope: 1 }", ":1:13: model: "},
      {"name: \"a \\\" { b\" seed: x", ":1:24: seed: "},
      {"nope: 1", ":1:5: Message type"},
  };
  for (const auto& c : cases) {
    v1::Recipe recipe;
    const absl::Status status = ParseTextProto(c.text, "f", &recipe);
    EXPECT_FALSE(status.ok()) << c.text;
    EXPECT_THAT(std::string(status.message()), StartsWith(std::string("f") + c.expected)) << c.text;
  }
}

TEST(FieldPathAtTest, AnyTextIsRead) {
  for (const char* text : {"", "{", "}}}", "\"", "a:", "'\\", "<<<", ":::", "a{b{c{"}) {
    EXPECT_LE(FieldPathAt(text, 1000, 1000, v1::Recipe::descriptor()).size(), 10u) << text;
  }
}

}  // namespace
}  // namespace grouper
