#include "common/data/row.h"

#include "common/base/status.h"

namespace grouper {
namespace {

using json::Json;

// Copies the first alias that is there to `name`, unless `name` is there already.
void TakeAlias(Json& columns, const char* name, std::initializer_list<const char*> aliases) {
  if (json::Has(columns, name)) return;
  for (const char* alias : aliases) {
    if (json::Has(columns, alias)) {
      json::CopyColumn(columns, alias, name);
      return;
    }
  }
}

absl::Status CheckString(const Json& columns, const char* name) {
  if (!json::Has(columns, name) || columns[name].is_string()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("column \"", name, "\": expected a string, got ", columns[name].type_name()));
}

absl::Status CheckTurns(const Json& turns, const char* column) {
  if (!turns.is_array() || turns.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("column \"", column, "\": expected a non-empty array of {role, content}"));
  }
  for (size_t i = 0; i < turns.size(); ++i) {
    const Json& turn = turns[i];
    const bool fine = turn.is_object() && turn.contains("role") && turn["role"].is_string() && turn.contains("content") &&
                      turn["content"].is_string();
    if (!fine) {
      return absl::InvalidArgumentError(
          absl::StrCat("column \"", column, "[", i, "]\": expected {\"role\": string, \"content\": string}"));
    }
    const std::string role = turn["role"].get<std::string>();
    if (role != "system" && role != "user" && role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("column \"", column, "[", i, "].role\": expected system, user or assistant, got \"",
                                                     role, "\""));
    }
  }
  return absl::OkStatus();
}

std::vector<ChatTurn> Turns(const Json& array) {
  std::vector<ChatTurn> turns;
  for (const Json& turn : array) turns.push_back({turn["role"].get<std::string>(), turn["content"].get<std::string>()});
  return turns;
}

}  // namespace

bool DataRow::HasPrompt() const { return json::Has(columns, "prompt") || json::Has(columns, "messages"); }

bool DataRow::HasCompletion() const {
  if (json::Has(columns, "text")) return true;
  if (json::Has(columns, "completion")) return json::Has(columns, "prompt");
  return json::Has(columns, "messages") && columns["messages"].back()["role"] == "assistant";
}

absl::Status CanonicaliseRow(const std::map<std::string, std::string>& fields, DataRow& row) {
  auto check = [&]() -> absl::Status {
    Json& columns = row.columns;
    if (!columns.is_object()) return absl::InvalidArgumentError("expected a JSON object");
    for (const auto& [name, column] : fields) {
      if (!columns.contains(column)) {
        return absl::InvalidArgumentError(absl::StrCat("missing column \"", column, "\" (the recipe's data.fields map \"", name, "\" to it)"));
      }
      json::CopyColumn(columns, column, name);
    }
    // TRL and verl give the prompt as a list of turns.
    for (const char* name : {"prompt", "question"}) {
      if (json::Has(columns, name) && columns[name].is_array() && !json::Has(columns, "messages")) {
        Json turns = columns[name];
        columns["messages"] = std::move(turns);
        columns.erase(name);
      }
    }
    TakeAlias(columns, "prompt", {"question", "problem", "input"});
    TakeAlias(columns, "answer", {"label", "gold", "ground_truth", "target_answer"});
    TakeAlias(columns, "completion", {"response", "output"});
    RETURN_IF_ERROR(CheckString(columns, "prompt"));
    RETURN_IF_ERROR(CheckString(columns, "completion"));
    RETURN_IF_ERROR(CheckString(columns, "text"));
    if (json::Has(columns, "messages")) RETURN_IF_ERROR(CheckTurns(columns["messages"], "messages"));
    return absl::OkStatus();
  };
  return Annotate(check(), row.source);
}

absl::StatusOr<std::vector<ChatTurn>> PromptTurns(const DataRow& row) {
  if (json::Has(row.columns, "messages")) {
    std::vector<ChatTurn> turns = Turns(row.columns["messages"]);
    while (!turns.empty() && turns.back().role == "assistant") turns.pop_back();
    if (turns.empty() || turns.back().role != "user") {
      return absl::InvalidArgumentError(absl::StrCat(row.source, ": column \"messages\": expected a user turn to answer"));
    }
    return turns;
  }
  if (json::Has(row.columns, "prompt")) return std::vector<ChatTurn>{{"user", row.columns["prompt"].get<std::string>()}};
  return absl::InvalidArgumentError(absl::StrCat(row.source, ": expected a column \"prompt\", \"question\" or \"messages\""));
}

absl::StatusOr<std::vector<ChatTurn>> AllTurns(const DataRow& row) {
  if (json::Has(row.columns, "completion") && json::Has(row.columns, "prompt")) {
    return std::vector<ChatTurn>{{"user", row.columns["prompt"].get<std::string>()},
                                 {"assistant", row.columns["completion"].get<std::string>()}};
  }
  if (json::Has(row.columns, "messages")) {
    std::vector<ChatTurn> turns = Turns(row.columns["messages"]);
    if (json::Has(row.columns, "completion")) turns.push_back({"assistant", row.columns["completion"].get<std::string>()});
    if (turns.back().role == "assistant") return turns;
    return absl::InvalidArgumentError(absl::StrCat(row.source, ": column \"messages\": expected an assistant turn at the end"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(row.source, ": expected columns \"prompt\" and \"completion\", or \"messages\" that end with the assistant"));
}

}  // namespace grouper
