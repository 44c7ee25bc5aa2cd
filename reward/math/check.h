// Gold and answer as texts: find, parse, compare. This is what the math rule calls; it knows nothing about rules or
// rows.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "reward/extraction.h"
#include "reward/math/compare.h"

namespace grouper::math {

struct CheckOptions {
  // Where the completion's answer is looked for. kWhole counts as found only when the text is a bare answer.
  std::vector<Place> places = {Place::kAnswerTag, Place::kBoxed,    Place::kAnswerIs,  Place::kHash,
                               Place::kWhole,     Place::kLastMath, Place::kLastNumber};
  Percent percent = Percent::kUnit;
};

struct CheckResult {
  enum class Status { kRight, kWrong, kUnscorable };  // unscorable: the gold is nothing that this engine can judge
  Status status = Status::kWrong;
  std::string reason;
  std::string extracted;
};

// Bounded work on any bytes: at most kMaxAnswerBytes of a text are an answer; longer ones are searched, in linear time.
CheckResult Check(absl::string_view gold, absl::string_view completion, const CheckOptions& options);

// OK when Check can judge answers against this gold.
absl::Status CheckGold(absl::string_view gold);

// Two bare answers, compared as they are.
Verdict CompareAnswers(absl::string_view gold, absl::string_view answer, Percent percent);

// The text without what does not show: $, spaces, \text{} around words, \left and \right, a final full stop. Equal
// forms are equal answers.
std::string TextForm(absl::string_view text);

}  // namespace grouper::math
