#include "absl/strings/str_cat.h"
#include "common/recipe/load_recipe.h"
#include "re2/re2.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

// RE2 matches in time linear in the text; this bounds the automaton, and with it the time to compile and the cost a
// byte.
constexpr int64_t kMaxMemory = 8 << 20;

class RegexRule : public Rule {
 public:
  RegexRule(std::unique_ptr<RE2> pattern, bool full_match, double score, double otherwise)
      : pattern_(std::move(pattern)), full_match_(full_match), score_(score), otherwise_(otherwise) {}

  RuleResult Score(const RuleInput& input) const override {
    const re2::StringPiece text(input.text.data(), input.text.size());
    re2::StringPiece match;
    const bool found =
        pattern_->Match(text, 0, text.size(), full_match_ ? RE2::ANCHOR_BOTH : RE2::UNANCHORED, &match, 1);
    if (!found) return RuleResult::Scored(otherwise_, "no match");
    return RuleResult::Scored(score_, "", absl::string_view(match.data(), match.size()));
  }

 private:
  const std::unique_ptr<RE2> pattern_;
  const bool full_match_;
  const double score_, otherwise_;
};

}  // namespace

RuleOr CreateRegexRule(const v1::RegexRule& config) {
  if (config.pattern().empty()) return absl::InvalidArgumentError("pattern: required");
  RE2::Options options;
  options.set_encoding(RE2::Options::EncodingLatin1);  // a completion may end inside a character
  options.set_log_errors(false);
  options.set_max_mem(kMaxMemory);
  auto pattern = std::make_unique<RE2>(config.pattern(), options);
  if (!pattern->ok())
    return absl::InvalidArgumentError(absl::StrCat("pattern: ", pattern->error(), ": ", config.pattern()));
  const double score = config.has_score() ? config.score() : 1;
  if (!IsScore(score)) return absl::InvalidArgumentError("score: expected a finite number, at most 1e30 in magnitude");
  if (!IsScore(config.otherwise())) return absl::InvalidArgumentError("otherwise: expected a finite number, at most 1e30 in magnitude");
  return std::make_unique<RegexRule>(std::move(pattern), config.full_match(), score, config.otherwise());
}

}  // namespace grouper
