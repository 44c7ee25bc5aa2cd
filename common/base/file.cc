#include "common/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace grouper {
namespace {

absl::Status ErrnoStatus(int error, absl::string_view what, absl::string_view path) {
  const std::string message = absl::StrCat(path, ": ", what, ": ", std::strerror(error));
  switch (error) {
    case ENOENT: return absl::NotFoundError(message);
    case EEXIST: return absl::AlreadyExistsError(message);
    case EACCES:
    case EPERM: return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE: return absl::ResourceExhaustedError(message);
    default: return absl::UnknownError(message);
  }
}

absl::Status CheckPath(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("empty path");
  if (path.find('\0') != std::string::npos) return absl::InvalidArgumentError("path with a NUL byte");
  return absl::OkStatus();
}

// Opens a regular file for reading; anything else (a FIFO would block in open) is refused.
absl::StatusOr<int> OpenRegular(const std::string& path, uint64_t* size) {
  RETURN_IF_ERROR(CheckPath(path));
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  struct stat info;
  if (fstat(fd, &info) != 0) {
    const absl::Status status = ErrnoStatus(errno, "cannot stat", path);
    close(fd);
    return status;
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a regular file"));
  }
  *size = static_cast<uint64_t>(info.st_size);
  return fd;
}

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~PosixWritableFile() override {
    if (fd_ >= 0) close(fd_);
  }

  absl::Status Append(absl::string_view data) override {
    RETURN_IF_ERROR(failed_);
    if (buffer_.size() + data.size() <= kBuffer) {
      buffer_.append(data.data(), data.size());
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(Flush());
    if (data.size() <= kBuffer) {
      buffer_.assign(data.data(), data.size());
      return absl::OkStatus();
    }
    return Write(data);
  }

  absl::Status Flush() override {
    RETURN_IF_ERROR(failed_);
    if (buffer_.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(Write(buffer_));
    buffer_.clear();
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    RETURN_IF_ERROR(Flush());
    // A failed fsync may have dropped the dirty pages, so that a second one would succeed without them: it stays
    // failed.
    if (fsync(fd_) != 0) failed_ = ErrnoStatus(errno, "cannot sync", path_);
    return failed_;
  }

  absl::Status Close() override {
    if (fd_ < 0) return failed_;
    const absl::Status flushed = Flush();
    const int result = close(fd_);
    fd_ = -1;
    if (!flushed.ok()) return flushed;
    return result == 0 ? absl::OkStatus() : ErrnoStatus(errno, "cannot close", path_);
  }

 private:
  static constexpr size_t kBuffer = 1 << 16;

  absl::Status Write(absl::string_view data) {
    while (!data.empty()) {
      const ssize_t written = write(fd_, data.data(), std::min<size_t>(data.size(), 1 << 30));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return failed_ = ErrnoStatus(written < 0 ? errno : EIO, "cannot write", path_);
      data.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }

  absl::Status failed_;  // the first failure: what follows it in the file would leave a hole
  std::string path_;
  int fd_;
  std::string buffer_;
};

class PosixFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    return OpenForWriting(path, O_TRUNC);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override {
    return OpenForWriting(path, O_APPEND);
  }

  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override {
    uint64_t size = 0;
    ASSIGN_OR_RETURN(const int fd, OpenRegular(path, &size));
    if (size > max_bytes) {
      close(fd);
      return absl::OutOfRangeError(absl::StrCat(path, ": ", size, " bytes, expected at most ", max_bytes));
    }
    absl::StatusOr<std::string> data = ReadAt(fd, path, 0, size);
    close(fd);
    return data;
  }

  absl::StatusOr<std::string> ReadRange(const std::string& path, uint64_t offset, uint64_t size) override {
    uint64_t file_size = 0;
    ASSIGN_OR_RETURN(const int fd, OpenRegular(path, &file_size));
    if (offset > file_size || size > file_size - offset) {
      close(fd);
      return absl::OutOfRangeError(
          absl::StrCat(path, ": ", file_size, " bytes, expected ", size, " more from ", offset));
    }
    absl::StatusOr<std::string> data = ReadAt(fd, path, offset, size);
    close(fd);
    return data;
  }

  absl::StatusOr<uint64_t> FileSize(const std::string& path) override {
    RETURN_IF_ERROR(CheckPath(path));
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
    return static_cast<uint64_t>(info.st_size);
  }

  bool Exists(const std::string& path) override {
    struct stat info;
    return CheckPath(path).ok() && stat(path.c_str(), &info) == 0;
  }

  absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) override {
    RETURN_IF_ERROR(CheckPath(path));
    DIR* directory = opendir(path.c_str());
    if (directory == nullptr) return ErrnoStatus(errno, "cannot list", path);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(directory)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    const int error = errno;  // readdir sets it only when it fails
    closedir(directory);
    if (error != 0) return ErrnoStatus(error, "cannot list", path);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status CreateDirectories(const std::string& path) override {
    RETURN_IF_ERROR(CheckPath(path));
    for (size_t at = 0; at != std::string::npos;) {
      at = path.find('/', at + 1);
      const std::string prefix = path.substr(0, at);
      if (prefix.empty() || prefix.back() == '/') continue;
      if (mkdir(prefix.c_str(), 0777) == 0) {
        RETURN_IF_ERROR(SyncDirectory(Dirname(prefix)));
        continue;
      }
      struct stat info;
      const int error = errno;
      if (stat(prefix.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) continue;
      return ErrnoStatus(error, "cannot create directory", prefix);
    }
    return absl::OkStatus();
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (rename(from.c_str(), to.c_str()) != 0) return ErrnoStatus(errno, absl::StrCat("cannot rename to ", to), from);
    return absl::OkStatus();
  }

  absl::Status RemoveFile(const std::string& path) override {
    if (unlink(path.c_str()) != 0) return ErrnoStatus(errno, "cannot remove", path);
    return absl::OkStatus();
  }

  absl::Status RemoveAll(const std::string& path) override {
    RETURN_IF_ERROR(CheckPath(path));
    struct stat info;
    if (lstat(path.c_str(), &info) != 0) {
      return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(errno, "cannot stat", path);
    }
    if (!S_ISDIR(info.st_mode)) return RemoveFile(path);
    ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(path));
    for (const std::string& name : names) RETURN_IF_ERROR(RemoveAll(JoinPath(path, name)));
    if (rmdir(path.c_str()) != 0) return ErrnoStatus(errno, "cannot remove directory", path);
    return absl::OkStatus();
  }

  absl::Status Truncate(const std::string& path, uint64_t size) override {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
    absl::Status status;
    if (ftruncate(fd, static_cast<off_t>(size)) != 0 || fsync(fd) != 0) {
      status = ErrnoStatus(errno, "cannot truncate", path);
    }
    close(fd);
    return status;
  }

  absl::Status SyncDirectory(const std::string& path) override {
    const int fd = open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus(errno, "cannot open directory", path);
    absl::Status status;
    // Some network file systems have no such operation and say so; there is nothing more to do on them.
    if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP) {
      status = ErrnoStatus(errno, "cannot sync directory", path);
    }
    close(fd);
    return status;
  }

 private:
  // [offset, offset + size) of an open file, or what is left of it when the file shrinks meanwhile.
  static absl::StatusOr<std::string> ReadAt(int fd, const std::string& path, uint64_t offset, uint64_t size) {
    std::string data(size, '\0');
    size_t done = 0;
    while (done < size) {
      const ssize_t got = pread(fd, data.data() + done, size - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoStatus(errno, "cannot read", path);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    data.resize(done);
    return data;
  }

  static absl::StatusOr<std::unique_ptr<WritableFile>> OpenForWriting(const std::string& path, int flag) {
    RETURN_IF_ERROR(CheckPath(path));
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flag, 0666);
    if (fd < 0) return ErrnoStatus(errno, "cannot open for writing", path);
    return std::make_unique<PosixWritableFile>(path, fd);
  }
};

}  // namespace

FileSystem& DefaultFileSystem() {
  static PosixFileSystem fs;
  return fs;
}

absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path, absl::string_view data) {
  const std::string temporary = path + ".tmp";
  auto write = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.Create(temporary));
    RETURN_IF_ERROR(file->Append(data));
    RETURN_IF_ERROR(file->Sync());
    RETURN_IF_ERROR(file->Close());
    return fs.Rename(temporary, path);
  };
  if (absl::Status status = write(); !status.ok()) {
    fs.RemoveFile(temporary).IgnoreError();  // best effort; the first error is the one to tell
    return status;
  }
  return fs.SyncDirectory(Dirname(path));
}

absl::StatusOr<std::shared_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  uint64_t size = 0;
  ASSIGN_OR_RETURN(const int fd, OpenRegular(path, &size));
  const char* data = nullptr;
  if (size > 0) {
    void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (mapped == MAP_FAILED) {
      const absl::Status status = ErrnoStatus(errno, "cannot map", path);
      close(fd);
      return status;
    }
    data = static_cast<const char*>(mapped);
  }
  return std::shared_ptr<MappedFile>(new MappedFile(path, fd, data, size));
}

bool MappedFile::Holds(absl::string_view part) const {
  const std::less_equal<const char*> before;
  return before(data_, part.data()) && before(part.data() + part.size(), data_ + size_);
}

absl::Status MappedFile::Read(absl::string_view part, void* to) const {
  CHECK(Holds(part)) << path_;
  const auto offset = static_cast<size_t>(part.data() - data_);
  for (size_t done = 0; done < part.size();) {
    const ssize_t got = pread(fd_, static_cast<char*>(to) + done, part.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read", path_);
    if (got == 0) return absl::DataLossError(absl::StrCat(path_, ": ends at byte ", offset + done, ", had ", size_, " when it was opened"));
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

void MappedFile::DropPages() const {
  if (size_ > 0) madvise(const_cast<char*>(data_), size_, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (size_ > 0) munmap(const_cast<char*>(data_), size_);
  close(fd_);
}

std::string JoinPath(absl::string_view directory, absl::string_view name) {
  if (directory.empty() || absl::StartsWith(name, "/")) return std::string(name);
  if (name.empty()) return std::string(directory);
  return absl::StrCat(directory, absl::EndsWith(directory, "/") ? "" : "/", name);
}

std::string Dirname(absl::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return ".";
  return slash == 0 ? "/" : std::string(path.substr(0, slash));
}

std::string Basename(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos ? path : path.substr(slash + 1));
}

absl::Status CheckInnerPath(absl::string_view name) {
  const bool bad = name.empty() || name[0] == '/' || name.find('\0') != absl::string_view::npos;
  bool climbs = false;
  for (absl::string_view part : absl::StrSplit(name, '/')) climbs |= part == "..";
  if (!bad && !climbs) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("file name \"", absl::Utf8SafeCHexEscape(name),
                                                 "\": expected a relative path inside the directory"));
}

}  // namespace grouper
