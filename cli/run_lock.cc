#include "cli/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace grouper::cli {
namespace {

std::string LockPath(const std::string& directory) { return JoinPath(directory, ".lock"); }

struct flock WholeFile() {
  struct flock region = {};
  region.l_type = F_WRLCK;
  region.l_whence = SEEK_SET;
  return region;
}

absl::Status HeldByAnother(const std::string& directory, pid_t pid) {
  return absl::FailedPreconditionError(
      absl::StrCat(directory, ": another process", pid > 0 ? absl::StrCat(" (pid ", pid, ")") : "", " is running there"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunLock>> RunLock::Acquire(const std::string& directory) {
  RETURN_IF_ERROR(DefaultFileSystem().CreateDirectories(directory));
  const std::string path = LockPath(directory);
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot open for writing"));
  std::unique_ptr<RunLock> lock(new RunLock(fd));
  struct flock region = WholeFile();
  if (fcntl(fd, F_SETLK, &region) == 0) return lock;
  if (errno != EACCES && errno != EAGAIN) {
    LOG(WARNING) << path << ": cannot lock (" << strerror(errno) << "); make sure that no other process runs in " << directory;
    return lock;
  }
  struct flock holder = region;
  const bool known = fcntl(fd, F_GETLK, &holder) == 0 && holder.l_type != F_UNLCK && holder.l_pid > 0;
  return HeldByAnother(directory, known ? holder.l_pid : 0);
}

absl::Status RunLock::Check(const std::string& directory) {
  const int fd = open(LockPath(directory).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::OkStatus();
  struct flock holder = WholeFile();
  const bool held = fcntl(fd, F_GETLK, &holder) == 0 && holder.l_type != F_UNLCK;
  close(fd);
  return held ? HeldByAnother(directory, holder.l_pid) : absl::OkStatus();
}

RunLock::~RunLock() { close(fd_); }

}  // namespace grouper::cli
