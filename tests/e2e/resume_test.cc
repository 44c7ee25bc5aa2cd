// kill -9 at any moment, then --resume: the same bits as the undisturbed run (RELIABILITY R1).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "tests/testing/service.h"

namespace grouper::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::string> RunCommand(const std::string& out, bool resume, const std::vector<std::string>& more = {}) {
  std::vector<std::string> argv = {GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", out};
  if (resume) argv.push_back("--resume");
  argv.insert(argv.end(), more.begin(), more.end());
  return argv;
}

// What must be equal after any accident: digests, every metrics row without its times, every completion.
struct Result {
  std::string digests, metrics, completions;
  friend bool operator==(const Result&, const Result&) = default;
};

Result ReadResult(const std::string& out) {
  Result result;
  result.digests = Digests(out);
  auto metrics = DefaultFileSystem().ReadFile(out + "/metrics.jsonl", 1 << 28);
  EXPECT_TRUE(metrics.ok()) << metrics.status();
  for (absl::string_view line : absl::StrSplit(metrics.value_or(""), '\n', absl::SkipEmpty())) {
    auto row = json::ParseOrdered(line);
    EXPECT_TRUE(row.ok()) << row.status() << ": " << line;
    if (!row.ok()) continue;
    for (const auto& [name, value] : row->items()) {
      if (absl::StartsWith(name, "time/") || absl::StartsWith(name, "perf/") || absl::StartsWith(name, "fault/")) continue;
      absl::StrAppend(&result.metrics, name, "=", value.dump(), " ");
    }
    absl::StrAppend(&result.metrics, "\n");
  }
  auto completions = DefaultFileSystem().ReadFile(out + "/completions.jsonl", 1 << 28);
  EXPECT_TRUE(completions.ok()) << completions.status();
  result.completions = completions.value_or("");
  return result;
}

struct Reference {
  Result result;
  double seconds = 0;
};
const Reference& UndisturbedRun() {
  static const Reference reference = [] {
    Reference r;
    const std::string out = FreshDirectory("undisturbed");
    const absl::Time start = absl::Now();
    const Outcome outcome = RunProgram(RunCommand(out, false), 120);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    r.seconds = absl::ToDoubleSeconds(absl::Now() - start);
    r.result = ReadResult(out);
    return r;
  }();
  return reference;
}

void ExpectSame(const std::string& out, const std::string& what) {
  const Result result = ReadResult(out);
  EXPECT_EQ(result.digests, UndisturbedRun().result.digests) << what;
  EXPECT_EQ(result.metrics, UndisturbedRun().result.metrics) << what;
  EXPECT_TRUE(result.completions == UndisturbedRun().result.completions) << what;
}

TEST(ResumeTest, KilledAtRandomMomentsAndResumedGivesTheSameBits) {
  const char* wanted = std::getenv("GROUPER_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 20;
  std::mt19937 random(20261123);
  int killed = 0;
  double seconds = UndisturbedRun().seconds;  // which may have been a slow one
  while (killed < kills) {
    const std::string out = FreshDirectory("random_kill");
    // Several kills in one run now and then: a resumed run must survive too.
    Outcome outcome;
    for (int attempt = 0; attempt < 200; ++attempt) {
      Process run(RunCommand(out, attempt > 0));
      const absl::Time start = absl::Now();
      const absl::Duration moment = absl::Seconds(std::uniform_real_distribution<double>(0.02, seconds)(random));
      while (absl::Now() - start < moment && run.Running()) absl::SleepFor(absl::Milliseconds(5));
      if (killed < kills && run.Running()) {
        run.Signal(SIGKILL);
        ++killed;
      } else if (attempt == 0) {
        run.Wait(120);
        seconds = std::min(seconds, absl::ToDoubleSeconds(absl::Now() - start));
      }
      outcome = run.Wait(120);
      if (outcome.exit_code == 0) break;
      ASSERT_EQ(outcome.exit_code, 128 + SIGKILL) << outcome.output;
    }
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    ExpectSame(out, absl::StrCat("after ", killed, " kills"));
    if (HasFailure()) return;
  }
}

TEST(ResumeTest, KilledAtEveryNamedPlaceAndResumedGivesTheSameBits) {
  const std::vector<std::string> places = {
      "checkpoint.begin:2",         "checkpoint.file_written:3", "checkpoint.before_manifest:2", "checkpoint.before_rename:2",
      "checkpoint.after_rename:2",  "checkpoint.before_prune:2", "checkpoint.after_prune:2",     "trainer.prompt_taken:20",
      "trainer.score_received:4",   "trainer.advantage:4",       "trainer.backward:12",          "trainer.optimizer:12",
      "trainer.weights_pushed:5",   "trainer.metrics_line:12",   "trainer.completions_line:40",  "trainer.step_end:11",
      "rollout.first_token:30",     "rollout.sample_finished:50", "rollout.weights_swapped:6",
  };
  for (const std::string& place : places) {
    const std::string out = FreshDirectory("place");
    const Outcome first = RunProgram(RunCommand(out, false), 120, {{"GROUPER_FAIL", place + ":kill"}});
    ASSERT_EQ(first.exit_code, 128 + SIGKILL) << place << " never fired\n" << first.output;
    const Outcome second = RunProgram(RunCommand(out, true), 120);
    ASSERT_EQ(second.exit_code, 0) << place << "\n" << second.output;
    ExpectSame(out, place);
  }
}

TEST(ResumeTest, SigtermSavesAndExitsWithZeroAndResumeGoesOn) {
  const std::string out = FreshDirectory("sigterm");
  Process run(RunCommand(out, false), {{"GROUPER_FAIL", "trainer.step_end:4:delay=1500"}});
  absl::SleepFor(absl::Seconds(1));
  run.Signal(SIGTERM);
  const Outcome outcome = run.Wait(30);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  const Outcome resumed = RunProgram(RunCommand(out, true), 120);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  ExpectSame(out, "after SIGTERM");
}

// The names in RUN/checkpoints.
std::vector<std::string> CheckpointsOf(const std::string& out) {
  std::vector<std::string> names = DefaultFileSystem().ListDirectory(out + "/checkpoints").value_or(std::vector<std::string>{});
  std::sort(names.begin(), names.end());
  return names;
}

const std::vector<std::string> kNoCheckpoints = {"--set", "checkpoint.every=0"};  // but those between stages and at an end

TEST(ResumeTest, AStepThatFailsLosesNoStepBeforeIt) {
  const struct {
    const char* place;
    std::vector<std::string> saved;
  } cases[] = {
      {"trainer.prompt_taken:5:error", {}},                     // of the first step: there is nothing yet
      {"trainer.backward:6:error", {"step_5"}},                 // sft
      {"trainer.optimizer:6:error", {}},                        // its update is in the weights
      {"trainer.generate_sent:4:error", {"step_10", "step_8"}},  // the third step of rl; the first was sft's evaluation
      {"trainer.score_received:4:error", {"step_10", "step_8"}},
      {"trainer.advantage:7:error", {"step_14", "step_8"}},
      {"trainer.backward:13:error", {"step_12", "step_8"}},
      {"trainer.optimizer:13:error", {"step_8"}},
      {"trainer.weights_pushed:5:error", {"step_12", "step_8"}},  // to the evaluation after rl's fourth step
  };
  for (const auto& c : cases) {
    const std::string out = FreshDirectory("failed_step");
    const Outcome first = RunProgram(RunCommand(out, false, kNoCheckpoints), 120, {{"GROUPER_FAIL", c.place}});
    ASSERT_EQ(first.exit_code, 1) << c.place << "\n" << first.output;
    EXPECT_EQ(CheckpointsOf(out), c.saved) << c.place << "\n" << first.output;
    const Outcome second = RunProgram(RunCommand(out, true, kNoCheckpoints), 120);
    ASSERT_EQ(second.exit_code, 0) << c.place << "\n" << second.output;
    ExpectSame(out, c.place);
  }
}

TEST(ResumeTest, WhereTheSavingFailsTooTheFirstErrorIsReported) {
  const std::string out = FreshDirectory("failed_twice");
  const Outcome outcome = RunProgram(RunCommand(out, false, kNoCheckpoints), 120, {{"GROUPER_FAIL", "trainer.advantage:2:error,checkpoint.begin:2:error"}});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("could not save the steps up to 9: checkpoint of step 9 (earlier ones are untouched): injected failure"),
                                    ::testing::EndsWith("grouper: injected failure at trainer.advantage\n")));
}

TEST(ResumeTest, AStopBeforeAnythingWasBegunLeavesNothing) {
  const std::string out = FreshDirectory("not_begun");
  Process run(RunCommand(out, false, {"--set", "rollout.addresses=127.0.0.1:1"}));
  for (int i = 0; i < 3000 && run.Running() && !DefaultFileSystem().Exists(out + "/.lock"); ++i) absl::SleepFor(absl::Milliseconds(10));
  absl::SleepFor(absl::Seconds(1));
  run.Signal(SIGTERM);
  const Outcome outcome = run.Wait(15);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("stopped while waiting for a rollout worker (127.0.0.1:1); nothing was begun"));
  EXPECT_FALSE(DefaultFileSystem().Exists(out));
}

TEST(ResumeTest, AnEvaluationThatFailsLosesNoStepAndIsMadeAfterTheResumption) {
  // At sft's end, after rl's fourth step, and at rl's end: the scorings between are those of the steps.
  for (const char* place : {"rollout.logits:1:nan", "trainer.score_received:1:error", "trainer.score_received:6:error", "trainer.score_received:11:error"}) {
    const std::string out = FreshDirectory("failed_evaluation");
    const Outcome first = RunProgram(RunCommand(out, false, kNoCheckpoints), 120, {{"GROUPER_FAIL", place}});
    ASSERT_EQ(first.exit_code, 1) << place << "\n" << first.output;
    ASSERT_FALSE(CheckpointsOf(out).empty()) << place << "\n" << first.output;
    EXPECT_THAT(first.output, HasSubstr("are saved; go on with --resume --out " + out)) << place;
    // And once more: the evaluation is the first thing that a resumed run does.
    const Outcome again = RunProgram(RunCommand(out, true, kNoCheckpoints), 120, {{"GROUPER_FAIL", "trainer.score_received:1:error"}});
    ASSERT_EQ(again.exit_code, 1) << place << "\n" << again.output;
    const Outcome second = RunProgram(RunCommand(out, true, kNoCheckpoints), 120);
    ASSERT_EQ(second.exit_code, 0) << place << "\n" << second.output;
    ExpectSame(out, place);
  }
}

TEST(ResumeTest, SigtermCutsAnEvaluationOffAndTheResumptionMakesIt) {
  // Half a minute for each evaluation; sft itself decodes nothing.
  const std::map<std::string, std::string> slow = {{"GROUPER_FAIL", "rollout.decode:1+:delay=2000"}};
  for (const bool at_start : {false, true}) {
    std::vector<std::string> sets = kNoCheckpoints;
    if (at_start) sets.insert(sets.end(), {"--set", "stages[sft].eval.at_start=true"});
    Result undisturbed = UndisturbedRun().result;
    if (at_start) {
      const std::string out = FreshDirectory("with_start");
      ASSERT_EQ(RunProgram(RunCommand(out, false, sets), 120).exit_code, 0);
      undisturbed = ReadResult(out);
    }
    for (const bool remote : {false, true}) {
      const std::unique_ptr<Service> worker = remote ? std::make_unique<Service>("rollout", 0, slow) : nullptr;
      const std::string out = FreshDirectory("cut_off");
      std::vector<std::string> first = sets;
      if (remote) first.insert(first.end(), {"--set", "rollout.addresses=" + worker->address()});
      Process run(RunCommand(out, false, first), remote ? std::map<std::string, std::string>{} : slow);
      const auto evaluates = [&] {
        const std::string rows = DefaultFileSystem().ReadFile(out + "/metrics.jsonl", 1 << 20).value_or("none");
        return at_start ? rows != "none" : absl::StrContains(rows, "\"step\":7,");
      };
      for (int i = 0; i < 3000 && run.Running() && !evaluates(); ++i) absl::SleepFor(absl::Milliseconds(10));
      absl::SleepFor(absl::Seconds(1));
      ASSERT_TRUE(run.Running()) << run.Output();
      run.Signal(SIGTERM);
      const Outcome outcome = run.Wait(15);  // R15: 30 s at most
      EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
      EXPECT_THAT(outcome.output, AllOf(HasSubstr("sampling was cut off with 16 completions to go, a stop was asked for"),
                                        HasSubstr(at_start ? "stopped after step 0;" : "stopped after step 8 and before its evaluation;")));
      EXPECT_THAT(CheckpointsOf(out), ::testing::ElementsAre(at_start ? "step_0" : "step_8"));
      const Outcome resumed = RunProgram(RunCommand(out, true, sets), 120);
      ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
      EXPECT_TRUE(ReadResult(out) == undisturbed) << ReadResult(out).metrics;
    }
  }
}

TEST(ResumeTest, AStopWhileAnEvaluationWaitsForAWorkerThatIsGoneLosesNothing) {
  Service worker("rollout", 0);
  const std::string out = FreshDirectory("no_worker_at_the_end");
  std::vector<std::string> remote = kNoCheckpoints;
  remote.insert(remote.end(), {"--set", "rollout.addresses=" + worker.address()});
  Process run(RunCommand(out, false, remote), {{"GROUPER_FAIL", "trainer.step_end:4:delay=1000"}});
  const auto sft = [&] { return absl::StrContains(DefaultFileSystem().ReadFile(out + "/metrics.jsonl", 1 << 20).value_or(""), "\"step\":2,"); };
  for (int i = 0; i < 3000 && run.Running() && !sft(); ++i) absl::SleepFor(absl::Milliseconds(10));
  worker.process().Signal(SIGKILL);
  ASSERT_TRUE(run.WaitForOutput("GetStatus", 30)) << run.Output();
  absl::SleepFor(absl::Seconds(1));
  run.Signal(SIGTERM);
  const Outcome outcome = run.Wait(15);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("no rollout worker answers (" + worker.address() + ") since "),
                                    HasSubstr("stopped after step 8 and before its evaluation; go on with --resume --out " + out)));
  EXPECT_THAT(CheckpointsOf(out), ::testing::ElementsAre("step_8"));
  const Outcome resumed = RunProgram(RunCommand(out, true, kNoCheckpoints), 120);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  ExpectSame(out, "stopped at an evaluation without workers");
}

TEST(ResumeTest, OutputFolderWithARunIsRefusedWithoutResume) {
  const std::string out = FreshDirectory("twice");
  ASSERT_EQ(RunProgram(RunCommand(out, false), 120).exit_code, 0);
  const Outcome again = RunProgram(RunCommand(out, false), 120);
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_THAT(again.output, HasSubstr("--resume"));
  const Outcome finished = RunProgram(RunCommand(out, true), 120);
  EXPECT_EQ(finished.exit_code, 0) << finished.output;
  EXPECT_THAT(finished.output, HasSubstr("finished"));
  ExpectSame(out, "resumed after the end");
}

TEST(ResumeTest, AChangedRecipeIsRefusedAndTheDifferenceShown) {
  const std::string out = FreshDirectory("changed");
  RunProgram(RunCommand(out, false), 120, {{"GROUPER_FAIL", "trainer.step_end:7:kill"}});
  const Outcome outcome = RunProgram(RunCommand(out, true, {"--set", "seed=9"}), 120);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("+seed: 9"));
  const Outcome placed = RunProgram(RunCommand(out, true, {"--set", "threads=1"}), 120);
  ASSERT_EQ(placed.exit_code, 0) << placed.output;
  ExpectSame(out, "resumed on another number of threads");
}

TEST(ResumeTest, ADamagedCheckpointStopsTheRunAndNamesTheFile) {
  const std::string out = FreshDirectory("rot");
  RunProgram(RunCommand(out, false), 120, {{"GROUPER_FAIL", "trainer.step_end:8:kill"}});
  auto& fs = DefaultFileSystem();
  const auto names = fs.ListDirectory(out + "/checkpoints");
  ASSERT_TRUE(names.ok() && !names->empty()) << names.status();
  std::string newest;
  for (const std::string& name : *names) {
    if (!absl::EndsWith(name, ".tmp")) newest = name;
  }
  const std::string folder = out + "/checkpoints/" + newest;
  const auto files = fs.ListDirectory(folder);
  for (const std::string& file : *files) {
    auto data = *fs.ReadFile(folder + "/" + file, 1 << 28);
    ASSERT_FALSE(data.empty());
    std::string damaged = data;
    damaged[damaged.size() / 2] ^= 4;
    std::ofstream(folder + "/" + file, std::ios::binary) << damaged;
    const Outcome outcome = RunProgram(RunCommand(out, true), 60);
    EXPECT_EQ(outcome.exit_code, 1) << file << "\n" << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(file));
    std::ofstream(folder + "/" + file, std::ios::binary) << data;
  }
}

TEST(ResumeTest, TwoProcessesNeverWorkInOneFolder) {
  const std::string out = FreshDirectory("two_at_once");
  // Slow enough that the second one comes in the middle.
  Process first(RunCommand(out, false), {{"GROUPER_FAIL", "trainer.step_end:1+:delay=200"}});
  for (int i = 0; i < 1000 && !DefaultFileSystem().Exists(out + "/metrics.jsonl"); ++i) absl::SleepFor(absl::Milliseconds(10));
  for (bool resume : {false, true}) {
    for (const bool dry : {false, true}) {
      const Outcome second = RunProgram(RunCommand(out, resume, dry ? std::vector<std::string>{"--dry-run"} : std::vector<std::string>{}), 60);
      EXPECT_EQ(second.exit_code, 1) << second.output;
      EXPECT_THAT(second.output, HasSubstr(absl::StrCat("another process (pid ", first.pid(), ") is running there")));
    }
  }
  EXPECT_EQ(first.Wait(120).exit_code, 0);
  ExpectSame(out, "the first of two");
}

TEST(ResumeTest, FilesThatAreNotThisRunsAreLeftAlone) {
  for (const char* name : {"metrics.jsonl", "completions.jsonl", "run.json"}) {
    const std::string out = FreshDirectory("foreign");
    ASSERT_TRUE(DefaultFileSystem().CreateDirectories(out).ok());
    std::ofstream(out + "/" + name) << "precious\n";
    for (bool resume : {false, true}) {
      const Outcome outcome = RunProgram(RunCommand(out, resume), 60);
      EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
      EXPECT_THAT(outcome.output, HasSubstr(name));
    }
    EXPECT_EQ(*DefaultFileSystem().ReadFile(out + "/" + name, 100), "precious\n");
  }
}

// A project of its own: a recipe with files beside it, and a run of three steps that is killed after two.
struct Project {
  std::string folder = FreshDirectory("project");

  Project() {
    std::filesystem::create_directories(folder);
    for (const char* file : {"config.json", "tokenizer.json"}) {
      std::filesystem::copy_file(SourcePath(std::string("recipes/quickstart/") + file), folder + "/" + file);
    }
    WriteRows("2");
    std::ofstream(folder + "/r.textproto") << R"(
        model { config: "config.json" tokenizer: "tokenizer.json" device: "cpu" }
        stages { name: "s" steps: 3 data { train: "rows.jsonl" } optimizer { lr: 1e-3 } grpo { prompts_per_step: 1 group_size: 8 sampling { max_new_tokens: 4 } } }
        reward { rules { name: "right" exact {} } rules { name: "digit" regex { pattern: "[0-4]" } } }
        checkpoint { every: 1 })";
  }
  void WriteRows(const std::string& answer) const { std::ofstream(folder + "/rows.jsonl") << "{\"prompt\": \"1+1=\", \"answer\": \"" << answer << "\"}\n"; }
  Outcome Run(const std::string& recipe, const std::vector<std::string>& more = {}, const std::map<std::string, std::string>& environment = {}) const {
    std::vector<std::string> argv = {GrouperBinary(), "run", recipe, "--out", folder + "/run"};
    argv.insert(argv.end(), more.begin(), more.end());
    return RunProgram(argv, 60, environment);
  }
  void RunAndKill() const {
    ASSERT_EQ(Run(folder + "/r.textproto", {}, {{"GROUPER_FAIL", "trainer.step_end:2:kill"}}).exit_code, 128 + SIGKILL);
  }
};

TEST(ResumeTest, DataThatChangedInTheMeantimeIsRefused) {
  const Project project;
  project.RunAndKill();
  const std::string recipe = project.folder + "/r.textproto";
  project.WriteRows("3");
  const Outcome changed = project.Run(recipe, {"--resume"});
  EXPECT_EQ(changed.exit_code, 1) << changed.output;
  EXPECT_THAT(changed.output, HasSubstr("other data"));
  project.WriteRows("2");
  const Outcome same = project.Run(recipe, {"--resume"});
  EXPECT_EQ(same.exit_code, 0) << same.output;
}

std::string Contents(const std::string& path) { return DefaultFileSystem().ReadFile(path, 1 << 28).value_or("absent: " + path); }

TEST(ResumeTest, AFinishedRunThatLostAPartIsFinishedAgain) {
  const Project project;
  const std::string recipe = project.folder + "/r.textproto", out = project.folder + "/run", weights = out + "/model/model.safetensors";
  ASSERT_EQ(project.Run(recipe).exit_code, 0);
  const std::string bytes = Contents(weights), summary = Contents(out + "/run.json");
  std::string others = bytes;
  others[others.size() - 2] ^= 1;
  const struct {
    std::string what;
    std::function<void()> damage;
    std::string said;
  } cases[] = {
      {"nothing", [] {}, "the run has finished already"},
      {"no model", [&] { std::filesystem::remove_all(out + "/model"); }, "/run/model"},
      {"no weights", [&] { std::filesystem::remove(weights); }, "model.safetensors"},
      {"no tokenizer", [&] { std::filesystem::remove(out + "/model/tokenizer.json"); }, "tokenizer.json"},
      {"other weights", [&] { std::ofstream(weights, std::ios::binary) << others; }, "weights_digest"},
      {"empty summary", [&] { std::ofstream(out + "/run.json") << ""; }, "run.json"},
      {"empty object", [&] { std::ofstream(out + "/run.json") << "{}"; }, "missing key"},
      {"no summary and other weights",
       [&] {
         std::filesystem::remove(out + "/run.json");
         std::ofstream(weights, std::ios::binary) << others;
       },
       "it is written again"},
  };
  for (const auto& c : cases) {
    c.damage();
    const Outcome outcome = project.Run(recipe, {"--resume"});
    EXPECT_EQ(outcome.exit_code, 0) << c.what << "\n" << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(c.said)) << c.what;
    EXPECT_TRUE(Contents(weights) == bytes) << c.what;
    EXPECT_EQ(Contents(out + "/run.json"), summary) << c.what;
    EXPECT_TRUE(std::filesystem::exists(out + "/model/tokenizer.json")) << c.what;
    EXPECT_FALSE(std::filesystem::exists(out + "/model.grouper-unfinished")) << c.what;
  }
  project.WriteRows("3");
  EXPECT_THAT(project.Run(recipe, {"--resume"}).output, HasSubstr("run.json: made with other data"));
}

TEST(ResumeTest, WithoutModelAndCheckpointsAFinishedRunIsNotTrainedAgainUnasked) {
  const Project project;
  const std::string recipe = project.folder + "/r.textproto", out = project.folder + "/run";
  ASSERT_EQ(project.Run(recipe).exit_code, 0);
  std::filesystem::remove_all(out + "/checkpoints");
  EXPECT_EQ(project.Run(recipe, {"--resume"}).exit_code, 0);  // model and summary are enough
  const std::string metrics = Contents(out + "/metrics.jsonl"), old_weights = Contents(out + "/model/model.safetensors");
  std::filesystem::rename(out + "/model", out + "/taken");
  const Outcome refused = project.Run(recipe, {"--resume"});
  EXPECT_EQ(refused.exit_code, 1) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("remove run.json to train it again from the beginning"));
  EXPECT_EQ(Contents(out + "/metrics.jsonl"), metrics);
  // Asked, and with other rows: the old model is not taken for the new one's.
  std::filesystem::rename(out + "/taken", out + "/model");
  std::filesystem::remove(out + "/run.json");
  std::ofstream(project.folder + "/rows.jsonl") << "{\"prompt\": \"7+2=\", \"answer\": \"9\"}\n";
  const Outcome again = project.Run(recipe, {"--resume"});
  ASSERT_EQ(again.exit_code, 0) << again.output;
  const std::string digests = Digests(out), model = RunProgram({GrouperBinary(), "inspect", out + "/model"}, 60).output;
  EXPECT_THAT(model, HasSubstr("weights_digest: " + digests.substr(0, 64)));
  EXPECT_FALSE(Contents(out + "/model/model.safetensors") == old_weights);
}

TEST(ResumeTest, ARecipeByAnotherPathIsTheSameRecipe) {
  const Project project;
  project.RunAndKill();
  const Outcome outcome = project.Run(project.folder + "/../" + Basename(project.folder) + "/./r.textproto", {"--resume"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

TEST(ResumeTest, AMovedProjectGoesOnWithTheSameFilesAndIsRefusedWithOthers) {
  const Project undisturbed;
  ASSERT_EQ(undisturbed.Run(undisturbed.folder + "/r.textproto").exit_code, 0);
  Project project;
  project.RunAndKill();
  const std::string moved = FreshDirectory("moved");
  std::filesystem::rename(project.folder, moved);
  project.folder = moved;
  std::filesystem::rename(moved + "/rows.jsonl", moved + "/renamed.jsonl");
  const std::string recipe = moved + "/r.textproto", renamed = "stages[s].data.train=" + moved + "/renamed.jsonl";
  // The same architecture but for one number that no tensor's shape shows.
  auto config = DefaultFileSystem().ReadFile(moved + "/config.json", 1 << 20);
  ASSERT_TRUE(config.ok()) << config.status();
  auto other = json::ParseOrdered(*config);
  ASSERT_TRUE(other.ok()) << other.status();
  (*other)["rms_norm_eps"] = 0.125;
  std::ofstream(moved + "/other.json") << other->dump();
  const Outcome refused = project.Run(recipe, {"--resume", "--set", renamed, "--set", "model.config=" + moved + "/other.json"});
  EXPECT_EQ(refused.exit_code, 1) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("config.json: another model than "));
  const Outcome outcome = project.Run(recipe, {"--resume", "--set", renamed});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(Digests(moved + "/run"), Digests(undisturbed.folder + "/run"));
}

}  // namespace
}  // namespace grouper::testing
