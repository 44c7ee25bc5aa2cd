#include "reward/code/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "reward/code/process_tree.h"
#include "reward/code/seccomp_filter.h"

namespace grouper::code {
namespace {

constexpr int kSampleMilliseconds = 10;
constexpr uint64_t kMaxInodes = 10000;
constexpr unsigned kNobody = 65534;

// A descriptor above the standard ones, closed on exec and at the end of its life.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {
    if (fd >= 0 && fd < 3) {  // our own stdin may be closed: 0 to 2 are what the program gets
      fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 3);
      close(fd);
    }
  }
  Fd(Fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { Close(); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

absl::Status Errno(absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat("sandbox: ", what, ": ", std::strerror(errno)));
}

absl::Status MakePipe(Fd* reader, Fd* writer) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return Errno("pipe");
  *reader = Fd(fds[0]);
  *writer = Fd(fds[1]);
  return reader->get() < 0 || writer->get() < 0 ? Errno("pipe") : absl::OkStatus();
}

absl::StatusOr<Fd> MemoryFile(absl::string_view content) {
  Fd fd(memfd_create("sandbox", MFD_CLOEXEC));
  if (fd.get() < 0) return Errno("memfd_create");
  for (size_t written = 0; written < content.size();) {
    const ssize_t n = write(fd.get(), content.data() + written, content.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Errno("memfd write");
    written += static_cast<size_t>(n);
  }
  if (lseek(fd.get(), 0, SEEK_SET) != 0) return Errno("memfd seek");
  return fd;
}

// --- start ----------------------------------------------------------------------------------------

struct Start {
  const char* program;
  char* const* argv;
  char* const* environment;
  int input, output, errors;
  const int* inherited;
  size_t num_inherited;
  pid_t parent;
  bool drop_root;
  sigset_t old_mask;
  int error;  // errno of the step that failed
};

// In the child, which shares our memory until it has become bwrap: system calls alone (the C library's setuid would change all our threads).
[[noreturn]] void BecomeBwrap(Start* start) {
  const auto fail = [&] {
    start->error = errno;
    _exit(127);
  };
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) sigaction(signal, &standard, nullptr);
  if (syscall(SYS_setpgid, 0, 0) != 0) fail();
  if (start->drop_root && (syscall(SYS_setgroups, 0, nullptr) != 0 || syscall(SYS_setresgid, kNobody, kNobody, kNobody) != 0 ||
                           syscall(SYS_setresuid, kNobody, kNobody, kNobody) != 0)) {
    fail();
  }
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail();
  if (getppid() != start->parent) _exit(127);
  if (dup2(start->input, 0) < 0 || dup2(start->output, 1) < 0 || dup2(start->errors, 2) < 0) fail();
  if (syscall(SYS_close_range, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */) != 0) fail();
  for (size_t i = 0; i < start->num_inherited; ++i) {
    if (fcntl(start->inherited[i], F_SETFD, 0) != 0) fail();
  }
  sigprocmask(SIG_SETMASK, &start->old_mask, nullptr);
  execve(start->program, start->argv, start->environment);
  fail();
  _exit(127);
}

// vfork: the parent may be a trainer with gigabytes of memory, whose page tables a fork would copy for every test.
__attribute__((noinline)) pid_t Spawn(Start* start) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &start->old_mask);
  const pid_t pid = vfork();
  if (pid == 0) BecomeBwrap(start);
  pthread_sigmask(SIG_SETMASK, &start->old_mask, nullptr);
  return pid;
}

// --- bwrap's command line -------------------------------------------------------------------------

void BindSystem(std::vector<std::string>& args) {
  args.insert(args.end(), {"--ro-bind", "/usr", "/usr"});
  for (const char* name : {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}) {
    const std::string path = absl::StrCat("/", name);
    struct stat info;
    if (lstat(path.c_str(), &info) != 0) continue;
    if (S_ISLNK(info.st_mode)) {
      args.insert(args.end(), {"--symlink", absl::StrCat("usr/", name), path});
    } else {
      args.insert(args.end(), {"--ro-bind", path, path});
    }
  }
  for (const char* path : {"/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"}) {
    args.insert(args.end(), {"--ro-bind-try", path, path});
  }
}

std::vector<std::string> BwrapArguments(const std::string& bwrap, const SandboxJob& job, int filter_fd, int status_fd,
                                        const std::vector<Fd>& file_fds) {
  const SandboxLimits& limits = job.limits;
  const std::string tmp_bytes = absl::StrCat(uint64_t{4} << 20, "");
  std::vector<std::string> args = {bwrap, "--unshare-all", "--unshare-user", "--new-session", "--die-with-parent", "--cap-drop", "ALL",
                                   "--clearenv", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"};
  BindSystem(args);
  args.insert(args.end(), {"--proc", "/proc", "--dev", "/dev", "--size", tmp_bytes, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"});
  args.insert(args.end(), {"--size", absl::StrCat(static_cast<uint64_t>(limits.file_mb) << 22), "--perms", "0700", "--tmpfs", "/tmp"});
  args.insert(args.end(), {"--dir", "/code"});
  for (size_t i = 0; i < job.files.size(); ++i) {
    args.insert(args.end(), {"--perms", job.files[i].executable ? "0555" : "0444", "--ro-bind-data", absl::StrCat(file_fds[i].get()),
                             absl::StrCat("/code/", job.files[i].name)});
  }
  args.insert(args.end(), {"--remount-ro", "/", "--chdir", "/tmp"});
  const std::pair<const char*, const char*> environment[] = {
      {"PATH", "/usr/bin:/bin"}, {"LANG", "C.UTF-8"}, {"HOME", "/tmp"}, {"TMPDIR", "/tmp"}, {"PYTHONHASHSEED", "0"}, {"PYTHONDONTWRITEBYTECODE", "1"}};
  for (const auto& [name, value] : environment) args.insert(args.end(), {"--setenv", name, value});
  args.insert(args.end(), {"--seccomp", absl::StrCat(filter_fd), "--json-status-fd", absl::StrCat(status_fd)});
  // Inside, so that processes are counted in the sandbox's own user namespace.
  const uint64_t cpu = static_cast<uint64_t>(std::ceil(limits.cpu_seconds));
  args.insert(args.end(),
              {"--", "/usr/bin/prlimit", absl::StrCat("--as=", static_cast<uint64_t>(limits.memory_mb) << 20), absl::StrCat("--cpu=", cpu, ":", cpu + 1),
               absl::StrCat("--nproc=", limits.processes), absl::StrCat("--fsize=", static_cast<uint64_t>(limits.file_mb) << 20), "--nofile=256",
               "--core=0", "--memlock=65536", "--msgqueue=0", absl::StrCat("--stack=", static_cast<uint64_t>(limits.stack_mb) << 20), "--"});
  args.insert(args.end(), job.command.begin(), job.command.end());
  return args;
}

std::string ErrorText(const std::string& errors) {
  return std::string(absl::StripAsciiWhitespace(absl::string_view(errors).substr(0, 400)));
}

}  // namespace

absl::StatusOr<SandboxResult> Sandbox::Run(const SandboxJob& job) const {
  Fd given_input(job.stdin_fd), given_output(job.stdout_fd);
  Fd input_reader, input_writer, output_reader, output_writer, errors_reader, errors_writer, status_reader, status_writer;
  if (job.stdin_fd < 0) {
    // A socket pair would do without SIGPIPE, but programs see a pipe in real life; SIGPIPE is blocked while we write.
    RETURN_IF_ERROR(MakePipe(&input_reader, &input_writer));
    fcntl(input_writer.get(), F_SETFL, O_NONBLOCK);
  } else {
    input_reader = std::move(given_input);
  }
  if (job.stdout_fd < 0) {
    RETURN_IF_ERROR(MakePipe(&output_reader, &output_writer));
    fcntl(output_reader.get(), F_SETFL, O_NONBLOCK);
  } else {
    output_writer = std::move(given_output);
  }
  RETURN_IF_ERROR(MakePipe(&errors_reader, &errors_writer));
  RETURN_IF_ERROR(MakePipe(&status_reader, &status_writer));
  fcntl(errors_reader.get(), F_SETFL, O_NONBLOCK);
  fcntl(status_reader.get(), F_SETFL, O_NONBLOCK);
  ASSIGN_OR_RETURN(const Fd filter, MemoryFile(filter_));
  std::vector<Fd> file_fds;
  std::vector<int> inherited = {filter.get(), status_writer.get()};
  for (const SandboxFile& file : job.files) {
    ASSIGN_OR_RETURN(Fd fd, MemoryFile(file.content));
    inherited.push_back(fd.get());
    file_fds.push_back(std::move(fd));
  }

  const std::vector<std::string> args = BwrapArguments(bwrap_, job, filter.get(), status_writer.get(), file_fds);
  std::vector<char*> argv;
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  char* environment[] = {nullptr};
  Start start = {bwrap_.c_str(), argv.data(), environment, input_reader.get(), output_writer.get(), errors_writer.get(),
                 inherited.data(), inherited.size(), getpid(), geteuid() == 0, {}, 0};
  const absl::Time begin = absl::Now();
  const pid_t pid = Spawn(&start);
  if (pid < 0) return Errno("fork");
  input_reader.Close();
  output_writer.Close();
  errors_writer.Close();
  status_writer.Close();

  SandboxResult result;
  std::string status, errors_end;
  bool killed = false;
  const auto kill_all = [&](SandboxResult::End end) {
    if (killed) return;
    killed = true;
    result.end = end;
    kill(pid, SIGKILL);  // its namespace dies with it
  };
  const Fd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  sigset_t pipe_signal, old_mask;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &old_mask);
  const uint64_t max_output = static_cast<uint64_t>(job.limits.output_kb) << 10;
  uint64_t output_bytes = 0;
  size_t sent = 0;
  if (job.input.empty()) input_writer.Close();
  const auto drain = [&](Fd& fd, std::string* kept, std::string* last) {  // false at the end of the stream
    char buffer[65536];
    const ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) return false;
    output_bytes += static_cast<uint64_t>(n);
    const absl::string_view chunk(buffer, static_cast<size_t>(n));
    const size_t room = last == nullptr ? max_output - std::min<uint64_t>(max_output, kept->size()) : kKeptErrors - std::min(kKeptErrors, kept->size());
    const size_t taken = std::min(room, chunk.size());
    kept->append(chunk.data(), taken);
    if (last != nullptr) {
      last->append(chunk.data() + taken, chunk.size() - taken);
      if (last->size() > kKeptErrors) last->erase(0, last->size() - kKeptErrors);
    }
    return true;
  };
  const auto read_all = [&] {  // what is there now
    while (output_reader.get() >= 0 && output_bytes <= max_output) {
      const uint64_t before = output_bytes;
      if (!drain(output_reader, &result.output, nullptr)) output_reader.Close();
      if (output_bytes == before) break;
    }
    while (errors_reader.get() >= 0 && output_bytes <= max_output) {
      const uint64_t before = output_bytes;
      if (!drain(errors_reader, &result.errors, &errors_end)) errors_reader.Close();
      if (output_bytes == before) break;
    }
    char buffer[4096];
    for (ssize_t n; status_reader.get() >= 0 && status.size() < 65536 && (n = read(status_reader.get(), buffer, sizeof buffer)) > 0;) {
      status.append(buffer, static_cast<size_t>(n));
    }
    if (output_bytes > max_output) kill_all(SandboxResult::End::kOutput);
  };

  int wait_status = 0;
  bool ended = false;
  absl::Time next_sample = begin + absl::Milliseconds(kSampleMilliseconds);
  while (!ended) {
    pollfd fds[4] = {{input_writer.get(), POLLOUT, 0}, {output_reader.get(), POLLIN, 0}, {errors_reader.get(), POLLIN, 0}, {process.get(), POLLIN, 0}};
    poll(fds, 4, kSampleMilliseconds);
    if (input_writer.get() >= 0 && fds[0].revents != 0) {
      const ssize_t n = write(input_writer.get(), job.input.data() + sent, std::min<size_t>(job.input.size() - sent, 65536));
      if (n > 0) sent += static_cast<size_t>(n);
      if (sent == job.input.size() || (n < 0 && errno != EAGAIN && errno != EINTR)) input_writer.Close();
    }
    read_all();
    rusage used;
    const pid_t waited = wait4(pid, &wait_status, WNOHANG, &used);
    if (waited == pid) {
      ended = true;
      // Of processes that were killed with their parent nothing but the last sample is known.
      result.cpu_seconds = std::max(result.cpu_seconds, static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                                                            1e-6 * static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec));
      break;
    }
    const absl::Time now = absl::Now();
    if (now - begin > absl::Seconds(job.limits.wall_seconds)) kill_all(SandboxResult::End::kWall);
    if (now >= next_sample && !killed) {
      const TreeUsage usage = UsageOfTree(pid);
      result.cpu_seconds = usage.cpu_seconds;
      if (usage.cpu_seconds > job.limits.cpu_seconds) kill_all(SandboxResult::End::kCpu);
      if (usage.resident_bytes > static_cast<uint64_t>(job.limits.memory_mb) << 20) kill_all(SandboxResult::End::kMemory);
      const size_t at = status.find("\"child-pid\":");
      uint64_t child = 0;
      if (at != std::string::npos) {
        const absl::string_view digits = absl::StripLeadingAsciiWhitespace(absl::string_view(status).substr(at + 12));
        if (!absl::SimpleAtoi(digits.substr(0, digits.find_first_not_of("0123456789")), &child)) child = 0;
      }
      struct statvfs files;
      // Of the sandbox's own /tmp, known by its size; before bwrap has made it, this is the host's.
      if (child > 0 && statvfs(absl::StrCat("/proc/", child, "/root/tmp").c_str(), &files) == 0 &&
          files.f_blocks * files.f_frsize == static_cast<uint64_t>(job.limits.file_mb) << 22 && files.f_files - files.f_ffree > kMaxInodes) {
        kill_all(SandboxResult::End::kFiles);
      }
      next_sample = absl::Now() + absl::Milliseconds(kSampleMilliseconds);
    }
  }
  // Its processes die with it; the last of their output is in the pipes.
  read_all();
  const timespec none = {0, 0};
  if (!sigismember(&old_mask, SIGPIPE)) {
    while (sigtimedwait(&pipe_signal, nullptr, &none) > 0) {}  // of a program that did not read its input
    pthread_sigmask(SIG_SETMASK, &old_mask, nullptr);
  }
  if (!errors_end.empty()) absl::StrAppend(&result.errors, result.errors.size() + errors_end.size() > kKeptErrors ? "\n...\n" : "", errors_end);
  if (killed) return result;

  const size_t at = status.find("\"exit-code\":");
  if (at == std::string::npos) {
    if (start.error != 0) {
      errno = start.error;
      return Errno(absl::StrCat("cannot start ", bwrap_));
    }
    return absl::UnavailableError(absl::StrCat("sandbox: bubblewrap did not run the program: ", ErrorText(result.errors)));
  }
  const absl::string_view digits = absl::StripLeadingAsciiWhitespace(absl::string_view(status).substr(at + 12));
  int code = 0;
  if (!absl::SimpleAtoi(digits.substr(0, digits.find_first_not_of("0123456789")), &code)) {
    return absl::InternalError("sandbox: bubblewrap reports no exit status");
  }
  result.code = code;
  if (code > 128 && code < 128 + NSIG) {
    result.end = SandboxResult::End::kSignalled;
    result.code = code - 128;
    if (result.code == SIGXCPU || (result.code == SIGKILL && result.cpu_seconds >= job.limits.cpu_seconds)) result.end = SandboxResult::End::kCpu;
  }
  if (result.cpu_seconds > job.limits.cpu_seconds + 0.1) result.end = SandboxResult::End::kCpu;
  return result;
}

absl::StatusOr<Sandbox> Sandbox::Create() {
  Sandbox sandbox;
  const char* named = std::getenv("GROUPER_BUBBLEWRAP");
  for (const char* path : {named != nullptr ? named : "/usr/bin/bwrap", named != nullptr ? named : "/usr/local/bin/bwrap"}) {
    if (sandbox.bwrap_.empty() && access(path, X_OK) == 0) sandbox.bwrap_ = path;
  }
  constexpr char kNever[] = "; code from a model is never run outside of it";
  if (sandbox.bwrap_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("bubblewrap is not installed (", named != nullptr ? named : "/usr/bin/bwrap",
                                                      "; apt-get install bubblewrap)", kNever));
  }
  if (access("/usr/bin/prlimit", X_OK) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("/usr/bin/prlimit is not installed (package util-linux)", kNever));
  }
  sandbox.filter_ = SeccompFilter();
  if (sandbox.filter_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("the sandbox has no system-call filter for this architecture", kNever));
  }
  // The proof: in there, other pid and user namespaces, no network but loopback, a read-only root, and the filter at work.
  SandboxJob probe;
  probe.command = {"/bin/sh", "-c",
                   "test \"$(id -u)\" = 1000 && test ! -e /root && test ! -e /home && ! touch /code/x 2>/dev/null && ! touch /x 2>/dev/null && "
                   "touch /tmp/x && ! unshare -U true 2>/dev/null && echo confined"};
  const absl::StatusOr<SandboxResult> result = sandbox.Run(probe);
  if (!result.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("bubblewrap cannot make a sandbox here (user namespaces may be off): ", result.status().message(), kNever));
  }
  if (result->output != "confined\n") {
    return absl::FailedPreconditionError(absl::StrCat("bubblewrap does not confine here: ", ErrorText(result->output + result->errors), kNever));
  }
  return sandbox;
}

}  // namespace grouper::code
