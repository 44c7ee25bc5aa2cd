#include "common/base/json.h"

#include <cmath>
#include <unordered_set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/quote.h"
#include "common/base/status.h"

namespace grouper::json {
namespace {

// Validates structure before any value is built, so that a hostile text costs no memory and no recursion.
struct Validator : nlohmann::json_sax<Json> {
  std::string error;
  std::vector<std::unordered_set<std::string>> keys;  // one per open object; arrays have an unused entry
  bool keeps_numbers = false;                         // of the outermost object, see ParseRow
  std::string column;                                 // its newest key
  std::vector<std::pair<std::string, std::string>> numbers;

  bool Fail(const std::string& message) {
    if (error.empty()) error = Printable(message);  // it quotes the text
    return false;
  }
  bool Open() {
    if (keys.size() >= kMaxDepth) return Fail(absl::StrCat("nested deeper than ", kMaxDepth));
    keys.emplace_back();
    return true;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) return Fail(absl::StrCat("number out of range: ", text));
    if (keeps_numbers && keys.size() == 1 && Json(value).dump() != text) numbers.emplace_back(column, text);
    return true;
  }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return Open(); }
  bool end_object() override {
    keys.pop_back();
    return true;
  }
  bool start_array(std::size_t) override { return Open(); }
  bool end_array() override {
    keys.pop_back();
    return true;
  }
  bool key(string_t& key) override {
    if (keeps_numbers && keys.size() == 1) column = key;
    return keys.back().insert(key).second || Fail(absl::StrCat("duplicate key \"", key, "\""));
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& e) override {
    const std::string what = e.what();
    const size_t start = what.find("parse error");
    return Fail(absl::StrCat("not JSON at byte ", position, ": ", (start == std::string::npos ? what : what.substr(start)).substr(0, 200)));
  }
};

size_t StringEnd(absl::string_view text, size_t i) {
  for (++i; i < text.size() && text[i] != '"'; ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) ++i;
  }
  return i + 1;
}

bool InNumber(char c) { return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'; }

}  // namespace

absl::Status CheckSizes(absl::string_view text) {
  const auto beyond = [](absl::string_view what, size_t at) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", what, " at byte ", at + 1));
  };
  // What the parsed text will take, in units of 16 bytes: an element (its list grows by doubling), an array, an object, an entry with its key,
  // a string.
  constexpr size_t kElement = 2, kArray = 2, kObject = 3, kEntry = 4, kString = 2;
  size_t units = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char c = text[i];
    if (c == '"') {
      i = StringEnd(text, i);
      if (i - begin > kMaxString) return beyond(absl::StrCat(kMaxString, " bytes in a string"), begin);
      units += kString;
    } else if ((c >= '0' && c <= '9') || c == '-') {
      while (i < text.size() && InNumber(text[i])) ++i;
      if (i - begin > kMaxNumber) return beyond(absl::StrCat(kMaxNumber, " characters in a number"), begin);
    } else {
      units += c == ',' ? kElement : c == '[' ? kArray : c == '{' ? kObject : c == ':' ? kEntry : 0;
      ++i;
    }
    if (units > kMaxMemory / 16) return beyond(absl::StrCat(kMaxMemory >> 20, " MiB of values, when parsed,"), begin);
  }
  return absl::OkStatus();
}

namespace {

// Where an object keeps the text of its number `column`. Sorts behind every key of a JSON text.
std::string NumberKey(const std::string& column) { return absl::StrCat("\xff", column); }
bool IsNumberKey(const std::string& key) { return !key.empty() && key[0] == '\xff'; }

template <typename J>
absl::StatusOr<J> ParseAs(absl::string_view text, bool keeps_numbers = false) {
  RETURN_IF_ERROR(CheckSizes(text));
  // nlohmann's lexer takes a NUL for the end of the text, whatever follows.
  if (const size_t nul = text.find('\0'); nul != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON at byte ", nul + 1, ": a NUL"));
  }
  Validator validator;
  validator.keeps_numbers = keeps_numbers;
  if (!Json::sax_parse(text.begin(), text.end(), &validator)) {
    return absl::InvalidArgumentError(validator.error.empty() ? "not JSON" : validator.error);
  }
  J value = J::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError("not JSON");
  if (value.is_object()) {
    for (auto& [column, number] : validator.numbers) value[NumberKey(column)] = std::move(number);
  }
  return value;
}

absl::StatusOr<const Json*> Find(const Json& object, const std::string& key, absl::string_view expected) {
  if (!object.is_object()) return absl::InvalidArgumentError(absl::StrCat("expected an object with key \"", key, "\""));
  auto it = object.find(key);
  if (it == object.end()) {
    return absl::InvalidArgumentError(absl::StrCat("missing key \"", key, "\" (expected ", expected, ")"));
  }
  return &*it;
}

absl::Status WrongType(const std::string& key, absl::string_view expected, const Json& value) {
  std::string shown = Dump(value);
  if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
  return absl::InvalidArgumentError(absl::StrCat("key \"", key, "\": expected ", expected, ", got ", shown));
}

}  // namespace

absl::StatusOr<Json> Parse(absl::string_view text) { return ParseAs<Json>(text); }
absl::StatusOr<OrderedJson> ParseOrdered(absl::string_view text) { return ParseAs<OrderedJson>(text); }
absl::StatusOr<Json> ParseRow(absl::string_view text) { return ParseAs<Json>(text, /*keeps_numbers=*/true); }

std::string NumberText(const Json& row, const std::string& column) {
  const auto text = row.find(NumberKey(column));
  return text == row.end() ? row.at(column).dump() : text->get<std::string>();
}

void CopyColumn(Json& row, const std::string& from, const std::string& to) {
  if (from == to) return;
  Json value = row.at(from);  // a copy: inserting may move the members
  row[to] = std::move(value);
  row.erase(NumberKey(to));
  const auto text = row.find(NumberKey(from));
  if (text == row.end()) return;
  Json kept = *text;
  row[NumberKey(to)] = std::move(kept);
}

absl::StatusOr<int64_t> GetInt(const Json& object, const std::string& key, int64_t min, int64_t max) {
  const std::string expected = absl::StrCat("an integer in ", min, "..", max);
  ASSIGN_OR_RETURN(const Json* value, Find(object, key, expected));
  if (!value->is_number_integer()) return WrongType(key, expected, *value);
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return WrongType(key, expected, *value);
  }
  const int64_t number = value->get<int64_t>();
  if (number < min || number > max) return WrongType(key, expected, *value);
  return number;
}

absl::StatusOr<double> GetNumber(const Json& object, const std::string& key) {
  ASSIGN_OR_RETURN(const Json* value, Find(object, key, "a number"));
  if (!value->is_number()) return WrongType(key, "a number", *value);
  return value->get<double>();
}

absl::StatusOr<bool> GetBool(const Json& object, const std::string& key) {
  ASSIGN_OR_RETURN(const Json* value, Find(object, key, "true or false"));
  if (!value->is_boolean()) return WrongType(key, "true or false", *value);
  return value->get<bool>();
}

absl::StatusOr<std::string> GetString(const Json& object, const std::string& key) {
  ASSIGN_OR_RETURN(const Json* value, Find(object, key, "a string"));
  if (!value->is_string()) return WrongType(key, "a string", *value);
  return value->get<std::string>();
}

bool Has(const Json& object, const std::string& key) {
  if (!object.is_object()) return false;
  auto it = object.find(key);
  return it != object.end() && !it->is_null();
}

std::string Dump(const Json& value) {
  const auto dump = [](const Json& part) { return part.dump(-1, ' ', false, Json::error_handler_t::replace); };
  if (!value.is_object() || value.empty() || !IsNumberKey(value.rbegin().key())) return dump(value);
  std::string out = "{";
  for (auto column = value.begin(); column != value.end() && !IsNumberKey(column.key()); ++column) {
    absl::StrAppend(&out, out.size() == 1 ? "" : ",", dump(column.key()), ":",
                    column->is_number() ? NumberText(value, column.key()) : dump(*column));
  }
  return out + "}";
}
std::string Dump(const OrderedJson& value) { return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

}  // namespace grouper::json
