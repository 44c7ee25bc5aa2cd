#include "cli/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <vector>

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

// Makes the directory and what is missing above it, writes into it, and takes all of that away again. Only the attempt says whether a file system is
// read-only, or a folder of /proc.
absl::Status TryToWrite(const std::string& directory) {
  std::vector<std::string> made;  // outermost first
  const auto attempt = [&]() -> absl::Status {
    std::filesystem::path path;
    for (const std::filesystem::path& part : std::filesystem::path(directory)) {
      path /= part;
      std::error_code error;
      if (std::filesystem::is_directory(path, error)) continue;
      if (mkdir(path.c_str(), 0777) != 0) return absl::ErrnoToStatus(errno, absl::StrCat(path.string(), ": cannot create directory"));
      made.push_back(path.string());
    }
    const std::string probe = JoinPath(directory, absl::StrCat(".dry_run.", getpid()));
    const int fd = open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(directory, ": cannot write there"));
    const bool written = write(fd, "\n", 1) == 1;
    const int error = errno;
    close(fd);
    unlink(probe.c_str());
    return written ? absl::OkStatus() : absl::ErrnoToStatus(error, absl::StrCat(directory, ": cannot write there"));
  };
  const absl::Status status = attempt();
  for (auto path = made.rbegin(); path != made.rend(); ++path) rmdir(path->c_str());
  return status;
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
  const std::string path = LockPath(directory);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return TryToWrite(directory);
  struct flock holder = WholeFile();
  const bool held = fcntl(fd, F_GETLK, &holder) == 0 && holder.l_type != F_UNLCK;
  close(fd);
  if (held) return HeldByAnother(directory, holder.l_pid);
  if (access(path.c_str(), W_OK) != 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot open for writing"));
  return TryToWrite(directory);
}

RunLock::~RunLock() { close(fd_); }

}  // namespace grouper::cli
