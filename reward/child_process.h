// A program of the user's that answers one line with one line, and that may hang, die, or print a gigabyte.
//
//   us ── stdin ──►  program  ── stdout ──► one answer line, at most kMaxAnswerBytes
//                             ── stderr ──► the last kKeptErrorBytes, for error messages
//
// It runs in a process group of its own, dies with our process (even by SIGKILL), has no descriptors of ours, and is
// killed with its group when it fails to answer in time or this object is destroyed. Not thread-safe: one caller at a
// time.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace grouper {

class ChildProcess {
 public:
  static constexpr size_t kMaxAnswerBytes = 4 << 20;
  static constexpr size_t kKeptErrorBytes = 512;

  struct Options {
    std::vector<std::string> command;  // program (found along PATH unless it has a slash) and arguments
    int memory_mb = 0;                 // RLIMIT_AS; 0: none
  };

  // NotFound or PermissionDenied naming the program when it cannot be started.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const Options& options);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // Sends `line` and a newline, returns the next line of its output without the newline. DeadlineExceeded when the
  // answer is not there in time; Unavailable when the program has ended (with its exit status and last words);
  // OutOfRange when the line is too long. After any error the process must not be used again.
  absl::StatusOr<std::string> Ask(absl::string_view line, absl::Duration timeout);

  pid_t pid() const { return pid_; }

 private:
  ChildProcess() = default;
  absl::Status Ended();
  void ReadErrors();

  pid_t pid_ = -1;
  int input_ = -1, output_ = -1, errors_ = -1;  // non-blocking
  std::string pending_;                         // output read beyond the last answer
  std::string last_words_;
};

}  // namespace grouper
