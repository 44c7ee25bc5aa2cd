// The one way in which this program touches files that must survive: checkpoints, metrics, completions, exported
// models.
//
// Two implementers: PosixFileSystem (DefaultFileSystem()) and FaultyFileSystem (tests/testing/faulty_file_system.h),
// which records every write, sync, rename, unlink and directory sync, can fail the n-th with a chosen errno, and can
// rebuild the disk as a power loss would leave it (unsynced bytes dropped, unsynced directory entries dropped, last
// write torn).
//
// Errors name the path and errno's text. Only regular files are read (a FIFO, device or directory is InvalidArgument:
// reading it might never return); symbolic links are followed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grouper {

// Not thread-safe. Destroying an open file closes it without sync; whoever wants durability calls Sync and checks
// Close. The first failure stays: every later call returns it, so that no later bytes can stand behind a hole.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual absl::Status Append(absl::string_view data) = 0;  // all of it, or an error (ENOSPC, EIO, short write)
  virtual absl::Status Flush() = 0;                         // our buffer to the kernel
  virtual absl::Status Sync() = 0;                          // Flush + fsync
  virtual absl::Status Close() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Truncates. OpenAppend makes the file when it is absent.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) = 0;
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) = 0;
  // OutOfRange when the file is larger than max_bytes, or does not hold [offset, offset + size).
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) = 0;
  virtual absl::StatusOr<std::string> ReadRange(const std::string& path, uint64_t offset, uint64_t size) = 0;
  virtual absl::StatusOr<uint64_t> FileSize(const std::string& path) = 0;
  virtual bool Exists(const std::string& path) = 0;
  // Names, sorted, without "." and "..".
  virtual absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) = 0;
  // Like mkdir -p; new entries are synced.
  virtual absl::Status CreateDirectories(const std::string& path) = 0;
  // Atomic. REQUIRES: the content was synced.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  virtual absl::Status RemoveAll(const std::string& path) = 0;  // absent is OK
  virtual absl::Status Truncate(const std::string& path, uint64_t size) = 0;  // and sync
  virtual absl::Status SyncDirectory(const std::string& path) = 0;
};

FileSystem& DefaultFileSystem();

// Writes `data` so that after any accident `path` holds the old or the new content, whole: temporary name in the same
// directory, sync, rename, directory sync.
absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path, absl::string_view data);

// A whole regular file mapped read-only, and open. Thread-safe once open. The mapping lives as long as the object; reading it where someone
// else has cut the file meanwhile ends the process (SIGBUS), where Read is an error.
class MappedFile {
 public:
  static absl::StatusOr<std::shared_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  absl::string_view bytes() const { return {data_, size_}; }
  bool Holds(absl::string_view part) const;  // points into bytes()
  // Copies `part` of bytes() to `to` with read(2): the process takes no pages of the file, and who reads in the file's order has the kernel read
  // far ahead of it. DataLoss when the file has become shorter. REQUIRES: Holds(part).
  absl::Status Read(absl::string_view part, void* to) const;
  // Gives the mapping's pages back; reading them again fetches them again.
  void DropPages() const;

 private:
  MappedFile(std::string path, int fd, const char* data, size_t size) : path_(std::move(path)), fd_(fd), data_(data), size_(size) {}
  std::string path_;
  int fd_;
  const char* data_;
  size_t size_;
};

std::string JoinPath(absl::string_view directory, absl::string_view name);  // `name` absolute: `name`
std::string Dirname(absl::string_view path);
std::string Basename(absl::string_view path);

// A file name that stands inside an index, a recipe or a checkpoint: refused (InvalidArgument) when it is absolute,
// empty, has a ".." component or a NUL, since it must not leave its directory.
absl::Status CheckInnerPath(absl::string_view name);

}  // namespace grouper
