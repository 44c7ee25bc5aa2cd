// Commands and their options, described once: parsing, --help and the errors all come from these tables.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace grouper::cli {

struct Option {
  std::string name;         // without dashes
  std::string placeholder;  // "DIR"; empty: a switch without value
  std::string help;
  std::string default_text;  // shown in --help; the value when the option is absent
  bool repeated = false;
  bool required = false;
};

// What the user gave.
class Arguments {
 public:
  const std::string& positional(size_t i) const { return positional_[i]; }
  size_t num_positional() const { return positional_.size(); }
  bool Has(const std::string& option) const { return values_.count(option) > 0; }
  // The value, or the option's default.
  std::string Get(const std::string& option) const;
  std::vector<std::string> GetAll(const std::string& option) const;
  // Errors name the option and what was expected.
  absl::StatusOr<int64_t> GetInt(const std::string& option, int64_t min, int64_t max) const;
  absl::StatusOr<double> GetDouble(const std::string& option, double min, double max) const;

 private:
  friend absl::StatusOr<Arguments> ParseArguments(const struct Command& command, const std::vector<std::string>& words);
  const struct Command* command_ = nullptr;
  std::vector<std::string> positional_;
  std::map<std::string, std::vector<std::string>> values_;
};

struct Command {
  std::string name;
  std::string positional;  // "RECIPE"; empty: none. "[X]": optional
  std::string summary;     // one line
  std::string details;     // shown by `grouper NAME --help`
  std::vector<Option> options;
  absl::Status (*run)(const Arguments& arguments);
};

absl::StatusOr<Arguments> ParseArguments(const Command& command, const std::vector<std::string>& words);
std::string CommandHelp(const Command& command);
std::string ProgramHelp(const std::vector<const Command*>& commands);

}  // namespace grouper::cli
