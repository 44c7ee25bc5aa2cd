// Errors caused by the world: absl::Status, passed up with two macros and enriched on the way.
//
//   RETURN_IF_ERROR(LoadConfig(path));
//   ASSIGN_OR_RETURN(const Config config, LoadConfig(path));
//   RETURN_IF_ERROR(Annotate(Parse(line), absl::StrCat(path, ":", line_number)));   // "data.jsonl:12: expected ..."
//
// A message says what was wrong, where (path:line, field) and what was expected.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace grouper {

// The same status with "context: " before its message; an OK status stays OK. Payloads are kept.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

template <typename T>
absl::StatusOr<T> Annotate(absl::StatusOr<T> value, absl::string_view context) {
  if (value.ok()) return value;
  return Annotate(value.status(), context);
}

namespace base {
inline const absl::Status& ToStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& ToStatus(const absl::StatusOr<T>& value) {
  return value.status();
}
}  // namespace base

}  // namespace grouper

#define RETURN_IF_ERROR(expression)                                                   \
  do {                                                                                \
    auto grouper_status_ = (expression);                                              \
    if (!grouper_status_.ok()) return ::grouper::base::ToStatus(grouper_status_);     \
  } while (false)

#define GROUPER_CONCAT_INNER(a, b) a##b
#define GROUPER_CONCAT(a, b) GROUPER_CONCAT_INNER(a, b)
#define ASSIGN_OR_RETURN(declaration, expression) \
  GROUPER_ASSIGN_OR_RETURN(GROUPER_CONCAT(grouper_value_, __LINE__), declaration, expression)
#define GROUPER_ASSIGN_OR_RETURN(variable, declaration, expression) \
  auto variable = (expression);                                     \
  if (!variable.ok()) return variable.status();                     \
  declaration = std::move(variable).value()
