// A template's text cut into tokens, with Jinja2's white space rules for trim_blocks and lstrip_blocks, as transformers sets them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grouper::jinja {

struct Token {
  enum Kind { kText, kBlockBegin, kBlockEnd, kPrintBegin, kPrintEnd, kName, kString, kInteger, kFloat, kOperator, kEnd };
  Kind kind;
  std::string text;  // of a string: its value; of text: what is output
  int line = 1;
};

absl::StatusOr<std::vector<Token>> Lex(absl::string_view source);

// "line 3: ..." as InvalidArgument.
absl::Status ErrorAt(int line, absl::string_view message);

}  // namespace grouper::jinja
