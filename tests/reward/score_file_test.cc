#include "reward/score_file.h"

#include <unistd.h>

#include <fstream>
#include <limits>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

class ScoreFileTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) {
    return absl::StrCat(testing::TempDir(), "/score_file_", getpid(), "_",
                        testing::UnitTest::GetInstance()->current_test_info()->name(), "_", name);
  }
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(Path(name), std::ios::binary) << text;
    return Path(name);
  }
  std::vector<std::string> Lines(const std::string& path) {
    std::ifstream in(path);
    std::stringstream text;
    text << in.rdbuf();
    return absl::StrSplit(text.str(), '\n', absl::SkipEmpty());
  }
  absl::StatusOr<ScoreSummary> Score(const std::string& rules, const std::string& input, ThreadPool* pool = nullptr) {
    auto set = LoadRuleSet(Write("rules.textproto", rules));
    if (!set.ok()) return set.status();
    return ScoreFile(**set, Write("in.jsonl", input), Path("out.jsonl"), pool);
  }
};

TEST_F(ScoreFileTest, AnIdComesBackAsItIs) {
  ASSERT_TRUE(Score("rules { exact { extraction { places: 'whole' } } }",
                    "{\"id\": 12345678901234567890123, \"completion\": \"4\", \"answer\": \"4\"}\n"
                    "{\"id\": [1.5, \"\\u00e9\"], \"completion\": \"4\", \"answer\": \"4\"}\n"
                    "{\"id\": null, \"completion\": \"4\", \"answer\": \"4\"}\n")
                  .ok());
  const std::vector<std::string> lines = Lines(Path("out.jsonl"));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(absl::StartsWith(lines[0], R"({"id":12345678901234567890123,"reward":1.0,)")) << lines[0];
  EXPECT_TRUE(absl::StartsWith(lines[1], "{\"id\":[1.5,\"\xc3\xa9\"],\"reward\":1.0,")) << lines[1];
  EXPECT_TRUE(absl::StartsWith(lines[2], R"({"id":3,"reward":1.0,)")) << lines[2];
}

TEST_F(ScoreFileTest, WritesOneLineACase) {
  const auto summary = Score("rules { exact { extraction { places: 'whole' } } }",
                             "{\"id\": \"a\", \"completion\": \"4\", \"answer\": \"4\"}\n\n"
                             "{\"response\": \"5\", \"gold\": 4}\r\n"
                             "{\"id\": 7, \"prediction\": \"5\"}");
  ASSERT_TRUE(summary.ok()) << summary.status();
  const std::vector<std::string> lines = Lines(Path("out.jsonl"));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0],
            R"({"id":"a","reward":1.0,"rules":{"exact":{"score":1.0,"status":"scored","reason":"","extracted":"4"}}})");
  EXPECT_EQ(
      lines[1],
      R"({"id":3,"reward":0.0,"rules":{"exact":{"score":0.0,"status":"scored","reason":"not the gold","extracted":"5"}}})");
  EXPECT_TRUE(
      absl::StartsWith(lines[2], R"({"id":7,"reward":null,"rules":{"exact":{"score":null,"status":"not_applicable")"))
      << lines[2];
  EXPECT_EQ(summary->lines, 3u);
  EXPECT_EQ(summary->rewarded, 2u);
  EXPECT_EQ(summary->rules[0].not_applicable, 1u);
}

TEST_F(ScoreFileTest, KeepsTheOrderOverManyLinesAndThreads) {
  std::string input;
  for (int i = 0; i < 5000; ++i)
    absl::StrAppend(&input, "{\"id\": ", i, ", \"completion\": \"", i % 7, "\", \"answer\": \"3\"}\n");
  ThreadPool pool(2);
  ASSERT_TRUE(Score("rules { exact { extraction { places: 'whole' } } }", input, &pool).ok());
  const std::vector<std::string> lines = Lines(Path("out.jsonl"));
  ASSERT_EQ(lines.size(), 5000u);
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(absl::StartsWith(lines[static_cast<size_t>(i)],
                                 absl::StrCat("{\"id\":", i, ",\"reward\":", i % 7 == 3 ? "1.0" : "0.0")))
        << lines[static_cast<size_t>(i)];
  }
}

TEST_F(ScoreFileTest, AMalformedLineIsNamedByNumber) {
  const std::pair<const char*, const char*> cases[] = {
      {"{\"completion\": \"a\"}\n{\"completion\": \"a\"", "in.jsonl:2: not JSON"},
      {"{\"answer\": 1}", "in.jsonl:1: no \"completion\""},
      {"\n[1]", "in.jsonl:2: expected a JSON object"},
      {"{\"completion\": 1}", "in.jsonl:1: \"completion\" is not a string"},
      {"{\"completion\": \"a\", \"num_tokens\": -1}", "in.jsonl:1: "},
      {"{\"completion\": \"a\", \"completion\": \"b\"}", "duplicate key"},
      {"{\"completion\": \"\xff\"}", "in.jsonl:1: not JSON"},
  };
  for (const auto& [input, message] : cases) {
    const auto summary = Score("rules { format {} }", input);
    ASSERT_FALSE(summary.ok()) << input;
    EXPECT_TRUE(absl::StrContains(summary.status().message(), message)) << summary.status();
  }
}

TEST_F(ScoreFileTest, AFileWithoutACaseIsAnError) {
  for (const char* input : {"", "\n", " \n\n"}) {
    const auto summary = Score("rules { format {} }", input);
    ASSERT_FALSE(summary.ok());
    EXPECT_TRUE(absl::StrContains(summary.status().message(), ".jsonl: no rows, expected JSON lines")) << summary.status();
  }
}

TEST_F(ScoreFileTest, RulesFileErrorsNameFileAndPlace) {
  const auto unknown = Score("rules { formt {} }", "");
  EXPECT_TRUE(absl::StrContains(unknown.status().message(), "rules.textproto:1:")) << unknown.status();
  EXPECT_TRUE(Score("reward { rules { format {} } }", R"({"completion": "x"})").ok());
}

TEST_F(ScoreFileTest, ABadValueIsNamedWithLineColumnAndField) {
  const std::string text = "# Two rules.\nrules { format {} }\nrules {\n  weight: 2\n  VALUE\n}\n";
  const std::pair<const char*, const char*> cases[] = {
      {"regex { pattern: '(' }", "rules.textproto:5:11: rules[1].regex.pattern: "},
      {"regex { pattern: 'a' score: nan }", "rules.textproto:5:24: rules[1].regex.score: expected a finite number"},
      {"math {} timeout_seconds: -1", "rules.textproto:5:11: rules[1].timeout_seconds: expected 0 to 86400"},
      {"math {} truncated: 'half'", "rules.textproto:5:11: rules[1].truncated: \"half\", expected score, not_applicable or zero"},
      {"math {} only_if: 'format' only_if: 'fromat'", "rules.textproto:5:29: rules[1].only_if[1]: no rule \"fromat\" above this one"},
      {"math {} name: 'format'", "rules.textproto:5:11: rules[1].name: \"format\" is there twice"},
      {"numeric { tolerance: -0.5 }", "rules.textproto:5:13: rules[1].numeric.tolerance: "},
      {"repetition { n: 4 max_penalty: 1 }", "rules.textproto:5:21: rules[1].repetition.max_penalty: "},
      {"exact { extraction { places: 'boxed' places: 'nowhere' } }", "rules.textproto:5:"},
      {"cosine_length { correct: 'mth' }", "rules.textproto:5:"},
      {"process { command: '' }", "rules.textproto:5:"},
      {"library { function: 'absent' }", "rules.textproto:5:"},
      {"code { checker: 'absent.py' }", "rules.textproto:5:"},
      {"", "rules.textproto:3:1: rules[1]: no kind"},
      {"math {} weight: 'x'", "rules.textproto:5:"},  // of syntax, as before
  };
  for (const bool in_recipe : {false, true}) {
    for (const auto& [value, expected] : cases) {
      std::string rules = absl::StrReplaceAll(text, {{"VALUE", value}}), message = expected;
      if (in_recipe) {
        rules = "name: 'r'\nreward {\n" + rules + "}\n";
        message = absl::StrReplaceAll(message, {{":5:", ":7:"}, {":3:", ":5:"}, {" rules[", " reward.rules["}});
      }
      const auto result = Score(rules, "");
      EXPECT_TRUE(absl::StrContains(result.status().message(), message)) << result.status() << "\n" << rules;
    }
  }
  EXPECT_TRUE(absl::StrContains(Score("rules { math {} weight: inf }", "").status().message(),
                                "rules.textproto:1:17: rules[0].weight: expected a finite number"));
  EXPECT_TRUE(absl::StrContains(Score("timeout_seconds: 5", "").status().message(), "rules.textproto: rules: at least one rule"));
  EXPECT_TRUE(Score(absl::StrReplaceAll(text, {{"VALUE", "math {}"}}), R"({"completion": "x"})").ok()) << "the text around it is good";
}

TEST_F(ScoreFileTest, TheReadyBlocksLoadAndScore) {
  const std::pair<const char*, const char*> cases[] = {
      {"math", R"({"prediction": "0.5", "gold": "\\frac{1}{2}"})"},
      {"r1_math", R"({"completion": "<think>a</think><answer>0.5</answer>", "gold": "1/2"})"},
      {"gsm8k", R"({"response": "work\nA: 1,018", "gold": "so\n#### 1018"})"},
      {"countdown", R"({"response": "<think>a</think><answer>3 * 4</answer>", "numbers": [4, 3], "target": 12})"},
      {"format_strict", R"({"response": "<think>a</think><answer>b</answer>"})"},
  };
  for (const auto& [name, line] : cases) {
    auto set = LoadRuleSet(absl::StrCat(GROUPER_SOURCE_DIR "/recipes/rules/", name, ".textproto"));
    ASSERT_TRUE(set.ok()) << set.status();
    const auto summary = ScoreFile(**set, Write("in.jsonl", line), Path("out.jsonl"), nullptr);
    ASSERT_TRUE(summary.ok()) << summary.status();
    double best = 0;
    for (const double weight : (*set)->weights()) best += weight;
    EXPECT_DOUBLE_EQ(summary->reward_sum, best) << name << Lines(Path("out.jsonl"))[0];
  }
}

TEST_F(ScoreFileTest, AServicesRewardThatIsNotFiniteIsAnErrorThatNamesTheCase) {
  for (const double reward : {1.5, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const Scorer scorer = [&](const v1::ScoreRequest&) -> absl::StatusOr<v1::ScoreResponse> {
      v1::ScoreResponse response;
      v1::CompletionScore* score = response.add_groups()->add_completions();
      score->set_has_reward(true);
      score->set_reward(reward);
      return response;
    };
    const auto summary = ScoreFile(scorer, Write("in.jsonl", "{\"id\": \"a7\", \"completion\": \"x\"}\n"), Path("out.jsonl"));
    EXPECT_EQ(summary.ok(), reward == 1.5);
    if (!summary.ok()) {
      EXPECT_TRUE(absl::StrContains(summary.status().message(), "reward of id \"a7\" is ")) << summary.status();
    }
  }
}

TEST_F(ScoreFileTest, AbsentInputIsAnError) {
  auto set = LoadRuleSet(Write("rules.textproto", "rules { format {} }"));
  ASSERT_TRUE(set.ok());
  const auto summary = ScoreFile(**set, "/no/such/file.jsonl", Path("out.jsonl"), nullptr);
  EXPECT_TRUE(absl::StrContains(summary.status().message(), "/no/such/file.jsonl")) << summary.status();
}

}  // namespace
}  // namespace grouper
