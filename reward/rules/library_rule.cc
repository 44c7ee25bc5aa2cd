// A rule in a shared library: grouper_rule_host loads it and speaks the protocol of process_rule.cc. The host lies
// beside the program's binary; GROUPER_RULE_HOST names another place.
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "reward/child_process.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

std::string FindHost() {
  if (const char* host = std::getenv("GROUPER_RULE_HOST")) return host;
  char self[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self);
  if (n > 0) {
    const std::string beside = JoinPath(Dirname(absl::string_view(self, static_cast<size_t>(n))), "grouper_rule_host");
    if (access(beside.c_str(), X_OK) == 0) return beside;
  }
  return GROUPER_RULE_HOST_PATH;  // the build folder
}

}  // namespace

RuleOr CreateLibraryRule(const v1::LibraryRule& config, absl::Duration timeout, const std::string& base_dir) {
  if (config.path().empty()) return absl::InvalidArgumentError("path: required");
  const std::string path = JoinPath(base_dir, config.path());
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode))
    return absl::NotFoundError(absl::StrCat("path: ", path, " is not a file"));
  // dlopen searches elsewhere for a name without a slash.
  const std::string function = config.function().empty() ? "grouper_rule" : config.function();
  v1::ProcessRule process;
  process.add_command(FindHost());
  process.add_command(path.find('/') == std::string::npos ? absl::StrCat("./", path) : path);
  process.add_command(function);
  process.set_processes(config.processes());
  process.set_memory_mb(config.memory_mb());
  // Does it load? Said now, with the loader's words, and not at the first completion.
  ChildProcess::Options options;
  options.command.assign(process.command().begin(), process.command().end());
  ASSIGN_OR_RETURN(const std::unique_ptr<ChildProcess> child, ChildProcess::Start(options));
  RETURN_IF_ERROR(Annotate(child->Ask(R"({"id":0})", absl::Seconds(30)).status(), absl::StrCat("path: ", path)));
  return CreateProcessRule(process, timeout, "");
}

}  // namespace grouper
