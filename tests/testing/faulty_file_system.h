// A disk in memory that can fail and lose power, for tests of whatever must survive accidents.
//
// Every operation (mkdir, create, write, sync, close, rename, unlink, rmdir, truncate, directory sync, and each kind of
// read) has a number, counted from the last ResetCounter. Three accidents:
//
//   FailAt(n, errno)  the n-th operation fails with that errno; a failing write keeps its first half (short write)
//   CrashAt(n)        the process dies in the n-th operation: it and all later ones fail
//   Restart(loss)     what a disk may hold after the crash
//
// The model is POSIX's promise and no more: bytes are durable after the file's sync, a directory's entries after the
// directory's sync. Each file and directory is its durable state plus a log of what was done since; a loss keeps a
// prefix of each log.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/file.h"

namespace grouper {

// Not thread-safe. Paths are absolute or relative, as the program writes them; "." and "/" are there from the start.
class FaultyFileSystem : public FileSystem {
 public:
  enum class Loss {
    kProcessKilled,    // the kernel lives on: nothing is lost but the operation in flight
    kUnsyncedBytes,    // files lose what was not synced; directories keep all
    kUnsyncedEntries,  // directories lose what was not synced; files keep all
    kTornWrite,        // the last write is there by half; all else is kept
    kRandom,           // each file and directory keeps a random prefix of its log, the last write of a file torn
  };

  FaultyFileSystem();
  ~FaultyFileSystem() override;

  void ResetCounter();
  uint64_t operations() const { return count_; }
  const std::vector<std::string>& trace() const {
    return trace_;
  }  // "sync runs/a", one an operation since ResetCounter

  void FailAt(uint64_t n, int error);  // 0: never
  void CrashAt(uint64_t n);            // 0: never
  bool crashed() const { return crashed_; }
  void Restart(Loss loss,
               uint64_t seed = 0);  // also disarms FailAt and CrashAt; everything on the disk is durable then
  // With false, Sync and SyncDirectory succeed without doing anything: the negative control of a durability test.
  void set_syncs_work(bool value) { syncs_work_ = value; }

  void FlipBit(const std::string& path, uint64_t bit);
  std::vector<std::string> Files() const;  // every file's path, sorted

  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override;
  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override;
  absl::StatusOr<std::string> ReadRange(const std::string& path, uint64_t offset, uint64_t size) override;
  absl::StatusOr<uint64_t> FileSize(const std::string& path) override;
  bool Exists(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) override;
  absl::Status CreateDirectories(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status RemoveFile(const std::string& path) override;
  absl::Status RemoveAll(const std::string& path) override;
  absl::Status Truncate(const std::string& path, uint64_t size) override;
  absl::Status SyncDirectory(const std::string& path) override;

 private:
  struct Node;
  class File;
  using NodePtr = std::shared_ptr<Node>;

  // Counts an operation; the injected error when it is its turn to fail.
  absl::Status Step(const std::string& what, const std::string& path);
  NodePtr Find(const std::string& path) const;
  absl::StatusOr<NodePtr> FindFile(const std::string& path) const;
  absl::StatusOr<NodePtr> FindDirectory(const std::string& path) const;
  absl::StatusOr<std::unique_ptr<WritableFile>> Open(const std::string& path, bool truncate);
  absl::Status WriteTo(Node& node, const std::string& path, absl::string_view data);
  absl::Status SyncFile(Node& node, const std::string& path);

  NodePtr root_;
  uint64_t count_ = 0, fail_at_ = 0, crash_at_ = 0, writes_ = 0;
  int fail_error_ = 0;
  bool crashed_ = false, syncs_work_ = true;
  std::vector<std::string> trace_;
};

}  // namespace grouper
