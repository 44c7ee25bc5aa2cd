// One row of training or evaluation data, and what its columns mean.
//
// RL rows: `prompt` (or `question`, `problem`, or `messages`) and what the rules need (`answer`, or `label`, `gold`, `solution`; numbers, target, ...).
// SFT rows: `prompt` + `completion` (or `response`), or `messages` (loss on the assistant's turns), or `text` (loss everywhere).
// All columns reach the reward rules under their own names; `answer` is added when the row has an alias of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/json.h"

namespace grouper {

struct ChatTurn {
  std::string role;  // system, user, assistant
  std::string content;
};

struct DataRow {
  json::Json columns;  // an object
  std::string source;  // "train.jsonl:17", or "addition:17" for a generated row; for error messages

  bool HasPrompt() const;      // prompt, question or messages
  bool HasCompletion() const;  // completion, messages that end with the assistant, or text
};

// Renames columns by a recipe's `fields` (our name -> the file's column), resolves aliases, and checks types. Errors name the source and
// the column.
absl::Status CanonicaliseRow(const std::map<std::string, std::string>& fields, DataRow& row);

// The conversation that the model continues: the `messages` up to the last user turn, or one user turn with the prompt.
absl::StatusOr<std::vector<ChatTurn>> PromptTurns(const DataRow& row);

// The whole conversation of an SFT row with `messages` (ends with an assistant turn), or prompt and completion as two turns.
absl::StatusOr<std::vector<ChatTurn>> AllTurns(const DataRow& row);

}  // namespace grouper
