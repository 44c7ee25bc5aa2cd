#include "common/text/jinja_value.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/json.h"
#include "common/text/unicode_class.h"
#include "common/text/utf8.h"

namespace grouper::jinja {
namespace {

// The shortest decimal that reads back as the same double, with ".0" when it looks like an integer, as Python's repr.
std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = json::Dump(json::Json(value));
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string Joined(const List& list) {
  std::string out;
  for (const Value& item : list) absl::StrAppend(&out, out.empty() ? "" : ", ", ToRepr(item));
  return out;
}

}  // namespace

Value Value::None() {
  Value value;
  value.kind = kNone;
  return value;
}

Value Value::Undefined(absl::string_view name) {
  Value value;
  value.string = std::make_shared<const std::string>(name);
  return value;
}

Value Value::Bool(bool b) {
  Value value;
  value.kind = kBool;
  value.integer = b;
  return value;
}

Value Value::Int(int64_t i) {
  Value value;
  value.kind = kInt;
  value.integer = i;
  return value;
}

Value Value::Float(double d) {
  Value value;
  value.kind = kFloat;
  value.number = d;
  return value;
}

Value Value::String(std::string s) {
  Value value;
  value.kind = kString;
  value.string = std::make_shared<const std::string>(std::move(s));
  return value;
}

Value Value::Of(List items) {
  Value value;
  value.kind = kList;
  for (const Value& item : items) value.depth = std::max(value.depth, item.depth + 1);
  value.list = std::make_shared<List>(std::move(items));
  return value;
}

Value Value::Of(Dict items) {
  Value value;
  value.kind = kDict;
  for (const auto& [key, item] : items) value.depth = std::max(value.depth, item.depth + 1);
  value.dict = std::make_shared<Dict>(std::move(items));
  return value;
}

Value Value::Method(Value self, absl::string_view name) {
  Value value;
  value.kind = kMethod;
  value.string = std::make_shared<const std::string>(name);
  value.self = std::make_shared<const Value>(std::move(self));
  return value;
}

const Value* Value::Find(absl::string_view key) const {
  if (dict == nullptr) return nullptr;
  for (const auto& [name, value] : *dict) {
    if (name == key) return &value;
  }
  return nullptr;
}

bool IsTrue(const Value& value) {
  switch (value.kind) {
    case Value::kUndefined:
    case Value::kNone:
      return false;
    case Value::kBool:
    case Value::kInt:
      return value.integer != 0;
    case Value::kFloat:
      return value.number != 0;
    case Value::kString:
      return !value.string->empty();
    case Value::kList:
      return !value.list->empty();
    case Value::kDict:
      return !value.dict->empty();
    case Value::kNamespace:
    case Value::kMethod:
      return true;
  }
  return false;
}

bool Equal(const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) return a.integer == b.integer;
  if (a.is_number() && b.is_number()) return a.AsNumber() == b.AsNumber();
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Value::kString:
      return *a.string == *b.string;
    case Value::kList: {
      if (a.list->size() != b.list->size()) return false;
      for (size_t i = 0; i < a.list->size(); ++i) {
        if (!Equal((*a.list)[i], (*b.list)[i])) return false;
      }
      return true;
    }
    case Value::kDict: {
      if (a.dict->size() != b.dict->size()) return false;
      for (const auto& [key, value] : *a.dict) {
        const Value* const other = b.Find(key);
        if (other == nullptr || !Equal(value, *other)) return false;
      }
      return true;
    }
    case Value::kUndefined:
    case Value::kNone:
      return true;
    default:
      return a.dict == b.dict && a.self == b.self;
  }
}

std::string ToText(const Value& value) {
  switch (value.kind) {
    case Value::kUndefined:
      return "";
    case Value::kString:
      return *value.string;
    default:
      return ToRepr(value);
  }
}

std::string ToRepr(const Value& value) {
  switch (value.kind) {
    case Value::kUndefined:
      return "Undefined";
    case Value::kNone:
      return "None";
    case Value::kBool:
      return value.integer ? "True" : "False";
    case Value::kInt:
      return absl::StrCat(value.integer);
    case Value::kFloat:
      return FloatText(value.number);
    case Value::kString: {
      const char quote = value.string->find('\'') != std::string::npos && value.string->find('"') == std::string::npos ? '"' : '\'';
      std::string out(1, quote);
      for (size_t pos = 0; pos < value.string->size();) {
        int length;
        const uint32_t c = text::CodePointAt(*value.string, pos, &length);
        if (c == '\n') {
          out += "\\n";
        } else if (c == '\t') {
          out += "\\t";
        } else if (c == '\r') {
          out += "\\r";
        } else if (c == '\\' || c == static_cast<uint32_t>(quote)) {
          out += {'\\', static_cast<char>(c)};
        } else if (c == ' ' || (u_isprint(static_cast<UChar32>(c)) && (text::ClassOf(c) & text::kSpace) == 0)) {
          out.append(*value.string, pos, length);
        } else if (c < 0x100) {
          out += absl::StrFormat("\\x%02x", c);
        } else {
          out += c < 0x10000 ? absl::StrFormat("\\u%04x", c) : absl::StrFormat("\\U%08x", c);
        }
        pos += length;
      }
      return out + quote;
    }
    case Value::kList:
      return absl::StrCat("[", Joined(*value.list), "]");
    case Value::kDict: {
      std::string out;
      for (const auto& [key, item] : *value.dict) {
        absl::StrAppend(&out, out.empty() ? "" : ", ", ToRepr(Value::String(key)), ": ", ToRepr(item));
      }
      return absl::StrCat("{", out, "}");
    }
    case Value::kNamespace:
      return "<Namespace>";
    case Value::kMethod:
      return absl::StrCat("<method ", *value.string, ">");
  }
  return "";
}

std::string ToJsonText(const Value& value, int indent, int depth) {
  const std::string newline = indent < 0 ? "" : absl::StrCat("\n", std::string(static_cast<size_t>(indent) * (depth + 1), ' '));
  const std::string closing = indent < 0 ? "" : absl::StrCat("\n", std::string(static_cast<size_t>(indent) * depth, ' '));
  const char* const comma = indent < 0 ? ", " : ",";
  std::string out;
  switch (value.kind) {
    case Value::kBool:
      return value.integer ? "true" : "false";
    case Value::kInt:
      return absl::StrCat(value.integer);
    case Value::kFloat:
      return FloatText(value.number);
    case Value::kString:
      return json::Dump(json::Json(*value.string));
    case Value::kList:
      for (const Value& item : *value.list) absl::StrAppend(&out, out.empty() ? "" : comma, newline, ToJsonText(item, indent, depth + 1));
      return out.empty() ? "[]" : absl::StrCat("[", out, closing, "]");
    case Value::kDict:
      for (const auto& [key, item] : *value.dict) {
        absl::StrAppend(&out, out.empty() ? "" : comma, newline, json::Dump(json::Json(key)), ": ", ToJsonText(item, indent, depth + 1));
      }
      return out.empty() ? "{}" : absl::StrCat("{", out, closing, "}");
    default:
      return "null";
  }
}

const char* KindName(const Value& value) {
  switch (value.kind) {
    case Value::kUndefined:
      return "undefined";
    case Value::kNone:
      return "none";
    case Value::kBool:
      return "a boolean";
    case Value::kInt:
      return "an integer";
    case Value::kFloat:
      return "a float";
    case Value::kString:
      return "a string";
    case Value::kList:
      return "a list";
    case Value::kDict:
      return "a mapping";
    case Value::kNamespace:
      return "a namespace";
    case Value::kMethod:
      return "a method";
  }
  return "";
}

}  // namespace grouper::jinja
