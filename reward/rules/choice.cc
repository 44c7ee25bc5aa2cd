#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "reward/extraction.h"
#include "reward/math/phrase.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

using absl::string_view;

// Letters that stand alone in the text and are meant as a choice. A lone "A" or "I" that a lower-case word follows is
// an English word. *first: where the first one stands.
std::string LoneLetters(string_view text, const std::string& letters, size_t* first) {
  std::string found;
  const auto is_word = [](char c) {
    return absl::ascii_isalnum(c) || c == '_' || static_cast<unsigned char>(c) >= 0x80;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (letters.find(text[i]) == std::string::npos) continue;
    if (i > 0 && (is_word(text[i - 1]) || text[i - 1] == '\'' || text[i - 1] == '\\')) continue;
    if (i + 1 < text.size() && (is_word(text[i + 1]) || text[i + 1] == '\'')) continue;
    if ((text[i] == 'A' || text[i] == 'I') && i + 2 < text.size() && text[i + 1] == ' ' &&
        absl::ascii_islower(text[i + 2]) && !absl::StartsWith(text.substr(i + 2), "or ") &&
        !(text[i] == 'A' && absl::StartsWith(text.substr(i + 2), "is ")) &&
        !absl::StartsWith(text.substr(i + 2), "and ")) {
      continue;
    }
    if (found.empty()) *first = i;
    if (found.find(text[i]) == std::string::npos) found.push_back(text[i]);
  }
  return found;
}

// "not B", "maybe B", "all but B", "B is wrong": what stands before the letter in its sentence, and right after it.
bool Denied(string_view text, size_t at) {
  string_view before = text.substr(0, at);
  const size_t sentence = before.find_last_of(".!?\n");
  if (sentence != string_view::npos) before.remove_prefix(sentence + 1);
  const std::string left = absl::AsciiStrToLower(absl::StripTrailingAsciiWhitespace(before));
  if (math::Weighs(left) || math::HasWord(left, "nor") || absl::EndsWith(left, " but") || absl::EndsWith(left, " except"))
    return true;
  const std::string right = absl::AsciiStrToLower(absl::StripLeadingAsciiWhitespace(text.substr(at + 1)));
  for (const string_view denial : {"is not", "isn't", "is wrong", "is incorrect", "is false", "or ", "?"}) {
    if (absl::StartsWith(right, denial)) return true;
  }
  return false;
}

// "B", "(B)", "B.", "B) because ...", "\text{(B)}", "**B**", "option B": the letter, or 0.
char ReadChoice(string_view text, const std::string& letters, std::string* reason) {
  text = absl::StripAsciiWhitespace(text);
  // A label at the beginning decides when what follows is its text: "B) Paris", "(B) Paris", "B. Paris", "B: Paris".
  string_view head = text;
  while (!head.empty() && (head[0] == '*' || head[0] == '(' || head[0] == '[' || head[0] == '$' || head[0] == ' '))
    head.remove_prefix(1);
  for (const string_view wrapper : {"\\text{", "\\mathrm{", "\\textbf{", "\\mathbf{"})
    absl::ConsumePrefix(&head, wrapper);
  absl::ConsumePrefix(&head, "(");
  size_t at = 0;
  const std::string lone = LoneLetters(text, letters, &at);
  if (lone.size() > 1) {
    *reason = absl::StrCat("two choices: ", lone.substr(0, 1), " and ", lone.substr(1, 1));
    return 0;
  }
  if (lone.size() == 1 && Denied(text, at)) {
    *reason = absl::StrCat("no statement of ", lone);
    return 0;
  }
  if (lone.size() == 1) return lone[0];
  // A single lower-case letter as the whole answer.
  if (!head.empty()) {
    const char upper = absl::ascii_toupper(head[0]);
    string_view rest = head.substr(1);
    while (!rest.empty() && (absl::ascii_ispunct(rest[0]) || absl::ascii_isspace(rest[0]))) rest.remove_prefix(1);
    if (rest.empty() && letters.find(upper) != std::string::npos) return upper;
  }
  *reason = "no choice found";
  return 0;
}

class ChoiceRule : public Rule {
 public:
  ChoiceRule(std::vector<Place> places, std::string gold, std::string letters)
      : places_(std::move(places)), gold_(std::move(gold)), letters_(std::move(letters)) {}

  RuleResult Score(const RuleInput& input) const override {
    const absl::StatusOr<char> gold = Gold(*input.row);
    if (!gold.ok()) return RuleResult::NotApplicable(std::string(gold.status().message()));
    const Extracted answer = Extract(input.text, places_);
    if (!answer.found) return RuleResult::Scored(0, "no answer found");
    std::string reason;
    const char choice = ReadChoice(answer.text, letters_, &reason);
    if (choice == 0) return RuleResult::Scored(0, reason, answer.text);
    return RuleResult::Scored(choice == *gold ? 1 : 0, choice == *gold ? "" : "another choice", std::string(1, choice));
  }

  absl::Status CheckRow(const json::Json& row) const override { return Gold(row).status(); }

 private:
  absl::StatusOr<char> Gold(const json::Json& row) const {
    ASSIGN_OR_RETURN(const std::string text, ColumnText(row, gold_));
    std::string reason;
    const char choice = ReadChoice(text, letters_, &reason);
    if (choice == 0)
      return absl::InvalidArgumentError(
          absl::StrCat("column \"", gold_, "\": ", reason, " in \"", text.substr(0, 80), "\""));
    return choice;
  }

  const std::vector<Place> places_;
  const std::string gold_, letters_;
};

}  // namespace

RuleOr CreateChoiceRule(const v1::ChoiceRule& config) {
  ASSIGN_OR_RETURN(std::vector<Place> places, ParsePlaces(config.extraction(), {Place::kAnswerTag, Place::kBoxed,
                                                                                Place::kAnswerIs, Place::kWhole}));
  const std::string letters = config.letters().empty() ? "ABCDEFGHIJ" : config.letters();
  if (!std::all_of(letters.begin(), letters.end(), [](char c) { return absl::ascii_isupper(c); })) {
    return absl::InvalidArgumentError(absl::StrCat("letters: \"", letters, "\", expected upper-case letters A-Z"));
  }
  return std::make_unique<ChoiceRule>(std::move(places), config.gold().empty() ? "answer" : config.gold(), letters);
}

}  // namespace grouper
