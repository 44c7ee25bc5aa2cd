#include "cli/command.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"
#include "common/base/parse_double.h"
#include "common/base/status.h"

namespace grouper::cli {
namespace {

const Option* FindOption(const Command& command, const std::string& name) {
  for (const Option& option : command.options) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

absl::Status UsageError(const Command& command, const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat(message, " (see grouper ", command.name, " --help)"));
}

}  // namespace

std::string Arguments::Get(const std::string& option) const {
  auto it = values_.find(option);
  if (it != values_.end()) return it->second.back();
  const Option* found = FindOption(*command_, option);
  CHECK(found != nullptr) << option;
  return found->default_text;
}

std::vector<std::string> Arguments::GetAll(const std::string& option) const {
  auto it = values_.find(option);
  return it == values_.end() ? std::vector<std::string>() : it->second;
}

absl::StatusOr<int64_t> Arguments::GetInt(const std::string& option, int64_t min, int64_t max) const {
  const std::string text = Get(option);
  int64_t value;
  if (!absl::SimpleAtoi(text, &value) || value < min || value > max) {
    return UsageError(*command_, absl::StrCat("--", option, " ", text, ": expected an integer in ", min, "..", max));
  }
  return value;
}

absl::StatusOr<double> Arguments::GetDouble(const std::string& option, double min, double max) const {
  const std::string text = Get(option);
  double value;
  if (!ParseDouble(text, &value) || !(value >= min && value <= max)) {
    return UsageError(*command_, absl::StrCat("--", option, " ", text, ": expected a number in ", min, "..", max));
  }
  return value;
}

absl::StatusOr<Arguments> ParseArguments(const Command& command, const std::vector<std::string>& words) {
  Arguments arguments;
  arguments.command_ = &command;
  bool only_positional = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--" && !only_positional) {
      only_positional = true;
      continue;
    }
    if (only_positional || !absl::StartsWith(word, "--")) {
      arguments.positional_.push_back(word);
      continue;
    }
    const std::pair<std::string, std::string> parts = absl::StrSplit(word.substr(2), absl::MaxSplits('=', 1));
    const bool inline_value = absl::StrContains(word, "=");
    const Option* option = FindOption(command, parts.first);
    if (option == nullptr) return UsageError(command, absl::StrCat("unknown option --", parts.first));
    std::string value;
    if (option->placeholder.empty()) {
      if (inline_value) return UsageError(command, absl::StrCat("--", option->name, " takes no value"));
    } else if (inline_value) {
      value = parts.second;
    } else if (++i < words.size()) {
      value = words[i];
    } else {
      return UsageError(command, absl::StrCat("--", option->name, ": expected a value ", option->placeholder));
    }
    std::vector<std::string>& values = arguments.values_[option->name];
    if (!values.empty() && !option->repeated) return UsageError(command, absl::StrCat("--", option->name, " given twice"));
    values.push_back(value);
  }
  const bool optional = absl::StartsWith(command.positional, "[");
  const size_t wanted = command.positional.empty() ? 0 : 1;
  if (arguments.positional_.size() > wanted) {
    return UsageError(command, absl::StrCat("unexpected argument \"", arguments.positional_[wanted], "\""));
  }
  if (arguments.positional_.size() < wanted && !optional) return UsageError(command, absl::StrCat("expected ", command.positional));
  for (const Option& option : command.options) {
    if (option.required && !arguments.Has(option.name)) {
      return UsageError(command, absl::StrCat("expected --", option.name, " ", option.placeholder));
    }
  }
  return arguments;
}

std::string CommandHelp(const Command& command) {
  std::string text = absl::StrCat("grouper ", command.name, command.positional.empty() ? "" : " ", command.positional);
  for (const Option& option : command.options) {
    if (option.required) absl::StrAppend(&text, " --", option.name, " ", option.placeholder);
  }
  absl::StrAppend(&text, " [options]\n\n", command.summary, "\n");
  if (!command.details.empty()) absl::StrAppend(&text, "\n", command.details, "\n");
  if (!command.options.empty()) absl::StrAppend(&text, "\noptions:\n");
  for (const Option& option : command.options) {
    const std::string left = absl::StrCat("--", option.name, option.placeholder.empty() ? "" : " ", option.placeholder);
    absl::StrAppendFormat(&text, "  %-28s %s%s%s\n", left, option.help, option.repeated ? " (may be repeated)" : "",
                          option.default_text.empty() ? "" : absl::StrCat(" [", option.default_text, "]"));
  }
  return text;
}

std::string ProgramHelp(const std::vector<const Command*>& commands) {
  std::string text =
      "grouper: reinforcement-learning post-training for language models\n\n"
      "usage: grouper COMMAND ...        grouper COMMAND --help        grouper --version\n\n";
  for (const Command* command : commands) {
    absl::StrAppendFormat(&text, "  %-10s %-10s %s\n", command->name, command->positional, command->summary);
  }
  return text;
}

}  // namespace grouper::cli
