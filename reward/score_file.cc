#include "reward/score_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"

namespace grouper {
namespace {

constexpr size_t kBatchLines = 1024;
constexpr size_t kBatchBytes = 32 << 20;

// Lines of a regular file, one at a time, in bounded memory.
class LineReader {
 public:
  static absl::StatusOr<std::unique_ptr<LineReader>> Open(const std::string& path) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
    if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
    return std::unique_ptr<LineReader>(new LineReader(path, fd));
  }
  ~LineReader() { close(fd_); }

  // False at the end. The newline (and a carriage return before it) is removed.
  absl::StatusOr<bool> Next(std::string* line) {
    while (true) {
      const size_t end = buffer_.find('\n', searched_);
      if (end != std::string::npos || (at_end_ && begin_ < buffer_.size())) {
        const size_t stop = end == std::string::npos ? buffer_.size() : end;
        line->assign(buffer_, begin_, stop - begin_);
        if (!line->empty() && line->back() == '\r') line->pop_back();
        begin_ = searched_ = std::min(stop + 1, buffer_.size());
        ++number_;
        return true;
      }
      if (at_end_) return false;
      if (buffer_.size() - begin_ > kMaxScoreLineBytes) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_, ":", number_ + 1, ": line longer than ", kMaxScoreLineBytes, " bytes"));
      }
      buffer_.erase(0, begin_);
      begin_ = 0;
      searched_ = buffer_.size();
      const size_t old = buffer_.size();
      buffer_.resize(old + (1 << 20));
      ssize_t n;
      do {
        n = read(fd_, buffer_.data() + old, 1 << 20);
      } while (n < 0 && errno == EINTR);
      buffer_.resize(old + static_cast<size_t>(std::max<ssize_t>(n, 0)));
      if (n < 0) return absl::DataLossError(absl::StrCat(path_, ": ", std::strerror(errno)));
      at_end_ = n == 0;
    }
  }
  uint64_t number() const { return number_; }  // of the line that Next gave

 private:
  LineReader(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  const std::string path_;
  const int fd_;
  std::string buffer_;
  size_t begin_ = 0, searched_ = 0;
  bool at_end_ = false;
  uint64_t number_ = 0;
};

uint32_t CountWords(absl::string_view text) {
  uint32_t words = 0;
  bool inside = false;
  for (const char c : text) {
    const bool space = absl::ascii_isspace(static_cast<unsigned char>(c));
    words += !space && !inside;
    inside = !space;
  }
  return words;
}

struct Case {
  std::string id;  // as JSON
  v1::ScoreGroup group;
};

absl::StatusOr<Case> ParseCase(const std::string& line, uint64_t number) {
  ASSIGN_OR_RETURN(const json::Json row, json::ParseRow(line));
  if (!row.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  const json::Json* completion = nullptr;
  for (const char* name : {"completion", "response", "prediction"}) {
    if (completion == nullptr && json::Has(row, name)) completion = &row[name];
  }
  if (completion == nullptr) return absl::InvalidArgumentError("no \"completion\" (or \"response\", \"prediction\")");
  if (!completion->is_string()) return absl::InvalidArgumentError("\"completion\" is not a string");
  Case result;
  const bool counts = !json::Has(row, "id");
  result.id = counts ? absl::StrCat(number) : row["id"].is_number() ? json::NumberText(row, "id") : json::Dump(row["id"]);
  result.group.set_row_json(line);
  v1::ScoreCompletion* added = result.group.add_completions();
  added->set_text(completion->get_ref<const std::string&>());
  if (json::Has(row, "prompt") && row["prompt"].is_string()) result.group.set_prompt(row["prompt"].get<std::string>());
  if (json::Has(row, "num_tokens")) {
    ASSIGN_OR_RETURN(const int64_t tokens, json::GetInt(row, "num_tokens", 0, UINT32_MAX));
    added->set_num_tokens(static_cast<uint32_t>(tokens));
  } else {
    added->set_num_tokens(CountWords(added->text()));
  }
  if (json::Has(row, "truncated")) {
    ASSIGN_OR_RETURN(const bool truncated, json::GetBool(row, "truncated"));
    added->set_truncated(truncated);
  }
  return result;
}

const char* StatusName(v1::RuleStatus status) {
  switch (status) {
    case v1::RULE_STATUS_SCORED: return "scored";
    case v1::RULE_STATUS_NOT_APPLICABLE: return "not_applicable";
    case v1::RULE_STATUS_TIMEOUT: return "timeout";
    default: return "error";
  }
}

std::string OutputLine(const std::string& id, const v1::CompletionScore& score, const std::vector<std::string>& names,
                       ScoreSummary& summary) {
  json::OrderedJson rules = json::OrderedJson::object();
  for (int i = 0; i < score.rules_size(); ++i) {
    const v1::RuleResult& result = score.rules(i);
    ScoreSummary::RuleSummary& rule = summary.rules[static_cast<size_t>(i)];
    const bool scored = result.status() == v1::RULE_STATUS_SCORED;
    rule.scored += scored;
    rule.not_applicable += result.status() == v1::RULE_STATUS_NOT_APPLICABLE;
    rule.errors += result.status() == v1::RULE_STATUS_ERROR;
    rule.timeouts += result.status() == v1::RULE_STATUS_TIMEOUT;
    rule.sum += scored ? result.score() : 0;
    json::OrderedJson entry;
    entry["score"] = scored ? json::OrderedJson(result.score()) : json::OrderedJson();
    entry["status"] = StatusName(result.status());
    entry["reason"] = result.reason();
    entry["extracted"] = result.extracted();
    rules[names[static_cast<size_t>(i)]] = std::move(entry);
  }
  ++summary.lines;
  summary.rewarded += score.has_reward();
  summary.reward_sum += score.reward();
  json::OrderedJson line;
  line["reward"] = score.has_reward() ? json::OrderedJson(score.reward()) : json::OrderedJson();
  line["rules"] = std::move(rules);
  return absl::StrCat("{\"id\":", id, ",", json::Dump(line).substr(1));
}

}  // namespace

absl::Status RulesFile::Locate(const absl::Status& status) const {
  if (is_recipe) return locations.Locate(recipe, status);
  absl::string_view path = status.message();
  if (!absl::ConsumePrefix(&path, "reward.")) return status;
  return locations.Locate(reward, absl::Status(status.code(), path), /*least_depth=*/1);
}

absl::StatusOr<RulesFile> LoadRulesFile(const std::string& rules_path) {
  RulesFile file;
  const absl::Status as_reward = ParseTextProtoFile(rules_path, &file.reward, &file.locations);
  if (as_reward.ok()) return file;
  // Perhaps the block stands as it does in a recipe: reward { ... }. Then what is wrong is said of that.
  file.locations = TextLocations();
  const absl::Status as_recipe = ParseTextProtoFile(rules_path, &file.recipe, &file.locations);
  if (file.recipe.ByteSizeLong() == 0) return as_reward;
  RETURN_IF_ERROR(as_recipe);
  file.is_recipe = true;
  file.reward = file.recipe.reward();
  return file;
}

absl::StatusOr<std::unique_ptr<RuleSet>> LoadRuleSet(const std::string& rules_path, const std::vector<std::string>& libraries) {
  ASSIGN_OR_RETURN(const RulesFile file, LoadRulesFile(rules_path));
  absl::StatusOr<std::unique_ptr<RuleSet>> rules = RuleSet::Create(file.reward, Dirname(rules_path), libraries);
  if (!rules.ok()) return file.Locate(rules.status());
  return rules;
}

absl::StatusOr<ScoreSummary> ScoreFile(const RuleSet& rules, const std::string& input_path,
                                       const std::string& output_path, ThreadPool* pool) {
  return ScoreFile([&](const v1::ScoreRequest& request) { return rules.Score(request, pool); }, input_path, output_path);
}

absl::StatusOr<ScoreSummary> ScoreFile(const Scorer& scorer, const std::string& input_path,
                                       const std::string& output_path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> reader, LineReader::Open(input_path));
  ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> output, DefaultFileSystem().Create(output_path));
  ScoreSummary summary;
  absl::Status malformed;
  for (bool more = true; more && malformed.ok();) {
    v1::ScoreRequest request;
    std::vector<std::string> ids;
    size_t bytes = 0;
    std::string line;
    while (ids.size() < kBatchLines && bytes < kBatchBytes) {
      absl::StatusOr<bool> next = reader->Next(&line);
      if (!next.ok()) malformed = next.status();
      if (!next.ok() || !*next) {
        more = false;
        break;
      }
      if (absl::StripAsciiWhitespace(line).empty()) continue;
      absl::StatusOr<Case> parsed = ParseCase(line, reader->number());
      if (!parsed.ok()) {
        malformed = Annotate(parsed.status(), absl::StrCat(input_path, ":", reader->number()));
        break;
      }
      bytes += line.size();
      ids.push_back(std::move(parsed->id));
      *request.add_groups() = std::move(parsed->group);
    }
    ASSIGN_OR_RETURN(const v1::ScoreResponse response, scorer(request));
    if (summary.rules.empty()) {
      summary.rule_names.assign(response.rule_names().begin(), response.rule_names().end());
      summary.rules.resize(summary.rule_names.size());
    } else if (!std::equal(summary.rule_names.begin(), summary.rule_names.end(), response.rule_names().begin(), response.rule_names().end())) {
      return absl::InternalError("the reward service answered with other rules than before");
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      const v1::CompletionScore& score = response.groups(static_cast<int>(i)).completions(0);
      if (score.has_reward() && !std::isfinite(score.reward())) {
        return absl::InternalError(absl::StrCat("the reward service's reward of id ", ids[i], " is ", score.reward()));
      }
      RETURN_IF_ERROR(output->Append(absl::StrCat(OutputLine(ids[i], score, summary.rule_names, summary), "\n")));
    }
  }
  RETURN_IF_ERROR(output->Flush());
  RETURN_IF_ERROR(output->Close());
  RETURN_IF_ERROR(malformed);
  if (summary.lines == 0) return absl::InvalidArgumentError(absl::StrCat(input_path, ": no rows, expected JSON lines"));
  return summary;
}

}  // namespace grouper
