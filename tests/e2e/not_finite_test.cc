// NaN and Inf in loss, gradient, logits or reward: the step is skipped, three in a row end the run, and everything stays deterministic
// (RELIABILITY R14).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "tests/testing/service.h"

namespace grouper::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// tiny.textproto (8 steps of sft, 8 of rl) with nothing evaluated, so that every token and every reward is training's.
std::vector<std::string> RunCommand(const std::string& out, const std::vector<std::string>& sets = {}) {
  std::vector<std::string> argv = {GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", out};
  for (const char* set : {"stages[sft].eval.at_end=false", "stages[rl].eval.at_end=false", "stages[rl].eval.every=0"}) {
    argv.insert(argv.end(), {"--set", set});
  }
  for (const std::string& set : sets) argv.insert(argv.end(), {"--set", set});
  return argv;
}

Outcome RunWith(const std::vector<std::string>& command, const std::string& failpoints) {
  return RunProgram(command, 120, {{"GROUPER_FAIL", failpoints}});
}

// The rows of metrics.jsonl that were skipped, by their step; every step from 1 on must have its row.
std::vector<int64_t> SkippedSteps(const std::string& out) {
  std::vector<int64_t> skipped;
  const auto text = DefaultFileSystem().ReadFile(out + "/metrics.jsonl", 1 << 28);
  EXPECT_TRUE(text.ok()) << text.status();
  int64_t last = 0;
  for (absl::string_view line : absl::StrSplit(text.value_or(""), '\n', absl::SkipEmpty())) {
    const auto row = json::Parse(line);
    EXPECT_TRUE(row.ok()) << row.status();
    if (!row.ok()) continue;
    EXPECT_EQ(row->value("step", int64_t{0}), ++last);
    if (row->value("fault/skipped_steps", 0) != 0) skipped.push_back(last);
  }
  return skipped;
}

std::string WeightsOf(const std::string& out) { return std::vector<std::string>(absl::StrSplit(Digests(out), ' '))[0]; }

std::string Completions(const std::string& out) { return DefaultFileSystem().ReadFile(out + "/completions.jsonl", 1 << 28).value_or(""); }

// What a run without any failure ends in.
const std::string& UndisturbedWeights() {
  static const std::string weights = [] {
    const std::string out = FreshDirectory("undisturbed");
    const Outcome outcome = RunProgram(RunCommand(out), 120);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_TRUE(SkippedSteps(out).empty());
    EXPECT_THAT(outcome.output, Not(HasSubstr("not finite")));
    return WeightsOf(out);
  }();
  return weights;
}

TEST(NotFiniteTest, AStepIsSkippedTheSameWayWhateverItWas) {
  const struct {
    const char* where;
    int64_t step;
    const char* said;
  } cases[] = {
      {"trainer.logits:3:nan", 3, "stage sft step 3: not finite: the logits: addition:"},
      {"trainer.loss:3:nan", 3, "stage sft step 3: not finite: the loss; skipped"},
      {"trainer.gradient:3:nan", 3, "stage sft step 3: not finite: the gradient of lm_head.weight; skipped"},
      {"rollout.logits:5:nan", 9, "stage rl step 9: not finite: the logits of 1 of 16 completions, the first: group "},
      {"reward.total:1:nan", 9, "stage rl step 9: not finite: the rewards of 1 of 16 completions, the first: group 0 sample 0 (addition:0), "},
      {"trainer.logits:9:nan", 9, "stage rl step 9: not finite: the trainer's logits: group "},
      {"trainer.loss:9:nan", 9, "stage rl step 9: not finite: the loss; skipped"},
      {"trainer.gradient:9:nan", 9, "stage rl step 9: not finite: the gradient of lm_head.weight; skipped"},
  };
  std::map<int64_t, std::string> weights;  // of the first case that skipped this step
  for (const auto& c : cases) {
    const std::string out = FreshDirectory("skipped");
    // One micro-batch a step.
    const Outcome outcome =
        RunWith(RunCommand(out, {"stages[sft].optimizer.micro_batch_tokens=100000", "stages[rl].optimizer.micro_batch_tokens=100000"}), c.where);
    ASSERT_EQ(outcome.exit_code, 0) << c.where << "\n" << outcome.output;
    EXPECT_THAT(SkippedSteps(out), ::testing::ElementsAre(c.step)) << c.where;
    EXPECT_THAT(outcome.output, HasSubstr(c.said));
    EXPECT_NE(WeightsOf(out), UndisturbedWeights()) << c.where;
    EXPECT_EQ(weights.try_emplace(c.step, WeightsOf(out)).first->second, WeightsOf(out)) << c.where;
  }
}

TEST(NotFiniteTest, ThreeInARowEndTheRunAndSayWhatItWas) {
  const std::pair<const char*, const char*> cases[] = {
      {"trainer.logits:2+:nan", "stage sft step 4: not finite: the logits: addition:"},
      {"trainer.loss:2+:nan", "stage sft step 4: not finite: the loss"},
      {"trainer.gradient:2+:nan", "stage sft step 4: not finite: the gradient of"},
      {"rollout.logits:1+:nan", "stage rl step 11: not finite: the logits of 16 of 16 completions"},
      {"reward.total:1+:nan", "stage rl step 11: not finite: the rewards of 1 of 16 completions"},
  };
  for (const auto& [where, said] : cases) {
    const std::string out = FreshDirectory("three");
    const Outcome outcome = RunWith(RunCommand(out, {"stages[sft].optimizer.micro_batch_tokens=100000"}), where);
    EXPECT_EQ(outcome.exit_code, 1) << where << "\n" << outcome.output;
    EXPECT_THAT(outcome.output, AllOf(HasSubstr(said), HasSubstr("so ended 3 steps in a row"))) << where;
    EXPECT_EQ(SkippedSteps(out).size(), 2u) << where;
    // Two are borne.
    const std::string two = FreshDirectory("two");
    const std::string name(where, std::strchr(where, ':'));
    const bool tokens = name == "rollout.logits";  // hits are tokens: one of each of two steps
    const Outcome borne = RunWith(RunCommand(two, {"stages[sft].optimizer.micro_batch_tokens=100000"}),
                                  tokens ? "rollout.logits:1:nan,rollout.logits:200:nan" : absl::StrCat(name, ":2:nan,", name, ":3:nan"));
    EXPECT_EQ(borne.exit_code, 0) << where << "\n" << borne.output;
    EXPECT_EQ(SkippedSteps(two).size(), 2u) << where;
  }
}

TEST(NotFiniteTest, TheThirdInARowEndsTheRunAndLosesNoStepBeforeIt) {
  // Steps 6 to 8 of rl, the last of which ends the run; whoever resumes it after a repair goes on with it, as if it had not begun.
  const std::string whole = FreshDirectory("two_skipped"), out = FreshDirectory("fatal");
  ASSERT_EQ(RunWith(RunCommand(whole, {"checkpoint.every=0"}), "trainer.loss:14:nan,trainer.loss:15:nan").exit_code, 0);
  const Outcome fatal = RunWith(RunCommand(out, {"checkpoint.every=0"}), "trainer.loss:14+:nan");
  EXPECT_EQ(fatal.exit_code, 1) << fatal.output;
  EXPECT_THAT(fatal.output, AllOf(HasSubstr("so ended 3 steps in a row"), HasSubstr("the steps up to 15 are saved; go on with --resume --out " + out)));
  std::vector<std::string> resume = RunCommand(out, {"checkpoint.every=0"});
  resume.push_back("--resume");
  EXPECT_EQ(RunWith(resume, "trainer.loss:1+:nan").exit_code, 1) << "the third in a row still";
  const Outcome resumed = RunWith(resume, "");
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("resuming after step 15"));
  EXPECT_THAT(SkippedSteps(out), ::testing::ElementsAre(14, 15));
  EXPECT_EQ(Digests(out), Digests(whole));
  EXPECT_EQ(Completions(out), Completions(whole));
}

TEST(NotFiniteTest, KilledAndResumedAroundASkippedStepGivesTheSameBits) {
  // Steps 12 to 16 of the run are 4 to 8 of rl; checkpoints are at 3 and 6.
  const std::string out = FreshDirectory("skipped");
  const Outcome whole = RunWith(RunCommand(out), "reward.total:5:nan");
  ASSERT_EQ(whole.exit_code, 0) << whole.output;
  EXPECT_THAT(SkippedSteps(out), ::testing::ElementsAre(13));
  EXPECT_THAT(Completions(out), HasSubstr("\"reward\":null"));
  const struct {
    const char* before;
    const char* after;
  } cases[] = {
      {"reward.total:5:nan,trainer.step_end:15:kill", ""},                    // the skipped step is in the checkpoint
      {"reward.total:5:nan,trainer.step_end:13:kill", "reward.total:2:nan"},  // it is made again, and skipped again
      {"trainer.optimizer:12:kill", "reward.total:2:nan"},                    // it comes after the resumption
      {"reward.total:5:nan,checkpoint.before_rename:5:kill", "reward.total:2:nan"},  // in the save that would hold it
  };
  for (const auto& c : cases) {
    const std::string killed = FreshDirectory("skipped_killed");
    ASSERT_EQ(RunWith(RunCommand(killed), c.before).exit_code, 128 + SIGKILL) << c.before << " never fired";
    std::vector<std::string> command = RunCommand(killed);
    command.push_back("--resume");
    const Outcome resumed = RunWith(command, c.after);
    ASSERT_EQ(resumed.exit_code, 0) << c.before << "\n" << resumed.output;
    EXPECT_EQ(Digests(killed), Digests(out)) << c.before;
    EXPECT_TRUE(Completions(killed) == Completions(out)) << c.before;
    EXPECT_EQ(SkippedSteps(killed), SkippedSteps(out)) << c.before;
  }
}

TEST(NotFiniteTest, AServiceOverTcpIsNoDifference) {
  const std::string here = FreshDirectory("here");
  ASSERT_EQ(RunWith(RunCommand(here), "trainer.loss:9:nan,trainer.loss:11:nan").exit_code, 0);
  Service worker("rollout", 0, {{"GROUPER_FAIL", "rollout.logits:5:nan"}});
  Service reward("reward", 0, {{"GROUPER_FAIL", "reward.total:2:nan"}});  // the second step that is scored is the third
  const std::string out = FreshDirectory("tcp");
  const Outcome outcome = RunProgram(
      RunCommand(out, {"rollout.addresses=" + worker.address(), "reward.address=" + reward.address()}), 120);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(SkippedSteps(out), ::testing::ElementsAre(9, 11)) << outcome.output;
  EXPECT_EQ(WeightsOf(out), WeightsOf(here));
  EXPECT_THAT(worker.process().Output(), HasSubstr("the logits are not finite: group "));
  EXPECT_TRUE(worker.process().Running() && reward.process().Running());
}

// The weights of `run`'s model with those of one tensor all at `value`, as a model directory.
std::string WithTensor(const std::string& run, const std::string& name, float value) {
  const std::string directory = FreshDirectory("broken_model");
  std::filesystem::copy(run + "/model", directory, std::filesystem::copy_options::recursive);
  const std::string path = directory + "/model.safetensors";
  std::string bytes = *DefaultFileSystem().ReadFile(path, 1 << 28);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const json::Json tensors = *json::Parse(absl::string_view(bytes).substr(8, header));
  EXPECT_EQ(tensors[name]["dtype"], "F32");
  const std::vector<size_t> at = tensors[name]["data_offsets"];
  for (size_t i = at[0]; i < at[1]; i += sizeof value) std::memcpy(bytes.data() + 8 + header + i, &value, sizeof value);
  std::ofstream(path, std::ios::binary) << bytes;
  return directory;
}

TEST(NotFiniteTest, AModelWhoseLogitsOverflowIsNamedByEvalAndGenerateAndTrainsNothing) {
  const std::string run = FreshDirectory("good_run");
  ASSERT_EQ(RunProgram(RunCommand(run), 120).exit_code, 0);
  const std::string data = FreshDirectory("data") + ".jsonl", rules = FreshDirectory("rules") + ".textproto";
  std::ofstream(data) << "{\"prompt\": \"12+34=\", \"answer\": \"46\"}\n";
  std::ofstream(rules) << "rules { name: \"right\" exact {} }\n";
  for (const float value : {1.0f, std::numeric_limits<float>::max()}) {
    const bool good = value == 1;
    const std::string model = WithTensor(run, "model.norm.weight", value);
    const std::vector<std::vector<std::string>> commands = {{"eval", "--data", data, "--rules", rules},
                                                            {"generate", "--prompt", "12+34="},
                                                            {"generate", "--prompt", "12+34=", "--temperature", "1"}};
    for (const std::vector<std::string>& command : commands) {
      std::vector<std::string> argv = {GrouperBinary()};
      argv.insert(argv.end(), command.begin(), command.end());
      argv.insert(argv.end(), {"--model", model, "--max-new-tokens", "4"});
      const Outcome outcome = RunProgram(argv, 60);
      EXPECT_EQ(outcome.exit_code, good ? 0 : 1) << outcome.output;
      if (good) continue;
      EXPECT_THAT(outcome.output, AllOf(HasSubstr(model), HasSubstr("not finite"))) << command[0];
    }
    const std::string out = FreshDirectory("trained");
    const Outcome outcome = RunProgram(RunCommand(out, {"model.config=", "model.path=" + model}), 120);
    EXPECT_EQ(outcome.exit_code, good ? 0 : 1) << outcome.output;
    if (good) continue;
    EXPECT_THAT(outcome.output, AllOf(HasSubstr("stage sft step 3: not finite: the logits: addition:"), HasSubstr("so ended 3 steps in a row")));
  }
  std::filesystem::remove(data);
  std::filesystem::remove(rules);
}

TEST(NotFiniteTest, AnEvaluationInARunIsAnErrorThatNamesStageStepAndModel) {
  const std::vector<std::string> command = {GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", FreshDirectory("evaluated")};
  const Outcome outcome = RunWith(command, "rollout.logits:1:nan");
  EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("stage sft after step 8: evaluation of model /"),
                                    HasSubstr("/recipes/quickstart/config.json: not finite: the logits of 1 of 16 completions")));
}

}  // namespace
}  // namespace grouper::testing
