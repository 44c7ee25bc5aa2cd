#include "tests/testing/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/file.h"

namespace grouper::testing {
namespace {

std::string ScratchRoot() {
  struct Root {
    std::string path = JoinPath(::testing::TempDir(), "grouper_e2e_" + std::to_string(getpid()));
    Root() { std::filesystem::create_directories(path); }
    ~Root() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static Root root;
  return root.path;
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

Process::Process(const std::vector<std::string>& argv, const std::map<std::string, std::string>& environment) {
  static std::atomic<int> count{0};
  log_path_ = absl::StrCat(ScratchRoot(), "/process_", count++, ".log");
  pid_ = fork();
  if (pid_ == 0) {
    const int fd = open(log_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    std::vector<char*> pointers;
    for (const std::string& word : argv) pointers.push_back(const_cast<char*>(word.c_str()));
    pointers.push_back(nullptr);
    execvp(pointers[0], pointers.data());
    _exit(127);
  }
}

Process::~Process() {
  if (Running()) {
    kill(pid_, SIGKILL);
    waitpid(pid_, &status_, 0);
  }
}

bool Process::Running() {
  if (!ended_ && waitpid(pid_, &status_, WNOHANG) == pid_) ended_ = true;
  return !ended_;
}

void Process::Signal(int signal) {
  if (Running()) kill(pid_, signal);
}

std::string Process::Output() const { return ReadAll(log_path_); }

Outcome Process::Wait(double seconds) {
  const absl::Time deadline = absl::Now() + absl::Seconds(seconds);
  Outcome outcome;
  while (Running() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  if (Running()) {
    outcome.timed_out = true;
    kill(pid_, SIGKILL);
    waitpid(pid_, &status_, 0);
    ended_ = true;
  }
  outcome.exit_code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  outcome.output = Output();
  return outcome;
}

bool Process::WaitForOutput(const std::string& text, double seconds) {
  const absl::Time deadline = absl::Now() + absl::Seconds(seconds);
  while (absl::Now() < deadline) {
    if (Output().find(text) != std::string::npos) return true;
    if (!Running()) return Output().find(text) != std::string::npos;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

Outcome RunProgram(const std::vector<std::string>& argv, double seconds, const std::map<std::string, std::string>& environment) {
  return Process(argv, environment).Wait(seconds);
}

std::string GrouperBinary() { return std::string(GROUPER_BINARY_DIR) + "/grouper"; }
std::string SourcePath(const std::string& name) { return std::string(GROUPER_SOURCE_DIR) + "/" + name; }

std::string FreshDirectory(const std::string& name) {
  static std::atomic<int> count{0};
  const std::string path = absl::StrCat(ScratchRoot(), "/", name, "_", count++);
  std::filesystem::remove_all(path);
  return path;
}

std::string Digests(const std::string& run_directory) {
  const Outcome outcome = RunProgram({GrouperBinary(), "inspect", run_directory}, 60);
  std::string found;
  for (const char* name : {"weights_digest: ", "completions_digest: "}) {
    const size_t at = outcome.output.find(name);
    if (at == std::string::npos) {
      ADD_FAILURE() << "no " << name << " in:\n" << outcome.output;
      return "";
    }
    found += outcome.output.substr(at + std::string(name).size(), 64) + " ";
  }
  return found;
}

}  // namespace grouper::testing
