// Methods, filters and tests.

#include "common/text/jinja_functions.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "common/text/unicode_class.h"
#include "common/text/utf8.h"

namespace grouper::jinja {
namespace {

absl::Status BadArguments(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat(what, ": unexpected arguments")); }

// Python's str.strip: white space, or the characters of `set`.
std::string Strip(const std::string& text, const std::string* set, bool left, bool right) {
  const auto stripped = [&](absl::string_view rest, size_t pos) {
    int length;
    const uint32_t c = text::CodePointAt(rest, pos, &length);
    // Python counts the separators U+001C..U+001F as white space too.
    if (set == nullptr) return (text::ClassOf(c) & text::kSpace) != 0 || (c >= 0x1C && c <= 0x1F);
    return absl::StrContains(*set, rest.substr(pos, length));
  };
  absl::string_view rest = text;
  while (left && !rest.empty() && stripped(rest, 0)) {
    int length;
    text::CodePointAt(rest, 0, &length);
    rest.remove_prefix(length);
  }
  while (right && !rest.empty()) {
    const size_t last = text::PreviousPosition(rest, rest.size());
    if (!stripped(rest, last)) break;
    rest = rest.substr(0, last);
  }
  return std::string(rest);
}

template <typename Change>
std::string MapCharacters(const std::string& text, Change change) {
  std::string out;
  bool first = true;
  for (size_t pos = 0; pos < text.size(); first = false) {
    int length;
    const UChar32 c = static_cast<UChar32>(text::CodePointAt(text, pos, &length));
    text::AppendCodePoint(static_cast<uint32_t>(change(c, first)), &out);
    pos += length;
  }
  return out;
}

std::string Lower(const std::string& text) {
  return MapCharacters(text, [](UChar32 c, bool) { return u_tolower(c); });
}
std::string Upper(const std::string& text) {
  return MapCharacters(text, [](UChar32 c, bool) { return u_toupper(c); });
}
std::string Capitalize(const std::string& text) {
  return MapCharacters(text, [](UChar32 c, bool first) { return first ? u_totitle(c) : u_tolower(c); });
}
std::string Title(const std::string& text) {
  bool in_word = false;
  return MapCharacters(text, [&](UChar32 c, bool) {
    const UChar32 changed = in_word ? u_tolower(c) : u_totitle(c);
    in_word = u_isalpha(c);
    return changed;
  });
}

absl::StatusOr<Value> Split(const std::string& text, const Value* separator, int64_t limit) {
  List out;
  if (separator == nullptr || separator->kind == Value::kNone) {
    if (limit >= 0) return absl::InvalidArgumentError("split: a limit without a separator is not supported");
    std::string word;
    for (size_t pos = 0; pos <= text.size();) {
      int length = 1;
      const bool space = pos == text.size() || (text::ClassOf(text::CodePointAt(text, pos, &length)) & text::kSpace) != 0;
      if (!space) {
        word.append(text, pos, length);
      } else if (!word.empty()) {
        out.push_back(Value::String(std::move(word)));
        word.clear();
      }
      pos += length;
    }
    return Value::Of(std::move(out));
  }
  if (!separator->is_string() || separator->string->empty()) return absl::InvalidArgumentError("split: expected a separator that is not empty");
  size_t pos = 0;
  for (int64_t n = 0; limit < 0 || n < limit; ++n) {
    const size_t found = text.find(*separator->string, pos);
    if (found == std::string::npos) break;
    out.push_back(Value::String(text.substr(pos, found - pos)));
    pos = found + separator->string->size();
  }
  out.push_back(Value::String(text.substr(pos)));
  return Value::Of(std::move(out));
}

absl::StatusOr<Value> Replace(const std::string& text, const Arguments& arguments) {
  const Value* const from = arguments.Get(0, "old");
  const Value* const to = arguments.Get(1, "new");
  const Value* const limit = arguments.Get(2, "count");
  if (from == nullptr || to == nullptr || !from->is_string() || !to->is_string() || from->string->empty()) return BadArguments("replace");
  std::string out;
  size_t pos = 0;
  int64_t left = limit != nullptr && limit->is_integer() && limit->integer >= 0 ? limit->integer : INT64_MAX;
  for (size_t found; left-- > 0 && (found = text.find(*from->string, pos)) != std::string::npos; pos = found + from->string->size()) {
    absl::StrAppend(&out, absl::string_view(text).substr(pos, found - pos), *to->string);
    if (out.size() > kMaxTextBytes) return absl::ResourceExhaustedError("a text grows too long");
  }
  return Value::String(out + text.substr(pos));
}

absl::StatusOr<Value> Join(const List& items, const std::string& separator, const Value* attribute) {
  std::string out;
  bool first = true;
  for (const Value& item : items) {
    if (!first) out += separator;
    first = false;
    if (attribute != nullptr) {
      ASSIGN_OR_RETURN(const Value part, GetItem(item, *attribute));
      out += ToText(part);
    } else {
      out += ToText(item);
    }
    if (out.size() > kMaxTextBytes) return absl::ResourceExhaustedError("a text grows too long");
  }
  return Value::String(std::move(out));
}

bool AnyAffix(const Value* affixes, const std::string& text, bool (*has)(absl::string_view, absl::string_view)) {
  if (affixes->is_string()) return has(text, *affixes->string);
  return affixes->kind == Value::kList && std::any_of(affixes->list->begin(), affixes->list->end(), [&](const Value& affix) {
           return affix.is_string() && has(text, *affix.string);
         });
}

Value Items(const Value& dict) {
  List out;
  for (const auto& [key, value] : *dict.dict) out.push_back(Value::Of(List{Value::String(key), value}));
  return Value::Of(std::move(out));
}

constexpr absl::string_view kStringMethods[] = {"split", "strip", "lstrip", "rstrip", "startswith", "endswith", "replace",
                                                "upper", "lower", "title", "capitalize", "join"};
constexpr absl::string_view kDictMethods[] = {"items", "keys", "values", "get"};

// map, select, reject and their attr forms.
absl::StatusOr<Value> Selecting(const std::string& name, const List& items, const Arguments& arguments) {
  const bool by_attribute = absl::EndsWith(name, "attr");
  const bool wanted = absl::StartsWith(name, "select");
  size_t next = 0;
  const Value* attribute = nullptr;
  if (by_attribute) {
    attribute = arguments.Get(next++, "attribute");
    if (attribute == nullptr) return BadArguments(name);
  }
  std::string test;
  Arguments rest;
  if (const Value* const test_name = arguments.Get(next, "")) {
    if (!test_name->is_string()) return BadArguments(name);
    test = *test_name->string;
    rest.positional.assign(arguments.positional.begin() + next + 1, arguments.positional.end());
  }
  List out;
  for (const Value& item : items) {
    Value subject = item;
    if (attribute != nullptr) {
      ASSIGN_OR_RETURN(subject, GetItem(item, *attribute));
    }
    bool holds = IsTrue(subject);
    if (!test.empty()) {
      ASSIGN_OR_RETURN(holds, ApplyTest(test, subject, rest));
    }
    if (holds == wanted) out.push_back(item);
  }
  return Value::Of(std::move(out));
}

absl::StatusOr<Value> Map(const List& items, const Arguments& arguments) {
  const Value* const attribute = arguments.Get(SIZE_MAX, "attribute");
  List out;
  for (const Value& item : items) {
    if (attribute != nullptr) {
      ASSIGN_OR_RETURN(Value part, GetItem(item, *attribute));
      if (part.kind == Value::kUndefined && arguments.Get(SIZE_MAX, "default") != nullptr) part = *arguments.Get(SIZE_MAX, "default");
      out.push_back(std::move(part));
      continue;
    }
    if (arguments.positional.empty() || !arguments.positional[0].is_string()) return BadArguments("map");
    Arguments rest;
    rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
    const std::string& filter = *arguments.positional[0].string;
    if (filter == "map") return BadArguments("map");
    ASSIGN_OR_RETURN(Value changed, ApplyFilter(filter, item, rest));
    out.push_back(std::move(changed));
  }
  return Value::Of(std::move(out));
}

}  // namespace

const Value* Arguments::Get(size_t i, absl::string_view name) const {
  if (i < positional.size()) return &positional[i];
  for (const auto& [key, value] : named) {
    if (!name.empty() && key == name) return &value;
  }
  return nullptr;
}

bool HasMethod(const Value& self, absl::string_view name) {
  if (self.is_string()) return std::find(std::begin(kStringMethods), std::end(kStringMethods), name) != std::end(kStringMethods);
  if (self.kind == Value::kDict) return std::find(std::begin(kDictMethods), std::end(kDictMethods), name) != std::end(kDictMethods);
  return false;
}

absl::StatusOr<Value> CallMethod(const Value& self, const std::string& name, const Arguments& arguments) {
  const Value* const first = arguments.Get(0, "");
  if (self.kind == Value::kDict) {
    if (name == "items") return Items(self);
    if (name == "get") {
      if (first == nullptr) return BadArguments("get");
      const Value* const found = first->is_string() ? self.Find(*first->string) : nullptr;
      const Value* const otherwise = arguments.Get(1, "default");
      return found != nullptr ? *found : otherwise != nullptr ? *otherwise : Value::None();
    }
    List out;
    for (const auto& [key, value] : *self.dict) out.push_back(name == "keys" ? Value::String(key) : value);
    return Value::Of(std::move(out));
  }
  const std::string& text = *self.string;
  if (name == "split") {
    const Value* const limit = arguments.Get(1, "maxsplit");
    return Split(text, arguments.Get(0, "sep"), limit != nullptr && limit->is_integer() ? limit->integer : -1);
  }
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    if (first != nullptr && !first->is_string() && first->kind != Value::kNone) return BadArguments(name);
    const std::string* const set = first != nullptr && first->is_string() ? first->string.get() : nullptr;
    return Value::String(Strip(text, set, name != "rstrip", name != "lstrip"));
  }
  if (name == "startswith" || name == "endswith") {
    if (first == nullptr || arguments.positional.size() != 1) return BadArguments(name);
    return Value::Bool(AnyAffix(first, text, name == "startswith" ? absl::StartsWith : absl::EndsWith));
  }
  if (name == "replace") return Replace(text, arguments);
  if (name == "join") {
    if (first == nullptr) return BadArguments("join");
    ASSIGN_OR_RETURN(const List items, Iterate(*first));
    return Join(items, text, nullptr);
  }
  return ApplyFilter(name, self, {});  // upper, lower, title, capitalize
}

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& input, const Arguments& arguments) {
  const Value* const first = arguments.Get(0, "");
  if (name == "default" || name == "d") {
    const Value* const otherwise = arguments.Get(0, "default_value");
    const Value* const boolean = arguments.Get(1, "boolean");
    const bool use = input.kind == Value::kUndefined || (boolean != nullptr && IsTrue(*boolean) && !IsTrue(input));
    return !use ? input : otherwise != nullptr ? *otherwise : Value::String("");
  }
  if (name == "trim") {
    if (first != nullptr && !first->is_string()) return BadArguments("trim");
    return Value::String(Strip(ToText(input), first != nullptr ? first->string.get() : nullptr, true, true));
  }
  if (name == "string" || name == "safe") return Value::String(ToText(input));
  if (name == "upper") return Value::String(Upper(ToText(input)));
  if (name == "lower") return Value::String(Lower(ToText(input)));
  if (name == "title") return Value::String(Title(ToText(input)));
  if (name == "capitalize") return Value::String(Capitalize(ToText(input)));
  if (name == "replace") return Replace(ToText(input), arguments);
  if (name == "tojson") {
    const Value* const indent = arguments.Get(SIZE_MAX, "indent");
    if (input.kind == Value::kUndefined) return absl::InvalidArgumentError(absl::StrCat("tojson: \"", *input.string, "\" is undefined"));
    return Value::String(ToJsonText(input, indent != nullptr && indent->is_integer() ? static_cast<int>(std::clamp<int64_t>(indent->integer, 0, 16)) : -1));
  }
  if (name == "int") {
    int64_t value = 0;
    if (input.is_integer()) return Value::Int(input.integer);
    if (input.kind == Value::kFloat && std::abs(input.number) < 9e18) return Value::Int(static_cast<int64_t>(input.number));
    if (input.is_string() && absl::SimpleAtoi(*input.string, &value)) return Value::Int(value);
    return first != nullptr ? *first : Value::Int(0);
  }
  if (name == "items") {
    if (input.kind == Value::kUndefined) return Value::Of(List());
    if (input.kind != Value::kDict) return absl::InvalidArgumentError(absl::StrCat("items of ", KindName(input)));
    return Items(input);
  }
  static constexpr absl::string_view kOverItems[] = {"length", "count", "join", "first", "last", "list", "map", "select", "reject", "selectattr", "rejectattr", "reverse"};
  if (std::find(std::begin(kOverItems), std::end(kOverItems), name) == std::end(kOverItems)) {
    return absl::InvalidArgumentError(absl::StrCat("filter \"", name, "\" is not supported"));
  }
  ASSIGN_OR_RETURN(List items, Iterate(input));
  if (name == "length" || name == "count") return Value::Int(static_cast<int64_t>(items.size()));
  if (name == "list") return Value::Of(std::move(items));
  if (name == "first") return items.empty() ? Value::Undefined("first") : items.front();
  if (name == "last") return items.empty() ? Value::Undefined("last") : items.back();
  if (name == "reverse") {
    std::reverse(items.begin(), items.end());
    return input.is_string() ? Join(items, "", nullptr) : Value::Of(std::move(items));
  }
  if (name == "join") {
    const Value* const separator = arguments.Get(0, "d");
    return Join(items, separator != nullptr ? ToText(*separator) : "", arguments.Get(1, "attribute"));
  }
  if (name == "map") return Map(items, arguments);
  return Selecting(name, items, arguments);
}

absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& input, const Arguments& arguments) {
  if (name == "defined") return input.kind != Value::kUndefined;
  if (name == "undefined") return input.kind == Value::kUndefined;
  if (name == "none") return input.kind == Value::kNone;
  if (name == "string") return input.is_string();
  if (name == "boolean") return input.kind == Value::kBool;
  if (name == "integer") return input.kind == Value::kInt;
  if (name == "float") return input.kind == Value::kFloat;
  if (name == "number") return input.is_number();
  if (name == "mapping") return input.kind == Value::kDict;
  if (name == "sequence" || name == "iterable") {
    return input.kind == Value::kList || input.kind == Value::kDict || input.is_string() || input.kind == Value::kUndefined;
  }
  if (name == "callable") return input.kind == Value::kMethod;
  if (name == "true") return input.kind == Value::kBool && input.integer != 0;
  if (name == "false") return input.kind == Value::kBool && input.integer == 0;
  if ((name == "odd" || name == "even") && input.is_integer()) return (input.integer % 2 != 0) == (name == "odd");
  static constexpr std::pair<absl::string_view, absl::string_view> kComparisons[] = {
      {"equalto", "=="}, {"eq", "=="}, {"sameas", "=="}, {"ne", "!="}, {"in", "in"}, {"lt", "<"}, {"lessthan", "<"},
      {"le", "<="},      {"gt", ">"},  {"greaterthan", ">"}, {"ge", ">="}};
  for (const auto& [test, op] : kComparisons) {
    if (name != test) continue;
    if (arguments.positional.size() != 1) return BadArguments(name);
    return Compare(std::string(op), input, arguments.positional[0]);
  }
  return absl::InvalidArgumentError(absl::StrCat("test \"", name, "\" is not supported"));
}

}  // namespace grouper::jinja
