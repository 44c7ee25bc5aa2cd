// Operators, attributes, items and slices.

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/text/jinja_functions.h"
#include "common/text/utf8.h"

namespace grouper::jinja {
namespace {

absl::Status TypeError(absl::string_view what, const Value& a, const Value& b) {
  return absl::InvalidArgumentError(absl::StrCat(what, " of ", KindName(a), " and ", KindName(b)));
}

absl::Status Undefined(const Value& value) {
  return absl::InvalidArgumentError(absl::StrCat("\"", *value.string, "\" is undefined"));
}

std::vector<std::string> Characters(const std::string& text) {
  std::vector<std::string> out;
  for (size_t pos = 0; pos < text.size();) {
    int length;
    text::CodePointAt(text, pos, &length);
    out.push_back(text.substr(pos, length));
    pos += length;
  }
  return out;
}

// Python's slice.indices.
absl::StatusOr<std::vector<size_t>> SliceIndices(int64_t size, const Value& begin, const Value& end, const Value& step) {
  for (const Value* part : {&begin, &end, &step}) {
    if (part->kind != Value::kNone && !part->is_integer()) return absl::InvalidArgumentError(absl::StrCat("slice by ", KindName(*part)));
  }
  const int64_t by = step.kind == Value::kNone ? 1 : step.integer;
  if (by == 0) return absl::InvalidArgumentError("slice step 0");
  const auto clamp = [&](const Value& value, int64_t absent) {
    if (value.kind == Value::kNone) return absent;
    int64_t i = value.integer < 0 ? value.integer + size : value.integer;
    return by > 0 ? std::clamp<int64_t>(i, 0, size) : std::clamp<int64_t>(i, -1, size - 1);
  };
  const int64_t from = clamp(begin, by > 0 ? 0 : size - 1);
  const int64_t to = clamp(end, by > 0 ? size : -1);
  std::vector<size_t> indices;
  for (int64_t i = from; by > 0 ? i < to : i > to;) {
    indices.push_back(static_cast<size_t>(i));
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  return indices;
}

absl::StatusOr<Value> IntegerArithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    if (b < 0) return Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = 1;
    for (int64_t i = 0; i < b && !overflow; ++i) {
      overflow = __builtin_mul_overflow(result, a, &result);
      if (result == 0 || (result == 1 && i > 64)) break;
    }
  } else if (b == 0) {
    return absl::InvalidArgumentError("division by zero");
  } else if (op == "/") {
    return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  } else if (a == INT64_MIN && b == -1) {
    overflow = true;
  } else {  // // and % round towards minus infinity
    const int64_t quotient = a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
    result = op == "//" ? quotient : a - quotient * b;
  }
  if (overflow) return absl::InvalidArgumentError("integer overflow");
  return Value::Int(result);
}

}  // namespace

absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name) {
  if (object.kind == Value::kUndefined) return Undefined(object);
  if (HasMethod(object, name)) return Value::Method(object, name);
  if (const Value* const item = object.Find(name)) return *item;
  return Value::Undefined(name);
}

absl::StatusOr<Value> GetItem(const Value& object, const Value& key) {
  if (object.kind == Value::kUndefined) return Undefined(object);
  if (key.is_string()) {
    if (const Value* const item = object.Find(*key.string)) return *item;
    return GetAttribute(object, *key.string);
  }
  if (key.is_integer() && (object.kind == Value::kList || object.is_string())) {
    std::vector<std::string> characters;
    if (object.is_string()) characters = Characters(*object.string);
    const int64_t size = static_cast<int64_t>(object.is_string() ? characters.size() : object.list->size());
    const int64_t i = key.integer < 0 ? key.integer + size : key.integer;
    if (i < 0 || i >= size) return Value::Undefined(absl::StrCat("[", key.integer, "]"));
    return object.is_string() ? Value::String(characters[i]) : (*object.list)[i];
  }
  return Value::Undefined(ToText(key));
}

absl::StatusOr<Value> GetSlice(const Value& object, const Value& begin, const Value& end, const Value& step) {
  if (object.kind == Value::kUndefined) return Undefined(object);
  if (object.is_string()) {
    const std::vector<std::string> characters = Characters(*object.string);
    ASSIGN_OR_RETURN(const std::vector<size_t> indices, SliceIndices(static_cast<int64_t>(characters.size()), begin, end, step));
    std::string out;
    for (const size_t i : indices) out += characters[i];
    return Value::String(std::move(out));
  }
  if (object.kind != Value::kList) return absl::InvalidArgumentError(absl::StrCat("slice of ", KindName(object)));
  ASSIGN_OR_RETURN(const std::vector<size_t> indices, SliceIndices(static_cast<int64_t>(object.list->size()), begin, end, step));
  List out;
  for (const size_t i : indices) out.push_back((*object.list)[i]);
  return Value::Of(std::move(out));
}

absl::StatusOr<List> Iterate(const Value& value) {
  switch (value.kind) {
    case Value::kUndefined:
      return List();
    case Value::kList:
      return *value.list;
    case Value::kDict: {
      List keys;
      for (const auto& [key, item] : *value.dict) keys.push_back(Value::String(key));
      return keys;
    }
    case Value::kString: {
      List out;
      for (std::string& character : Characters(*value.string)) out.push_back(Value::String(std::move(character)));
      return out;
    }
    default:
      return absl::InvalidArgumentError(absl::StrCat(KindName(value), " cannot be iterated"));
  }
}

absl::StatusOr<Value> Arithmetic(const std::string& op, const Value& a, const Value& b) {
  if (op == "~") {
    const std::string left = ToText(a), right = ToText(b);
    if (left.size() + right.size() > kMaxTextBytes) return absl::ResourceExhaustedError("a text grows too long");
    return Value::String(left + right);
  }
  if (a.kind == Value::kUndefined) return Undefined(a);
  if (b.kind == Value::kUndefined) return Undefined(b);
  if (a.is_integer() && b.is_integer()) return IntegerArithmetic(op, a.integer, b.integer);
  if (a.is_number() && b.is_number()) {
    const double x = a.AsNumber(), y = b.AsNumber();
    if (op == "+") return Value::Float(x + y);
    if (op == "-") return Value::Float(x - y);
    if (op == "*") return Value::Float(x * y);
    if (op == "**") return Value::Float(std::pow(x, y));
    if (y == 0) return absl::InvalidArgumentError("division by zero");
    if (op == "/") return Value::Float(x / y);
    const double quotient = std::floor(x / y);
    return Value::Float(op == "//" ? quotient : x - quotient * y);
  }
  if (op == "+" && a.is_string() && b.is_string()) {
    if (a.string->size() + b.string->size() > kMaxTextBytes) return absl::ResourceExhaustedError("a text grows too long");
    return Value::String(*a.string + *b.string);
  }
  if (op == "+" && a.kind == Value::kList && b.kind == Value::kList) {
    List joined = *a.list;
    joined.insert(joined.end(), b.list->begin(), b.list->end());
    return Value::Of(std::move(joined));
  }
  if (op == "*" && ((a.is_string() && b.is_integer()) || (a.is_integer() && b.is_string()))) {
    const std::string& text = a.is_string() ? *a.string : *b.string;
    const int64_t times = std::max<int64_t>(0, a.is_string() ? b.integer : a.integer);
    if (!text.empty() && static_cast<uint64_t>(times) > kMaxTextBytes / text.size()) return absl::ResourceExhaustedError("a text grows too long");
    std::string out;
    for (int64_t i = 0; i < times && !text.empty(); ++i) out += text;
    return Value::String(std::move(out));
  }
  return TypeError(absl::StrCat("\"", op, "\""), a, b);
}

absl::StatusOr<bool> Compare(const std::string& op, const Value& a, const Value& b) {
  if (op == "==") return Equal(a, b);
  if (op == "!=") return !Equal(a, b);
  if (op == "in" || op == "not in") {
    bool found = false;
    switch (b.kind) {
      case Value::kString:
        if (!a.is_string()) return TypeError("\"in\"", a, b);
        found = absl::StrContains(*b.string, *a.string);
        break;
      case Value::kList:
        found = std::any_of(b.list->begin(), b.list->end(), [&](const Value& item) { return Equal(item, a); });
        break;
      case Value::kDict:
        found = a.is_string() && b.Find(*a.string) != nullptr;
        break;
      case Value::kUndefined:
        break;  // nothing is in it
      default:
        return TypeError("\"in\"", a, b);
    }
    return found == (op == "in");
  }
  if (a.kind == Value::kUndefined) return Undefined(a);
  if (b.kind == Value::kUndefined) return Undefined(b);
  int order = 0;
  if (a.is_number() && b.is_number()) {
    const double x = a.AsNumber(), y = b.AsNumber();
    order = x < y ? -1 : x > y ? 1 : 0;
  } else if (a.is_string() && b.is_string()) {
    order = a.string->compare(*b.string);
  } else {
    return TypeError(absl::StrCat("\"", op, "\""), a, b);
  }
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  if (op == ">") return order > 0;
  return order >= 0;
}

}  // namespace grouper::jinja
