#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "google/protobuf/text_format.h"
#include "reward/rule.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

constexpr int kMaxRules = 256;
constexpr double kDefaultTimeoutSeconds = 10;

enum class TruncatedPolicy { kScore, kNotApplicable, kZero };

// Cuts at a character's boundary where the text is UTF-8.
void Shorten(std::string& text, size_t limit) {
  if (text.size() <= limit) return;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) --limit;
  text.resize(limit);
}

// What goes into a protobuf `string` must be UTF-8. Each byte that is not part of a valid character becomes U+FFFD.
std::string ToUtf8(std::string text) {
  std::string out;
  bool clean = true;
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    size_t length = c < 0x80                ? 1
                    : c >= 0xC2 && c < 0xE0 ? 2
                    : c >= 0xE0 && c < 0xF0 ? 3
                    : c >= 0xF0 && c < 0xF5 ? 4
                                            : 0;
    bool valid = length > 0 && i + length <= text.size();
    for (size_t k = 1; valid && k < length; ++k) valid = (static_cast<unsigned char>(text[i + k]) & 0xC0) == 0x80;
    if (valid && length == 3) {
      const unsigned char d = static_cast<unsigned char>(text[i + 1]);
      valid = !(c == 0xE0 && d < 0xA0) && !(c == 0xED && d >= 0xA0);
    } else if (valid && length == 4) {
      const unsigned char d = static_cast<unsigned char>(text[i + 1]);
      valid = !(c == 0xF0 && d < 0x90) && !(c == 0xF4 && d >= 0x90);
    }
    if (valid) {
      if (!clean) out.append(text, i, length);
      i += length;
      continue;
    }
    if (clean) {
      out.assign(text, 0, i);
      clean = false;
    }
    out.append("\xEF\xBF\xBD");
    ++i;
  }
  return clean ? text : out;
}

void Finish(RuleResult& result) {
  if (result.status == v1::RULE_STATUS_UNSPECIFIED) result = RuleResult::Error("the rule gave no result");
  if (result.status == v1::RULE_STATUS_SCORED && !IsScore(result.score)) {
    const std::string score = std::isnan(result.score) ? "NaN" : std::isinf(result.score) ? "infinite" : absl::StrCat(result.score);
    result = RuleResult::Error(absl::StrCat("the rule's score is ", score, ", expected at most 1e30 in magnitude"));
  }
  if (result.status != v1::RULE_STATUS_SCORED) result.score = 0;
  Shorten(result.reason, kMaxReasonBytes);
  Shorten(result.extracted, kMaxExtractedBytes);
}

// Runs `call`; an exception that a rule throws becomes ERROR for `results`.
template <typename Call>
void Guarded(absl::Span<RuleResult> results, Call call) {
  std::string thrown;
  try {
    call();
  } catch (const std::exception& e) {
    thrown = absl::StrCat("the rule threw: ", e.what());
  } catch (...) {
    thrown = "the rule threw";
  }
  for (RuleResult& result : results) {
    if (!thrown.empty()) result = RuleResult::Error(thrown);
    Finish(result);
  }
}

std::string CanonicalText(const google::protobuf::Message& message) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintToString(message, &text);
  return text;
}

RuleOr CreateRule(const v1::Rule& config, const std::vector<std::string>& earlier, absl::Duration timeout,
                  const std::string& base_dir, const std::vector<std::string>& libraries) {
  switch (config.kind_case()) {
    case v1::Rule::kFormat: return CreateFormatRule(config.format());
    case v1::Rule::kExact: return CreateExactRule(config.exact());
    case v1::Rule::kNumeric: return CreateNumericRule(config.numeric());
    case v1::Rule::kCountdown: return CreateCountdownRule(config.countdown());
    case v1::Rule::kRegex: return CreateRegexRule(config.regex());
    case v1::Rule::kOverlong: return CreateOverlongRule(config.overlong());
    case v1::Rule::kProcess: return CreateProcessRule(config.process(), timeout, base_dir);
    case v1::Rule::kTagCount: return CreateTagCountRule(config.tag_count());
    case v1::Rule::kChoice: return CreateChoiceRule(config.choice());
    case v1::Rule::kJsonSchemaLite: return CreateJsonSchemaLiteRule(config.json_schema_lite());
    case v1::Rule::kRepetition: return CreateRepetitionRule(config.repetition());
    case v1::Rule::kCosineLength: return CreateCosineLengthRule(config.cosine_length(), earlier);
    case v1::Rule::kGroupLength: return CreateGroupLengthRule(config.group_length(), earlier);
    case v1::Rule::kLanguage: return CreateLanguageRule(config.language());
    case v1::Rule::kMath: return CreateMathRule(config.math());
    case v1::Rule::kLibrary: return CreateLibraryRule(config.library(), timeout, base_dir, libraries);
    case v1::Rule::kCode: return CreateCodeRule(config.code(), base_dir);
    case v1::Rule::KIND_NOT_SET: break;
  }
  return absl::InvalidArgumentError(
      "no kind; expected one of format, exact, numeric, countdown, regex, math, ... (proto/recipe.proto, Rule)");
}

}  // namespace

// --- Rule -----------------------------------------------------------------------------------------

RuleResult RuleResult::Scored(double score, std::string reason, absl::string_view extracted) {
  return {v1::RULE_STATUS_SCORED, score, std::move(reason), std::string(extracted.substr(0, kMaxExtractedBytes))};
}
RuleResult RuleResult::NotApplicable(std::string reason) {
  return {v1::RULE_STATUS_NOT_APPLICABLE, 0, std::move(reason), ""};
}
RuleResult RuleResult::Error(std::string reason) { return {v1::RULE_STATUS_ERROR, 0, std::move(reason), ""}; }
RuleResult RuleResult::Timeout(std::string reason) { return {v1::RULE_STATUS_TIMEOUT, 0, std::move(reason), ""}; }

void Rule::ScoreGroup(absl::Span<const RuleInput> group, absl::Span<RuleResult> results) const {
  for (size_t i = 0; i < group.size(); ++i) results[i] = Score(group[i]);
}

absl::Status Rule::CheckRow(const json::Json&) const { return absl::OkStatus(); }

// --- RuleSet --------------------------------------------------------------------------------------

struct RuleSet::Entry {
  std::unique_ptr<Rule> rule;
  std::vector<size_t> only_if;  // indices of rules above
  TruncatedPolicy truncated = TruncatedPolicy::kScore;
};

RuleSet::RuleSet() = default;
RuleSet::~RuleSet() = default;

std::unique_ptr<RuleSet> RuleSet::None() { return std::unique_ptr<RuleSet>(new RuleSet); }

absl::StatusOr<std::unique_ptr<RuleSet>> RuleSet::Create(const v1::Reward& config, const std::string& base_dir,
                                                          const std::vector<std::string>& libraries) {
  if (config.rules().empty()) return absl::InvalidArgumentError("reward.rules: at least one rule is required");
  if (config.rules_size() > kMaxRules)
    return absl::InvalidArgumentError(absl::StrCat("reward.rules: more than ", kMaxRules));
  std::unique_ptr<RuleSet> set(new RuleSet);
  v1::Reward canonical;
  for (int i = 0; i < config.rules_size(); ++i) {
    const v1::Rule& rule = config.rules(i);
    const std::string path = absl::StrCat("reward.rules[", i, "]");
    const auto error = [&](absl::string_view message) {
      return absl::InvalidArgumentError(absl::StrCat(path, ".", message));
    };
    const std::string name = RuleName(rule);
    if (const absl::Status fine = CheckName(name); !fine.ok()) return error(absl::StrCat("name: ", fine.message()));
    if (std::find(set->names_.begin(), set->names_.end(), name) != set->names_.end()) {
      return error(absl::StrCat("name: \"", name, "\" is there twice"));
    }
    const double weight = RuleWeight(rule);
    if (!IsScore(weight)) return error("weight: expected a finite number, at most 1e30 in magnitude");
    if (!(rule.timeout_seconds() >= 0) || rule.timeout_seconds() > 86400)
      return error("timeout_seconds: expected 0 to 86400");
    const absl::Duration timeout =
        absl::Seconds(rule.timeout_seconds() > 0 ? rule.timeout_seconds() : kDefaultTimeoutSeconds);

    Entry entry;
    for (int k = 0; k < rule.only_if_size(); ++k) {
      const auto it = std::find(set->names_.begin(), set->names_.end(), rule.only_if(k));
      if (it == set->names_.end())
        return error(absl::StrCat("only_if[", k, "]: no rule \"", rule.only_if(k), "\" above this one"));
      entry.only_if.push_back(static_cast<size_t>(it - set->names_.begin()));
    }
    if (rule.truncated() == "not_applicable") {
      entry.truncated = TruncatedPolicy::kNotApplicable;
    } else if (rule.truncated() == "zero") {
      entry.truncated = TruncatedPolicy::kZero;
    } else if (!rule.truncated().empty() && rule.truncated() != "score") {
      return error(absl::StrCat("truncated: \"", rule.truncated(), "\", expected score, not_applicable or zero"));
    }
    RuleOr created = CreateRule(rule, set->names_, timeout, base_dir, libraries);
    if (!created.ok()) {
      return absl::Status(
          created.status().code(),
          absl::StrCat(path,
                       rule.kind_case() == v1::Rule::KIND_NOT_SET ? ": " : absl::StrCat(".", RuleKind(rule), "."),
                       created.status().message(), rule.name().empty() ? "" : absl::StrCat(" (rule \"", name, "\")")));
    }
    entry.rule = std::move(*created);
    set->entries_.push_back(std::move(entry));
    set->names_.push_back(name);
    set->weights_.push_back(weight);
    v1::Rule* kept = canonical.add_rules();
    *kept = rule;
    kept->set_name(name);
    kept->set_weight(weight);
  }
  set->digest_ = Hex(Sha256(CanonicalText(canonical)));
  return set;
}

void RuleSet::ScoreRule(size_t index, absl::Span<const RuleInput> inputs, absl::Span<const size_t> group_begin,
                        std::vector<std::vector<RuleResult>>& results, ThreadPool* pool,
                        const std::function<bool()>& cancelled) const {
  const Entry& entry = entries_[index];
  const Rule& rule = *entry.rule;

  // The result without running the rule, if its conditions decide it.
  const auto decided = [&](size_t i, RuleResult* result) {
    if (inputs[i].truncated && entry.truncated != TruncatedPolicy::kScore) {
      *result = entry.truncated == TruncatedPolicy::kZero ? RuleResult::Scored(0, "truncated")
                                                          : RuleResult::NotApplicable("truncated");
      return true;
    }
    for (const size_t required : entry.only_if) {
      const RuleResult& earlier = results[i][required];
      if (earlier.status != v1::RULE_STATUS_SCORED) {
        *result = RuleResult::NotApplicable(absl::StrCat(names_[required], " did not score"));
        return true;
      }
      if (!(earlier.score > 0)) {
        *result = RuleResult::Scored(0, absl::StrCat("only if ", names_[required]));
        return true;
      }
    }
    return false;
  };
  const auto input_of = [&](size_t i) {
    RuleInput input = inputs[i];
    input.earlier = absl::MakeConstSpan(results[i].data(), index);
    return input;
  };
  const auto score_completion = [&](size_t i) {
    RuleResult result;
    if (!decided(i, &result)) {
      Guarded(absl::MakeSpan(&result, 1), [&] { result = rule.Score(input_of(i)); });
    }
    results[i][index] = std::move(result);
  };
  const auto score_group = [&](size_t g) {
    std::vector<RuleInput> group;
    std::vector<size_t> members;
    for (size_t i = group_begin[g]; i < group_begin[g + 1]; ++i) {
      if (decided(i, &results[i][index])) continue;
      group.push_back(input_of(i));
      members.push_back(i);
    }
    std::vector<RuleResult> scores(group.size());
    if (!group.empty()) Guarded(absl::MakeSpan(scores), [&] { rule.ScoreGroup(group, absl::MakeSpan(scores)); });
    for (size_t k = 0; k < members.size(); ++k) results[members[k]][index] = std::move(scores[k]);
  };

  const size_t count = rule.sees_group() ? group_begin.size() - 1 : inputs.size();
  const auto run = [&](size_t i) {
    if (cancelled && cancelled()) return;
    rule.sees_group() ? score_group(i) : score_completion(i);
  };
  if (rule.blocking_calls() > 0) {
    // Waiting costs no core: threads of its own, so that the pool computes on.
    std::atomic<size_t> next{0};
    const auto loop = [&] {
      for (size_t i; (i = next.fetch_add(1)) < count;) run(i);
    };
    std::vector<std::thread> threads;
    for (size_t t = 1; t < std::min(count, static_cast<size_t>(rule.blocking_calls())); ++t) threads.emplace_back(loop);
    loop();
    for (std::thread& thread : threads) thread.join();
  } else if (pool != nullptr && pool->num_threads() > 1 && count > 1) {
    pool->ParallelForDynamic(static_cast<int64_t>(count), [&](int64_t i) { run(static_cast<size_t>(i)); });
  } else {
    for (size_t i = 0; i < count; ++i) run(i);
  }
}

absl::StatusOr<v1::ScoreResponse> RuleSet::Score(const v1::ScoreRequest& request, ThreadPool* pool,
                                                 const std::function<bool()>& cancelled) const {
  std::vector<json::Json> rows(static_cast<size_t>(request.groups_size()));
  std::vector<RuleInput> inputs;
  std::vector<size_t> group_begin = {0};
  for (int g = 0; g < request.groups_size(); ++g) {
    const v1::ScoreGroup& group = request.groups(g);
    json::Json& row = rows[static_cast<size_t>(g)];
    row = json::Json::object();
    if (!group.row_json().empty()) {
      ASSIGN_OR_RETURN(row, Annotate(json::ParseRow(group.row_json()), absl::StrCat("groups[", g, "].row_json")));
      if (!row.is_object())
        return absl::InvalidArgumentError(absl::StrCat("groups[", g, "].row_json: expected a JSON object"));
    }
    for (const v1::ScoreCompletion& completion : group.completions()) {
      RuleInput input;
      input.text = completion.text();
      input.num_tokens = completion.num_tokens();
      input.truncated = completion.truncated();
      input.token_ids =
          absl::MakeConstSpan(completion.token_ids().data(), static_cast<size_t>(completion.token_ids_size()));
      input.max_new_tokens = request.max_new_tokens();
      input.prompt = group.prompt();
      input.row = &row;
      inputs.push_back(input);
    }
    group_begin.push_back(inputs.size());
  }
  std::vector<std::vector<RuleResult>> results(inputs.size(), std::vector<RuleResult>(entries_.size()));
  for (size_t rule = 0; rule < entries_.size(); ++rule) {
    ScoreRule(rule, inputs, group_begin, results, pool, cancelled);
    if (cancelled && cancelled()) return absl::CancelledError("whoever asked for these scores has gone");
  }

  v1::ScoreResponse response;
  response.set_request_id(request.request_id());
  for (const std::string& name : names_) response.add_rule_names(name);
  for (const double weight : weights_) response.add_weights(weight);
  size_t i = 0;
  for (const v1::ScoreGroup& group : request.groups()) {
    v1::GroupScore* scores = response.add_groups();
    scores->set_group_serial(group.group_serial());
    for (int k = 0; k < group.completions_size(); ++k, ++i) {
      v1::CompletionScore* score = scores->add_completions();
      bool any = false, failed = false;
      double reward = 0;
      for (size_t rule = 0; rule < entries_.size(); ++rule) {
        RuleResult& result = results[i][rule];
        if (result.status == v1::RULE_STATUS_SCORED) {
          any = true;
          reward += weights_[rule] * result.score;
        } else if (result.status != v1::RULE_STATUS_NOT_APPLICABLE) {
          failed = true;
        }
        v1::RuleResult* out = score->add_rules();
        out->set_status(result.status);
        out->set_score(result.score);
        out->set_reason(ToUtf8(std::move(result.reason)));
        out->set_extracted(ToUtf8(std::move(result.extracted)));
      }
      // A sum of scores may still be none: that is a failure too, not a reward.
      score->set_has_reward(any && !failed && IsScore(reward));
      score->set_reward(score->has_reward() ? reward : 0);
    }
  }
  return response;
}

absl::Status RuleSet::CheckRow(const json::Json& row) const {
  for (size_t i = 0; i < entries_.size(); ++i)
    RETURN_IF_ERROR(Annotate(entries_[i].rule->CheckRow(row), absl::StrCat("rule ", names_[i])));
  return absl::OkStatus();
}

}  // namespace grouper
