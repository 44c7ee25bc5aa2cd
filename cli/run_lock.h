// RunLock: one process at a time works in a run directory.
//
// A record lock (fcntl) on RUN/.lock: it ends with the process however that ends, and no child inherits it. The file stays where a run is; a start
// that failed before it wrote anything leaves neither the file nor the folders that were made for it.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace grouper::cli {

class RunLock {
 public:
  // Makes the directory when it is absent. FailedPrecondition, naming the other's process id, when another process holds it. On a file system
  // without locks it warns and holds nothing.
  static absl::StatusOr<std::unique_ptr<RunLock>> Acquire(const std::string& directory);
  // Whether Acquire would fail now, with the same errors: another process holds it, or the directory cannot be made or written to. That is tried and
  // all of it taken away again.
  static absl::Status Check(const std::string& directory);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  RunLock(std::string directory, int fd) : directory_(std::move(directory)), fd_(fd) {}
  const std::string directory_;
  const int fd_;
  bool made_file_ = false;
  std::vector<std::string> made_folders_;  // the innermost last
};

}  // namespace grouper::cli
