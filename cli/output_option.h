// --output of `eval` and `score`.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/command.h"

namespace grouper::cli {

// InvalidArgument: --output is one of the files that the options `inputs` name, by whatever path; it would be emptied before it is read.
absl::Status CheckOutput(const Arguments& arguments, const std::vector<std::string>& inputs);

}  // namespace grouper::cli
