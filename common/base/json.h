// JSON from strangers: nlohmann-json behind two limits that it lacks (RELIABILITY: 100,000 nested arrays crash its
// destructor's callers, duplicate keys pass silently).
//
// Parse refuses: nesting deeper than 64, duplicate keys in one object, invalid UTF-8, NaN and Infinity, trailing text, and what would take much
// more memory than its text (CheckSizes).
// Errors are InvalidArgument and name the byte and, for objects, the key.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace grouper::json {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // keeps the keys' order of the text

inline constexpr int kMaxDepth = 64;
inline constexpr size_t kMaxString = 16 << 20;   // bytes, as written
inline constexpr size_t kMaxNumber = 400;        // characters
inline constexpr size_t kMaxMemory = 192 << 20;  // bytes of values, about: 262,144 tokens and half a million merges take 61% of it

// The sizes of a text's tokens, JSON or not, in one pass that keeps nothing.
absl::Status CheckSizes(absl::string_view text);

absl::StatusOr<Json> Parse(absl::string_view text);
absl::StatusOr<OrderedJson> ParseOrdered(absl::string_view text);

// A row of data: as Parse, but an object's own numbers keep their text where a double does not give it back: 12345678901234567890123, 0.10,
// 0.1000000000000000055511. (Those inside of a column's value do not.) The texts travel with the object, under keys that no JSON can have because
// they are not UTF-8; Dump writes them, NumberText reads one, CopyColumn takes one along.
absl::StatusOr<Json> ParseRow(absl::string_view text);
// The number `row[column]` as its text has it. REQUIRES: it is a number.
std::string NumberText(const Json& row, const std::string& column);
// row[to] = row[from], with the text of a number. REQUIRES: row[from] is there.
void CopyColumn(Json& row, const std::string& from, const std::string& to);

// Typed access to `object[key]`. Missing key or another type is InvalidArgument naming the key and what was expected.
// Integers must be JSON integers in range: 1.0, "1" and 1e30 are errors.
absl::StatusOr<int64_t> GetInt(const Json& object, const std::string& key, int64_t min, int64_t max);
absl::StatusOr<double> GetNumber(const Json& object, const std::string& key);  // finite
absl::StatusOr<bool> GetBool(const Json& object, const std::string& key);
absl::StatusOr<std::string> GetString(const Json& object, const std::string& key);

// True when `key` is there and not null.
bool Has(const Json& object, const std::string& key);

// One-line dump that never throws: invalid UTF-8 is replaced by U+FFFD.
std::string Dump(const Json& value);
std::string Dump(const OrderedJson& value);

}  // namespace grouper::json
