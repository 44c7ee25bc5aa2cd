// The methods, filters and tests that templates call: Python's and Jinja2's, on values. Errors say what was wrong; the caller adds the line.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/text/jinja_value.h"

namespace grouper::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The i-th positional, or the named one, or null.
  const Value* Get(size_t i, absl::string_view name) const;
};

// Texts that one value may hold; more is an error (ResourceExhausted).
inline constexpr size_t kMaxTextBytes = 16 << 20;

bool HasMethod(const Value& self, absl::string_view name);
absl::StatusOr<Value> CallMethod(const Value& self, const std::string& name, const Arguments& arguments);
absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& input, const Arguments& arguments);
absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& input, const Arguments& arguments);

// a.b, as Jinja looks it up: a method, else the item of that name, else undefined. Undefined has no attributes: an error.
absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name);
absl::StatusOr<Value> GetItem(const Value& object, const Value& key);
absl::StatusOr<Value> GetSlice(const Value& object, const Value& begin, const Value& end, const Value& step);  // None: absent

// What a loop goes through: a list's items, a mapping's keys, a text's characters, nothing for undefined.
absl::StatusOr<List> Iterate(const Value& value);

absl::StatusOr<Value> Arithmetic(const std::string& op, const Value& a, const Value& b);
absl::StatusOr<bool> Compare(const std::string& op, const Value& a, const Value& b);

}  // namespace grouper::jinja
