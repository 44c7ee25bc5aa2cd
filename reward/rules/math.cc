#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "reward/math/check.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

class MathRule : public Rule {
 public:
  MathRule(math::CheckOptions options, std::string gold) : options_(std::move(options)), gold_(std::move(gold)) {}

  RuleResult Score(const RuleInput& input) const override {
    const absl::StatusOr<std::string> gold = ColumnText(*input.row, gold_);
    if (!gold.ok()) return RuleResult::NotApplicable(std::string(gold.status().message()));
    math::CheckResult result = math::Check(*gold, input.text, options_);
    if (result.status == math::CheckResult::Status::kUnscorable)
      return RuleResult::NotApplicable(std::move(result.reason));
    return RuleResult::Scored(result.status == math::CheckResult::Status::kRight ? 1 : 0, std::move(result.reason),
                              result.extracted);
  }

  absl::Status CheckRow(const json::Json& row) const override {
    ASSIGN_OR_RETURN(const std::string gold, ColumnText(row, gold_));
    return Annotate(math::CheckGold(gold), absl::StrCat("column \"", gold_, "\""));
  }

 private:
  const math::CheckOptions options_;
  const std::string gold_;
};

}  // namespace

RuleOr CreateMathRule(const v1::MathRule& config) {
  math::CheckOptions options;
  ASSIGN_OR_RETURN(options.places, ParsePlaces(config.extraction(), options.places));
  if (config.percent().empty() || config.percent() == "unit") {
    options.percent = math::Percent::kUnit;
  } else if (config.percent() == "fraction") {
    options.percent = math::Percent::kFraction;
  } else if (config.percent() == "either") {
    options.percent = math::Percent::kEither;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("percent: \"", config.percent(), "\", expected unit, fraction or either"));
  }
  return std::make_unique<MathRule>(std::move(options), config.gold().empty() ? "answer" : config.gold());
}

}  // namespace grouper
