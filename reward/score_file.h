// `grouper score`: reward rules over a file of JSON lines, offline.
//
//   in   {"id": "7", "completion": "...", "answer": "4", "prompt": "...", "num_tokens": 12, "truncated": false, ...}
//   out  {"id": "7", "reward": 1.0, "rules": {"math": {"score": 1.0, "status": "scored", "reason": "", "extracted":
//   "4"}}}
//
// `completion` may be called `response` or `prediction`; `answer` is found under `gold`, `label` and `solution` too
// (reward/rules/column.cc); `id` may be any JSON value and defaults to the line's number. All columns reach the rules.
// Without `num_tokens`, length rules see the number of white-space separated words. `reward` is null when the
// completion has none. Status: scored, not_applicable, error, timeout. Blank lines are skipped. Streaming (kBatchLines
// at a time), threaded, order kept.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/recipe/text_locations.h"
#include "proto/recipe.pb.h"
#include "reward/rule.h"

namespace grouper {

struct ScoreSummary {
  struct RuleSummary {
    uint64_t scored = 0, not_applicable = 0, errors = 0, timeouts = 0;
    double sum = 0;  // of the scores
  };
  uint64_t lines = 0;
  uint64_t rewarded = 0;
  double reward_sum = 0;
  std::vector<std::string> rule_names;
  std::vector<RuleSummary> rules;  // in the names' order
};

inline constexpr size_t kMaxScoreLineBytes = 16 << 20;

// A rules file: the text of a Reward message, or a recipe with its `reward { ... }` block (of which nothing else counts).
struct RulesFile {
  v1::Reward reward;
  v1::Recipe recipe;  // holds `reward` when `is_recipe`
  bool is_recipe = false;
  TextLocations locations;

  // Puts the place before an error of RuleSet::Create: "reward.rules[0].weight: ..." becomes "rules.textproto:3:12: rules[0].weight: ...", or
  // "recipe.textproto:9:20: reward.rules[0].weight: ...".
  absl::Status Locate(const absl::Status& status) const;
};

// What cannot be parsed is an error "rules.textproto:3:12: rules[0].weight: ...".
absl::StatusOr<RulesFile> LoadRulesFile(const std::string& rules_path);

// LoadRulesFile, and its rules; without any, an error. Errors about values have their place.
absl::StatusOr<std::unique_ptr<RuleSet>> LoadRuleSet(const std::string& rules_path,
                                                     const std::vector<std::string>& libraries = {});

// What answers a request: rules in this process, or a service elsewhere. Its answers have the request's shape.
using Scorer = std::function<absl::StatusOr<v1::ScoreResponse>(const v1::ScoreRequest&)>;

// An input line that is malformed ends the work with an error "cases.jsonl:12: ..."; what was scored before it has been
// written.
absl::StatusOr<ScoreSummary> ScoreFile(const Scorer& scorer, const std::string& input_path,
                                       const std::string& output_path);
absl::StatusOr<ScoreSummary> ScoreFile(const RuleSet& rules, const std::string& input_path,
                                       const std::string& output_path, ThreadPool* pool);

}  // namespace grouper
