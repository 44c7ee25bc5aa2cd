// Custom rules in processes: what a hostile or broken program may do costs its own score only.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/reward/rule_world.h"
#include "tests/reward/served_rules.h"

namespace grouper {
namespace {

// Writes an executable Python program into the test's own folder.
class CustomRule : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = absl::StrCat(testing::TempDir(), "/custom_rule_", getpid(), "_",
                              testing::UnitTest::GetInstance()->current_test_info()->name());
    mkdir(directory_.c_str(), 0755);
  }
  std::string Program(const std::string& answer_code) {
    const std::string path = absl::StrCat(directory_, "/rule.py");
    std::ofstream(path) << "#!/usr/bin/env python3\nimport json, sys, time, os\nfor line in sys.stdin:\n    q = "
                           "json.loads(line)\n    c = q.get('completion')\n"
                        << answer_code << "    sys.stdout.flush()\n";
    chmod(path.c_str(), 0755);
    return "./rule.py";
  }
  RuleWorld World(const std::string& answer_code, const std::string& more = "", double timeout = 5) {
    return RuleWorld(absl::StrCat("rules { name: 'mine' timeout_seconds: ", timeout, " process { command: '",
                                  Program(answer_code), "' ", more, " } }"),
                     directory_);
  }
  std::string directory_;
};

const char* const kLength =
    "    print(json.dumps({'id': q['id'], 'score': len(c), 'reason': 'length', 'extracted': c[:3]}))\n";

TEST_F(CustomRule, ScoresReasonsAndColumns) {
  RuleWorld world =
      World("    print(json.dumps({'id': q['id'], 'score': q['row']['x'] + q['num_tokens'], 'reason': 'sum'}))\n");
  EXPECT_EQ(world.Score("abc", R"({"x": 2})", 5), "7");
  EXPECT_EQ(world.last().reason(), "sum");
}

TEST_F(CustomRule, NumbersOfTheRowArriveAsTheyStandThere) {
  RuleWorld world = World("    print(json.dumps({'id': q['id'], 'score': 1, 'reason': str(q['row']['x'])}))\n");
  EXPECT_EQ(world.Score("abc", R"({"x": 12345678901234567890123})"), "1");
  EXPECT_EQ(world.last().reason(), "12345678901234567890123");
}

TEST_F(CustomRule, NullIsNotApplicableAndErrorIsError) {
  RuleWorld world = World(
      "    print(json.dumps({'id': q['id'], 'score': None} if c == 'none' else {'id': q['id'], 'error': 'bad "
      "input'}))\n");
  EXPECT_EQ(world.Score("none"), "not_applicable");
  EXPECT_EQ(world.Score("x"), "error");
  EXPECT_TRUE(absl::StrContains(world.last().reason(), "bad input"));
}

// What a client no longer waits for must not keep its next try waiting.
TEST_F(CustomRule, ARequestWhoseDeadlineHasPassedIsScoredNoFurther) {
  const std::string log = directory_ + "/log";
  RuleWorld world = World(absl::StrCat("    time.sleep(0.1)\n    open('", log, "', 'a').write('x')\n",
                                       "    print(json.dumps({'id': q['id'], 'score': 1}))\n"));
  const auto scored = [&] {
    std::ifstream in(log);
    return std::string(std::istreambuf_iterator<char>(in), {}).size();
  };
  ServedRules service(&world.rules());
  v1::ScoreRequest request;
  for (int i = 0; i < 60; ++i) request.add_groups()->add_completions()->set_text("a");
  v1::ScoreResponse response;
  EXPECT_EQ(service.Score(request, &response, absl::Seconds(1)).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  absl::SleepFor(absl::Milliseconds(500));
  const size_t begun = scored();
  EXPECT_LT(begun, 20u);
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_EQ(scored(), begun);
  request.mutable_groups()->DeleteSubrange(1, 59);
  EXPECT_TRUE(service.Score(request, &response, absl::Seconds(10)).ok()) << "the next one finds it free";
}

TEST_F(CustomRule, AnyBytesReachIt) {
  RuleWorld world = World(kLength);
  EXPECT_EQ(world.Score(std::string("a\0\n\xff", 4)), "4");
}

TEST_F(CustomRule, AHangIsStoppedAtItsDeadlineAndTheRowsBesideItAreScored) {
  RuleWorld world = World(absl::StrCat("    if c == 'hang': time.sleep(60)\n", kLength), "processes: 2", 3);
  v1::ScoreRequest request;
  for (const char* text : {"a", "hang", "bb", "ccc", "dddd"}) request.add_groups()->add_completions()->set_text(text);
  const auto start = std::chrono::steady_clock::now();
  const auto response = world.rules().Score(request, nullptr);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ASSERT_TRUE(response.ok());
  EXPECT_LT(seconds, 15);
  const double expected[] = {1, 0, 2, 3, 4};
  for (int i = 0; i < 5; ++i) {
    const v1::CompletionScore& score = response->groups(i).completions(0);
    EXPECT_EQ(score.has_reward(), i != 1) << score.rules(0).reason();
    EXPECT_EQ(score.reward(), expected[i]);
  }
  EXPECT_EQ(response->groups(1).completions(0).rules(0).status(), v1::RULE_STATUS_TIMEOUT);
}

TEST_F(CustomRule, TheWholeProcessGroupIsKilled) {
  const std::string pid_file = absl::StrCat(directory_, "/pid");
  RuleWorld world = World(absl::StrCat("    import subprocess\n    p = subprocess.Popen(['sleep', '100'])\n    open('",
                                       pid_file, "', 'w').write(str(p.pid))\n    time.sleep(60)\n"),
                          "", 1.5);
  EXPECT_EQ(world.Score("x"), "timeout");
  std::ifstream in(pid_file);
  pid_t grandchild = 0;
  in >> grandchild;
  ASSERT_GT(grandchild, 0);
  bool gone = false;
  for (int i = 0; i < 100 && !gone; ++i) {
    // A zombie that init has not collected yet counts as gone.
    std::ifstream stat(absl::StrCat("/proc/", grandchild, "/stat"));
    std::string pid, name, state;
    stat >> pid >> name >> state;
    gone = !stat || state == "Z";
    if (!gone) usleep(20000);
  }
  EXPECT_TRUE(gone);
}

TEST_F(CustomRule, DeathIsAnErrorWithItsLastWordsAndTheNextRowIsScored) {
  RuleWorld world = World(absl::StrCat(
      "    if c == 'die':\n        print('my last words', file=sys.stderr)\n        os._exit(3)\n", kLength));
  EXPECT_EQ(world.Score("a"), "1");
  EXPECT_EQ(world.Score("die"), "error");
  EXPECT_TRUE(absl::StrContains(world.last().reason(), "exited with 3")) << world.last().reason();
  EXPECT_TRUE(absl::StrContains(world.last().reason(), "my last words")) << world.last().reason();
  EXPECT_EQ(world.Score("bb"), "2");
}

TEST_F(CustomRule, ACrashBetweenRowsCostsNobody) {
  RuleWorld world = World(absl::StrCat(kLength, "    sys.stdout.flush()\n    if c == 'late': os._exit(1)\n"));
  EXPECT_EQ(world.Score("late"), "4");
  usleep(100000);
  EXPECT_EQ(world.Score("bb"), "2");
}

TEST_F(CustomRule, GarbageIsAnError) {
  const std::pair<const char*, const char*> programs[] = {
      {"    print('hello')\n", "not JSON"},
      {"    print('{\"id\": 999, \"score\": 1}')\n", "does not carry \"id\""},
      {"    print('{\"score\": 1}')\n", "does not carry \"id\""},
      {"    print('[1]')\n", "not a JSON object"},
      {"    print(json.dumps({'id': q['id']}))\n", "no \"score\""},
      {"    print(json.dumps({'id': q['id'], 'score': 'high'}))\n", "score is string"},
      {"    print('{\"id\": %d, \"score\": NaN}' % q['id'])\n", "not JSON"},
      {"    print('{\"id\": %d, \"score\": 1e999}' % q['id'])\n", "overflow"},
      {"    sys.stdout.buffer.write(b'\\xff\\xfe\\n')\n", "not JSON"},
      {"    print('[' * 100000)\n", "nested"},
  };
  for (const auto& [code, reason] : programs) {
    RuleWorld world = World(code);
    EXPECT_EQ(world.Score("x"), "error") << code;
    EXPECT_TRUE(absl::StrContains(world.last().reason(), reason)) << code << world.last().reason();
  }
}

TEST_F(CustomRule, AFloodIsCutOff) {
  RuleWorld world =
      World(absl::StrCat("    if c == 'flood':\n        while True: os.write(1, b'x' * 65536)\n", kLength));
  EXPECT_EQ(world.Score("flood"), "error");
  EXPECT_TRUE(absl::StrContains(world.last().reason(), "longer than")) << world.last().reason();
  EXPECT_EQ(world.Score("a"), "1");
}

TEST_F(CustomRule, AFloodOnStderrDoesNotOutlastTheDeadline) {
  RuleWorld world = World("    while True: os.write(2, b'x' * 65536)\n", "", 0.5);
  EXPECT_EQ(world.Score("flood"), "timeout");
}

TEST_F(CustomRule, MemoryIsLimited) {
  RuleWorld world = World(absl::StrCat("    if c == 'eat': b = bytearray(1 << 30)\n", kLength), "memory_mb: 300");
  EXPECT_EQ(world.Score("eat"), "error");
  EXPECT_TRUE(absl::StrContains(world.last().reason(), "MemoryError")) << world.last().reason();
  EXPECT_EQ(world.Score("a"), "1");
}

TEST_F(CustomRule, AGroupRuleSeesTheGroup) {
  RuleWorld world = World(
      "    n = q['completions']\n    print(json.dumps({'id': q['id'], 'scores': [None if s == 'skip' else len(n) for s "
      "in n], 'reasons': n}))\n",
      "group: true");
  v1::ScoreRequest request;
  v1::ScoreGroup* group = request.add_groups();
  for (const char* text : {"a", "skip", "c"}) group->add_completions()->set_text(text);
  const auto response = world.rules().Score(request, nullptr);
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->groups(0).completions(0).reward(), 3);
  EXPECT_EQ(response->groups(0).completions(1).rules(0).status(), v1::RULE_STATUS_NOT_APPLICABLE);
  EXPECT_EQ(response->groups(0).completions(2).rules(0).reason(), "c");
}

TEST_F(CustomRule, TheExamplesWork) {
  const std::string examples = GROUPER_SOURCE_DIR "/recipes/rules/examples/";
  RuleWorld length(absl::StrCat("rules { process { command: '", examples, "length_rule.py' } }"));
  EXPECT_EQ(length.Score("1234567890", R"({"limit": 10})"), "1");
  EXPECT_EQ(length.Score("123456789012345", R"({"limit": 10})"), "0.5");
  const auto adapter = [&](const char* style, const char* function) {
    return absl::StrCat("rules { process { command: '", examples, "adapter.py' command: '", style, "' command: '",
                        examples, "trl_reward.py' command: '", function, "' } }");
  };
  RuleWorld trl(adapter("trl", "has_steps"));
  EXPECT_EQ(trl.Score("Step 1: add", R"({"answer": "4"})"), "1");
  RuleWorld columns(adapter("trl", "matches_answer"));
  EXPECT_EQ(columns.Score("it is 4", R"({"answer": "4"})"), "1");
  EXPECT_EQ(columns.Score("it is 4", R"({"answer": null})"), "not_applicable");
  EXPECT_EQ(columns.Score("it is 4", R"({})"), "error");
  RuleWorld verl(adapter("verl", "compute_score"));
  EXPECT_EQ(verl.Score("it is 4", R"({"answer": 4, "data_source": "x"})"), "1");
  EXPECT_EQ(verl.Score("it is 5", R"({"ground_truth": "4"})"), "0");
  EXPECT_EQ(verl.Score("it is 4", R"({"reward_model": {"ground_truth": "4", "style": "rule"}})"), "1");
}

TEST_F(CustomRule, TheAdapterCallsFunctionsAsTrlAndVerlDo) {
  const std::string file = testing::TempDir() + "/adapter_functions.py";
  std::ofstream(file) << "def count(completion_ids, **kwargs): return [len(ids) for ids in completion_ids]\n"
                         "def chat(completions, **kwargs): return [float('4' in c[0]['content']) for c in completions]\n"
                         "async def later(prompts, completions, answer, **kwargs): return [0.5 for _ in answer]\n"
                         "def named(data_source, ground_truth, solution_str, extra_info): return float(ground_truth in solution_str)\n";
  const auto score = [&](const char* style, const char* function, const char* row) {
    RuleWorld world(absl::StrCat("rules { process { command: '", GROUPER_SOURCE_DIR, "/recipes/rules/examples/adapter.py' command: '",
                                 style, "' command: '", file, "' command: '", function, "' } }"));
    return world.Score("it is 4", row, 7);
  };
  EXPECT_EQ(score("trl", "count", "{}"), "7");
  EXPECT_EQ(score("trl", "chat", R"({"prompt": [{"role": "user", "content": "2 + 2"}]})"), "1");
  EXPECT_EQ(score("trl", "later", R"({"answer": "4"})"), "0.5");
  EXPECT_EQ(score("verl", "named", R"({"ground_truth": "4"})"), "1");
  EXPECT_EQ(score("verl", "named", R"({"ground_truth": "5"})"), "0");
}

TEST_F(CustomRule, TheAdapterTakesOneValueForOneCompletion) {
  const std::string file = testing::TempDir() + "/adapter_counts.py";
  std::ofstream(file) << "def two(completions, **kwargs): return [0.5, 1.0]\n"
                         "def none(completions, **kwargs): return []\n"
                         "def bare(completions, **kwargs): return 0.5\n"
                         "def one(completions, **kwargs): return (0.5,)\n";
  const std::pair<const char*, const char*> cases[] = {{"two", "two returned 2 values for 1 completion, expected a list of 1 value"},
                                                       {"none", "none returned 0 values for 1 completion"},
                                                       {"bare", "bare returned no list for 1 completion"},
                                                       {"one", ""}};
  for (const auto& [function, expected] : cases) {
    RuleWorld world(absl::StrCat("rules { process { command: '", GROUPER_SOURCE_DIR, "/recipes/rules/examples/adapter.py' command: 'trl' command: '", file,
                                 "' command: '", function, "' } }"));
    v1::ScoreRequest request;
    request.add_groups()->add_completions()->set_text("x");
    const auto response = world.rules().Score(request, nullptr);
    ASSERT_TRUE(response.ok()) << response.status();
    const v1::CompletionScore& score = response->groups(0).completions(0);
    EXPECT_EQ(score.has_reward(), *expected == 0) << function;
    EXPECT_TRUE(absl::StrContains(score.rules(0).reason(), expected)) << score.rules(0).reason();
  }
}

TEST_F(CustomRule, AScoreThatNoStatisticCanHoldIsAnError) {
  for (const char* huge : {"1e308", "-1e31", "1e39"}) {
    RuleWorld world = World(absl::StrCat("    score = ", huge, " if c == 'huge' else 1e30\n    print(json.dumps({'id': q['id'], 'score': score}), flush=True)\n"));
    v1::ScoreRequest request;
    for (const char* text : {"huge", "large"}) request.add_groups()->add_completions()->set_text(text);
    const auto response = world.rules().Score(request, nullptr);
    ASSERT_TRUE(response.ok()) << response.status();
    const v1::CompletionScore &bad = response->groups(0).completions(0), &good = response->groups(1).completions(0);
    EXPECT_FALSE(bad.has_reward());
    EXPECT_EQ(bad.rules(0).status(), v1::RULE_STATUS_ERROR);
    EXPECT_TRUE(absl::StrContains(bad.rules(0).reason(), "the rule's score is ")) << bad.rules(0).reason();
    EXPECT_TRUE(absl::StrContains(bad.rules(0).reason(), "expected at most 1e30 in magnitude")) << bad.rules(0).reason();
    EXPECT_EQ(good.reward(), 1e30) << good.rules(0).reason();
  }
}

TEST_F(CustomRule, HundredsOfPoisonRowsLoseNoProcess) {
  RuleWorld world = World(absl::StrCat("    if c == 'die': os._exit(1)\n", kLength), "processes: 2");
  v1::ScoreRequest request;
  for (int i = 0; i < 60; ++i) request.add_groups()->add_completions()->set_text(i % 2 ? "die" : "ok");
  const auto response = world.rules().Score(request, nullptr);
  ASSERT_TRUE(response.ok());
  for (int i = 0; i < 60; ++i) {
    EXPECT_EQ(response->groups(i).completions(0).has_reward(), i % 2 == 0)
        << response->groups(i).completions(0).rules(0).reason();
  }
}

}  // namespace
}  // namespace grouper
