#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/reward/rule_world.h"
#include "tests/reward/served_rules.h"

namespace grouper {
namespace {

TEST(RuleSet, RewardIsTheWeightedSum) {
  RuleWorld world(
      "rules { name: 'f' weight: 0.1 format {} } rules { name: 'e' weight: 2 exact {} } rules { weight: 0 regex { "
      "pattern: 'a' } }");
  const v1::CompletionScore score = world.Whole("<think>x</think><answer>a</answer>", R"({"answer": "a"})");
  EXPECT_TRUE(score.has_reward());
  EXPECT_DOUBLE_EQ(score.reward(), 2.1);
  EXPECT_EQ(world.rules().rule_names(), (std::vector<std::string>{"f", "e", "regex"}));
  EXPECT_EQ(world.rules().weights(), (std::vector<double>{0.1, 2, 0}));
  EXPECT_EQ(score.rules(1).extracted(), "a");
}

TEST(RuleSet, ARuleThatDoesNotApplyLeavesTheOthersReward) {
  RuleWorld world("rules { format {} } rules { exact {} }");
  const v1::CompletionScore score = world.Whole("<think>x</think><answer>a</answer>", "{}");
  EXPECT_TRUE(score.has_reward());
  EXPECT_EQ(score.reward(), 1);
  EXPECT_EQ(score.rules(1).status(), v1::RULE_STATUS_NOT_APPLICABLE);
}

TEST(RuleSet, NothingScoredIsNoReward) {
  RuleWorld world("rules { exact {} }");
  EXPECT_FALSE(world.Whole("<answer>a</answer>", "{}").has_reward());
}

TEST(RuleSet, OnlyIfGatesARule) {
  RuleWorld world("rules { name: 'f' format {} } rules { name: 'e' only_if: 'f' exact {} }");
  EXPECT_EQ(world.Score("<think>x</think><answer>a</answer>", R"({"answer": "a"})"), "1");
  EXPECT_EQ(world.Score("<answer>a</answer>", R"({"answer": "a"})"), "0");
  RuleWorld unknown("rules { name: 'n' exact { gold: 'other' } } rules { only_if: 'n' format {} }");
  EXPECT_EQ(unknown.Score("<think>x</think><answer>a</answer>", "{}"), "not_applicable");
}

TEST(RuleSet, TruncatedPolicies) {
  for (const auto& [policy, score] :
       {std::pair("score", "1"), std::pair("zero", "0"), std::pair("not_applicable", "not_applicable")}) {
    RuleWorld world(absl::StrCat("rules { truncated: '", policy, "' regex { pattern: 'a' } }"));
    EXPECT_EQ(world.Score("a", "{}", 5, true), score);
    EXPECT_EQ(world.Score("a", "{}", 5, false), "1");
  }
}

TEST(RuleSet, ErrorsNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "reward.rules: at least one"},
      {"rules { name: 'x' }", "reward.rules[0]: no kind"},
      {"rules { format {} } rules { format {} }", "reward.rules[1].name: \"format\" is there twice"},
      {"rules { only_if: 'y' format {} }", "reward.rules[0].only_if[0]: no rule \"y\" above"},
      {"rules { weight: nan format {} }", "reward.rules[0].weight"},
      {"rules { weight: inf format {} }", "reward.rules[0].weight"},
      {"rules { weight: 1e31 format {} }", "reward.rules[0].weight: expected a finite number, at most 1e30 in magnitude"},
      {"rules { name: 'a\\nb' format {} }", "reward.rules[0].name: \"a\\nb\", expected a name without control characters"},
      {"rules { regex { pattern: 'a' score: 1e308 } }", "reward.rules[0].regex.score: expected a finite number, at most 1e30"},
      {"rules { regex { pattern: 'a' otherwise: -1e31 } }", "reward.rules[0].regex.otherwise"},
      {"rules { repetition { max_penalty: -1e31 } }", "reward.rules[0].repetition.max_penalty"},
      {"rules { timeout_seconds: -1 format {} }", "reward.rules[0].timeout_seconds"},
      {"rules { truncated: 'no' format {} }", "reward.rules[0].truncated: \"no\""},
      {"rules { format { tags: 'a b' } }", "reward.rules[0].format.tags[0]"},
      {"rules { format { style: 'loose' } }", "reward.rules[0].format.style"},
      {"rules { exact { extraction { places: 'box' } } }", "reward.rules[0].exact.extraction.places[0]"},
      {"rules { numeric { tolerance: -1 } }", "reward.rules[0].numeric.tolerance"},
      {"rules { numeric { tolerance: nan } }", "reward.rules[0].numeric.tolerance"},
      {"rules { regex {} }", "reward.rules[0].regex.pattern: required"},
      {"rules { regex { pattern: '[' } }", "reward.rules[0].regex.pattern"},
      {"rules { regex { pattern: 'a' otherwise: nan } }", "reward.rules[0].regex.otherwise"},
      {"rules { overlong { limit: 10 } }", "reward.rules[0].overlong.buffer"},
      {"rules { overlong { limit: 10 buffer: 11 } }", "reward.rules[0].overlong.buffer"},
      {"rules { process {} }", "reward.rules[0].process.command: required"},
      {"rules { process { command: '/no/such/program' } }", "reward.rules[0].process.command[0]: /no/such/program"},
      {"rules { process { command: 'no-such-program-here' } }", "no program \"no-such-program-here\" along PATH"},
      {"rules { process { command: 'cat' processes: -1 } }", "reward.rules[0].process.processes"},
      {"rules { repetition { max_penalty: 1 } }", "reward.rules[0].repetition.max_penalty"},
      {"rules { cosine_length { correct: 'x' } }", "reward.rules[0].cosine_length.correct: no rule \"x\" above"},
      {"rules { group_length {} }", "reward.rules[0].group_length.correct: required"},
      {"rules { language { language: 'xx' } }", "reward.rules[0].language.language"},
      {"rules { choice { letters: 'ab' } }", "reward.rules[0].choice.letters"},
      {"rules { json_schema_lite { fields { key: 'a' value: 'int' } } }", "reward.rules[0].json_schema_lite.fields[\"a\"]"},
  };
  for (const auto& [text, message] : cases) {
    const auto rules = MakeRules(text);
    ASSERT_FALSE(rules.ok()) << text;
    EXPECT_EQ(rules.status().message().substr(0, 13).substr(0, 12), "reward.rules") << rules.status();
    EXPECT_TRUE(absl::StrContains(rules.status().message(), message)) << text << "\n" << rules.status();
  }
}

TEST(RuleSet, CheckRowNamesRuleAndColumn) {
  RuleWorld world("rules { format {} } rules { name: 'correct' numeric {} }");
  EXPECT_TRUE(world.rules().CheckRow(json::Json{{"answer", "7"}}).ok());
  const absl::Status missing = world.rules().CheckRow(json::Json::object());
  EXPECT_EQ(missing.message(), "rule correct: the row has no column \"answer\"");
  const absl::Status words = world.rules().CheckRow(json::Json{{"answer", "seven"}});
  EXPECT_TRUE(absl::StrContains(words.message(), "\"seven\" is not a number")) << words;
}

TEST(RuleSet, DigestTellsRulesApart) {
  EXPECT_EQ(RuleWorld("rules { format {} }").rules().digest(),
            RuleWorld("rules { name: 'format' weight: 1 format {} }").rules().digest());
  EXPECT_NE(RuleWorld("rules { format {} }").rules().digest(),
            RuleWorld("rules { format { nonempty: true } }").rules().digest());
  EXPECT_NE(RuleWorld("rules { format {} }").rules().digest(),
            RuleWorld("rules { weight: 2 format {} }").rules().digest());
}

TEST(RuleSet, MalformedRowIsRefusedByGroup) {
  RuleWorld world("rules { format {} }");
  v1::ScoreRequest request;
  request.add_groups()->set_row_json("{}");
  request.add_groups()->set_row_json("[1]");
  const auto response = world.rules().Score(request, nullptr);
  EXPECT_EQ(response.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(response.status().message(), "groups[1].row_json")) << response.status();
}

TEST(RuleSet, AnswersInOrderOnAnyNumberOfThreads) {
  RuleWorld world("rules { exact {} } rules { repetition {} }");
  v1::ScoreRequest request;
  request.set_request_id(9);
  for (int g = 0; g < 20; ++g) {
    v1::ScoreGroup* group = request.add_groups();
    group->set_group_serial(static_cast<uint64_t>(100 + g));
    group->set_row_json(absl::StrCat("{\"answer\": \"", g % 3, "\"}"));
    for (int i = 0; i < 5; ++i) group->add_completions()->set_text(absl::StrCat("<answer>", i, "</answer> a a a a a"));
  }
  const auto alone = world.rules().Score(request, nullptr);
  ThreadPool pool(2);
  const auto together = world.rules().Score(request, &pool);
  ASSERT_TRUE(alone.ok() && together.ok());
  EXPECT_EQ(alone->SerializeAsString(), together->SerializeAsString());
  EXPECT_EQ(alone->request_id(), 9u);
  EXPECT_EQ(alone->groups(4).group_serial(), 104u);
  EXPECT_EQ(alone->groups(4).completions(1).rules(0).score(), 1);
}

TEST(RuleSet, ReasonsAndExtractedTextAreUtf8AndBounded) {
  RuleWorld world("rules { exact { extraction { places: 'whole' } } }");
  world.Score(std::string(100000, 'x') + "\xff", R"({"answer": "a"})");
  EXPECT_LE(world.last().extracted().size(), kMaxExtractedBytes);
  world.Score(
      "\xff"
      "caf\xc3",
      R"({"answer": "a"})");
  EXPECT_EQ(world.last().extracted(),
            "\xEF\xBF\xBD"
            "caf\xEF\xBF\xBD");
}

TEST(RuleSet, ScoringEndsWhenItIsCancelled) {
  RuleWorld world("rules { format {} } rules { exact {} }");
  v1::ScoreRequest request;
  for (int i = 0; i < 10; ++i) request.add_groups()->add_completions()->set_text("a");
  for (const int after : {0, 1, 5, 10, 15}) {
    int asked = 0;
    const auto scores = world.rules().Score(request, nullptr, [&] { return asked++ >= after; });
    EXPECT_TRUE(absl::IsCancelled(scores.status())) << scores.status();
  }
  EXPECT_TRUE(world.rules().Score(request, nullptr, [] { return false; }).ok());
}

TEST(RewardService, ScoresAndCounts) {
  RuleWorld world("rules { format {} }");
  ServedRules service(&world.rules());
  v1::ScoreRequest request;
  request.add_groups()->add_completions()->set_text("<think>a</think><answer>b</answer>");
  v1::ScoreResponse response;
  ASSERT_TRUE(service.Score(request, &response).ok());
  EXPECT_EQ(response.groups(0).completions(0).reward(), 1);
  const v1::RewardStatus status = service.GetStatus();
  EXPECT_EQ(status.scored_completions(), 1u);
  EXPECT_EQ(status.rules_digest(), world.rules().digest());
  EXPECT_FALSE(status.process_id().empty());
}

TEST(RewardService, MalformedRequestIsInvalidArgument) {
  RuleWorld world("rules { format {} }");
  v1::ScoreRequest request;
  request.add_groups()->set_row_json("not json");
  v1::ScoreResponse response;
  EXPECT_EQ(ServedRules(&world.rules()).Score(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(RewardService, RefusesWhatExceedsTheQueue) {
  RuleWorld world("rules { format {} }");
  RewardServiceOptions options;
  options.max_waiting = 0;
  v1::ScoreRequest request;
  v1::ScoreResponse response;
  EXPECT_EQ(ServedRules(&world.rules(), options).Score(request, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace grouper
