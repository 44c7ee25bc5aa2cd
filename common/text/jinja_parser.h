// A template as a tree. See jinja.h for the subset.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/text/jinja_value.h"

namespace grouper::jinja {

struct Expression {
  enum Kind {
    kConstant,   // value
    kName,       // text
    kList,       // children
    kDict,       // children: key, value, key, value, ...
    kAttribute,  // children[0].text
    kItem,       // children[0][children[1]]
    kSlice,      // children[0][children[1]:children[2]:children[3]], null where absent
    kCall,       // children[0](children[1..]); the last keywords.size() of them are named
    kFilter,     // children[0] | text(children[1..])
    kTest,       // children[0] is text(children[1..])
    kNot, kNegative,
    kAnd, kOr, kIf,  // kIf: children: value, condition, otherwise (may be null)
    kBinary,         // children[0] text children[1]: + - * / // % ~ **
    kCompare,        // children[0] text children[1]: == != < <= > >= in "not in"
  };
  Kind kind;
  int line;
  std::string text;
  Value value;
  std::vector<std::unique_ptr<Expression>> children;
  std::vector<std::string> keywords;
};

struct Statement {
  enum Kind { kText, kPrint, kIf, kFor, kSet, kSetBlock, kMacro, kBreak, kContinue };
  Kind kind;
  int line;
  std::string text;                        // kText: what is output; kSet: the attribute of a namespace, or empty; kMacro: its name
  std::vector<std::string> targets;        // kFor, kSet: names; kMacro: parameters
  std::unique_ptr<Expression> expression;  // printed, condition, iterated, assigned; kMacro: list of the last parameters' defaults
  std::unique_ptr<Expression> filter;      // kFor: "if"
  std::vector<Statement> body;
  std::vector<Statement> otherwise;        // else, elif
};

absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view source);

}  // namespace grouper::jinja
