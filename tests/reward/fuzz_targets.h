// Everything in reward/ that reads a model's text, as functions of arbitrary bytes that abort when a property fails. Each is a libFuzzer
// program of its own (cmake -DGROUPER_FUZZ=ON with clang++; fuzz_main.cc), and fuzz_test.cc runs all of them over a corpus and mutations of
// it in every build.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace grouper::fuzz {

// Input: gold '\n' answer, both bare. A gold that can be judged equals itself, and a comparison is symmetric where it says "equal" for scalars.
void FuzzMathPair(absl::string_view input);
// Input: gold '\n' completion: the whole check with every place.
void FuzzMathCheck(absl::string_view input);
// Places, boxes, think blocks: what is found lies inside the text.
void FuzzExtraction(absl::string_view input);
// format in its three styles, tag_count: 1 only when the tags' counts say so.
void FuzzFormat(absl::string_view input);
// The text inside <answer> for the numbers 1, 2, 3: 1 only for texts of the expression's alphabet.
void FuzzCountdown(absl::string_view input);
// Input: gold '\n' completion: choice, numeric, exact.
void FuzzAnswers(absl::string_view input);
// json_schema_lite, repetition, language, regex.
void FuzzTexts(absl::string_view input);
// Code fences and the tests' column of the code rule; what a program printed.
void FuzzCode(absl::string_view input);

struct Target {
  const char* name;
  void (*run)(absl::string_view input);
};
absl::Span<const Target> Targets();

}  // namespace grouper::fuzz
