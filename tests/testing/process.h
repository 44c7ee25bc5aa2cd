// Child processes for end-to-end tests: the real binary, started, watched, killed. Every wait has a deadline; what is left running is killed in
// the destructor.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace grouper::testing {

struct Outcome {
  int exit_code = -1;  // 128 + signal when a signal ended it
  bool timed_out = false;
  std::string output;  // stdout and stderr together
};

class Process {
 public:
  // Starts argv[0] with `environment` added to this process's. Output goes to a file.
  Process(const std::vector<std::string>& argv, const std::map<std::string, std::string>& environment = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  bool Running();
  void Signal(int signal);
  // Waits for the end; kills it at the deadline.
  Outcome Wait(double seconds);
  // Waits until the output contains `text`. False: not within the time, or the process ended without it.
  bool WaitForOutput(const std::string& text, double seconds);
  std::string Output() const;

 private:
  pid_t pid_ = -1;
  std::string log_path_;
  bool ended_ = false;
  int status_ = 0;
};

// Runs to the end.
Outcome RunProgram(const std::vector<std::string>& argv, double seconds, const std::map<std::string, std::string>& environment = {});

// Path of build/grouper.
std::string GrouperBinary();
std::string SourcePath(const std::string& name);
// A fresh empty directory that is removed at the end of the test program.
std::string FreshDirectory(const std::string& name);
// The two digests that `grouper inspect RUN_DIR` prints, as "weights completions".
std::string Digests(const std::string& run_directory);

}  // namespace grouper::testing
