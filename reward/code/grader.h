// A program against the tests of its row, each program in a sandbox of its own.
//
//   pairs       the program's stdout for a stdin must be the expected one (code_tests.h, SameOutput), and its exit status 0
//   a checker   a program of the recipe's or the row's decides: checker INPUT OUTPUT EXPECTED, exit status 0 right, 1 or 2 wrong
//   assertions  Python: run in another sandbox, reaching the program by value (judge_scripts.h). C++: "EXPRESSION == VALUE"; the two halves are
//               evaluated in two programs and compared here
//
// What the program may see: its stdin, or the arguments that an assertion passes. It never sees expected outputs, checkers or assertions.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "reward/code/code_block.h"
#include "reward/code/code_tests.h"
#include "reward/code/sandbox.h"

namespace grouper::code {

enum class Verdict { kPassed, kWrong, kCompileError, kRuntimeError, kTime, kMemory, kOutput };
const char* VerdictName(Verdict verdict);

struct TestResult {
  Verdict verdict = Verdict::kWrong;
  std::string detail;  // for people
};

// How a program's end is judged; kPassed: it ended well, whatever it wrote.
TestResult JudgeEnd(const SandboxResult& result);

struct Program {
  Language language = Language::kPython;
  std::string source;
  bool optimise = true;  // C++: -O2
};

class Grader {
 public:
  Grader(Sandbox sandbox, SandboxLimits limits) : sandbox_(std::move(sandbox)), limits_(limits) {}

  // One result a test, in order; fewer when `stop_at_failure` and one failed (the last). `checker` may be null. An error means that nothing can be
  // said about the program: the sandbox failed, a checker crashed, a test is malformed. Thread-safe.
  absl::StatusOr<std::vector<TestResult>> Grade(const Program& program, const std::vector<CodeTest>& tests, const Program* checker,
                                                bool stop_at_failure) const;

 private:
  struct Executable {
    std::vector<std::string> command;
    std::string file, content;
    bool compiled = false;
    std::string compile_error;  // not empty: it does not compile
    Verdict compile_verdict = Verdict::kCompileError;
  };
  absl::StatusOr<Executable> Prepare(const Program& program) const;
  SandboxJob JobFor(const Executable& executable) const;
  absl::StatusOr<TestResult> RunPair(const Executable& executable, const CodeTest& test, const Executable* checker) const;
  absl::StatusOr<TestResult> RunChecker(const Executable& checker, const CodeTest& test, const std::string& output) const;
  absl::StatusOr<std::vector<TestResult>> PythonAssertions(const std::string& source, const std::vector<CodeTest>& tests, bool stop_at_failure) const;
  absl::StatusOr<std::vector<TestResult>> CppAssertions(const std::string& source, const std::vector<CodeTest>& tests, bool stop_at_failure) const;
  absl::StatusOr<std::vector<std::string>> ExpectedValues(const std::vector<Halves>& halves) const;

  const Sandbox sandbox_;
  const SandboxLimits limits_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::vector<std::string>> expected_;  // of C++ assertions, which a group shares
  mutable std::map<std::string, std::shared_ptr<const Executable>> checkers_;
};

}  // namespace grouper::code
