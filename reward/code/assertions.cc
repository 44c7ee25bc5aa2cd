// Assertions: the part of Grader that keeps a test and the program that it judges apart.
#include <fcntl.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "reward/code/grader.h"
#include "reward/code/judge_scripts.h"

namespace grouper::code {

namespace {

constexpr size_t kMaxCached = 256;
constexpr char kResultMark = '\x02';

const SandboxLimits& JudgeLimits(const SandboxLimits& program, SandboxLimits& limits) {
  limits = program;
  limits.cpu_seconds += 10;
  limits.wall_seconds += 10;  // it waits for the program
  limits.memory_mb = std::max(program.memory_mb, 1024);
  return limits;
}

}  // namespace

absl::StatusOr<std::vector<TestResult>> Grader::PythonAssertions(const std::string& source, const std::vector<CodeTest>& tests,
                                                                 bool stop_at_failure) const {
  json::Json texts = json::Json::array();
  for (const CodeTest& test : tests) texts.push_back(test.assertion);
  const std::string tests_json = json::Dump(texts);
  int to_program[2], to_judge[2];
  if (pipe2(to_program, O_CLOEXEC) != 0) return absl::ResourceExhaustedError("no pipe for a sandbox");
  if (pipe2(to_judge, O_CLOEXEC) != 0) {
    close(to_program[0]);
    close(to_program[1]);
    return absl::ResourceExhaustedError("no pipe for a sandbox");
  }
  SandboxJob program, judge;
  program.command = {"/usr/bin/python3", "-s", "-B", "/code/candidate.py"};
  program.files = {{"candidate.py", kPythonCandidate}, {"main.py", source}};
  program.stdin_fd = to_program[0];
  program.stdout_fd = to_judge[1];
  program.limits = limits_;
  judge.command = {"/usr/bin/python3", "-s", "-B", "/code/judge.py"};
  if (stop_at_failure) judge.command.push_back("stop");
  judge.files = {{"judge.py", kPythonJudge}, {"tests.json", tests_json}};
  judge.stdin_fd = to_judge[0];
  judge.stdout_fd = to_program[1];
  JudgeLimits(limits_, judge.limits);
  absl::StatusOr<SandboxResult> program_result = absl::UnknownError("not run");
  std::thread program_thread([&] { program_result = sandbox_.Run(program); });
  const absl::StatusOr<SandboxResult> judge_result = sandbox_.Run(judge);
  program_thread.join();
  RETURN_IF_ERROR(judge_result.status());
  RETURN_IF_ERROR(program_result.status());

  TestResult ended = JudgeEnd(*program_result);
  if (ended.verdict == Verdict::kPassed) ended = {Verdict::kRuntimeError, "the program ended before it was asked"};
  if (absl::string_view(ended.detail).find("SyntaxError:") != absl::string_view::npos ||
      absl::string_view(ended.detail).find("IndentationError:") != absl::string_view::npos) {
    ended.verdict = Verdict::kCompileError;
  }
  const size_t mark = judge_result->errors.find('\x01');
  const absl::string_view report = mark == std::string::npos ? "" : absl::string_view(judge_result->errors).substr(mark + 1);
  const absl::string_view verdicts = report.substr(0, report.find('\n'));
  const std::string words(verdicts.size() < report.size() ? report.substr(verdicts.size() + 1) : "");
  std::vector<TestResult> results;
  for (const char verdict : verdicts) {
    if (results.size() == tests.size()) break;
    switch (verdict) {
      case '0': results.push_back({Verdict::kPassed, ""}); break;
      case '1': results.push_back({Verdict::kWrong, words}); break;
      case '2': results.push_back({Verdict::kRuntimeError, words}); break;
      case '3': results.push_back(ended); break;
      default: return absl::InvalidArgumentError(words);
    }
    if (stop_at_failure && verdict != '0') return results;
  }
  if (results.size() < tests.size()) {
    if (mark == std::string::npos) return absl::UnavailableError(absl::StrCat("the judge of assertions did not run: ", JudgeEnd(*judge_result).detail));
    // The judge itself was stopped: by what the program made it wait for, or by what a test does with a returned value.
    results.resize(stop_at_failure ? results.size() + 1 : tests.size(), {Verdict::kTime, "the assertion did not end"});
  }
  return results;
}

absl::StatusOr<std::vector<std::string>> Grader::ExpectedValues(const std::vector<Halves>& halves) const {
  std::string source = absl::StrCat(kCppBefore, kCppShow, "using namespace std;\nint main() {\n");
  for (const Halves& h : halves) absl::StrAppend(&source, "  std::cout << '\\x02' << grouper_judge::Show(", h.right, ");\n");
  absl::StrAppend(&source, "}\n");
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto it = expected_.find(source);
    if (it != expected_.end()) return it->second;
  }
  ASSIGN_OR_RETURN(const Executable executable, Prepare({Language::kCpp, source, false}));
  if (!executable.compile_error.empty()) return absl::InvalidArgumentError(absl::StrCat("an assertion's value does not compile: ", executable.compile_error));
  ASSIGN_OR_RETURN(const SandboxResult result, sandbox_.Run(JobFor(executable)));
  std::vector<std::string> values;
  size_t begin = result.output.find(kResultMark);
  while (begin != std::string::npos) {
    const size_t end = result.output.find(kResultMark, begin + 1);
    values.push_back(result.output.substr(begin + 1, end == std::string::npos ? end : end - begin - 1));
    begin = end;
  }
  if (JudgeEnd(result).verdict != Verdict::kPassed || values.size() != halves.size()) {
    return absl::InvalidArgumentError(absl::StrCat("an assertion's value cannot be computed: ", JudgeEnd(result).detail));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (expected_.size() >= kMaxCached) expected_.clear();
  return expected_[source] = values;
}

absl::StatusOr<std::vector<TestResult>> Grader::CppAssertions(const std::string& source, const std::vector<CodeTest>& tests, bool stop_at_failure) const {
  std::vector<Halves> halves;
  for (const CodeTest& test : tests) {
    halves.push_back(SplitAssertion(test.assertion));
    if (!halves.back().ok) {
      return absl::InvalidArgumentError(absl::StrCat("C++ assertion \"", test.assertion.substr(0, 200), "\": expected EXPRESSION == VALUE or a call"));
    }
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> expected, ExpectedValues(halves));
  std::string text = absl::StrCat(kCppBefore, source, "\n", kCppShow,
                                  "int main(int, char** argv) {\n  using std::map; using std::pair; using std::set; using std::string; using std::vector;\n"
                                  "  std::string shown;\n  switch (std::strtol(argv[1], nullptr, 10)) {\n");
  for (size_t i = 0; i < halves.size(); ++i) absl::StrAppend(&text, "    case ", i, ": shown = grouper_judge::Show(", halves[i].left, "); break;\n");
  absl::StrAppend(&text, "  }\n  std::cout << std::flush;\n  std::printf(\"\\x02%s\", shown.c_str());\n  std::fflush(stdout);\n}\n");
  ASSIGN_OR_RETURN(const Executable executable, Prepare({Language::kCpp, text}));
  std::vector<TestResult> results;
  if (!executable.compile_error.empty()) {
    results.assign(stop_at_failure ? 1 : tests.size(), {Verdict::kCompileError, executable.compile_error});
    return results;
  }
  for (size_t i = 0; i < tests.size(); ++i) {
    SandboxJob job = JobFor(executable);
    job.command.push_back(absl::StrCat(i));
    ASSIGN_OR_RETURN(const SandboxResult result, sandbox_.Run(job));
    TestResult judged = JudgeEnd(result);
    if (judged.verdict == Verdict::kPassed) {
      const size_t mark = result.output.rfind(kResultMark);
      if (mark == std::string::npos || absl::string_view(result.output).substr(mark + 1) != expected[i]) {
        judged = {Verdict::kWrong, absl::StrCat("test ", i + 1, ": ", halves[i].left, " is not ", halves[i].right)};
      }
    }
    results.push_back(std::move(judged));
    if (stop_at_failure && results.back().verdict != Verdict::kPassed) break;
  }
  return results;
}

}  // namespace grouper::code
