// The values of a template: Python's None, bool, int, float, str, list, dict, Jinja's namespace and undefined.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace grouper::jinja {

struct Value;
using List = std::vector<Value>;
using Dict = std::vector<std::pair<std::string, Value>>;  // in order of insertion

// Copies share lists and dicts, which do not change once made; a namespace changes, and all copies see it.
struct Value {
  enum Kind { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kDict, kNamespace, kMethod };

  Kind kind = kUndefined;
  int64_t integer = 0;  // bool and int
  double number = 0;
  std::shared_ptr<const std::string> string;  // str; undefined: the name that was looked for; method: its name
  std::shared_ptr<List> list;
  std::shared_ptr<Dict> dict;                 // dict and namespace
  std::shared_ptr<const Value> self;          // method: whose
  int depth = 0;                              // list and dict: how deep they nest (a namespace counts as 0)

  static Value None();
  static Value Undefined(absl::string_view name);
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(std::string value);
  static Value Of(List value);
  static Value Of(Dict value);
  static Value Method(Value self, absl::string_view name);

  bool is_string() const { return kind == kString; }
  bool is_integer() const { return kind == kInt || kind == kBool; }
  bool is_number() const { return is_integer() || kind == kFloat; }
  double AsNumber() const { return kind == kFloat ? number : static_cast<double>(integer); }
  const Value* Find(absl::string_view key) const;  // in a dict or namespace; null: not there
};

bool IsTrue(const Value& value);
bool Equal(const Value& a, const Value& b);
std::string ToText(const Value& value);                          // str(value)
std::string ToRepr(const Value& value);                          // repr(value)
std::string ToJsonText(const Value& value, int indent, int depth = 0);  // json.dumps(value, ensure_ascii=False); indent < 0: one line
const char* KindName(const Value& value);                        // for messages

}  // namespace grouper::jinja
