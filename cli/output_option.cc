#include "cli/output_option.h"

#include <filesystem>

namespace grouper::cli {

absl::Status CheckOutput(const Arguments& arguments, const std::vector<std::string>& inputs) {
  if (!arguments.Has("output")) return absl::OkStatus();
  for (const std::string& input : inputs) {
    std::error_code error;  // set when one of them is not there
    if (std::filesystem::equivalent(arguments.Get("output"), arguments.Get(input), error) && !error) {
      return absl::InvalidArgumentError("--output " + arguments.Get("output") + ": is the file of --" + input + "; expected another");
    }
  }
  return absl::OkStatus();
}

}  // namespace grouper::cli
