// Runs one program that a model wrote, confined by bubblewrap (bwrap), or does not run it at all.
//
//   ours ── vfork, unprivileged uid, empty environment ──► bwrap ──► prlimit ──► the program
//
// The program has namespaces of its own (user, pid, network without interfaces, ipc, uts, mount), no capabilities, a system-call filter
// (seccomp_filter.h), /usr and the loader's files read-only, an empty /proc of its own, /tmp (its current folder) as a memory file system of
// limited size, its files read-only in /code, and no descriptor but stdin, stdout and stderr. When it ends, or is ended, everything that it
// started and wrote is gone.
//
// Limits are by work: processor time and memory of all its processes together (sampled every 10 ms, and by rlimits of each), bytes written
// to stdout and stderr, processes, file sizes, number of files. Wall-clock time is the backstop. Thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grouper::code {

struct SandboxLimits {
  double cpu_seconds = 4;    // of all processes together
  double wall_seconds = 12;
  int memory_mb = 512;       // address space of each process, and resident memory of all together
  int processes = 16;        // threads count
  int file_mb = 16;          // one file; all of /tmp together 4 times that
  int output_kb = 1024;      // stdout and stderr together
  int stack_mb = 64;
};

struct SandboxFile {
  std::string name;           // in /code
  absl::string_view content;
  bool executable = false;
};

struct SandboxJob {
  std::vector<std::string> command;  // an absolute program inside the sandbox, and its arguments
  std::vector<SandboxFile> files;
  absl::string_view input;           // its stdin
  // Descriptors for stdin and stdout in place of `input` and the captured output; closed by Run.
  int stdin_fd = -1, stdout_fd = -1;
  SandboxLimits limits;
};

struct SandboxResult {
  enum class End { kExited, kSignalled, kCpu, kWall, kMemory, kOutput, kFiles };
  End end = End::kExited;
  int code = 0;            // exit status, or the signal
  std::string output;      // stdout, at most output_kb
  std::string errors;      // the first kKeptErrors bytes of stderr and the last
  double cpu_seconds = 0;
};

class Sandbox {
 public:
  static constexpr size_t kKeptErrors = 4096;

  // Finds bwrap (the environment variable GROUPER_BUBBLEWRAP names another place) and proves that it confines here. FailedPrecondition says what
  // is missing; there is no way around it.
  static absl::StatusOr<Sandbox> Create();

  // An error means that the sandbox failed, not the program; nothing can be said about the program then.
  absl::StatusOr<SandboxResult> Run(const SandboxJob& job) const;

 private:
  Sandbox() = default;
  std::string bwrap_;
  std::string filter_;
};

}  // namespace grouper::code
