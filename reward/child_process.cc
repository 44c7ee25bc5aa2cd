#include "reward/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/log.h"

namespace grouper {
namespace {

constexpr absl::Duration kReapLimit = absl::Seconds(5);

// Runs functions on one thread that lives as long as the process. Children ask the kernel to die with their parent, and
// the kernel means the parent *thread*: so they are all forked from here.
class SpawnThread {
 public:
  static SpawnThread& Get() {
    static SpawnThread* const instance = new SpawnThread;  // never destroyed: its thread outlives main
    return *instance;
  }
  void Run(const std::function<void()>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    bool done = false;
    queue_.push_back({&work, &done});
    wake_.notify_one();
    finished_.wait(lock, [&] { return done; });
  }

 private:
  struct Item {
    const std::function<void()>* work;
    bool* done;
  };
  SpawnThread() {
    std::thread([this] {
      std::unique_lock<std::mutex> lock(mutex_);
      while (true) {
        wake_.wait(lock, [&] { return !queue_.empty(); });
        const Item item = queue_.front();
        queue_.pop_front();
        lock.unlock();
        (*item.work)();
        lock.lock();
        *item.done = true;
        finished_.notify_all();
      }
    }).detach();
  }
  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  std::deque<Item> queue_;
};

void CloseAll(std::initializer_list<int> fds) {
  for (const int fd : fds) {
    if (fd >= 0) close(fd);
  }
}

struct Pipes {
  int input[2] = {-1,
                  -1};  // ours, theirs; a socket pair, so that writing to a dead program is an error and not SIGPIPE
  int output[2] = {-1, -1};  // ours, theirs
  int errors[2] = {-1, -1};
  int exec_error[2] = {-1, -1};  // closed by a successful exec, else carries errno
};

// In the child, after fork: only async-signal-safe calls.
[[noreturn]] void ExecChild(const Pipes& pipes, char* const* argv, rlim_t memory, pid_t parent) {
  const auto fail = [&] {
    const int error = errno;
    [[maybe_unused]] const ssize_t n = write(pipes.exec_error[1], &error, sizeof error);
    _exit(127);
  };
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent died before the line above
  if (dup2(pipes.input[1], 0) < 0 || dup2(pipes.output[1], 1) < 0 || dup2(pipes.errors[1], 2) < 0) fail();
  // Everything else is close-on-exec by construction here; other libraries' descriptors may not be.
  const int keep = pipes.exec_error[1];
  if (keep > 3) close_range(3, static_cast<unsigned>(keep) - 1, 0);
  close_range(static_cast<unsigned>(keep) + 1, ~0u, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  signal(SIGXFSZ, SIG_DFL);
  if (memory > 0) {
    const rlimit limit{memory, memory};
    if (setrlimit(RLIMIT_AS, &limit) != 0) fail();
  }
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  execvp(argv[0], argv);
  fail();
  _exit(127);
}

// One line that a terminal survives.
std::string Printable(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte == '\n') {
      out += " | ";
    } else if (byte < 0x20 || byte == 0x7F) {
      absl::StrAppend(&out, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

std::string ErrorText(int error) { return std::string(std::strerror(error)); }

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const Options& options) {
  Pipes pipes;
  const auto close_pipes = [&] {
    CloseAll({pipes.input[0], pipes.input[1], pipes.output[0], pipes.output[1], pipes.errors[0], pipes.errors[1],
              pipes.exec_error[0], pipes.exec_error[1]});
  };
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pipes.input) != 0 || pipe2(pipes.output, O_CLOEXEC) != 0 ||
      pipe2(pipes.errors, O_CLOEXEC) != 0 || pipe2(pipes.exec_error, O_CLOEXEC) != 0) {
    const int error = errno;
    close_pipes();
    return absl::ResourceExhaustedError(absl::StrCat("cannot start ", options.command[0], ": ", ErrorText(error)));
  }
  std::vector<char*> argv;
  for (const std::string& argument : options.command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  pid_t pid = -1;
  int fork_error = 0;
  const pid_t parent = getpid();
  SpawnThread::Get().Run([&] {
    pid = fork();
    if (pid == 0) ExecChild(pipes, argv.data(), static_cast<rlim_t>(options.memory_mb) << 20, parent);
    if (pid < 0) fork_error = errno;
  });
  if (pid < 0) {
    close_pipes();
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot start ", options.command[0], ": fork: ", ErrorText(fork_error)));
  }
  setpgid(pid, pid);  // both sides do it: whoever comes first
  CloseAll({pipes.input[1], pipes.output[1], pipes.errors[1], pipes.exec_error[1]});
  int exec_error = 0;
  ssize_t n;
  do {
    n = read(pipes.exec_error[0], &exec_error, sizeof exec_error);  // ends at exec or exit, both at once
  } while (n < 0 && errno == EINTR);
  close(pipes.exec_error[0]);

  std::unique_ptr<ChildProcess> child(new ChildProcess);
  child->pid_ = pid;
  child->input_ = pipes.input[0];
  child->output_ = pipes.output[0];
  child->errors_ = pipes.errors[0];
  if (n == sizeof exec_error) {
    const std::string message = absl::StrCat("cannot run ", options.command[0], ": ", ErrorText(exec_error));
    if (exec_error == EACCES) return absl::PermissionDeniedError(message);
    return absl::NotFoundError(message);
  }
  for (const int fd : {child->input_, child->output_, child->errors_})
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  return child;
}

ChildProcess::~ChildProcess() {
  CloseAll({input_, output_, errors_});
  if (pid_ <= 0) return;
  kill(-pid_, SIGKILL);
  kill(pid_, SIGKILL);
  const absl::Time give_up = absl::Now() + kReapLimit;
  absl::Duration pause = absl::Microseconds(50);
  while (waitpid(pid_, nullptr, WNOHANG) == 0) {
    if (absl::Now() > give_up) {
      LOG(WARNING) << "process " << pid_ << " did not end " << absl::FormatDuration(kReapLimit) << " after SIGKILL";
      return;
    }
    absl::SleepFor(pause);
    pause = std::min(pause * 2, absl::Milliseconds(5));
  }
}

void ChildProcess::ReadErrors() {
  char buffer[4096];
  ssize_t n;
  // At most 64 kB a call: a program that floods stderr must not keep us from its deadline.
  for (int i = 0; i < 16 && (n = read(errors_, buffer, sizeof buffer)) > 0; ++i) {
    last_words_.append(buffer, static_cast<size_t>(n));
    if (last_words_.size() > kKeptErrorBytes) last_words_.erase(0, last_words_.size() - kKeptErrorBytes);
  }
}

absl::Status ChildProcess::Ended() {
  ReadErrors();
  int status = 0;
  std::string how = "closed its output";
  for (int i = 0; i < 20; ++i) {  // its output closes a moment before it can be reaped
    const pid_t reaped = waitpid(pid_, &status, WNOHANG);
    if (reaped == pid_) {
      kill(-pid_, SIGKILL);  // what it left behind in its group
      pid_ = -1;
      how = WIFSIGNALED(status) ? absl::StrCat("was killed by signal ", WTERMSIG(status))
                                : absl::StrCat("exited with ", WEXITSTATUS(status));
      break;
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
  const absl::string_view words = absl::StripAsciiWhitespace(last_words_);
  return absl::UnavailableError(absl::StrCat("the program ", how, words.empty() ? "" : ": ", Printable(words)));
}

absl::StatusOr<std::string> ChildProcess::Ask(absl::string_view line, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  std::string request = absl::StrCat(line, "\n");
  size_t sent = 0;
  size_t searched = 0;
  while (true) {
    const size_t end = pending_.find('\n', searched);
    if (end != std::string::npos && sent == request.size()) {
      std::string answer = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return answer;
    }
    if (end != std::string::npos) return absl::FailedPreconditionError("the program wrote a line before it was asked");
    searched = pending_.size();
    if (pending_.size() > kMaxAnswerBytes) {
      return absl::OutOfRangeError(absl::StrCat("the program's answer is longer than ", kMaxAnswerBytes, " bytes"));
    }
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(absl::StrCat("no answer within ", absl::FormatDuration(timeout)));
    }
    pollfd fds[3] = {{output_, POLLIN, 0}, {errors_, POLLIN, 0}, {sent < request.size() ? input_ : -1, POLLOUT, 0}};
    const int wait_ms = static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(left) + 1, 1000));
    if (poll(fds, 3, wait_ms) < 0 && errno != EINTR)
      return absl::InternalError(absl::StrCat("poll: ", ErrorText(errno)));
    if (fds[1].revents & POLLIN) {
      ReadErrors();
    } else if (fds[1].revents & (POLLHUP | POLLERR)) {
      close(errors_);
      errors_ = -1;
    }
    if (fds[2].revents) {
      const ssize_t n = send(input_, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
      if (n > 0) sent += static_cast<size_t>(n);
      if (n < 0 && errno != EAGAIN && errno != EINTR) return Ended();
    }
    if (fds[0].revents) {
      char buffer[65536];
      const ssize_t n = read(output_, buffer, sizeof buffer);
      if (n > 0) pending_.append(buffer, static_cast<size_t>(n));
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return Ended();
    }
  }
}

}  // namespace grouper
