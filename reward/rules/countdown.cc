// Countdown: a recursive-descent parser over digits + - * / ( ) with exact rationals; nothing else is in the grammar.
//
//   expression = term { ('+' | '-') term }
//   term       = factor { ('*' | '/') factor }
//   factor     = number | '(' expression ')'
//   number     = '0' | digit from 1 to 9, { digit }
//
// Bounds: kMaxExpression bytes, kMaxNumbers numbers (so the value stays small), kMaxParentheses deep.
#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "reward/extraction.h"
#include "reward/math/rational.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

using absl::string_view;
using math::Rational;

constexpr size_t kMaxExpression = 4096;
constexpr size_t kMaxNumbers = 64;
constexpr int kMaxParentheses = 200;
constexpr size_t kMaxNumberDigits = 18;

class ExpressionParser {
 public:
  explicit ExpressionParser(string_view text) : text_(text) {}

  // The value, or nothing and error().
  std::optional<Rational> Parse() {
    if (text_.size() > kMaxExpression) return Fail("the expression is too long");
    std::optional<Rational> value = Expression();
    if (!value) return std::nullopt;
    if (!AtEnd()) return Fail("not an expression of + - * / ( ) and integers");
    return value;
  }
  const std::vector<int64_t>& numbers() const { return numbers_; }
  const std::string& error() const { return error_; }

 private:
  std::optional<Rational> Fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return std::nullopt;
  }
  bool AtEnd() {
    while (at_ < text_.size() && absl::ascii_isspace(text_[at_])) ++at_;
    return at_ == text_.size();
  }
  bool Take(char c) {
    if (AtEnd() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  std::optional<Rational> Expression() {
    std::optional<Rational> value = Term();
    while (value) {
      const bool plus = Take('+');
      if (!plus && !Take('-')) break;
      const std::optional<Rational> right = Term();
      if (!right) return std::nullopt;
      value = plus ? *value + *right : *value - *right;
    }
    return value;
  }

  std::optional<Rational> Term() {
    std::optional<Rational> value = Factor();
    while (value) {
      const bool times = Take('*');
      if (!times && !Take('/')) break;
      const std::optional<Rational> right = Factor();
      if (!right) return std::nullopt;
      if (!times && right->IsZero()) return Fail("division by zero");
      value = times ? *value * *right : *value / *right;
    }
    return value;
  }

  std::optional<Rational> Factor() {
    if (Take('(')) {
      if (++depth_ > kMaxParentheses) return Fail("too many parentheses");
      std::optional<Rational> value = Expression();
      --depth_;
      if (value && !Take(')')) return Fail("a parenthesis is not closed");
      return value;
    }
    if (AtEnd()) return Fail("the expression ends too early");
    if (!absl::ascii_isdigit(text_[at_])) return Fail("not an expression of + - * / ( ) and integers");
    size_t end = at_;
    int64_t value = 0;
    for (; end < text_.size() && absl::ascii_isdigit(text_[end]); ++end) {
      if (end - at_ >= kMaxNumberDigits) return Fail("a number is too long");
      value = value * 10 + (text_[end] - '0');
    }
    if (end - at_ > 1 && text_[at_] == '0') return Fail("a number begins with 0");
    at_ = end;
    numbers_.push_back(value);
    if (numbers_.size() > kMaxNumbers) return Fail("too many numbers");
    return Rational(value);
  }

  const string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
  std::vector<int64_t> numbers_;
  std::string error_;
};

struct Problem {
  std::vector<int64_t> numbers;  // sorted
  Rational target;
};

absl::StatusOr<Problem> ReadProblem(const json::Json& row, const std::string& numbers, const std::string& target) {
  Problem problem;
  const auto it = row.find(numbers);
  if (it == row.end()) return absl::InvalidArgumentError(absl::StrCat("the row has no column \"", numbers, "\""));
  if (!it->is_array() || it->empty() || it->size() > kMaxNumbers) {
    return absl::InvalidArgumentError(
        absl::StrCat("column \"", numbers, "\", expected an array of 1 to ", kMaxNumbers, " integers"));
  }
  for (const json::Json& number : *it) {
    if (!number.is_number_integer() || number < 0) {
      return absl::InvalidArgumentError(absl::StrCat("column \"", numbers, "\", expected integers of 0 or more"));
    }
    problem.numbers.push_back(number.get<int64_t>());
  }
  std::sort(problem.numbers.begin(), problem.numbers.end());
  ASSIGN_OR_RETURN(const std::string text, ColumnText(row, target));
  const std::optional<Rational> value = math::ParseNumber(text);
  if (!value)
    return absl::InvalidArgumentError(
        absl::StrCat("column \"", target, "\": \"", text.substr(0, 80), "\" is not a number"));
  problem.target = *value;
  return problem;
}

class CountdownRule : public Rule {
 public:
  CountdownRule(std::string numbers, std::string target) : numbers_(std::move(numbers)), target_(std::move(target)) {}

  RuleResult Score(const RuleInput& input) const override {
    const absl::StatusOr<Problem> problem = ReadProblem(*input.row, numbers_, target_);
    if (!problem.ok()) return RuleResult::NotApplicable(std::string(problem.status().message()));
    const Extracted answer = ExtractFrom(input.text, Place::kAnswerTag);  // the last block, wherever it stands
    if (!answer.found) return RuleResult::Scored(0, "no <answer> block");
    ExpressionParser parser(answer.text);
    const std::optional<Rational> value = parser.Parse();
    if (!value) return RuleResult::Scored(0, parser.error(), answer.text);
    std::vector<int64_t> used = parser.numbers();
    std::sort(used.begin(), used.end());
    if (used != problem->numbers) return RuleResult::Scored(0, "does not use each number exactly once", answer.text);
    if (!(*value == problem->target)) {
      return RuleResult::Scored(0, absl::StrCat("the value is ", value->ToString()), answer.text);
    }
    return RuleResult::Scored(1, "", answer.text);
  }

  absl::Status CheckRow(const json::Json& row) const override { return ReadProblem(row, numbers_, target_).status(); }

 private:
  const std::string numbers_, target_;
};

}  // namespace

RuleOr CreateCountdownRule(const v1::CountdownRule& config) {
  return std::make_unique<CountdownRule>(config.numbers().empty() ? "numbers" : config.numbers(),
                                         config.target().empty() ? "target" : config.target());
}

}  // namespace grouper
