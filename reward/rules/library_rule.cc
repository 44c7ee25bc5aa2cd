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

// The rule's process, once the library has loaded there and exports the function: said now, with the loader's words, and not at the first
// completion.
absl::StatusOr<v1::ProcessRule> Load(const v1::LibraryRule& config, const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode))
    return absl::NotFoundError(absl::StrCat(path, " is not a file"));
  v1::ProcessRule process;
  process.add_command(FindHost());
  process.add_command(path.find('/') == std::string::npos ? absl::StrCat("./", path) : path);  // dlopen searches elsewhere for a bare name
  process.add_command(config.function().empty() ? "grouper_rule" : config.function());
  process.set_processes(config.processes());
  process.set_memory_mb(config.memory_mb());
  ChildProcess::Options options;
  options.command.assign(process.command().begin(), process.command().end());
  ASSIGN_OR_RETURN(const std::unique_ptr<ChildProcess> child, ChildProcess::Start(options));
  RETURN_IF_ERROR(Annotate(child->Ask(R"({"id":0})", absl::Seconds(30)).status(), path));
  return process;
}

}  // namespace

RuleOr CreateLibraryRule(const v1::LibraryRule& config, absl::Duration timeout, const std::string& base_dir,
                         const std::vector<std::string>& libraries) {
  if (!config.path().empty()) {
    ASSIGN_OR_RETURN(const v1::ProcessRule process, Annotate(Load(config, JoinPath(base_dir, config.path())), "path"));
    return CreateProcessRule(process, timeout, "");
  }
  if (libraries.empty()) return absl::InvalidArgumentError("path: required where no --rules-library is given");
  std::string complaints;
  for (const std::string& library : libraries) {
    const absl::StatusOr<v1::ProcessRule> process = Load(config, library);
    if (process.ok()) return CreateProcessRule(*process, timeout, "");
    absl::StrAppend(&complaints, complaints.empty() ? "" : "; ", process.status().message());
  }
  return absl::NotFoundError(absl::StrCat("path: none is given, and no --rules-library has this rule: ", complaints));
}

}  // namespace grouper
