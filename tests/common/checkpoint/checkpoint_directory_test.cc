#include "common/checkpoint/checkpoint_directory.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/failpoint.h"
#include "common/base/hash.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/faulty_file_system.h"

namespace grouper {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Loss = FaultyFileSystem::Loss;

constexpr char kDir[] = "run/checkpoints";

std::string Content(int64_t step, absl::string_view name, size_t size) {
  std::string data = absl::StrCat(name, " of step ", step, ": ");
  PhiloxStream random(MakePhiloxKey(static_cast<uint64_t>(step), std::string(name).c_str()));
  while (data.size() < size) data.push_back(static_cast<char>(random.NextUint32()));
  return data;
}

const std::pair<const char*, size_t> kFiles[] = {
    {"optimizer.bin", 700}, {"state.json", 60}, {"weights.safetensors", 1500}};

// What the trainer does: one file as a stream, others at once; then pruning.
absl::Status Save(FileSystem& fs, int64_t step, int keep_last, const std::vector<int64_t>& keep_steps = {},
                  const char* directory = kDir) {
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointWriter> writer, CheckpointWriter::Create(fs, directory, step));
  for (const auto& [name, size] : kFiles) {
    const std::string data = Content(step, name, size);
    if (size < 1000) {
      RETURN_IF_ERROR(writer->AddFile(name, data));
      continue;
    }
    ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, writer->CreateFile(name));
    for (size_t at = 0; at < data.size(); at += 300) {
      RETURN_IF_ERROR(file->Append(absl::string_view(data).substr(at, 300)));
    }
    RETURN_IF_ERROR(file->Close());
  }
  RETURN_IF_ERROR(writer->Commit());
  return PruneCheckpoints(fs, directory, keep_last, keep_steps);
}

// The step that loads, whole and with its own content; 0: there is none; -1: anything else.
int64_t LoadedStep(FileSystem& fs, const char* directory = kDir) {
  const auto found = FindLatestCheckpoint(fs, directory);
  if (!found.ok()) return -1;
  if (!found->has_value()) return 0;
  for (const auto& [name, size] : kFiles) {
    const auto data = (*found)->ReadFile(name);
    if (!data.ok() || *data != Content((*found)->step(), name, size)) return -1;
  }
  return (*found)->step();
}

// A disk with these steps saved, all durable.
std::unique_ptr<FaultyFileSystem> DiskWith(const std::vector<int64_t>& steps) {
  auto fs = std::make_unique<FaultyFileSystem>();
  EXPECT_TRUE(fs->CreateDirectories("run").ok());
  for (int64_t step : steps) EXPECT_TRUE(Save(*fs, step, 10).ok());
  fs->Restart(Loss::kUnsyncedBytes);
  return fs;
}

TEST(CheckpointDirectory, WhatIsSavedIsLoaded) {
  FaultyFileSystem fs;
  EXPECT_EQ(LoadedStep(fs), 0);
  ASSERT_TRUE(Save(fs, 7, 2).ok());
  EXPECT_EQ(LoadedStep(fs), 7);
  ASSERT_TRUE(Save(fs, 20, 2).ok());
  EXPECT_EQ(LoadedStep(fs), 20);
  const auto reader = CheckpointReader::Open(fs, "run/checkpoints/step_7/");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(*reader->ReadFile("state.json"), Content(7, "state.json", 60));
  EXPECT_EQ(*reader->Path("state.json"), "run/checkpoints/step_7/state.json");
  EXPECT_TRUE(absl::IsNotFound(reader->ReadFile("none").status()));
  EXPECT_TRUE(absl::IsNotFound(reader->Path("MANIFEST").status()));
}

TEST(CheckpointDirectory, AStepIsSavedOnce) {
  FaultyFileSystem fs;
  ASSERT_TRUE(Save(fs, 7, 2).ok());
  const absl::Status again = Save(fs, 7, 2);
  EXPECT_TRUE(absl::IsAlreadyExists(again)) << again;
  EXPECT_EQ(LoadedStep(fs), 7);
}

TEST(CheckpointDirectory, AWriterThatIsGivenUpLeavesNothing) {
  FaultyFileSystem fs;
  {
    auto writer = CheckpointWriter::Create(fs, kDir, 3);
    ASSERT_TRUE(writer.ok() && (*writer)->AddFile("a", "b").ok());
    EXPECT_THAT(*fs.ListDirectory(kDir), ElementsAre("step_3.tmp"));
  }
  EXPECT_THAT(*fs.ListDirectory(kDir), ElementsAre());
}

TEST(CheckpointDirectory, OnlyOurNamesCount) {
  auto fs = DiskWith({5, 40});
  for (const char* name :
       {"step_99.tmp", "step_", "step_07", "step_-1", "step_5x", "steps_3", "step_99999999999999999999", "notes"}) {
    ASSERT_TRUE(fs->CreateDirectories(JoinPath(kDir, name)).ok());
  }
  EXPECT_THAT(*ListCheckpoints(*fs, kDir), ElementsAre(5, 40));
  EXPECT_EQ(LoadedStep(*fs), 40);
  ASSERT_TRUE(Save(*fs, 41, 9).ok());
  EXPECT_FALSE(fs->Exists("run/checkpoints/step_99.tmp")) << "leftovers are removed by the next save";
  EXPECT_TRUE(fs->Exists("run/checkpoints/notes"));
}

TEST(CheckpointDirectory, PruningKeepsTheLastAndTheBest) {
  auto fs = DiskWith({10, 20, 30, 40, 50});
  ASSERT_TRUE(PruneCheckpoints(*fs, kDir, 2, {20, 77}).ok());
  EXPECT_THAT(*fs->ListDirectory(kDir), ElementsAre("step_20", "step_40", "step_50"));
  ASSERT_TRUE(PruneCheckpoints(*fs, kDir, 1, {}).ok());
  EXPECT_THAT(*fs->ListDirectory(kDir), ElementsAre("step_50"));
  ASSERT_TRUE(PruneCheckpoints(*fs, kDir, 1, {}).ok());
  EXPECT_THAT(*fs->ListDirectory(kDir), ElementsAre("step_50"));
}

TEST(CheckpointDirectory, PruningNeverTakesTheLastGoodOne) {
  auto fs = DiskWith({10, 20});
  ASSERT_TRUE(fs->RemoveFile("run/checkpoints/step_20/MANIFEST").ok());
  const absl::Status status = PruneCheckpoints(*fs, kDir, 1, {});
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("older checkpoints are kept"));
  EXPECT_THAT(*fs->ListDirectory(kDir), ElementsAre("step_10", "step_20"));
}

TEST(CheckpointDirectory, DamageIsNamedWithTheWayOn) {
  auto fs = DiskWith({10, 20, 30});
  ASSERT_TRUE(fs->RemoveFile("run/checkpoints/step_30/optimizer.bin").ok());
  std::string error(FindLatestCheckpoint(*fs, kDir).status().message());
  EXPECT_THAT(error, HasSubstr("run/checkpoints/step_30/optimizer.bin: missing, though the manifest lists it"));
  EXPECT_THAT(
      error,
      HasSubstr(
          "the newest good one is run/checkpoints/step_20: to go on from it, move run/checkpoints/step_30 out of"));

  ASSERT_TRUE(fs->RemoveFile("run/checkpoints/step_20/MANIFEST").ok());
  error = std::string(FindLatestCheckpoint(*fs, kDir).status().message());
  EXPECT_THAT(error, HasSubstr("the newest good one is run/checkpoints/step_10"));
  EXPECT_THAT(error, HasSubstr("together with the damaged ones between them"));

  ASSERT_TRUE(fs->Truncate("run/checkpoints/step_10/state.json", 10).ok());
  const absl::Status status = FindLatestCheckpoint(*fs, kDir).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("no other good one is in run/checkpoints"));
}

TEST(CheckpointDirectory, AFaultyReadIsNoDamage) {
  auto fs = DiskWith({10, 20});
  fs->ResetCounter();
  fs->FailAt(2, EIO);
  const absl::Status status = FindLatestCheckpoint(*fs, kDir).status();
  EXPECT_FALSE(absl::IsDataLoss(status)) << status;
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(LoadedStep(*fs), 20);
}

TEST(Manifest, RefusesWhatIsNotItsOwnText) {
  const Manifest manifest{5, {{"a", 3, 0x1234abcd, std::string(64, '0')}}};
  const std::string good = FormatManifest(manifest);
  const auto parsed = ParseManifest(good);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->step, 5);
  EXPECT_EQ(parsed->files[0].crc32c, 0x1234abcdu);
  EXPECT_EQ(FormatManifest(*parsed), good);

  auto sealed = [](const std::string& line) { return absl::StrCat(line, "\n", Hex(Sha256(line + "\n")), "\n"); };
  const std::pair<std::string, const char*> cases[] = {
      {"", "expected two lines"},
      {good.substr(0, good.size() - 1), "expected two lines"},
      {good + "\n", "digest"},
      {"x" + good, "digest"},
      {sealed("{}"), "format"},
      {sealed(R"({"format":"grouper-checkpoint-2","step":1,"files":[]})"), "expected \"grouper-checkpoint-1\""},
      {sealed(R"({"format":"grouper-checkpoint-1","step":-1,"files":[]})"), "step"},
      {sealed(R"({"format":"grouper-checkpoint-1","step":1})"), "files"},
      {sealed(R"({"format":"grouper-checkpoint-1","step":1,"files":[3]})"), "name"},
      {sealed(
           R"({"format":"grouper-checkpoint-1","step":1,"files":[{"name":"../a","bytes":1,"crc32c":"00000000","sha256":""}]})"),
       "expected a relative path"},
      {sealed(
           R"({"format":"grouper-checkpoint-1","step":1,"files":[{"name":"a","bytes":-1,"crc32c":"00000000","sha256":""}]})"),
       "bytes"},
      {sealed(
           R"({"format":"grouper-checkpoint-1","step":1,"files":[{"name":"a","bytes":1,"crc32c":"0","sha256":""}]})"),
       "crc32c"},
      {sealed(
           R"({"format":"grouper-checkpoint-1","step":1,"files":[{"name":"a","bytes":1,"crc32c":"00000000","sha256":""},)"
           R"({"name":"a","bytes":1,"crc32c":"00000000","sha256":""}]})"),
       "each once"},
  };
  for (const auto& [text, error] : cases) {
    const auto refused = ParseManifest(text);
    EXPECT_TRUE(absl::IsDataLoss(refused.status())) << text;
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(error)) << text;
  }
}

// --- R2: whole or absent -----------------------------------------------------

struct Scenario {
  const char* name;
  std::vector<int64_t> before;
  int keep_last;
  std::vector<int64_t> keep_steps;
};

struct Tally {
  int scenarios = 0, violations = 0;
};

// Crashes a save of step 50 at each of its operations, with each loss, and looks at what is left. An OK save must last.
Tally CrashEverywhere(const Scenario& scenario, bool syncs_work) {
  Tally tally;
  const int64_t old_step = scenario.before.empty() ? 0 : scenario.before.back();
  auto trial = DiskWith(scenario.before);
  trial->ResetCounter();
  EXPECT_TRUE(Save(*trial, 50, scenario.keep_last, scenario.keep_steps).ok());
  const uint64_t operations = trial->operations();
  std::vector<std::pair<Loss, uint64_t>> losses = {
      {Loss::kProcessKilled, 0}, {Loss::kUnsyncedBytes, 0}, {Loss::kUnsyncedEntries, 0}, {Loss::kTornWrite, 0}};
  for (uint64_t seed = 0; seed < 6; ++seed) losses.push_back({Loss::kRandom, seed});
  for (uint64_t n = 1; n <= operations + 1; ++n) {
    for (const auto& [loss, seed] : losses) {
      auto fs = DiskWith(scenario.before);
      fs->set_syncs_work(syncs_work);
      fs->ResetCounter();
      fs->CrashAt(n);
      const absl::Status saved = Save(*fs, 50, scenario.keep_last, scenario.keep_steps);
      EXPECT_EQ(saved.ok(), n > operations) << n;
      fs->Restart(loss, seed * 1000 + n);
      fs->set_syncs_work(true);
      const int64_t loaded = LoadedStep(*fs);
      bool good = saved.ok() ? loaded == 50 : (loaded == old_step || loaded == 50);
      const auto steps = ListCheckpoints(*fs, kDir);
      for (int64_t step : steps.value()) good = good && CheckpointReader::Open(*fs, CheckpointPath(kDir, step)).ok();
      good = good && Save(*fs, 60, scenario.keep_last, scenario.keep_steps).ok() && LoadedStep(*fs) == 60;
      for (const std::string& file : fs->Files()) good = good && !absl::StrContains(file, ".tmp");
      ++tally.scenarios;
      tally.violations += !good;
      EXPECT_TRUE(good || !syncs_work) << scenario.name << ", operation " << n << ", loss " << static_cast<int>(loss)
                                       << ", loaded " << loaded;
    }
  }
  return tally;
}

const Scenario kScenarios[] = {
    {"first save", {}, 2, {}},
    {"second save", {10}, 2, {}},
    {"one kept", {10}, 1, {}},
    {"two pruned, the best kept", {10, 20, 30, 40}, 2, {20}},
};

TEST(CheckpointCrash, EveryPointAndEveryLossLeavesAWholeCheckpoint) {
  int scenarios = 0;
  for (const Scenario& scenario : kScenarios) {
    const Tally tally = CrashEverywhere(scenario, /*syncs_work=*/true);
    EXPECT_EQ(tally.violations, 0) << scenario.name;
    scenarios += tally.scenarios;
  }
  RecordProperty("scenarios", scenarios);
  EXPECT_GE(scenarios, 1000);
}

// The negative control: without working syncs the same check must fail.
TEST(CheckpointCrash, TheCheckFailsWhenSyncsDoNothing) {
  for (const Scenario& scenario : kScenarios) {
    EXPECT_GT(CrashEverywhere(scenario, /*syncs_work=*/false).violations, 10) << scenario.name;
  }
}

// The negative control: a writer that renames before it syncs is caught by the same disk.
TEST(CheckpointCrash, TheDiskCatchesARenameBeforeTheSync) {
  FaultyFileSystem fs;
  ASSERT_TRUE(fs.CreateDirectories("d").ok());
  ASSERT_TRUE(WriteFileAtomically(fs, "d/file", "old").ok());
  fs.Restart(Loss::kUnsyncedBytes);
  auto file = fs.Create("d/file.tmp");
  ASSERT_TRUE((*file)->Append("new").ok() && (*file)->Close().ok() && fs.Rename("d/file.tmp", "d/file").ok() &&
              fs.SyncDirectory("d").ok());
  fs.Restart(Loss::kUnsyncedBytes);
  EXPECT_EQ(*fs.ReadFile("d/file", 100), "");
}

TEST(CheckpointCrash, NothingIsRenamedBeforeItIsSynced) {
  FaultyFileSystem fs;
  ASSERT_TRUE(Save(fs, 50, 2).ok());
  std::vector<std::string> unsynced;
  for (const std::string& operation : fs.trace()) {
    if (absl::StartsWith(operation, "write ")) unsynced.push_back(operation.substr(6));
    if (absl::StartsWith(operation, "sync run")) {
      unsynced.erase(std::remove(unsynced.begin(), unsynced.end(), operation.substr(5)), unsynced.end());
    }
    EXPECT_TRUE(unsynced.empty() || !absl::StartsWith(operation, "rename ")) << operation;
  }
}

// --- R3: disk faults -----------------------------------------------------------

TEST(CheckpointFault, EveryOperationMayFailAndTheOldOneStays) {
  int faults = 0;
  for (const Scenario& scenario : kScenarios) {
    const int64_t old_step = scenario.before.empty() ? 0 : scenario.before.back();
    auto trial = DiskWith(scenario.before);
    trial->ResetCounter();
    ASSERT_TRUE(Save(*trial, 50, scenario.keep_last, scenario.keep_steps).ok());
    for (uint64_t n = 1; n <= trial->operations(); ++n) {
      for (int error : {ENOSPC, EIO, EMFILE}) {
        const std::string where = absl::StrCat(scenario.name, ", operation ", trial->trace()[n - 1], ", errno ", error);
        auto fs = DiskWith(scenario.before);
        fs->ResetCounter();
        fs->FailAt(n, error);
        const absl::Status saved = Save(*fs, 50, scenario.keep_last, scenario.keep_steps);
        EXPECT_FALSE(saved.ok()) << where;
        EXPECT_THAT(std::string(saved.message()), HasSubstr("run")) << where;
        EXPECT_THAT(std::string(saved.message()), HasSubstr(strerror(error))) << where;
        const int64_t loaded = LoadedStep(*fs);
        EXPECT_TRUE(loaded == old_step || loaded == 50) << where << ": " << loaded;
        EXPECT_TRUE(Save(*fs, 60, scenario.keep_last, scenario.keep_steps).ok()) << where;
        EXPECT_EQ(LoadedStep(*fs), 60) << where;
        ++faults;
      }
    }
  }
  RecordProperty("faults", faults);
  EXPECT_GE(faults, 300);
}

TEST(CheckpointFault, AFullDiskStaysFullUntilThereIsSpace) {
  auto fs = DiskWith({10});
  for (int attempt = 0; attempt < 3; ++attempt) {
    fs->ResetCounter();
    fs->FailAt(12, ENOSPC);
    EXPECT_TRUE(absl::IsResourceExhausted(Save(*fs, 50, 1)));
    EXPECT_EQ(LoadedStep(*fs), 10);
  }
  EXPECT_TRUE(Save(*fs, 50, 1).ok());
  EXPECT_EQ(LoadedStep(*fs), 50);
}

// --- R4: rot ---------------------------------------------------------------------

TEST(CheckpointRot, OneFlippedBitAnywhereIsFoundAndTheFileNamed) {
  auto fs = DiskWith({10, 20});
  const std::string newest = CheckpointPath(kDir, 20);
  const std::vector<std::string> names = {"MANIFEST", "optimizer.bin", "state.json", "weights.safetensors"};
  PhiloxStream random(MakePhiloxKey(4, "rot"));
  int found = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string path = JoinPath(newest, names[random.NextBelow(names.size())]);
    const uint64_t bit = random.NextBelow(*fs->FileSize(path) * 8);
    fs->FlipBit(path, bit);
    const auto result = FindLatestCheckpoint(*fs, kDir);
    const std::string error(result.status().message());
    found += absl::IsDataLoss(result.status()) && absl::StrContains(error, path) &&
             absl::StrContains(error, "newest good one is run/checkpoints/step_10");
    EXPECT_TRUE(absl::IsDataLoss(result.status())) << path << " bit " << bit << ": " << result.status();
    EXPECT_THAT(error, HasSubstr(path));
    fs->FlipBit(path, bit);
    ASSERT_EQ(LoadedStep(*fs), 20) << "the negative control: without the flip it loads";
  }
  EXPECT_EQ(found, 1000);
}

TEST(CheckpointRot, AFileChangedAfterOpeningIsNoticedByItsReader) {
  auto fs = DiskWith({10});
  const auto found = FindLatestCheckpoint(*fs, kDir);
  ASSERT_TRUE(found.ok() && found->has_value());
  fs->FlipBit("run/checkpoints/step_10/state.json", 77);
  EXPECT_TRUE(absl::IsDataLoss((*found)->ReadFile("state.json").status()));
}

// --- on a real disk, with real deaths ----------------------------------------------

class RealDisk : public ::testing::TestWithParam<const char*> {
 protected:
  RealDisk() : directory_(absl::StrCat(::testing::TempDir(), "/checkpoint_test_", getpid(), "_", GetParam())) {
    EXPECT_TRUE(DefaultFileSystem().RemoveAll(directory_).ok());
  }
  ~RealDisk() override {
    EXPECT_TRUE(failpoint::Arm("").ok());
    EXPECT_TRUE(DefaultFileSystem().RemoveAll(directory_).ok());
  }
  const std::string directory_;
};

TEST_P(RealDisk, KilledAtAFailpointTheOldOrNewOneLoads) {
  FileSystem& fs = DefaultFileSystem();
  ASSERT_TRUE(Save(fs, 10, 1, {}, directory_.c_str()).ok());
  ASSERT_EQ(LoadedStep(fs, directory_.c_str()), 10);
  const pid_t child = fork();
  if (child == 0) {
    if (!failpoint::Arm(absl::StrCat(GetParam(), ":1:kill")).ok()) _exit(2);
    _exit(Save(fs, 20, 1, {}, directory_.c_str()).ok() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  const bool renamed = absl::StrContains(GetParam(), "after_rename") || absl::StrContains(GetParam(), "prune");
  EXPECT_EQ(LoadedStep(fs, directory_.c_str()), renamed ? 20 : 10);
  ASSERT_TRUE(Save(fs, 30, 1, {}, directory_.c_str()).ok());
  EXPECT_EQ(LoadedStep(fs, directory_.c_str()), 30);
  EXPECT_THAT(*fs.ListDirectory(directory_), ElementsAre("step_30"));
}

TEST_P(RealDisk, AnErrorAtAFailpointIsTold) {
  FileSystem& fs = DefaultFileSystem();
  ASSERT_TRUE(Save(fs, 10, 1, {}, directory_.c_str()).ok());
  ASSERT_TRUE(failpoint::Arm(absl::StrCat(GetParam(), ":1:error")).ok());
  EXPECT_TRUE(absl::IsUnavailable(Save(fs, 20, 1, {}, directory_.c_str())));
  EXPECT_GE(LoadedStep(fs, directory_.c_str()), 10);
  ASSERT_TRUE(failpoint::Arm("").ok());
  EXPECT_TRUE(Save(fs, 30, 1, {}, directory_.c_str()).ok());
  EXPECT_EQ(LoadedStep(fs, directory_.c_str()), 30);
}

INSTANTIATE_TEST_SUITE_P(Checkpoint, RealDisk,
                         ::testing::Values("checkpoint.begin", "checkpoint.file_written", "checkpoint.before_manifest",
                                           "checkpoint.before_rename", "checkpoint.after_rename",
                                           "checkpoint.before_prune", "checkpoint.after_prune"),
                         [](const auto& info) { return std::string(absl::StripPrefix(info.param, "checkpoint.")); });

}  // namespace
}  // namespace grouper
