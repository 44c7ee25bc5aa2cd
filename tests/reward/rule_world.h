// A small world for rule tests: a rule set from recipe text, one completion in, one result out.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "reward/rule.h"

namespace grouper {

inline absl::StatusOr<std::unique_ptr<RuleSet>> MakeRules(const std::string& text, const std::string& base_dir = ".") {
  v1::Reward config;
  if (!google::protobuf::TextFormat::ParseFromString(text, &config))
    return absl::InvalidArgumentError("bad test recipe");
  return RuleSet::Create(config, base_dir);
}

class RuleWorld {
 public:
  explicit RuleWorld(const std::string& text, const std::string& base_dir = ".") {
    auto rules = MakeRules(text, base_dir);
    if (!rules.ok()) ADD_FAILURE() << rules.status();
    if (rules.ok()) rules_ = std::move(*rules);
  }

  // One completion with its row; the whole score.
  v1::CompletionScore Whole(const std::string& completion, const std::string& row = "{}", uint32_t tokens = 0,
                            bool truncated = false) {
    v1::ScoreRequest request;
    v1::ScoreGroup* group = request.add_groups();
    group->set_row_json(row);
    v1::ScoreCompletion* added = group->add_completions();
    added->set_text(completion);
    added->set_num_tokens(tokens);
    added->set_truncated(truncated);
    auto response = rules_->Score(request, nullptr);
    if (!response.ok()) {
      ADD_FAILURE() << response.status();
      return {};
    }
    return response->groups(0).completions(0);
  }

  // The last rule's result as text: "1", "0.5", "not_applicable", "error", "timeout".
  std::string Score(const std::string& completion, const std::string& row = "{}", uint32_t tokens = 0,
                    bool truncated = false) {
    const v1::CompletionScore score = Whole(completion, row, tokens, truncated);
    if (score.rules().empty()) return "none";
    last_ = score.rules(score.rules_size() - 1);
    switch (last_.status()) {
      case v1::RULE_STATUS_SCORED: return absl::StrCat(last_.score());
      case v1::RULE_STATUS_NOT_APPLICABLE: return "not_applicable";
      case v1::RULE_STATUS_TIMEOUT: return "timeout";
      default: return "error";
    }
  }
  const v1::RuleResult& last() const { return last_; }
  const RuleSet& rules() const { return *rules_; }

 private:
  std::unique_ptr<RuleSet> rules_;
  v1::RuleResult last_;
};

// Seconds of processor time of this thread: what a bound on work is measured in, whatever else the machine does.
inline double CpuSeconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The least of three measurements of the same work: on a virtual machine what its host takes away counts as the
// thread's own, and interference only ever adds.
template <typename Work>
double LeastCpuSeconds(const Work& work) {
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 3; ++i) {
    const double start = CpuSeconds();
    work();
    least = std::min(least, CpuSeconds() - start);
  }
  return least;
}

// Lines of a file of the shared test data, or empty when it is absent (the test then skips).
inline std::vector<json::Json> SharedCases(const std::string& name) {
  const char* root = std::getenv("GROUPER_SHARED_DATA");
  const std::string path =
      absl::StrCat(root != nullptr ? root : GROUPER_SOURCE_DIR "/../shared/data", "/reward_cases/", name);
  std::vector<json::Json> cases;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    auto parsed = json::Parse(line);
    if (parsed.ok()) cases.push_back(std::move(*parsed));
  }
  return cases;
}

}  // namespace grouper
