// Custom rules in programs of the user's: a pool of children (reward/child_process.h), one JSON object a line in each
// direction.
//
//   -> {"id":7,"completion":"...","prompt":"...","row":{...},"num_tokens":12,"truncated":false,"max_new_tokens":256}
//   <- {"id":7,"score":0.5,"reason":"...","extracted":"..."}      score null: not applicable; {"id":7,"error":"..."}:
//   error
//   ->
//   {"id":8,"completions":["...","..."],"prompt":"...","row":{...},"num_tokens":[...],"truncated":[...],"max_new_tokens":256}
//   <- {"id":8,"scores":[0.5,null],"reasons":["...",""]}           with `group: true`
//
// A child that failed is replaced by a fresh one at the next call; the completions beside it are not touched.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "reward/child_process.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

using json::Json;

constexpr int kMaxProcesses = 256;
constexpr int kMaxMemoryMb = 1 << 20;

class ProcessRule : public Rule {
 public:
  ProcessRule(ChildProcess::Options options, int processes, bool group, absl::Duration timeout)
      : options_(std::move(options)),
        group_(group),
        timeout_(timeout),
        processes_(processes),
        idle_(static_cast<size_t>(processes)) {}

  int blocking_calls() const override { return processes_; }
  bool sees_group() const override { return group_; }

  RuleResult Score(const RuleInput& input) const override {
    Json request = Common(input);
    request["completion"] = Utf8(input.text);
    request["num_tokens"] = input.num_tokens;
    request["truncated"] = input.truncated;
    absl::StatusOr<Json> answer = Ask(std::move(request), *input.row);
    if (!answer.ok()) return Failure(answer.status());
    if (!answer->contains("score")) return RuleResult::Error("the program's answer has no \"score\"");
    return Result((*answer)["score"], Text(*answer, "reason"), Text(*answer, "extracted"));
  }

  void ScoreGroup(absl::Span<const RuleInput> group, absl::Span<RuleResult> results) const override {
    if (group.empty()) return;
    Json request = Common(group[0]);
    for (const char* key : {"completions", "num_tokens", "truncated"}) request[key] = Json::array();
    for (const RuleInput& input : group) {
      request["completions"].push_back(Utf8(input.text));
      request["num_tokens"].push_back(input.num_tokens);
      request["truncated"].push_back(input.truncated);
    }
    absl::StatusOr<Json> answer = Ask(std::move(request), *group[0].row);
    RuleResult failure;
    if (!answer.ok()) {
      failure = Failure(answer.status());
    } else if (!answer->contains("scores") || !(*answer)["scores"].is_array() ||
               (*answer)["scores"].size() != group.size()) {
      failure = RuleResult::Error(
          absl::StrCat("the program's answer has no \"scores\" array of ", group.size(), " elements"));
    }
    for (size_t i = 0; i < group.size(); ++i) {
      if (failure.status != v1::RULE_STATUS_UNSPECIFIED) {
        results[i] = failure;
        continue;
      }
      const Json& reasons = answer->contains("reasons") ? (*answer)["reasons"] : Json();
      const bool has_reason = reasons.is_array() && i < reasons.size() && reasons[i].is_string();
      results[i] = Result((*answer)["scores"][i], has_reason ? reasons[i].get<std::string>() : "", "");
    }
  }

 private:
  static RuleResult Failure(const absl::Status& status) {
    if (absl::IsDeadlineExceeded(status)) return RuleResult::Timeout(std::string(status.message()));
    return RuleResult::Error(std::string(status.message()));
  }

  static RuleResult Result(const Json& score, std::string reason, const std::string& extracted) {
    if (score.is_null()) return RuleResult::NotApplicable(reason.empty() ? "the program says so" : std::move(reason));
    if (!score.is_number())
      return RuleResult::Error(
          absl::StrCat("the program's score is ", score.type_name(), ", expected a number or null"));
    return RuleResult::Scored(score.get<double>(), std::move(reason), extracted);
  }

  static std::string Text(const Json& answer, const char* key) {
    const auto it = answer.find(key);
    return it != answer.end() && it->is_string() ? it->get<std::string>() : "";
  }

  // JSON is UTF-8; a completion may be any bytes. Dump replaces what is not UTF-8 by U+FFFD.
  static std::string Utf8(absl::string_view text) { return std::string(text); }

  static Json Common(const RuleInput& input) {
    Json request = Json::object();
    request["prompt"] = Utf8(input.prompt);
    request["max_new_tokens"] = input.max_new_tokens;
    return request;
  }

  absl::StatusOr<Json> Ask(Json request, const Json& row) const {
    const uint64_t id = next_id_.fetch_add(1) + 1;
    request["id"] = id;
    // The row apart, so that its numbers keep their text.
    const std::string line = absl::StrCat("{\"row\":", json::Dump(row), ",", json::Dump(request).substr(1));
    bool fresh = false;
    ASSIGN_OR_RETURN(std::unique_ptr<ChildProcess> child, Acquire(&fresh));
    absl::StatusOr<Json> answer = AskChild(*child, line, id);
    if (!answer.ok() && !fresh && !absl::IsDeadlineExceeded(answer.status())) {
      // An earlier completion may have left the process broken (dead, or with output that nobody asked for): ask a new
      // one.
      child.reset();
      absl::StatusOr<std::unique_ptr<ChildProcess>> started = ChildProcess::Start(options_);
      if (started.ok()) {
        child = std::move(*started);
        answer = AskChild(*child, line, id);
      }
    }
    if (!answer.ok()) child.reset();  // killed before anybody waits for its place
    Release(std::move(child));
    if (!answer.ok()) return answer.status();
    if (answer->contains("error"))
      return absl::InternalError(absl::StrCat("the program reports: ", json::Dump((*answer)["error"])));
    return answer;
  }

  absl::StatusOr<Json> AskChild(ChildProcess& child, const std::string& line, uint64_t id) const {
    ASSIGN_OR_RETURN(const std::string text, child.Ask(line, timeout_));
    absl::StatusOr<Json> answer = json::Parse(text);
    if (!answer.ok()) return Annotate(answer.status(), "the program's answer");
    if (!answer->is_object()) return absl::InvalidArgumentError("the program's answer is not a JSON object");
    const auto it = answer->find("id");
    if (it == answer->end() || !it->is_number_unsigned() || it->get<uint64_t>() != id) {
      return absl::InvalidArgumentError(absl::StrCat("the program's answer does not carry \"id\": ", id));
    }
    return answer;
  }

  // A child that is idle, or a new one in its place. A place is held for at most the time-out by each caller before us.
  absl::StatusOr<std::unique_ptr<ChildProcess>> Acquire(bool* fresh) const {
    std::unique_ptr<ChildProcess> child;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const auto limit = absl::ToChronoMilliseconds(std::max(absl::Seconds(60), 10 * timeout_));
      if (!free_.wait_for(lock, limit, [&] { return !idle_.empty(); })) {
        return absl::DeadlineExceededError(absl::StrCat("none of the ", processes_, " processes became free"));
      }
      // Prefer one that runs.
      const auto running = std::find_if(idle_.begin(), idle_.end(), [](const auto& c) { return c != nullptr; });
      const auto chosen = running != idle_.end() ? running : idle_.begin();
      child = std::move(*chosen);
      idle_.erase(chosen);
    }
    *fresh = child == nullptr;
    if (!*fresh) return child;
    absl::StatusOr<std::unique_ptr<ChildProcess>> started = ChildProcess::Start(options_);
    if (!started.ok()) Release(nullptr);
    return started;
  }

  void Release(std::unique_ptr<ChildProcess> child) const {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(child));
    free_.notify_one();
  }

  const ChildProcess::Options options_;
  const bool group_;
  const absl::Duration timeout_;
  const int processes_;
  mutable std::atomic<uint64_t> next_id_{0};
  mutable std::mutex mutex_;
  mutable std::condition_variable free_;
  mutable std::vector<std::unique_ptr<ChildProcess>> idle_;  // null: a place whose process is not started or was killed
};

bool Runnable(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && access(path.c_str(), X_OK) == 0;
}

absl::Status CheckProgram(const std::string& program) {
  if (program.find('/') != std::string::npos) {
    if (Runnable(program)) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("command[0]: ", program, " is not an executable file"));
  }
  const char* path = getenv("PATH");
  for (const absl::string_view directory : absl::StrSplit(path == nullptr ? "/usr/bin:/bin" : path, ':')) {
    if (Runnable(JoinPath(directory, program))) return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("command[0]: no program \"", program, "\" along PATH"));
}

}  // namespace

RuleOr CreateProcessRule(const v1::ProcessRule& config, absl::Duration timeout, const std::string& base_dir) {
  if (config.command().empty() || config.command(0).empty()) return absl::InvalidArgumentError("command: required");
  ChildProcess::Options options;
  options.command.assign(config.command().begin(), config.command().end());
  if (options.command[0].find('/') != std::string::npos) options.command[0] = JoinPath(base_dir, options.command[0]);
  RETURN_IF_ERROR(CheckProgram(options.command[0]));
  if (config.processes() < 0 || config.processes() > kMaxProcesses) {
    return absl::InvalidArgumentError(
        absl::StrCat("processes: ", config.processes(), ", expected 0 to ", kMaxProcesses));
  }
  if (config.memory_mb() < 0 || config.memory_mb() > kMaxMemoryMb) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory_mb: ", config.memory_mb(), ", expected 0 to ", kMaxMemoryMb));
  }
  options.memory_mb = config.memory_mb();
  return std::make_unique<ProcessRule>(std::move(options), std::max(1, config.processes()), config.group(), timeout);
}

}  // namespace grouper
