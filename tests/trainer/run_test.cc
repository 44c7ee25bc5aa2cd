// A run and those who steer it.
#include "trainer/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/time/clock.h"
#include "tests/trainer/stage_world.h"

namespace grouper {
namespace {

using ::testing::EndsWith;

// Six SFT steps with an evaluation before the first, over a scripted sampler.
struct RunWorld : StageWorld {
  explicit RunWorld(std::string out)
      : StageWorld([](uint64_t, uint32_t) { return Scripted{.reward = 0.0}; }, {"stages[sft].steps=6", "stages[sft].eval.at_start=true", "checkpoint.every=0"}),
        directory(std::move(out)) {
    recipe.mutable_stages()->RemoveLast();
  }
  absl::Status Run(bool resume) {
    RunParts parts{recipe, directory, resume, loaded, threads, *rollout, reward, [](const json::Json&) { return absl::OkStatus(); }, DefaultFileSystem(),
                   RealClock(), control, observer, {}};
    return RunRecipe(parts);
  }
  std::string Read(const std::string& name) const { return DefaultFileSystem().ReadFile(JoinPath(directory, name), 1 << 24).value_or(""); }

  std::string directory;
  RunControl control;
  RunObserver observer;
};

std::string Fresh(const std::string& name) {
  const std::string path = JoinPath(::testing::TempDir(), absl::StrCat("run_test_", getpid(), "_", name));
  std::filesystem::remove_all(path);
  return path;
}

TEST(RunTest, APausedRunSavesWhenAskedAndGoesOnFromThere) {
  const absl::Duration patience = absl::Seconds(30);
  RunWorld world(Fresh("paused"));
  world.observer.step_done = [&](int64_t done, int64_t, const MetricsRow&) {
    if (done == 3) world.control.Pause();
  };
  world.control.Pause();
  absl::Status status;
  std::thread run([&] { status = world.Run(false); });
  // Before the first step: resuming there evaluates the beginning again, and its row is there once.
  EXPECT_THAT(world.control.CheckpointNow(patience), EndsWith("/checkpoints/step_0"));
  v1::TrainerStatus now = world.control.Status();
  EXPECT_EQ(now.stage(), "sft");
  EXPECT_EQ(now.step(), 0u);
  EXPECT_EQ(now.total_steps(), 6u);
  EXPECT_TRUE(now.paused());
  const std::string copy = Fresh("copy");
  std::filesystem::copy(world.directory, copy, std::filesystem::copy_options::recursive);
  world.control.Resume();
  const absl::Time deadline = absl::Now() + patience;
  while (!(world.control.Status().paused() && world.control.Status().step() == 3) && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  for (int again = 0; again < 2; ++again) EXPECT_THAT(world.control.CheckpointNow(patience), EndsWith("/checkpoints/step_3"));
  EXPECT_EQ(world.control.Status().step(), 3u);
  world.control.Resume();
  run.join();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(world.control.Status().step(), world.control.Status().total_steps());

  RunWorld resumed(copy);
  const absl::Status finished = resumed.Run(true);
  ASSERT_TRUE(finished.ok()) << finished;
  EXPECT_EQ(resumed.Read("run.json"), world.Read("run.json"));
  const std::string metrics = resumed.Read("metrics.jsonl");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 7);
  for (const std::string& path : {world.directory, copy}) std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace grouper
