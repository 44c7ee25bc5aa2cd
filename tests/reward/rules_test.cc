// One table a rule: completion, row, score. A new case is one line.
#include <cmath>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/reward/rule_world.h"

namespace grouper {
namespace {

struct Case {
  std::string completion;
  std::string row;
  std::string score;
};

void Check(const std::string& rules, const std::vector<Case>& cases) {
  RuleWorld world(rules);
  for (const Case& c : cases) {
    EXPECT_EQ(world.Score(c.completion, c.row), c.score) << rules << "\n"
                                                         << c.completion << "\n"
                                                         << c.row << "\n"
                                                         << world.last().reason();
  }
}

// Agreement of a rule with the shared cases; the rows are the cases themselves.
void CheckShared(const std::string& file, const std::string& rules, const std::string& expect, double at_least) {
  const std::vector<json::Json> cases = SharedCases(file);
  if (cases.empty()) GTEST_SKIP() << file << " is not there";
  RuleWorld world(rules);
  int agree = 0;
  for (const json::Json& c : cases) {
    const bool right = world.Score(c["response"].get<std::string>(), json::Dump(c)) == "1";
    agree += right == c[expect].get<bool>();
    if (right != c[expect].get<bool>() && at_least == 1)
      ADD_FAILURE() << json::Dump(c) << "\n" << world.last().reason();
  }
  EXPECT_GE(static_cast<double>(agree), at_least * static_cast<double>(cases.size())) << file;
}

TEST(FormatRule, StrictR1) {
  Check("rules { format {} }", {
                                   {"<think>a</think><answer>b</answer>", "{}", "1"},
                                   {" \n<think>a</think>\r\n\t<answer>b</answer>\n", "{}", "1"},
                                   {"<think></think><answer> </answer>", "{}", "1"},
                                   {"<think>a</think><answer>b</answer>.", "{}", "0"},
                                   {"x<think>a</think><answer>b</answer>", "{}", "0"},
                                   {"<think>a</think>x<answer>b</answer>", "{}", "0"},
                                   {"<think>a<answer>b</answer></think>", "{}", "0"},
                                   {"<answer>b</answer><think>a</think>", "{}", "0"},
                                   {"<think>a</think><think>a</think><answer>b</answer>", "{}", "0"},
                                   {"<think>a</think><answer>b</answer><answer>b</answer>", "{}", "0"},
                                   {"<think>a</think><answer>b", "{}", "0"},
                                   {"<THINK>a</THINK><answer>b</answer>", "{}", "0"},
                                   {"", "{}", "0"},
                                   {"\xff<think>a</think><answer>b</answer>", "{}", "0"},
                                   {std::string("<think>\0</think><answer>\xff</answer>", 34), "{}", "1"},
                               });
  Check("rules { format { nonempty: true } }", {
                                                   {"<think>a</think><answer>b</answer>", "{}", "1"},
                                                   {"<think>a</think><answer> \n</answer>", "{}", "0"},
                                                   {"<think> </think><answer>b</answer>", "{}", "0"},
                                               });
}

TEST(FormatRule, OtherTagsAndStyles) {
  Check("rules { format { tags: 'plan' tags: 'code' tags: 'test' } }",
        {
            {"<plan>a</plan><code>b</code>\n<test>c</test>", "{}", "1"},
            {"<plan>a</plan><test>c</test><code>b</code>", "{}", "0"},
        });
  Check("rules { format { style: 'think_only' } }", {
                                                        {"<think>a</think> so it is 4", "{}", "1"},
                                                        {"<think>a</think> ", "{}", "0"},
                                                        {"<think>a</think> x <think>", "{}", "0"},
                                                        {"x <think>a</think> x", "{}", "0"},
                                                    });
  Check("rules { format { style: 'boxed' } }", {
                                                   {"<think>a</think><answer>\\boxed{4}</answer>", "{}", "1"},
                                                   {"<think>\\boxed{4}</think><answer>4</answer>", "{}", "0"},
                                                   {"<think>a</think><answer>\\boxed{4</answer>", "{}", "0"},
                                               });
}

TEST(FormatRule, AgreesWithTheSharedCases) { CheckShared("format.jsonl", "rules { format {} }", "expect", 1); }
TEST(FormatRule, AgreesWithTheSharedNonemptyCases) {
  CheckShared("format.jsonl", "rules { format { nonempty: true } }", "expect_nonempty", 1);
}

TEST(TagCountRule, CountsTagsThatOccurOnce) {
  Check("rules { tag_count {} }", {
                                      {"<think>a</think><answer>b</answer>", "{}", "1"},
                                      {"<think>a</think>b", "{}", "0.5"},
                                      {"<think><think>a</think>", "{}", "0.25"},
                                      {"", "{}", "0"},
                                  });
}

TEST(ExactRule, ComparesText) {
  Check("rules { exact {} }", {
                                  {"<answer> Paris </answer>", R"({"answer": "Paris"})", "1"},
                                  {"<answer>paris</answer>", R"({"answer": "Paris"})", "0"},
                                  {"<answer>12</answer>", R"({"answer": 12})", "1"},
                                  {"<answer>12345678901234567890123</answer>", R"({"answer": 12345678901234567890123})", "1"},
                                  {"<answer>1.50</answer>", R"({"gold": 1.50})", "1"},
                                  {"\\boxed{Paris}", R"({"gold": "Paris"})", "1"},
                                  {"Paris", R"({"answer": "Paris"})", "0"},
                                  {"<answer>x</answer>", R"({})", "not_applicable"},
                                  {"<answer>x</answer>", R"({"answer": null})", "not_applicable"},
                                  {"<answer>x</answer>", R"({"answer": ["x"]})", "not_applicable"},
                              });
  Check("rules { exact { ignore_case: true gold: 'city' } }",
        {{"<answer>paris</answer>", R"({"city": "Paris"})", "1"}});
}

TEST(NumericRule, ComparesNumbersExactly) {
  Check(
      "rules { numeric { extraction { places: 'answer_tag' places: 'hash' places: 'answer_is' places: 'last_number' } "
      "} }",
      {
          {"<answer>18</answer>", R"({"answer": "18"})", "1"},
          {"<answer>18.0</answer>", R"({"answer": 18})", "1"},
          {"<answer>$1,234.50</answer>", R"({"answer": "1234.5"})", "1"},
          {"<answer>-3</answer>", R"({"answer": "-3"})", "1"},
          {"<answer>3</answer>", R"({"answer": "-3"})", "0"},
          {"<answer>1/2</answer>", R"({"answer": "0.5"})", "1"},
          {"<answer>18 dollars</answer>", R"({"answer": "18"})", "1"},
          {"<answer>18 or 19</answer>", R"({"answer": "19"})", "0"},
          {"<answer>not 18</answer>", R"({"answer": "18"})", "0"},
          {"<answer>about 18 dollars</answer>", R"({"answer": "18"})", "0"},
          {"<answer>x = 18</answer>", R"({"answer": "18"})", "1"},
          {"<answer>eighteen</answer>", R"({"answer": "18"})", "0"},
          {"<answer>100000000000000000000000001</answer>", R"({"answer": "100000000000000000000000000"})", "0"},
          {"<answer>0.1</answer>", R"({"answer": "0.10000000000000000001"})", "0"},
          {"<answer>12345678901234567890123</answer>", R"({"answer": 12345678901234567890123})", "1"},
          {"<answer>12345678901234567890124</answer>", R"({"answer": 12345678901234567890123})", "0"},
          {"<answer>0.1000000000000000055511</answer>", R"({"answer": 0.1000000000000000055511})", "1"},
          {"<answer>0.1</answer>", R"({"answer": 0.1000000000000000055511})", "0"},
          {"<answer>1.5</answer>", R"({"answer": 1.50})", "1"},
          {"...\n#### 18", R"({"answer": "work\n#### 18"})", "1"},
          {"so A: 5\nA: 26", R"({"answer": "26"})", "1"},
          {"in all 3 + 4 = 7 apples", R"({"answer": "7"})", "1"},
          {"<answer>18%</answer>", R"({"answer": "18"})", "1"},
          {"<answer>1e3</answer>", R"({"answer": "1000"})", "1"},
          {"<answer>1,23</answer>", R"({"answer": "123"})", "0"},
          {"nothing", R"({"answer": "7"})", "0"},
          {"<answer>7</answer>", R"({"answer": "seven"})", "not_applicable"},
          {"<answer>7</answer>", R"({})", "not_applicable"},
          {"<answer>1/0</answer>", R"({"answer": "7"})", "0"},
      });
  Check("rules { numeric { tolerance: 0.1 } }", {
                                                    {"<answer>1.1</answer>", R"({"answer": "1"})", "1"},
                                                    {"<answer>1.1000001</answer>", R"({"answer": "1"})", "0"},
                                                    {"<answer>0.9</answer>", R"({"answer": "1"})", "1"},
                                                });
}

TEST(NumericRule, AgreesWithRealGsm8kResponses) {
  CheckShared(
      "gsm8k_responses.jsonl",
      "rules { numeric { extraction { places: 'hash' places: 'answer_is' places: 'boxed' places: 'last_number' } } }",
      "expect", 0.995);
}

TEST(CountdownRule, UsesEachNumberOnceAndHitsTheTarget) {
  const std::string row = R"({"numbers": [3, 4, 6, 1], "target": 24})";
  Check("rules { countdown {} }", {
                                      {"<answer>6 / (1 - 3 / 4)</answer>", row, "1"},
                                      {"<answer>6/(1-3/4)</answer>", row, "1"},
                                      {"<answer>6 * 4 * 1</answer>", row, "0"},
                                      {"<answer>24</answer>", row, "0"},
                                      {"<answer>6 * 4 * 1 * 3 / 3</answer>", row, "0"},
                                      {"<answer>6 / (1 - 3 / 4) = 24</answer>", row, "0"},
                                      {"<answer>-1 + 3</answer>", row, "0"},
                                      {"<answer>6 ** 4</answer>", row, "0"},
                                      {"<answer>6 // 4</answer>", row, "0"},
                                      {"<answer>6.0 / 4</answer>", row, "0"},
                                      {"<answer>6 / (1 - 1)</answer>", row, "0"},
                                      {"<answer>9**9**9**9</answer>", row, "0"},
                                      {"<answer></answer>", row, "0"},
                                      {"6 / (1 - 3 / 4)", row, "0"},
                                      {"<answer>(((6 / (1 - 3 / 4))))</answer>", row, "1"},
                                      {"<answer>" + std::string(100000, '(') + "6</answer>", row, "0"},
                                      {"<answer>6 / (01 - 3 / 4)</answer>", row, "0"},
                                      {"<answer>6 / (1 - 3 / 4)</answer> or <answer>24</answer>", row, "0"},
                                      {"<answer>24</answer><answer>6 / (1 - 3 / 4)</answer>", row, "1"},
                                      {"<think>a <answer>6 / (1 - 3 / 4)</answer>", row, "1"},
                                      {"<answer>6 / (1 - 3 / 4)", row, "0"},
                                      {"<answer>6\n/ (1 -\t3 / 4)</answer>", row, "1"},
                                      {"<answer>6 / (1 - 3 / 4).</answer>", row, "0"},
                                      {"<answer>6 / (1 - 3 / 4) + 0</answer>", row, "0"},
                                      {"<answer>6 / (+1 - 3 / 4)</answer>", row, "0"},
                                      {"<answer>6 : (1 - 3 : 4)</answer>", row, "0"},
                                      {"<answer>[6 / (1 - 3 / 4)]</answer>", row, "0"},
                                      {"<answer>6 / (1 - 3 / 4) # 24</answer>", row, "0"},
                                      {"<answer>\\frac{6}{1 - 3 / 4}</answer>", row, "0"},
                                      {"<answer>6(4)(1)</answer>", R"({"numbers": [6, 4, 1], "target": 24})", "0"},
                                      {"<answer>0 + 5</answer>", R"({"numbers": [0, 5], "target": 5})", "1"},
                                      {"<answer>5 / 0</answer>", R"({"numbers": [0, 5], "target": 0})", "0"},
                                      {"<answer>1</answer>", "{}", "not_applicable"},
                                      {"<answer>1</answer>", R"({"numbers": "1", "target": 1})", "not_applicable"},
                                      {"<answer>1</answer>", R"({"numbers": [1.5], "target": 1})", "not_applicable"},
                                  });
}

TEST(CountdownRule, AgreesWithTheSharedCases) { CheckShared("countdown.jsonl", "rules { countdown {} }", "expect", 1); }

TEST(RegexRule, ScoresAMatch) {
  Check("rules { regex { pattern: 'St[ea]p \\\\d+' } }", {{"First Step 12", "{}", "1"}, {"First step", "{}", "0"}});
  Check("rules { regex { pattern: '(?s)a.*z' full_match: true score: 2 otherwise: -0.5 } }",
        {{"a\n\xff z", "{}", "2"}, {"xa z", "{}", "-0.5"}, {"", "{}", "-0.5"}});
}

TEST(RegexRule, BadPatternIsRefusedByRuleAndField) {
  const auto rules = MakeRules("rules { format {} } rules { name: 'steps' regex { pattern: '(a' } }");
  ASSERT_FALSE(rules.ok());
  EXPECT_TRUE(absl::StrContains(rules.status().message(), "reward.rules[1].regex.pattern: missing )"))
      << rules.status();
  EXPECT_TRUE(absl::StrContains(rules.status().message(), "\"steps\"")) << rules.status();
  EXPECT_FALSE(MakeRules("rules { regex { pattern: '(?=a)' } }").ok());
  EXPECT_FALSE(MakeRules("rules { regex { pattern: '(\\\\pL{100}){10}{100}' } }").ok());
}

TEST(OverlongRule, FallsLinearlyOverTheBuffer) {
  RuleWorld world("rules { overlong { limit: 100 buffer: 20 } }");
  const std::pair<uint32_t, const char*> rows[] = {{0, "0"},     {80, "0"},   {85, "-0.25"},
                                                   {90, "-0.5"}, {100, "-1"}, {5000, "-1"}};
  for (const auto& [tokens, score] : rows) EXPECT_EQ(world.Score("x", "{}", tokens), score) << tokens;
  RuleWorld unknown("rules { overlong { buffer: 20 } }");
  EXPECT_EQ(unknown.Score("x", "{}", 10), "not_applicable");
}

TEST(ChoiceRule, ReadsTheUsualForms) {
  const std::string row = R"({"answer": "B"})";
  Check("rules { choice {} }", {
                                   {"<answer>B</answer>", row, "1"},
                                   {"<answer>(B)</answer>", row, "1"},
                                   {"<answer>b</answer>", row, "1"},
                                   {"\\boxed{\\text{(B)}}", row, "1"},
                                   {"**B**", row, "1"},
                                   {"B) Paris", row, "1"},
                                   {"The answer is B.", row, "1"},
                                   {"option B because A cat is no dog", row, "1"},
                                   {"<answer>C</answer>", row, "0"},
                                   {"<answer>A or B</answer>", row, "0"},
                                   {"<answer>A, B, C, D</answer>", row, "0"},
                                   {"<answer>Bob</answer>", row, "0"},
                                   {"<answer>A is correct</answer>", R"({"answer": "A"})", "1"},
                                   {"<answer>A cat is on B</answer>", row, "1"},
                                   {"<answer>B, not C</answer>", row, "0"},
                                   {"<answer>\\textbf{(B) } 12</answer>", row, "1"},
                                   {"<answer>[B]</answer>", row, "1"},
                                   {"<answer>B: Paris</answer>", row, "1"},
                                   {"<answer>BB</answer>", row, "0"},
                                   {"The answer is not B.", row, "0"},
                                   {"<answer>anything but B</answer>", row, "0"},
                                   {"<answer>It isn't B</answer>", row, "0"},
                                   {"<answer>maybe B</answer>", row, "0"},
                                   {"<answer>B is wrong</answer>", row, "0"},
                                   {"<answer>B?</answer>", row, "0"},
                                   {"<answer>B) It does not rain.</answer>", row, "1"},
                                   {"<answer>I am not in doubt. B</answer>", row, "1"},
                                   {"<answer></answer>", row, "0"},
                                   {"<answer>ABCD</answer>", row, "0"},
                                   {"<think>B</think><answer>C</answer>", row, "0"},
                                   {"<answer>B</answer>", R"({"answer": "\\text{(B)}"})", "1"},
                                   {"<answer>B</answer>", R"({"answer": "42"})", "not_applicable"},
                               });
}

TEST(JsonSchemaLiteRule, ChecksNamesAndTypes) {
  Check("rules { json_schema_lite { fields { key: 'name' value: 'string' } fields { key: 'age' value: 'integer' } } }",
        {
            {R"({"name": "Ann", "age": 3})", "{}", "1"},
            {"```json\n{\"name\": \"Ann\", \"age\": 3, \"x\": null}\n```", "{}", "1"},
            {R"({"name": "Ann", "age": 3.5})", "{}", "0"},
            {R"({"name": "Ann"})", "{}", "0"},
            {R"([1])", "{}", "0"},
            {R"({"name": "Ann", "age": 3)", "{}", "0"},
            {std::string(100000, '['), "{}", "0"},
        });
  Check("rules { json_schema_lite { closed: true fields { key: 'a' value: 'any' } } }",
        {{R"({"a": 1})", "{}", "1"}, {R"({"a": 1, "b": 2})", "{}", "0"}});
}

TEST(RepetitionRule, PenalisesRepeatedNgrams) {
  Check("rules { repetition { n: 2 } }", {
                                             {"a b c d e", "{}", "0"},
                                             {"a b a b a", "{}", "-0.5"},  // ab ba ab ba: 2 of 4 are new
                                             {"a", "{}", "0"},
                                             {"", "{}", "0"},
                                         });
}

TEST(LanguageRule, SharesOfTheTargetLanguage) {
  Check("rules { language {} }", {
                                     {"<think>We need to find the sum of $x$ and 3.</think>", "{}", "1"},
                                     {"<think>\xe6\x88\x91\xe4\xbb\xac\xe9\x9c\x80\xe8\xa6\x81</think>", "{}", "0"},
                                     {"<think>the sum \xe6\x88\x91\xe4\xbb\xac</think>", "{}", "0.5"},
                                     {"<think>\xd0\xbc\xd1\x8b the</think>", "{}", "0.5"},
                                     {"<think>12 + 3 = 15</think>", "{}", "not_applicable"},
                                     {"no block", "{}", "not_applicable"},
                                     {"<think>und the</think>", "{}", "0.5"},
                                 });
  Check("rules { language { language: 'zh' } }",
        {
            {"<think>\xe6\x88\x91\xe4\xbb\xac\xe9\x9c\x80\xe8\xa6\x81 $x$ sin</think>", "{}", "1"},
            {"<think>\xe6\x88\x91 therefore</think>", "{}", "0.5"},
        });
}

TEST(CosineLengthRule, ShortRightAnswersEarnMost) {
  RuleWorld world("rules { name: 'right' exact {} } rules { cosine_length { correct: 'right' max_length: 100 } }");
  const std::string right = "<answer>a</answer>", wrong = "<answer>b</answer>", row = R"({"answer": "a"})";
  EXPECT_EQ(world.Score(right, row, 0), "1");
  EXPECT_EQ(world.Score(right, row, 50), "0.75");
  EXPECT_EQ(world.Score(right, row, 100), "0.5");
  EXPECT_EQ(world.Score(right, row, 1000), "0.5");  // never turns round
  EXPECT_EQ(world.Score(wrong, row, 0), "-1");
  EXPECT_EQ(world.Score(wrong, row, 100), "-0.5");
  EXPECT_EQ(world.Score(wrong, "{}", 100), "not_applicable");
}

TEST(GroupLengthRule, ComparesLengthsInsideTheGroup) {
  RuleWorld world("rules { name: 'right' exact {} } rules { group_length { correct: 'right' } }");
  v1::ScoreRequest request;
  v1::ScoreGroup* group = request.add_groups();
  group->set_row_json(R"({"answer": "a"})");
  const std::pair<const char*, uint32_t> members[] = {{"a", 10}, {"a", 30}, {"b", 10}, {"b", 20}, {"b", 30}};
  for (const auto& [answer, tokens] : members) {
    v1::ScoreCompletion* completion = group->add_completions();
    completion->set_text(absl::StrCat("<answer>", answer, "</answer>"));
    completion->set_num_tokens(tokens);
  }
  const auto response = world.rules().Score(request, nullptr);
  ASSERT_TRUE(response.ok());
  const double expected[] = {0.5, -0.5, 0, 0, -0.5};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(response->groups(0).completions(i).rules(1).score(), expected[i]) << i;
}

TEST(AllRules, AreBoundedOnHostileText) {
  RuleWorld world(R"(
    rules { format {} } rules { tag_count {} } rules { exact { extraction { places: 'whole' } } } rules { numeric {} } rules { countdown {} }
    rules { regex { pattern: '(a*)*b' } } rules { choice {} } rules { json_schema_lite { fields { key: 'a' value: 'any' } } }
    rules { repetition {} } rules { language { tag: 'whole' } })");
  const std::string row = R"({"answer": "4", "numbers": [1, 2], "target": 3})";
  const std::string units[] = {"<think>", "<",   "\\boxed{", "((",   "9", std::string(1, '\0'), "\xff", "\xe6\x88",
                               "$",       "```", "{\"a\":",  "a b ", "\\"};
  for (const std::string& unit : units) {
    std::string text = "<answer>";
    while (text.size() < (1 << 20)) text += unit;
    text += "</answer>";
    v1::CompletionScore score;
    EXPECT_LT(LeastCpuSeconds([&] { score = world.Whole(text, row); }), 1.5) << unit;
    for (const v1::RuleResult& result : score.rules()) {
      EXPECT_NE(result.status(), v1::RULE_STATUS_ERROR) << result.reason();
      EXPECT_TRUE(std::isfinite(result.score()));
    }
  }
}

}  // namespace
}  // namespace grouper
