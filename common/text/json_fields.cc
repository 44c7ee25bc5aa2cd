#include "common/text/json_fields.h"

#include "common/base/status.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

absl::StatusOr<const json::Json*> Find(const json::Json& object, const std::string& key, const std::string& path, const char* expected) {
  if (!object.is_object()) return FieldError(path, "expected an object");
  const auto it = object.find(key);
  if (it == object.end()) return FieldError(At(path, key), "missing; expected ", expected);
  return &*it;
}

}  // namespace

std::string At(const std::string& path, absl::string_view key) { return path.empty() ? std::string(key) : absl::StrCat(path, ".", key); }

std::string Item(const std::string& path, size_t index) { return absl::StrCat(path, "[", index, "]"); }

absl::StatusOr<std::string> TypeOf(const json::Json& object, const std::string& path) { return StringField(object, "type", path); }

absl::StatusOr<std::string> StringField(const json::Json& object, const std::string& key, const std::string& path) {
  ASSIGN_OR_RETURN(const json::Json* const value, Find(object, key, path, "a string"));
  if (!value->is_string()) return FieldError(At(path, key), "expected a string");
  return value->get_ref<const std::string&>();
}

absl::StatusOr<std::string> CharacterField(const json::Json& object, const std::string& key, const std::string& path) {
  ASSIGN_OR_RETURN(std::string character, StringField(object, key, path));
  if (!IsOneCodePoint(character)) return FieldError(At(path, key), "expected one character");
  return character;
}

absl::StatusOr<bool> BoolField(const json::Json& object, const std::string& key, const std::string& path) {
  ASSIGN_OR_RETURN(const json::Json* const value, Find(object, key, path, "true or false"));
  if (!value->is_boolean()) return FieldError(At(path, key), "expected true or false");
  return value->get<bool>();
}

absl::StatusOr<bool> BoolField(const json::Json& object, const std::string& key, const std::string& path, bool absent) {
  if (!object.is_object()) return FieldError(path, "expected an object");
  if (!json::Has(object, key)) return absent;
  return BoolField(object, key, path);
}

absl::StatusOr<int64_t> IntField(const json::Json& object, const std::string& key, const std::string& path, int64_t min, int64_t max) {
  ASSIGN_OR_RETURN(const json::Json* const value, Find(object, key, path, "an integer"));
  return AsInt(*value, At(path, key), min, max);
}

absl::StatusOr<const json::Json*> ArrayField(const json::Json& object, const std::string& key, const std::string& path) {
  ASSIGN_OR_RETURN(const json::Json* const value, Find(object, key, path, "an array"));
  if (!value->is_array()) return FieldError(At(path, key), "expected an array");
  return value;
}

absl::StatusOr<std::shared_ptr<const Pattern>> PatternField(const json::Json& object, const std::string& path) {
  ASSIGN_OR_RETURN(const json::Json* const value, Find(object, "pattern", path, "{\"String\": ...} or {\"Regex\": ...}"));
  const std::string here = At(path, "pattern");
  if (!value->is_object() || value->size() != 1) return FieldError(here, "expected {\"String\": ...} or {\"Regex\": ...}");
  if (value->contains("String")) {
    ASSIGN_OR_RETURN(std::string literal, StringField(*value, "String", here));
    return Pattern::Literal(std::move(literal));
  }
  if (!value->contains("Regex")) return FieldError(here, "expected {\"String\": ...} or {\"Regex\": ...}");
  ASSIGN_OR_RETURN(std::string regex, StringField(*value, "Regex", here));
  return Annotate(Pattern::Regex(std::move(regex)), At(here, "Regex"));
}

absl::StatusOr<int64_t> AsInt(const json::Json& value, const std::string& path, int64_t min, int64_t max) {
  if (!value.is_number_integer()) return FieldError(path, "expected an integer");
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= static_cast<uint64_t>(max) && static_cast<int64_t>(value.get<uint64_t>()) >= min
                        : value.get<int64_t>() >= min && value.get<int64_t>() <= max;
  if (!fits) return FieldError(path, json::Dump(value), " is not in ", min, "..", max);
  return value.get<int64_t>();
}

}  // namespace grouper::text
