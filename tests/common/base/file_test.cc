#include "common/base/file.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/faulty_file_system.h"

namespace grouper {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Loss = FaultyFileSystem::Loss;

// Both implementers keep the same contract.
class Files : public ::testing::TestWithParam<bool> {
 protected:
  Files()
      : root_(GetParam() ? absl::StrCat(::testing::TempDir(), "/file_test_", getpid()) : "root"),
        fs_(GetParam() ? DefaultFileSystem() : faulty_) {
    EXPECT_TRUE(fs_.RemoveAll(root_).ok());
    EXPECT_TRUE(fs_.CreateDirectories(root_).ok());
  }
  ~Files() override { EXPECT_TRUE(fs_.RemoveAll(root_).ok()); }
  std::string Path(const char* name) const { return JoinPath(root_, name); }

  FaultyFileSystem faulty_;
  const std::string root_;
  FileSystem& fs_;
};

TEST_P(Files, WhatIsWrittenIsRead) {
  auto file = fs_.Create(Path("a"));
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string large(200000, 'x');
  ASSERT_TRUE((*file)->Append("small ").ok() && (*file)->Append(large).ok() && (*file)->Append("!").ok());
  ASSERT_TRUE((*file)->Sync().ok() && (*file)->Close().ok());
  EXPECT_EQ(*fs_.ReadFile(Path("a"), 1 << 20), absl::StrCat("small ", large, "!"));
  EXPECT_EQ(*fs_.FileSize(Path("a")), 200007u);
  EXPECT_EQ(*fs_.ReadRange(Path("a"), 2, 5), "all x");
  EXPECT_EQ(*fs_.ReadRange(Path("a"), 200007, 0), "");
  EXPECT_TRUE(absl::IsOutOfRange(fs_.ReadRange(Path("a"), 200006, 2).status()));
  EXPECT_TRUE(absl::IsOutOfRange(fs_.ReadRange(Path("a"), ~uint64_t{0}, 2).status()));
  EXPECT_TRUE(absl::IsOutOfRange(fs_.ReadFile(Path("a"), 200006).status()));
  EXPECT_TRUE(fs_.ReadFile(Path("a"), 200007).ok());
}

TEST_P(Files, CreateTruncatesAndAppendDoesNot) {
  for (const char* text : {"one", "two"}) {
    auto file = fs_.Create(Path("a"));
    ASSERT_TRUE((*file)->Append(text).ok() && (*file)->Close().ok());
  }
  for (const char* text : {"+3", "+4"}) {
    auto file = fs_.OpenAppend(Path("a"));
    ASSERT_TRUE((*file)->Append(text).ok() && (*file)->Flush().ok());
  }
  EXPECT_EQ(*fs_.ReadFile(Path("a"), 100), "two+3+4");
  ASSERT_TRUE(fs_.Truncate(Path("a"), 3).ok());
  EXPECT_EQ(*fs_.ReadFile(Path("a"), 100), "two");
}

TEST_P(Files, DirectoriesAreMadeListedRenamedAndRemoved) {
  ASSERT_TRUE(fs_.CreateDirectories(Path("x/y//z/")).ok());
  ASSERT_TRUE(fs_.CreateDirectories(Path("x/y")).ok());
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("x/b"), "1").ok() && WriteFileAtomically(fs_, Path("x/a"), "2").ok());
  EXPECT_THAT(*fs_.ListDirectory(Path("x")), ElementsAre("a", "b", "y"));
  ASSERT_TRUE(fs_.Rename(Path("x"), Path("w")).ok());
  EXPECT_FALSE(fs_.Exists(Path("x")));
  EXPECT_EQ(*fs_.ReadFile(Path("w/b"), 100), "1");
  ASSERT_TRUE(fs_.RemoveFile(Path("w/b")).ok());
  EXPECT_TRUE(fs_.SyncDirectory(Path("w")).ok());
  EXPECT_TRUE(fs_.RemoveAll(Path("w")).ok());
  EXPECT_TRUE(fs_.RemoveAll(Path("w")).ok());
  EXPECT_THAT(*fs_.ListDirectory(root_), ElementsAre());
}

TEST_P(Files, ErrorsNameThePath) {
  const std::string path = Path("none/file");
  for (const absl::Status& status :
       {fs_.Create(path).status(), fs_.ReadFile(path, 10).status(), fs_.ReadRange(path, 0, 1).status(),
        fs_.FileSize(path).status(), fs_.ListDirectory(path).status(), fs_.Rename(path, path + "2"),
        fs_.RemoveFile(path), fs_.Truncate(path, 0), fs_.SyncDirectory(path)}) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("none"));
  }
  EXPECT_THAT(std::string(fs_.ReadFile(root_, 10).status().message()), HasSubstr("expected a regular file"));
}

TEST_P(Files, AnAtomicWriteReplacesTheWholeFile) {
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("a"), "a long old content").ok());
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("a"), "new").ok());
  EXPECT_EQ(*fs_.ReadFile(Path("a"), 100), "new");
  EXPECT_THAT(*fs_.ListDirectory(root_), ElementsAre("a"));
}

INSTANTIATE_TEST_SUITE_P(Disk, Files, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Real" : "Faulty"; });

// --- the real disk's own traps ---------------------------------------------------

TEST(PosixFile, SpecialFilesAreRefusedWithoutWaiting) {
  const std::string fifo = absl::StrCat(::testing::TempDir(), "/file_test_fifo_", getpid());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {fifo, std::string("/dev/zero"), std::string("/")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(DefaultFileSystem().ReadFile(path, 10).status())) << path;
    EXPECT_TRUE(absl::IsInvalidArgument(MappedFile::Open(path).status())) << path;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(MappedFile::Open("").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MappedFile::Open(std::string("a\0b", 3)).status()));
  unlink(fifo.c_str());
}

// A failed write stays failed: nothing may follow a hole. RLIMIT_FSIZE stands for a full disk.
TEST(PosixFileDeathTest, AFailedWriteStaysFailed) {
  auto body = [] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100000, 100000};
    const std::string path = absl::StrCat(::testing::TempDir(), "/file_test_full_", getpid());
    auto file = DefaultFileSystem().Create(path);
    bool good = file.ok() && setrlimit(RLIMIT_FSIZE, &limit) == 0;
    good = good && !(*file)->Append(std::string(200000, 'x')).ok();
    good =
        good && !(*file)->Append("y").ok() && !(*file)->Flush().ok() && !(*file)->Sync().ok() && !(*file)->Close().ok();
    good = good && *DefaultFileSystem().FileSize(path) == 100000;
    unlink(path.c_str());
    _exit(good ? 0 : 1);
  };
  EXPECT_EXIT(body(), ::testing::ExitedWithCode(0), "");
}

TEST(MappedFile, IsTheWholeFile) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/file_test_map_", getpid());
  ASSERT_TRUE(WriteFileAtomically(DefaultFileSystem(), path, "content").ok());
  EXPECT_EQ((*MappedFile::Open(path))->bytes(), "content");
  EXPECT_EQ((*MappedFile::Open(path))->path(), path);
  ASSERT_TRUE(WriteFileAtomically(DefaultFileSystem(), path, "").ok());
  EXPECT_EQ((*MappedFile::Open(path))->bytes(), "");
  ASSERT_TRUE(DefaultFileSystem().RemoveFile(path).ok());
  EXPECT_TRUE(absl::IsNotFound(MappedFile::Open(path).status()));
}

TEST(MappedFile, ReadsAPartAndSaysWhenTheFileHasBecomeShorter) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/file_test_cut_", getpid());
  ASSERT_TRUE(WriteFileAtomically(DefaultFileSystem(), path, std::string(20000, 'x') + "end").ok());
  const std::shared_ptr<MappedFile> file = *MappedFile::Open(path);
  char read[3] = {};
  EXPECT_TRUE(file->Holds(file->bytes()));
  EXPECT_FALSE(file->Holds({read, 3}));
  ASSERT_TRUE(file->Read(file->bytes().substr(20000), read).ok());
  EXPECT_EQ(absl::string_view(read, 3), "end");
  ASSERT_EQ(truncate(path.c_str(), 20001), 0);
  const absl::Status status = file->Read(file->bytes().substr(20000), read);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), ::testing::AllOf(HasSubstr(path), HasSubstr("ends at byte 20001"), HasSubstr("had 20003")));
  ASSERT_TRUE(DefaultFileSystem().RemoveFile(path).ok());
}

TEST(Path, PartsAndInnerPaths) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("a", "/b"), "/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(Dirname("a/b/c"), "a/b");
  EXPECT_EQ(Dirname("a"), ".");
  EXPECT_EQ(Dirname("/a"), "/");
  EXPECT_EQ(Basename("a/b"), "b");
  for (const char* good : {"a", "a/b", "..a", "a..", "...", "a/./b"}) EXPECT_TRUE(CheckInnerPath(good).ok()) << good;
  for (const std::string& bad : {std::string(""), std::string("/a"), std::string(".."), std::string("../a"),
                                 std::string("a/../b"), std::string("a/.."), std::string("a\0b", 3)}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckInnerPath(bad))) << bad;
  }
}

// --- what the faulty disk loses ------------------------------------------------------

class PowerLoss : public ::testing::Test {
 protected:
  PowerLoss() { EXPECT_TRUE(fs_.CreateDirectories("d").ok() && WriteFileAtomically(fs_, "d/old", "old").ok()); }
  void Write(const char* path, absl::string_view data, bool sync) {
    auto file = fs_.OpenAppend(path);
    ASSERT_TRUE(file.ok() && (*file)->Append(data).ok());
    EXPECT_TRUE(!sync || (*file)->Sync().ok());
  }
  std::string Read(const char* path) {
    const auto data = fs_.ReadFile(path, 1000);
    return data.ok() ? *data : "-";
  }
  FaultyFileSystem fs_;
};

TEST_F(PowerLoss, AKilledProcessLosesNothingWritten) {
  Write("d/old", "+more", false);
  Write("d/new", "new", false);
  fs_.Restart(Loss::kProcessKilled);
  EXPECT_EQ(Read("d/old"), "old+more");
  EXPECT_EQ(Read("d/new"), "new");
}

TEST_F(PowerLoss, UnsyncedBytesAreDropped) {
  Write("d/old", "+synced", true);
  Write("d/old", "+lost", false);
  Write("d/new", "new", false);
  fs_.Restart(Loss::kUnsyncedBytes);
  EXPECT_EQ(Read("d/old"), "old+synced");
  EXPECT_EQ(Read("d/new"), "");
}

TEST_F(PowerLoss, UnsyncedEntriesAreDropped) {
  Write("d/new", "new", true);
  ASSERT_TRUE(fs_.Rename("d/old", "d/renamed").ok());
  fs_.Restart(Loss::kUnsyncedEntries);
  EXPECT_EQ(Read("d/new"), "-");
  EXPECT_EQ(Read("d/renamed"), "-");
  EXPECT_EQ(Read("d/old"), "old");
  Write("d/new", "new", true);
  ASSERT_TRUE(fs_.SyncDirectory("d").ok() && fs_.RemoveFile("d/old").ok());
  fs_.Restart(Loss::kUnsyncedEntries);
  EXPECT_EQ(Read("d/new"), "new");
  EXPECT_EQ(Read("d/old"), "old");
}

TEST_F(PowerLoss, TheLastWriteIsTorn) {
  Write("d/old", "+whole", false);
  Write("d/new", "12345678", false);
  fs_.Restart(Loss::kTornWrite);
  EXPECT_EQ(Read("d/old"), "old+whole");
  EXPECT_EQ(Read("d/new"), "1234");
}

TEST_F(PowerLoss, TheOperationInFlightAndAllLaterOnesFail) {
  fs_.ResetCounter();
  fs_.CrashAt(2);
  auto file = fs_.OpenAppend("d/old");
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE((*file)->Append("+x").ok());
  EXPECT_FALSE(fs_.RemoveFile("d/old").ok());
  EXPECT_FALSE(fs_.ReadFile("d/old", 10).ok());
  EXPECT_TRUE(fs_.crashed());
  fs_.Restart(Loss::kProcessKilled);
  EXPECT_EQ(Read("d/old"), "old");
}

TEST_F(PowerLoss, AFailedWriteIsShort) {
  fs_.ResetCounter();
  fs_.FailAt(2, ENOSPC);
  auto file = fs_.OpenAppend("d/old");
  const absl::Status status = (*file)->Append("1234");
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "d/old: cannot write: No space left on device");
  EXPECT_FALSE((*file)->Append("5").ok());
  EXPECT_EQ(Read("d/old"), "old12");
}

}  // namespace
}  // namespace grouper
