#include "reward/code/grader.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace grouper::code {
namespace {

constexpr size_t kMaxCached = 256;
constexpr size_t kMaxSourceBytes = 1 << 20;
constexpr size_t kDetailBytes = 160;

// Compilers need more than programs; what they may use does not depend on the rule.
constexpr SandboxLimits kCompileLimits = {.cpu_seconds = 30, .wall_seconds = 60, .memory_mb = 2048, .processes = 16, .file_mb = 64, .output_kb = 64 << 10};

std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", text.substr(0, kDetailBytes), text.size() > kDetailBytes ? "...\"" : "\"");
}

absl::string_view LastLine(absl::string_view text) {
  text = absl::StripTrailingAsciiWhitespace(text);
  const size_t newline = text.rfind('\n');
  return newline == absl::string_view::npos ? text : text.substr(newline + 1);
}

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPassed: return "passed";
    case Verdict::kWrong: return "wrong";
    case Verdict::kCompileError: return "compile error";
    case Verdict::kRuntimeError: return "run-time error";
    case Verdict::kTime: return "time";
    case Verdict::kMemory: return "memory";
    case Verdict::kOutput: return "output";
  }
  return "wrong";
}

TestResult JudgeEnd(const SandboxResult& result) {
  using End = SandboxResult::End;
  switch (result.end) {
    case End::kCpu: return {Verdict::kTime, absl::StrCat("processor time of ", result.cpu_seconds, " s")};
    case End::kWall: return {Verdict::kTime, "wall-clock time"};
    case End::kMemory: return {Verdict::kMemory, "resident memory"};
    case End::kOutput: return {Verdict::kOutput, "too much output"};
    case End::kFiles: return {Verdict::kOutput, "too many files"};
    case End::kExited:
      if (result.code == 0) return {Verdict::kPassed, ""};
      break;
    case End::kSignalled: break;
  }
  const absl::string_view last = LastLine(result.errors);
  if (absl::StartsWith(last, "MemoryError") || absl::StrContains(result.errors, "std::bad_alloc")) return {Verdict::kMemory, std::string(last)};
  return {Verdict::kRuntimeError, absl::StrCat(result.end == End::kSignalled ? "signal " : "exit status ", result.code, last.empty() ? "" : ": ",
                                               last.substr(0, kDetailBytes))};
}

absl::StatusOr<Grader::Executable> Grader::Prepare(const Program& program) const {
  Executable executable;
  if (program.source.size() > kMaxSourceBytes) {
    executable.compile_error = absl::StrCat("the program is longer than ", kMaxSourceBytes, " bytes");
    return executable;
  }
  if (program.language == Language::kPython) {
    executable.command = {"/usr/bin/python3", "-s", "-B", "/code/main.py"};
    executable.file = "main.py";
    executable.content = program.source;
    return executable;
  }
  SandboxJob job;
  job.command = {"/bin/sh", "-c", absl::StrCat("g++ -std=c++20 ", program.optimise ? "-O2" : "-O0", " -pipe -o /tmp/program /code/main.cc 1>&2 && cat /tmp/program")};
  job.files = {{"main.cc", program.source}};
  job.limits = kCompileLimits;
  ASSIGN_OR_RETURN(SandboxResult result, sandbox_.Run(job));
  if (result.end == SandboxResult::End::kExited && result.code == 127) {
    return absl::FailedPreconditionError("g++ is not installed (apt-get install g++)");
  }
  const TestResult end = JudgeEnd(result);
  if (end.verdict != Verdict::kPassed || result.output.empty()) {
    const size_t error = result.errors.find("error:");
    const absl::string_view words = absl::string_view(result.errors).substr(error == std::string::npos ? 0 : error);
    executable.compile_error = std::string(words.substr(0, std::min(words.find('\n'), kDetailBytes)));
    if (executable.compile_error.empty()) executable.compile_error = absl::StrCat("the compiler: ", end.detail);
    return executable;
  }
  executable.command = {"/code/program"};
  executable.file = "program";
  executable.content = std::move(result.output);
  executable.compiled = true;
  return executable;
}

SandboxJob Grader::JobFor(const Executable& executable) const {
  SandboxJob job;
  job.command = executable.command;
  job.files = {{executable.file, executable.content, executable.compiled}};
  job.limits = limits_;
  return job;
}

absl::StatusOr<TestResult> Grader::RunPair(const Executable& executable, const CodeTest& test, const Executable* checker) const {
  SandboxJob job = JobFor(executable);
  job.input = test.input;
  ASSIGN_OR_RETURN(const SandboxResult result, sandbox_.Run(job));
  TestResult end = JudgeEnd(result);
  if (end.verdict != Verdict::kPassed) {
    // Python reads the whole file before it runs a line: an error there is a compile error.
    if (end.verdict == Verdict::kRuntimeError && executable.file == "main.py" &&
        (absl::StrContains(end.detail, "SyntaxError:") || absl::StrContains(end.detail, "IndentationError:") || absl::StrContains(end.detail, "TabError:")) &&
        !absl::StrContains(result.errors, "Traceback")) {
      end.verdict = Verdict::kCompileError;
    }
    return end;
  }
  if (checker != nullptr) return RunChecker(*checker, test, result.output);
  if (!test.has_output) return absl::InvalidArgumentError("a test without \"output\" needs a checker");
  if (SameOutput(test.output, result.output)) return TestResult{Verdict::kPassed, ""};
  return TestResult{Verdict::kWrong, absl::StrCat("printed ", Quoted(result.output), ", expected ", Quoted(test.output))};
}

absl::StatusOr<TestResult> Grader::RunChecker(const Executable& checker, const CodeTest& test, const std::string& output) const {
  SandboxJob job = JobFor(checker);
  job.files.push_back({"input", test.input});
  job.files.push_back({"output", output});
  job.files.push_back({"expected", test.output});
  job.command.insert(job.command.end(), {"/code/input", "/code/output", "/code/expected"});
  job.limits.cpu_seconds += 10;
  job.limits.wall_seconds += 20;
  job.limits.memory_mb += 512;
  ASSIGN_OR_RETURN(const SandboxResult result, sandbox_.Run(job));
  if (result.end == SandboxResult::End::kExited && result.code == 0) return TestResult{Verdict::kPassed, ""};
  const bool crashed = result.code == 1 && absl::StrContains(result.errors, "Traceback (most recent call last)");
  if (result.end == SandboxResult::End::kExited && (result.code == 1 || result.code == 2) && !crashed) {
    return TestResult{Verdict::kWrong, absl::StrCat("checker: ", Quoted(absl::StripTrailingAsciiWhitespace(result.output + result.errors)))};
  }
  return absl::InternalError(absl::StrCat("the checker failed (", JudgeEnd(result).detail, ")"));
}

absl::StatusOr<std::vector<TestResult>> Grader::Grade(const Program& program, const std::vector<CodeTest>& tests, const Program* checker,
                                                      bool stop_at_failure) const {
  if (!tests.empty() && !tests[0].assertion.empty()) {
    return program.language == Language::kPython ? PythonAssertions(program.source, tests, stop_at_failure)
                                                 : CppAssertions(program.source, tests, stop_at_failure);
  }
  std::shared_ptr<const Executable> judge;
  if (checker != nullptr) {
    const std::string key = absl::StrCat(static_cast<int>(checker->language), checker->source);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      const auto it = checkers_.find(key);
      if (it != checkers_.end()) judge = it->second;
    }
    if (judge == nullptr) {
      ASSIGN_OR_RETURN(Executable prepared, Prepare(*checker));
      if (!prepared.compile_error.empty()) return absl::InvalidArgumentError(absl::StrCat("the checker does not compile: ", prepared.compile_error));
      judge = std::make_shared<const Executable>(std::move(prepared));
      std::lock_guard<std::mutex> lock(mutex_);
      if (checkers_.size() >= kMaxCached) checkers_.clear();
      checkers_[key] = judge;
    }
  }
  ASSIGN_OR_RETURN(const Executable executable, Prepare(program));
  std::vector<TestResult> results;
  if (!executable.compile_error.empty()) {
    results.assign(stop_at_failure ? 1 : tests.size(), {Verdict::kCompileError, executable.compile_error});
    return results;
  }
  for (const CodeTest& test : tests) {
    ASSIGN_OR_RETURN(TestResult result, RunPair(executable, test, judge.get()));
    results.push_back(std::move(result));
    if (stop_at_failure && results.back().verdict != Verdict::kPassed) break;
    // A text that does not compile for one test does not for the others.
    if (results.back().verdict == Verdict::kCompileError) {
      const TestResult failed = results.back();
      results.resize(tests.size(), failed);
      break;
    }
  }
  return results;
}

}  // namespace grouper::code
