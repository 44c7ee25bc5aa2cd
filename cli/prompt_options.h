// How `generate` and `eval` turn a prompt into tokens: --template or --chat, --system, --prefill, --add-bos; and their --temperature.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/command.h"
#include "common/text/tokenizer.h"
#include "proto/recipe.pb.h"

namespace grouper::cli {

// InvalidArgument: two of the options contradict each other, a text is not UTF-8, a stop string is empty. Costs nothing, so it comes before a model is loaded.
absl::Status CheckPromptOptions(const Arguments& arguments);

// 0 (greedy), or a temperature that the sampler can divide by.
absl::StatusOr<double> TemperatureFromOptions(const Arguments& arguments);

// What the options say. Without any of them: the `prompt` of the recipe that stands in `model`, a run directory or a checkpoint, so that a trained
// model is asked as it was trained; elsewhere the prompt as it is.
absl::StatusOr<v1::PromptTemplate> PromptFromOptions(const Arguments& arguments, const std::string& model, const Tokenizer& tokenizer);

}  // namespace grouper::cli
