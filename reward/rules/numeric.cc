#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "reward/extraction.h"
#include "reward/math/phrase.h"
#include "reward/math/rational.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

using math::ParseNumber;
using math::Rational;

absl::StatusOr<Rational> Gold(const json::Json& row, const std::string& column) {
  ASSIGN_OR_RETURN(const std::string text, ColumnText(row, column));
  const Extracted hash = ExtractFrom(text, Place::kHash);
  const std::optional<Rational> value = ParseNumber(hash.found ? hash.text : absl::string_view(text));
  if (!value) {
    return absl::InvalidArgumentError(
        absl::StrCat("column \"", column, "\": \"", text.substr(0, 80), "\" is not a number"));
  }
  return *value;
}

class NumericRule : public Rule {
 public:
  NumericRule(std::vector<Place> places, std::string gold, Rational tolerance)
      : places_(std::move(places)), gold_(std::move(gold)), tolerance_(std::move(tolerance)) {}

  RuleResult Score(const RuleInput& input) const override {
    const absl::StatusOr<Rational> gold = Gold(*input.row, gold_);
    if (!gold.ok()) return RuleResult::NotApplicable(std::string(gold.status().message()));
    const Extracted answer = Extract(input.text, places_);
    if (!answer.found) return RuleResult::Scored(0, "no answer found");
    std::optional<Rational> value = ParseNumber(answer.text);
    if (!value) {
      // "18 dollars per day", "x = 18": one number in it is the number; two are no answer, nor is "not 18".
      const Extracted last = ExtractFrom(answer.text, Place::kLastNumber);
      const bool alone =
          last.found && !ExtractFrom(answer.text.substr(0, static_cast<size_t>(last.text.data() - answer.text.data())),
                                     Place::kLastNumber)
                             .found;
      if (alone && !math::Weighs(answer.text)) value = ParseNumber(last.text);
    }
    if (!value) return RuleResult::Scored(0, "the answer is not a number", answer.text);
    Rational difference = *value - *gold;
    if (difference.Sign() < 0) difference = -difference;
    const bool right = Compare(difference, tolerance_) <= 0;
    return RuleResult::Scored(right ? 1 : 0, right ? "" : "another number", answer.text);
  }

  absl::Status CheckRow(const json::Json& row) const override { return Gold(row, gold_).status(); }

 private:
  const std::vector<Place> places_;
  const std::string gold_;
  const Rational tolerance_;
};

}  // namespace

RuleOr CreateNumericRule(const v1::NumericRule& config) {
  ASSIGN_OR_RETURN(std::vector<Place> places, ParsePlaces(config.extraction(), {Place::kAnswerTag, Place::kBoxed}));
  if (!(config.tolerance() >= 0) || !std::isfinite(config.tolerance())) {
    return absl::InvalidArgumentError(absl::StrCat("tolerance: ", config.tolerance(), ", expected 0 or more"));
  }
  // The tolerance as people wrote it: 0.1 is one tenth.
  const std::optional<Rational> tolerance = math::ParseDecimal(absl::StrFormat("%.15g", config.tolerance()));
  if (!tolerance)
    return absl::InvalidArgumentError(absl::StrCat("tolerance: ", config.tolerance(), " is out of range"));
  return std::make_unique<NumericRule>(std::move(places), config.gold().empty() ? "answer" : config.gold(), *tolerance);
}

}  // namespace grouper
