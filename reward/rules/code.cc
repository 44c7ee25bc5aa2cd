// Code: the last fenced block against the row's tests (reward/code).
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "reward/code/grader.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

using code::CodeBlock;
using code::CodeTest;
using code::Language;
using code::Program;
using code::TestResult;
using code::Verdict;

constexpr size_t kMaxCheckerBytes = 1 << 20;
constexpr std::chrono::minutes kMaxWait{60};

class CodeRule : public Rule {
 public:
  CodeRule(code::Sandbox sandbox, code::SandboxLimits limits, Language language, std::string tests, Program checker, bool share, int parallel)
      : grader_(std::move(sandbox), limits),
        language_(language),
        tests_(std::move(tests)),
        checker_(std::move(checker)),
        share_(share),
        parallel_(parallel),
        free_(parallel) {}

  int blocking_calls() const override { return parallel_; }

  absl::Status CheckRow(const json::Json& row) const override {
    RETURN_IF_ERROR(RowChecker(row).status());
    return code::ReadTests(row, tests_).status();
  }

  RuleResult Score(const RuleInput& input) const override {
    const absl::StatusOr<std::vector<CodeTest>> tests = code::ReadTests(*input.row, tests_);
    if (!tests.ok()) return RuleResult::NotApplicable(std::string(tests.status().message()));
    const absl::StatusOr<Program> checker = RowChecker(*input.row);
    if (!checker.ok()) return RuleResult::NotApplicable(std::string(checker.status().message()));
    const CodeBlock block = code::LastCodeBlock(input.text);
    if (!block.found) return RuleResult::Scored(0, "no closed code block");
    const Language language = block.language != Language::kUnknown ? block.language : RowLanguage(*input.row);
    if (language_ != Language::kUnknown && language != language_) return RuleResult::Scored(0, "the code block is in another language", block.text);

    Place place(*this);
    if (!place.held) return RuleResult::Timeout("no sandbox became free");
    const absl::StatusOr<std::vector<TestResult>> results =
        grader_.Grade({language, std::string(block.text), true}, *tests, checker->source.empty() ? nullptr : &*checker, !share_);
    if (!results.ok()) return RuleResult::Error(std::string(results.status().message()));
    size_t passed = 0;
    const TestResult* failure = nullptr;
    for (const TestResult& result : *results) {
      passed += result.verdict == Verdict::kPassed;
      if (result.verdict != Verdict::kPassed && failure == nullptr) failure = &result;
    }
    const double share = static_cast<double>(passed) / static_cast<double>(tests->size());
    return RuleResult::Scored(share_ ? share : passed == tests->size() ? 1 : 0, Reason(*results, tests->size(), failure), block.text);
  }

 private:
  // A place among `parallel` runs, over all calls.
  struct Place {
    explicit Place(const CodeRule& rule) : rule(rule) {
      std::unique_lock<std::mutex> lock(rule.mutex_);
      held = rule.wake_.wait_for(lock, kMaxWait, [&] { return rule.free_ > 0; });
      if (held) --rule.free_;
    }
    ~Place() {
      if (!held) return;
      std::lock_guard<std::mutex> lock(rule.mutex_);
      ++rule.free_;
      rule.wake_.notify_one();
    }
    const CodeRule& rule;
    bool held = false;
  };

  // "3 of 5 passed: passed, passed, wrong, passed, time; test 3: printed ..."
  static std::string Reason(const std::vector<TestResult>& results, size_t num_tests, const TestResult* failure) {
    constexpr size_t kMaxListed = 20;
    std::vector<std::string> names;
    size_t passed = 0;
    for (const TestResult& result : results) {
      passed += result.verdict == Verdict::kPassed;
      if (names.size() < kMaxListed) names.push_back(code::VerdictName(result.verdict));
    }
    if (results.size() > kMaxListed) names.push_back("...");
    std::string reason = absl::StrCat(passed, " of ", num_tests, " passed: ", absl::StrJoin(names, ", "));
    if (failure != nullptr && !failure->detail.empty()) {
      const bool numbered = absl::StartsWith(failure->detail, "test ");
      absl::StrAppend(&reason, "; ", numbered ? "" : absl::StrCat("test ", failure - results.data() + 1, ": "), failure->detail);
    }
    return reason;
  }

  Language RowLanguage(const json::Json& row) const {
    const auto it = row.find("language");
    if (it != row.end() && it->is_string()) {
      const Language named = code::LanguageOf(it->get_ref<const std::string&>());
      if (named != Language::kUnknown) return named;
    }
    return language_ == Language::kUnknown ? Language::kPython : language_;
  }

  absl::StatusOr<Program> RowChecker(const json::Json& row) const {
    const auto it = row.find("checker");
    if (it == row.end() || it->is_null()) return checker_;
    if (!it->is_string() || it->get_ref<const std::string&>().size() > kMaxCheckerBytes) {
      return absl::InvalidArgumentError("column \"checker\": expected the source of a Python program");
    }
    return Program{Language::kPython, it->get<std::string>(), true};
  }

  const code::Grader grader_;
  const Language language_;
  const std::string tests_;
  const Program checker_;  // no source: none
  const bool share_;
  const int parallel_;
  mutable std::mutex mutex_;
  mutable std::condition_variable wake_;
  mutable int free_;
};

absl::Status Between(const char* field, double value, double min, double max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, ", expected ", min, " to ", max));
}

}  // namespace

RuleOr CreateCodeRule(const v1::CodeRule& config, const std::string& base_dir) {
  Language language = Language::kUnknown;
  if (!config.language().empty()) {
    language = code::LanguageOf(config.language());
    if (language == Language::kUnknown) return absl::InvalidArgumentError(absl::StrCat("language: \"", config.language(), "\", expected python or cpp"));
  }
  if (!config.score().empty() && config.score() != "all" && config.score() != "share") {
    return absl::InvalidArgumentError(absl::StrCat("score: \"", config.score(), "\", expected all or share"));
  }
  Program checker;
  if (!config.checker().empty()) {
    const std::string path = JoinPath(base_dir, config.checker());
    absl::StatusOr<std::string> source = DefaultFileSystem().ReadFile(path, kMaxCheckerBytes);
    if (!source.ok()) return Annotate(source.status(), "checker");
    checker.source = std::move(*source);
    const size_t dot = path.rfind('.');
    checker.language = dot == std::string::npos ? Language::kUnknown : code::LanguageOf(path.substr(dot + 1));
    if (checker.language == Language::kUnknown) return absl::InvalidArgumentError(absl::StrCat("checker: ", path, ": expected a file that ends in .py, .cc or .cpp"));
  }
  code::SandboxLimits limits;
  RETURN_IF_ERROR(Between("cpu_seconds", config.cpu_seconds(), 0, 3600));
  RETURN_IF_ERROR(Between("wall_seconds", config.wall_seconds(), 0, 86400));
  RETURN_IF_ERROR(Between("memory_mb", config.memory_mb(), 0, 1 << 20));
  RETURN_IF_ERROR(Between("processes", config.processes(), 0, 4096));
  RETURN_IF_ERROR(Between("file_mb", config.file_mb(), 0, 1 << 16));
  RETURN_IF_ERROR(Between("output_kb", config.output_kb(), 0, 1 << 20));
  RETURN_IF_ERROR(Between("parallel", config.parallel(), 0, 1024));
  if (config.cpu_seconds() > 0) limits.cpu_seconds = config.cpu_seconds();
  limits.wall_seconds = config.wall_seconds() > 0 ? config.wall_seconds() : 3 * limits.cpu_seconds;
  if (config.memory_mb() > 0) limits.memory_mb = config.memory_mb();
  if (config.processes() > 0) limits.processes = config.processes();
  if (config.file_mb() > 0) limits.file_mb = config.file_mb();
  if (config.output_kb() > 0) limits.output_kb = config.output_kb();
  const int parallel = config.parallel() > 0 ? config.parallel() : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  absl::StatusOr<code::Sandbox> sandbox = code::Sandbox::Create();
  if (!sandbox.ok()) return absl::Status(sandbox.status().code(), absl::StrCat("sandbox: ", sandbox.status().message()));
  return std::make_unique<CodeRule>(std::move(*sandbox), limits, language, config.tests().empty() ? "tests" : config.tests(), std::move(checker),
                                    config.score() == "share", parallel);
}

}  // namespace grouper
