// Reading tokenizer.json with errors that name the path: "pre_tokenizer.pretokenizers[1].behavior: expected a string".
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/json.h"
#include "common/text/pattern.h"

namespace grouper::text {

template <typename... Parts>
absl::Status FieldError(const std::string& path, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", parts...));
}

std::string At(const std::string& path, absl::string_view key);    // "path.key", or "key"
std::string Item(const std::string& path, size_t index);           // "path[3]"

absl::StatusOr<std::string> TypeOf(const json::Json& object, const std::string& path);  // object["type"]
absl::StatusOr<std::string> StringField(const json::Json& object, const std::string& key, const std::string& path);
absl::StatusOr<std::string> CharacterField(const json::Json& object, const std::string& key, const std::string& path);  // one code point
absl::StatusOr<bool> BoolField(const json::Json& object, const std::string& key, const std::string& path);  // required
absl::StatusOr<bool> BoolField(const json::Json& object, const std::string& key, const std::string& path, bool absent);  // or null
absl::StatusOr<int64_t> IntField(const json::Json& object, const std::string& key, const std::string& path, int64_t min, int64_t max);
// object[key], which must be an array.
absl::StatusOr<const json::Json*> ArrayField(const json::Json& object, const std::string& key, const std::string& path);

// object["pattern"]: {"String": literal} or {"Regex": regex}.
absl::StatusOr<std::shared_ptr<const Pattern>> PatternField(const json::Json& object, const std::string& path);

// A value as an integer in [min, max]; 1.0 and "1" are errors.
absl::StatusOr<int64_t> AsInt(const json::Json& value, const std::string& path, int64_t min, int64_t max);

}  // namespace grouper::text
