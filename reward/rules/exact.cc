#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "reward/extraction.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

class ExactRule : public Rule {
 public:
  ExactRule(std::vector<Place> places, std::string gold, bool ignore_case)
      : places_(std::move(places)), gold_(std::move(gold)), ignore_case_(ignore_case) {}

  RuleResult Score(const RuleInput& input) const override {
    const auto gold = ColumnText(*input.row, gold_);
    if (!gold.ok()) return RuleResult::NotApplicable(std::string(gold.status().message()));
    const absl::string_view wanted = absl::StripAsciiWhitespace(*gold);
    const Extracted answer = Extract(input.text, places_);
    if (!answer.found) return RuleResult::Scored(0, "no answer found");
    const bool equal = ignore_case_ ? absl::EqualsIgnoreCase(answer.text, wanted) : answer.text == wanted;
    return RuleResult::Scored(equal ? 1 : 0, equal ? "" : "not the gold", answer.text);
  }

  absl::Status CheckRow(const json::Json& row) const override { return ColumnText(row, gold_).status(); }

 private:
  const std::vector<Place> places_;
  const std::string gold_;
  const bool ignore_case_;
};

}  // namespace

RuleOr CreateExactRule(const v1::ExactRule& config) {
  ASSIGN_OR_RETURN(std::vector<Place> places, ParsePlaces(config.extraction(), {Place::kAnswerTag, Place::kBoxed}));
  return std::make_unique<ExactRule>(std::move(places), config.gold().empty() ? "answer" : config.gold(),
                                     config.ignore_case());
}

}  // namespace grouper
