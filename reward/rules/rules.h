// The rules that a recipe can name. Each has its message in proto/recipe.proto, which is the manual (range, default,
// example), its source file here, and a table test in tests/reward. A Create function checks its message; its errors
// begin with the field's path inside the message.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/recipe.pb.h"
#include "reward/rule.h"

namespace grouper {

using RuleOr = absl::StatusOr<std::unique_ptr<Rule>>;

RuleOr CreateFormatRule(const v1::FormatRule& config);
RuleOr CreateTagCountRule(const v1::TagCountRule& config);
RuleOr CreateExactRule(const v1::ExactRule& config);
RuleOr CreateNumericRule(const v1::NumericRule& config);
RuleOr CreateCountdownRule(const v1::CountdownRule& config);
RuleOr CreateRegexRule(const v1::RegexRule& config);
RuleOr CreateOverlongRule(const v1::OverlongRule& config);
RuleOr CreateMathRule(const v1::MathRule& config);
RuleOr CreateChoiceRule(const v1::ChoiceRule& config);
RuleOr CreateJsonSchemaLiteRule(const v1::JsonSchemaLiteRule& config);
RuleOr CreateRepetitionRule(const v1::RepetitionRule& config);
RuleOr CreateLanguageRule(const v1::LanguageRule& config);

// `earlier`: names of the rules above, in order; `correct` must be one of them.
RuleOr CreateCosineLengthRule(const v1::CosineLengthRule& config, const std::vector<std::string>& earlier);
RuleOr CreateGroupLengthRule(const v1::GroupLengthRule& config, const std::vector<std::string>& earlier);

// Rules that run in processes of their own (process_rule.cc). `libraries`: where a rule without a path is looked for, in order.
RuleOr CreateProcessRule(const v1::ProcessRule& config, absl::Duration timeout, const std::string& base_dir);
RuleOr CreateLibraryRule(const v1::LibraryRule& config, absl::Duration timeout, const std::string& base_dir,
                         const std::vector<std::string>& libraries);

// FailedPrecondition where no sandbox can be made (reward/code/sandbox.h).
RuleOr CreateCodeRule(const v1::CodeRule& config, const std::string& base_dir);

// A column as text: a string as it is, a number as the row's text has it, a boolean as JSON writes it. `answer` is found under its aliases
// label, gold, solution too. Missing, null, array or object: InvalidArgument naming the column.
absl::StatusOr<std::string> ColumnText(const json::Json& row, const std::string& column);

}  // namespace grouper
