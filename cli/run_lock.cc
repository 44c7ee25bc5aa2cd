#include "cli/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

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

void RemoveFolders(const std::vector<std::string>& folders) {
  for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) rmdir(folder->c_str());  // not where something is in it
}

// Makes the directory and what is missing above it, writes into it, and takes all of that away again. Only the attempt says whether a file system is
// read-only, or a folder of /proc.
absl::Status TryToWrite(const std::string& directory) {
  const std::vector<std::string> missing = MissingFolders(directory);
  const auto attempt = [&]() -> absl::Status {
    RETURN_IF_ERROR(DefaultFileSystem().CreateDirectories(directory));
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
  RemoveFolders(missing);
  return status;
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

RunLock::~RunLock() {
  if (made_file_ && !DefaultFileSystem().Exists(JoinPath(directory_, "recipe.textproto"))) {
    unlink(LockPath(directory_).c_str());  // while it is locked: whoever has it open sees that it is gone
    RemoveFolders(made_folders_);
  }
  close(fd_);
}

}  // namespace grouper::cli
