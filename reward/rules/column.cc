#include "absl/strings/str_cat.h"
#include "reward/rules/rules.h"

namespace grouper {

absl::StatusOr<std::string> ColumnText(const json::Json& row, const std::string& column) {
  const json::Json* value = nullptr;
  std::string found;
  const auto find = [&](const std::string& name) {
    const auto it = row.find(name);
    if (value != nullptr || it == row.end() || it->is_null()) return;
    value = &*it;
    found = name;
  };
  find(column);
  if (column == "answer") {
    for (const char* alias : {"gold", "label", "solution"}) find(alias);
  }
  if (value == nullptr) return absl::InvalidArgumentError(absl::StrCat("the row has no column \"", column, "\""));
  if (value->is_string()) return value->get<std::string>();
  if (value->is_number()) return json::NumberText(row, found);
  if (value->is_boolean()) return json::Dump(*value);
  return absl::InvalidArgumentError(
      absl::StrCat("column \"", column, "\" is ", value->type_name(), ", expected a string or a number"));
}

}  // namespace grouper
