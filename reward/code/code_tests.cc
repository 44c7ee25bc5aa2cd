#include "reward/code/code_tests.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace grouper::code {
namespace {

using json::Json;

// A text, or (as in APPS) the list of its lines.
absl::StatusOr<std::string> TextOf(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return json::Dump(value);
  if (!value.is_array()) return absl::InvalidArgumentError(absl::StrCat("is ", value.type_name(), ", expected a string"));
  std::vector<std::string> lines;
  for (const Json& line : value) {
    if (!line.is_string()) return absl::InvalidArgumentError("is a list of other things than lines");
    lines.push_back(line.get<std::string>());
  }
  return absl::StrJoin(lines, "\n");
}

absl::StatusOr<CodeTest> ReadTest(const Json& value) {
  CodeTest test;
  if (value.is_string()) {
    test.assertion = std::string(absl::StripAsciiWhitespace(value.get_ref<const std::string&>()));
    if (test.assertion.empty()) return absl::InvalidArgumentError("an empty assertion");
    return test;
  }
  if (!value.is_object()) return absl::InvalidArgumentError("expected an object with \"input\" and \"output\", or an assertion");
  if (json::Has(value, "input")) {
    ASSIGN_OR_RETURN(test.input, Annotate(TextOf(value["input"]), "\"input\""));
  }
  for (const char* name : {"output", "expected_output", "expected"}) {
    if (test.has_output || !json::Has(value, name)) continue;
    ASSIGN_OR_RETURN(test.output, Annotate(TextOf(value[name]), absl::StrCat("\"", name, "\"")));
    test.has_output = true;
  }
  if (!json::Has(value, "input") && !test.has_output) return absl::InvalidArgumentError("neither \"input\" nor \"output\"");
  return test;
}

absl::StatusOr<std::vector<CodeTest>> ReadValue(const Json& value) {
  std::vector<CodeTest> tests;
  const auto read = [&](size_t i, const Json& test) -> absl::Status {
    ASSIGN_OR_RETURN(CodeTest added, Annotate(ReadTest(test), absl::StrCat("test ", i)));
    if (!tests.empty() && tests[0].assertion.empty() != added.assertion.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("test ", i, ": assertions and stdin/stdout pairs are mixed"));
    }
    tests.push_back(std::move(added));
    return absl::OkStatus();
  };
  if (value.is_object()) {
    const auto inputs = value.find("inputs"), outputs = value.find("outputs");
    if (inputs == value.end() || outputs == value.end() || !inputs->is_array() || !outputs->is_array() ||
        inputs->size() != outputs->size() || inputs->size() > kMaxTests) {
      return absl::InvalidArgumentError("expected \"inputs\" and \"outputs\", two lists of one length");
    }
    for (size_t i = 0; i < inputs->size(); ++i) RETURN_IF_ERROR(read(i, {{"input", (*inputs)[i]}, {"output", (*outputs)[i]}}));
  } else if (value.is_array()) {
    if (value.size() > kMaxTests) return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxTests, " tests"));
    for (size_t i = 0; i < value.size(); ++i) RETURN_IF_ERROR(read(i, value[i]));
  } else {
    return absl::InvalidArgumentError(absl::StrCat("is ", value.type_name(), ", expected a list of tests"));
  }
  if (tests.empty()) return absl::InvalidArgumentError("no tests");
  return tests;
}

// The next line without the white space at its end; false at the end of the text.
bool NextLine(absl::string_view* text, absl::string_view* line) {
  if (text->empty()) return false;
  const size_t newline = text->find('\n');
  *line = absl::StripTrailingAsciiWhitespace(text->substr(0, newline));
  text->remove_prefix(newline == absl::string_view::npos ? text->size() : newline + 1);
  return true;
}

}  // namespace

absl::StatusOr<std::vector<CodeTest>> ReadTests(const Json& row, const std::string& column) {
  const auto it = row.find(column);
  if (it == row.end() || it->is_null()) return absl::InvalidArgumentError(absl::StrCat("the row has no column \"", column, "\""));
  const std::string where = absl::StrCat("column \"", column, "\"");
  if (!it->is_string()) return Annotate(ReadValue(*it), where);
  const std::string& text = it->get_ref<const std::string&>();
  const absl::StatusOr<Json> inner = json::Parse(text);
  if (inner.ok() && (inner->is_array() || inner->is_object())) return Annotate(ReadValue(*inner), where);
  return Annotate(ReadValue(Json::array({text})), where);  // one assertion, or a block of them
}

bool SameOutput(absl::string_view expected, absl::string_view output) {
  expected = absl::StripTrailingAsciiWhitespace(expected);
  output = absl::StripTrailingAsciiWhitespace(output);
  absl::string_view a, b;
  while (true) {
    const bool more_a = NextLine(&expected, &a), more_b = NextLine(&output, &b);
    if (more_a != more_b) return false;
    if (!more_a) return true;
    if (a != b) return false;
  }
}

Halves SplitAssertion(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  while (absl::ConsumeSuffix(&text, ";")) text = absl::StripTrailingAsciiWhitespace(text);
  absl::string_view inner = text;
  if (absl::ConsumePrefix(&inner, "assert")) {
    inner = absl::StripLeadingAsciiWhitespace(inner);
    if (!absl::ConsumePrefix(&inner, "(") || !absl::ConsumeSuffix(&inner, ")")) return {};
    text = absl::StripAsciiWhitespace(inner);
  }
  int depth = 0;
  size_t equal = absl::string_view::npos;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (c == '"' || c == '\'') {
      for (++i; i < text.size() && text[i] != c; ++i) i += text[i] == '\\';
      if (i >= text.size()) return {};
    } else if (c == '(' || c == '[' || c == '{') {
      ++depth;
    } else if (c == ')' || c == ']' || c == '}') {
      if (--depth < 0) return {};
    } else if (c == ';' || c == '#' || c == '\n' || c == '\\') {
      return {};
    } else if (depth == 0) {
      if (c == '=' && next == '=') {
        if (equal != absl::string_view::npos) return {};
        equal = i++;
      } else if ((c == '&' && next == '&') || (c == '|' && next == '|') || (c == '!' && next == '=') || c == '?' || c == ',') {
        return {};
      } else if ((c == '<' || c == '>') && next == '=') {
        return {};
      }
    }
  }
  if (depth != 0) return {};
  Halves halves;
  if (equal != absl::string_view::npos) {
    halves.left = std::string(absl::StripAsciiWhitespace(text.substr(0, equal)));
    halves.right = std::string(absl::StripAsciiWhitespace(text.substr(equal + 2)));
  } else {
    // A call, perhaps negated; a bare "<" or ">" may be a comparison or a template's bracket, so only calls pass.
    const bool negated = absl::ConsumePrefix(&text, "!");
    if (!absl::EndsWith(text, ")") || text.find_first_of("<>") != absl::string_view::npos) return {};
    halves.left = std::string(text);
    halves.right = negated ? "false" : "true";
  }
  halves.ok = !halves.left.empty() && !halves.right.empty();
  return halves;
}

}  // namespace grouper::code
