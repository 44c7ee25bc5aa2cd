// Runs on a GPU, or on the emulator (scripts/test_emulated.sh): the same bits twice and after kills, no difference between sampler and trainer, and
// as much of the device's memory as was predicted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/tensor/cuda.h"
#include "tests/testing/process.h"

namespace grouper::testing {
namespace {

#define GROUPER_NEEDS_CUDA() \
  if (::grouper::NumCudaDevices() == 0) GTEST_SKIP() << "no GPU"

constexpr double kRunSeconds = 300;

std::vector<std::string> RunCommand(const std::string& out, const std::vector<std::string>& sets = {}, bool resume = false) {
  std::vector<std::string> argv = {GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", out, "--set", "model.device=cuda"};
  for (const std::string& set : sets) {
    argv.push_back("--set");
    argv.push_back(set);
  }
  if (resume) argv.push_back("--resume");
  return argv;
}

// The undisturbed run, made once.
struct Reference {
  std::string out, digests, output;
};
const Reference& UndisturbedRun() {
  static const Reference reference = [] {
    const std::string out = FreshDirectory("cuda_reference");
    const Outcome outcome = RunProgram(RunCommand(out), kRunSeconds);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return Reference{out, Digests(out), outcome.output};
  }();
  return reference;
}

TEST(CudaRunTest, SamplerAndTrainerAgreeToTheBit) {
  GROUPER_NEEDS_CUDA();
  auto metrics = DefaultFileSystem().ReadFile(UndisturbedRun().out + "/metrics.jsonl", 1 << 28);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  int rows = 0;
  for (absl::string_view line : absl::StrSplit(*metrics, '\n', absl::SkipEmpty())) {
    const auto row = json::ParseOrdered(line);
    ASSERT_TRUE(row.ok()) << row.status();
    if (!row->contains("sampling/logprob_diff_max")) continue;
    EXPECT_EQ((*row)["sampling/logprob_diff_max"].get<double>(), 0) << line;
    ++rows;
  }
  EXPECT_EQ(rows, 8);
}

TEST(CudaRunTest, ThreadsAndBatchLimitsChangeNothing) {
  GROUPER_NEEDS_CUDA();
  const std::string out = FreshDirectory("cuda_variant");
  const Outcome outcome =
      RunProgram(RunCommand(out, {"threads=1", "rollout.max_batch_tokens=24", "rollout.max_sequences=5", "model.recompute=true"}), kRunSeconds);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(Digests(out), UndisturbedRun().digests);
}

TEST(CudaRunTest, KilledAndResumedGivesTheSameBits) {
  GROUPER_NEEDS_CUDA();
  const std::string out = FreshDirectory("cuda_kill");
  // A run that is killed three times: in a step, in a save, and while sampling.
  bool resume = false;
  for (const char* place : {"trainer.optimizer:6", "checkpoint.before_rename:2", "rollout.sample_finished:20"}) {
    const Outcome killed = RunProgram(RunCommand(out, {}, resume), kRunSeconds, {{"GROUPER_FAIL", absl::StrCat(place, ":kill")}});
    ASSERT_EQ(killed.exit_code, 128 + SIGKILL) << place << " never fired\n" << killed.output;
    resume = true;
  }
  const Outcome finished = RunProgram(RunCommand(out, {}, true), kRunSeconds);
  ASSERT_EQ(finished.exit_code, 0) << finished.output;
  EXPECT_EQ(Digests(out), UndisturbedRun().digests);
}

// Neither the cache nor a micro-batch fits: nothing is written, and the fields to change are named.
TEST(CudaRunTest, WhatCannotFitIsRefusedBeforeItBegins) {
  GROUPER_NEEDS_CUDA();
  const std::pair<std::string, std::string> cases[] = {{"rollout.cache_pages=100000000", "rollout.cache_pages"},
                                                       {"stages[sft].sft.batch_size=1000000", "stages[sft].optimizer.micro_batch_tokens"}};
  for (const auto& [set, field] : cases) {
    for (const bool dry : {false, true}) {
      SCOPED_TRACE(set + (dry ? " --dry-run" : ""));
      const std::string out = FreshDirectory("cuda_too_large");
      std::vector<std::string> argv = RunCommand(out, {set, "stages[sft].optimizer.micro_batch_tokens=1000000000"});
      if (dry) argv.push_back("--dry-run");
      const Outcome outcome = RunProgram(argv, kRunSeconds);
      EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
      EXPECT_THAT(outcome.output, ::testing::ContainsRegex("the run would take [0-9.]+ GB of cuda:0"));
      EXPECT_THAT(outcome.output, ::testing::HasSubstr("lower or change " + field));
      EXPECT_FALSE(DefaultFileSystem().Exists(out + "/recipe.textproto"));
    }
  }
}

TEST(CudaRunTest, AWorkerThatCannotFitIsRefusedBeforeItBegins) {
  GROUPER_NEEDS_CUDA();
  const Outcome outcome = RunProgram({GrouperBinary(), "serve", "rollout", "--recipe", SourcePath("tests/e2e/tiny.textproto"), "--listen", "127.0.0.1:0", "--set",
                                      "model.device=cuda", "--set", "rollout.cache_pages=100000000"},
                                     kRunSeconds);
  EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
  EXPECT_THAT(outcome.output, ::testing::ContainsRegex("the worker would take [0-9.]+ GB of cuda:0.*lower or change rollout.cache_pages"));
}

// "memory: cuda:0 0.614 GB at most, predicted 0.612 GB (-0.3%), ..."
double PredictionError(const std::string& output) {
  const size_t line = output.rfind("memory: cuda");
  const size_t open = line == std::string::npos ? line : output.find('(', line);
  if (open == std::string::npos) return std::nan("");
  return std::atof(output.c_str() + open + 1) / 100;
}

TEST(CudaRunTest, DeviceMemoryIsWhatWasPredicted) {
  GROUPER_NEEDS_CUDA();
  EXPECT_LE(std::abs(PredictionError(UndisturbedRun().output)), 0.05) << UndisturbedRun().output;  // with a reference policy
  // Without one, the cache too small for a micro-batch's activations, all in the supervised stage.
  const std::string out = FreshDirectory("cuda_memory");
  const Outcome outcome = RunProgram(RunCommand(out, {"stages[rl].grpo.kl_coef=0", "rollout.cache_pages=20", "stages[sft].steps=1", "stages[rl].steps=1",
                                                      "stages[sft].sft.batch_size=400", "stages[sft].optimizer.micro_batch_tokens=6000"}),
                                     kRunSeconds);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_LE(std::abs(PredictionError(outcome.output)), 0.05) << outcome.output;
}

}  // namespace
}  // namespace grouper::testing
