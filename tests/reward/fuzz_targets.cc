#include "tests/reward/fuzz_targets.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "google/protobuf/text_format.h"
#include "reward/code/code_block.h"
#include "reward/code/code_tests.h"
#include "reward/extraction.h"
#include "reward/math/check.h"
#include "reward/rule.h"

namespace grouper::fuzz {
namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property failed: %s\n", what);
  std::abort();
}

std::pair<absl::string_view, absl::string_view> SplitAtNewline(absl::string_view input) {
  const size_t newline = std::min(input.find('\n'), input.size());
  return {input.substr(0, newline), input.substr(std::min(newline + 1, input.size()))};
}

std::unique_ptr<RuleSet> MakeRules(const char* text) {
  v1::Reward config;
  Require(google::protobuf::TextFormat::ParseFromString(text, &config), "the rules parse");
  auto set = RuleSet::Create(config, ".");
  Require(set.ok(), "the rules are made");
  return std::move(*set);
}

// Scores one completion; every rule has answered with a finite score, and none has failed.
v1::CompletionScore ScoreOne(const RuleSet& rules, absl::string_view completion, const json::Json& row) {
  v1::ScoreRequest request;
  v1::ScoreGroup* group = request.add_groups();
  group->set_row_json(json::Dump(row));
  group->add_completions()->set_text(std::string(completion));
  const auto response = rules.Score(request, nullptr);
  Require(response.ok(), "the request is answered");
  const v1::CompletionScore& score = response->groups(0).completions(0);
  for (const v1::RuleResult& result : score.rules()) {
    Require(std::isfinite(result.score()), "the score is finite");
    Require(result.status() == v1::RULE_STATUS_SCORED || result.status() == v1::RULE_STATUS_NOT_APPLICABLE, "no rule fails");
  }
  return score;
}

size_t Count(absl::string_view text, absl::string_view what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != absl::string_view::npos; at = text.find(what, at + what.size())) ++count;
  return count;
}

bool Inside(absl::string_view part, absl::string_view whole) {
  return part.empty() || (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

}  // namespace

void FuzzMathPair(absl::string_view input) {
  const auto [gold, answer] = SplitAtNewline(input);
  if (math::CheckGold(gold).ok()) {
    Require(math::CompareAnswers(gold, gold, math::Percent::kUnit) != math::Verdict::kDifferent, "a gold equals itself");
  }
  for (const math::Percent percent : {math::Percent::kUnit, math::Percent::kFraction, math::Percent::kEither}) {
    math::CompareAnswers(gold, answer, percent);
  }
  Require(math::TextForm(gold).size() <= 4 * gold.size() + 16, "a text form is not longer than its text");
}

void FuzzMathCheck(absl::string_view input) {
  const auto [gold, completion] = SplitAtNewline(input);
  const math::CheckResult result = math::Check(gold, completion, {});
  // A gold that cannot be read matches its own text and nothing else: it never makes an answer wrong.
  Require(result.status != math::CheckResult::Status::kWrong || math::CheckGold(gold).ok(), "only golds that can be judged make answers wrong");
}

void FuzzExtraction(absl::string_view input) {
  Require(Inside(AfterThink(input), input), "what follows the thinking lies in the text");
  for (const Place place : {Place::kAnswerTag, Place::kBoxed, Place::kHash, Place::kAnswerIs, Place::kLastMath, Place::kLastNumber, Place::kWhole}) {
    const Extracted found = ExtractFrom(input, place);
    Require(Inside(found.text, input), "what is found lies in the text");
  }
  for (const size_t begin : FindBoxes(input, 8)) {
    const Box box = BoxAt(input, begin);
    Require(!box.found || (box.end > begin && box.end <= input.size() && Inside(box.content, input)), "a box lies in the text");
  }
}

void FuzzFormat(absl::string_view input) {
  static const RuleSet* const rules = MakeRules(R"(
      rules { name: 'strict' format {} } rules { name: 'nonempty' format { nonempty: true } } rules { tag_count {} }
      rules { name: 'think' format { style: 'think_only' } } rules { name: 'boxed' format { style: 'boxed' } }
      rules { name: 'three' format { tags: 'plan' tags: 'think' tags: 'answer' } })").release();
  const v1::CompletionScore score = ScoreOne(*rules, input, json::Json::object());
  const bool once = Count(input, "<think>") == 1 && Count(input, "</think>") == 1 && Count(input, "<answer>") == 1 && Count(input, "</answer>") == 1;
  Require(score.rules(0).score() == 0 || once, "strict format holds each tag once");
  Require(score.rules(1).score() <= score.rules(0).score(), "nonempty is stricter");
  Require(score.rules(4).score() <= score.rules(0).score(), "boxed is stricter");
  Require((score.rules(2).score() == 1) == once, "tag_count counts tags");
}

void FuzzCountdown(absl::string_view input) {
  static const RuleSet* const rules = MakeRules("rules { countdown {} }").release();
  const json::Json row = {{"numbers", {1, 2, 3}}, {"target", 6}};
  const auto score = ScoreOne(*rules, absl::StrCat("<answer>", input, "</answer>"), row).rules(0).score();
  Require(score == 0 || input.find_first_of("123") != absl::string_view::npos, "numbers are used");
  ScoreOne(*rules, input, row);
}

void FuzzAnswers(absl::string_view input) {
  static const RuleSet* const rules =
      MakeRules("rules { exact {} } rules { choice {} } rules { numeric {} } rules { name: 'close' numeric { tolerance: 0.5 } }").release();
  const auto [gold, completion] = SplitAtNewline(input);
  const v1::CompletionScore score = ScoreOne(*rules, completion, {{"answer", std::string(gold)}});
  Require(score.rules(2).score() <= score.rules(3).score(), "a tolerance only adds");
}

void FuzzTexts(absl::string_view input) {
  static const RuleSet* const rules = MakeRules(R"(
      rules { json_schema_lite { fields { key: 'a' value: 'integer' } } } rules { repetition {} } rules { language { tag: 'whole' } }
      rules { name: 'zh' language { language: 'zh' tag: 'whole' } } rules { regex { pattern: '(?i)step \\d+' } })").release();
  const v1::CompletionScore score = ScoreOne(*rules, input, json::Json::object());
  Require(score.rules(1).score() >= -1 && score.rules(1).score() <= 0, "repetition is -1 to 0");
  for (const int i : {2, 3}) Require(score.rules(i).score() >= 0 && score.rules(i).score() <= 1, "language is 0 to 1");
}

void FuzzCode(absl::string_view input) {
  const code::CodeBlock block = code::LastCodeBlock(input);
  Require(Inside(block.text, input), "a code block lies in the text");
  const auto [expected, output] = SplitAtNewline(input);
  Require(code::SameOutput(expected, expected), "an output equals itself");
  if (code::SameOutput(expected, output)) Require(code::SameOutput(output, expected), "outputs are compared alike both ways");
  code::SplitAssertion(input);
  const auto row = json::Parse(input);
  if (row.ok() && row->is_object()) (void)code::ReadTests(*row, "tests");
}

absl::Span<const Target> Targets() {
  static constexpr Target kTargets[] = {{"math_pair", FuzzMathPair}, {"math_check", FuzzMathCheck}, {"extraction", FuzzExtraction},
                                        {"format", FuzzFormat},      {"countdown", FuzzCountdown},  {"answers", FuzzAnswers},
                                        {"texts", FuzzTexts},        {"code", FuzzCode}};
  return kTargets;
}

}  // namespace grouper::fuzz
