// A reward rule, and the set of rules that a recipe's `reward` block names.
//
//   completion text ─┐
//   data row ────────┼─► Rule::Score ─► {status, score, reason, extracted} ─► RuleSet: sum of weight * score
//   earlier results ─┘
//
// A failure is never a reward of 0: a rule that throws, returns NaN or 1e300, or is stopped ends in ERROR or TIMEOUT, and the
// completion has no reward. Text comes from a model and may be any bytes; every rule is linear in it (or bounded), and
// none evaluates it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/json.h"
#include "common/base/thread_pool.h"
#include "proto/recipe.pb.h"
#include "proto/reward.pb.h"

namespace grouper {

struct RuleResult {
  v1::RuleStatus status = v1::RULE_STATUS_UNSPECIFIED;
  double score = 0;       // meaningful when SCORED
  std::string reason;     // for people; at most kMaxReasonBytes are kept
  std::string extracted;  // what the rule took for the answer; at most kMaxExtractedBytes are kept

  static RuleResult Scored(double score, std::string reason = "", absl::string_view extracted = "");
  static RuleResult NotApplicable(std::string reason);
  static RuleResult Error(std::string reason);
  static RuleResult Timeout(std::string reason);
};

inline constexpr size_t kMaxReasonBytes = 1024;
inline constexpr size_t kMaxExtractedBytes = 4096;

// One completion as the rules see it. Views live as long as the request.
struct RuleInput {
  absl::string_view text;  // any bytes
  uint32_t num_tokens = 0;
  bool truncated = false;
  absl::Span<const int32_t> token_ids;
  uint32_t max_new_tokens = 0;  // 0: unknown
  absl::string_view prompt;
  const json::Json* row = nullptr;       // an object; never null
  absl::Span<const RuleResult> earlier;  // results of the rules above this one, for this completion
};

class Rule {
 public:
  virtual ~Rule() = default;

  // Thread-safe. A thrown exception and a score that is not finite or beyond 1e30 (IsScore) become ERROR in the caller.
  virtual RuleResult Score(const RuleInput& input) const = 0;

  // Scores a group's completions together; results[i] belongs to group[i]. Only called when sees_group(). Default:
  // Score on each.
  virtual void ScoreGroup(absl::Span<const RuleInput> group, absl::Span<RuleResult> results) const;
  virtual bool sees_group() const { return false; }

  // How many calls may wait at once for something outside this process; 0: the rule only computes.
  virtual int blocking_calls() const { return 0; }

  // What is wrong with a data row for this rule: a missing column, a gold that it cannot score. Called when data is
  // loaded.
  virtual absl::Status CheckRow(const json::Json& row) const;
};

// The rules of one recipe. Thread-safe.
class RuleSet {
 public:
  // Validates everything; an error names the field ("reward.rules[1].regex.pattern: ..."). `base_dir`: relative paths
  // in the config. `libraries`: shared libraries (--rules-library) for library rules without a path.
  static absl::StatusOr<std::unique_ptr<RuleSet>> Create(const v1::Reward& config, const std::string& base_dir,
                                                         const std::vector<std::string>& libraries = {});
  // Without rules, for recipes that score nothing.
  static std::unique_ptr<RuleSet> None();
  ~RuleSet();
  RuleSet(const RuleSet&) = delete;
  RuleSet& operator=(const RuleSet&) = delete;

  // Every completion gets an answer. InvalidArgument only for a malformed request (row_json is not an object), naming
  // the group. `pool` may be null: one thread. The result does not depend on the number of threads. `cancelled` (may be
  // empty) is asked on any thread before each completion; once it says true it must go on to, and Score ends with
  // Cancelled when the completions that were begun are scored.
  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request, ThreadPool* pool,
                                          const std::function<bool()>& cancelled = {}) const;

  const std::vector<std::string>& rule_names() const { return names_; }
  const std::vector<double>& weights() const { return weights_; }
  // SHA-256 of the canonical text of the rules: equal digests score alike.
  const std::string& digest() const { return digest_; }

  // The first rule's complaint about the row, named; OK when every rule can score it.
  absl::Status CheckRow(const json::Json& row) const;

 private:
  struct Entry;
  RuleSet();
  void ScoreRule(size_t rule, absl::Span<const RuleInput> inputs, absl::Span<const size_t> group_begin,
                 std::vector<std::vector<RuleResult>>& results, ThreadPool* pool,
                 const std::function<bool()>& cancelled) const;

  std::vector<Entry> entries_;
  std::vector<std::string> names_;
  std::vector<double> weights_;
  std::string digest_;
};

}  // namespace grouper
