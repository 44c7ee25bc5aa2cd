#include "cli/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace grouper::cli {
namespace {

constexpr int kAttempts = 10;

std::string LockPath(const std::string& directory) { return JoinPath(directory, ".lock"); }

struct flock WholeFile() {
  struct flock region = {};
  region.l_type = F_WRLCK;
  region.l_whence = SEEK_SET;
  return region;
}

// `directory` and the folders around it that are not there, the outermost first.
std::vector<std::string> MissingFolders(const std::string& directory) {
  std::vector<std::string> missing;
  std::error_code ignored;
  for (std::filesystem::path path = directory; !path.empty() && !std::filesystem::exists(path, ignored); path = path.parent_path()) {
    if (path.has_filename()) missing.insert(missing.begin(), path.string());
    if (path == path.parent_path()) break;
  }
  return missing;
}

// Whether the file that is open is the one that `path` names.
bool IsFile(int fd, const std::string& path) {
  struct stat open_file, named;
  return fstat(fd, &open_file) == 0 && stat(path.c_str(), &named) == 0 && open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino;
}

absl::Status HeldByAnother(const std::string& directory, pid_t pid) {
  return absl::FailedPreconditionError(
      absl::StrCat(directory, ": another process", pid > 0 ? absl::StrCat(" (pid ", pid, ")") : "", " is running there"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunLock>> RunLock::Acquire(const std::string& directory) {
  const std::string path = LockPath(directory);
  const std::vector<std::string> missing = MissingFolders(directory);
  // More than once: a failed start of another process may remove the file, and the folder, that we have just found.
  absl::Status gone;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    RETURN_IF_ERROR(DefaultFileSystem().CreateDirectories(directory));
    const bool there = DefaultFileSystem().Exists(path);
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
      gone = absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot open for writing"));
      if (!absl::IsNotFound(gone)) return gone;
      continue;
    }
    std::unique_ptr<RunLock> lock(new RunLock(directory, fd));
    struct flock region = WholeFile();
    if (fcntl(fd, F_SETLK, &region) != 0) {
      if (errno == EACCES || errno == EAGAIN) {
        struct flock holder = region;
        const bool known = fcntl(fd, F_GETLK, &holder) == 0 && holder.l_type != F_UNLCK && holder.l_pid > 0;
        return HeldByAnother(directory, known ? holder.l_pid : 0);
      }
      LOG(WARNING) << path << ": cannot lock (" << strerror(errno) << "); make sure that no other process runs in " << directory;
    } else if (!IsFile(fd, path)) {
      gone = absl::UnavailableError(absl::StrCat(path, ": was removed while it was being locked"));
      continue;
    }
    lock->made_file_ = !there;
    lock->made_folders_ = missing;
    return lock;
  }
  return gone;
}

absl::Status RunLock::Check(const std::string& directory) {
  const int fd = open(LockPath(directory).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::OkStatus();
  struct flock holder = WholeFile();
  const bool held = fcntl(fd, F_GETLK, &holder) == 0 && holder.l_type != F_UNLCK;
  close(fd);
  return held ? HeldByAnother(directory, holder.l_pid) : absl::OkStatus();
}

RunLock::~RunLock() {
  if (made_file_ && !DefaultFileSystem().Exists(JoinPath(directory_, "recipe.textproto"))) {
    unlink(LockPath(directory_).c_str());  // while it is locked: whoever has it open sees that it is gone
    for (auto folder = made_folders_.rbegin(); folder != made_folders_.rend(); ++folder) rmdir(folder->c_str());  // not where something else is in it
  }
  close(fd_);
}

}  // namespace grouper::cli
