// The tests of a data row, and what counts as the same output.
//
//   "tests": [{"input": "2 3\n", "output": "5\n"}, ...]       programs that read stdin and write stdout
//   "tests": {"inputs": [...], "outputs": [...]}              the same, as APPS and TACO have it
//   "tests": ["assert add(2, 3) == 5", ...]                   assertions over what the program defines
//
// The column may also hold such JSON as a string.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/json.h"

namespace grouper::code {

inline constexpr size_t kMaxTests = 1000;

struct CodeTest {
  std::string input, output;  // of a program
  std::string assertion;      // else empty
  bool has_output = false;    // a checker may do without
};

// At least one test; all are assertions or none is. InvalidArgument naming the column and the test.
absl::StatusOr<std::vector<CodeTest>> ReadTests(const json::Json& row, const std::string& column);

// Line by line, white space at the ends of lines and of the text aside. Every line counts: neither a prefix nor the last line is enough.
bool SameOutput(absl::string_view expected, absl::string_view output);

// A C++ assertion in two halves that are evaluated apart: "assert(add(2, 3) == 5);" -> "add(2, 3)", "5". A call alone is "== true", with "!"
// before it "== false". Not ok when other operators join comparisons: then the halves cannot be told apart.
struct Halves {
  bool ok = false;
  std::string left, right;
};
Halves SplitAssertion(absl::string_view assertion);

}  // namespace grouper::code
