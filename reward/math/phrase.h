// The answer that a sentence states, when the sentence is more than the answer.
//
//   words      white space separates them; $...$, \(...\) and \[...\] are one word each
//   a run      neighbouring words of mathematics: numbers, formulas, operators, and what "and", "or" and commas join
//   stated     the last run with a digit in it, else the last formula; none where the sentence weighs, denies, bounds
//   or
//              asks: "not 7", "6 or 7", "between 1 and 3", "at least 3", "it could be 8", "is it 5?"
//
// What is found is to be parsed by the caller: "3 - 2" is found as a whole and is 1, never its last number.
#pragma once

#include "absl/strings/string_view.h"

namespace grouper::math {

// Whether `word` stands in the text, no letter beside it.
bool HasWord(absl::string_view text, absl::string_view word);

// Whether words make the answer in the text less than one: "not", "or", "maybe", "about", "at least".
bool Weighs(absl::string_view text);

// "I cannot determine", "I am not sure", "my guess".
bool GivesUp(absl::string_view text);

// Empty: the sentence states nothing. The view lies in `sentence`.
absl::string_view StatedAnswer(absl::string_view sentence);

// For what follows "the answer is": the run with which the text begins; empty where it does not, or where what follows
// goes on with it ("2 times the sum").
absl::string_view LeadingAnswer(absl::string_view text);

// The last sentence that holds a number or a formula; empty: there is none. Full stops inside numbers and formulas end
// no sentence.
absl::string_view LastMathSentence(absl::string_view text);

}  // namespace grouper::math
