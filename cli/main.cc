// The one binary. Exit status: 0 success, 1 the work failed, 2 wrong usage.
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "common/base/failpoint.h"

namespace grouper::cli {
namespace {

const std::vector<const Command*>& Commands() {
  static const std::vector<const Command*> commands = {&kRun,   &kEval,    &kGenerate, &kScore,
                                                       &kServe, &kConvert, &kInspect,  &kBench};
  return commands;
}

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "grouper: %s\n", std::string(status.message()).c_str());
  return code;
}

int Main(int argc, char** argv) {
#if defined(__x86_64__)
  // The build's baseline; without this line an older processor would stop with "illegal instruction".
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return Fail(absl::FailedPreconditionError("this processor lacks AVX2 or FMA (x86-64-v3), which grouper is built for"), 1);
  }
#endif
  // What writes hears of it: a pipe that nobody reads, a file beyond `ulimit -f`.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // a line that is printed is there, also in a file or a pipe, and when the process is killed
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || (words[0] == "help" && words.size() == 1)) {
    std::fputs(ProgramHelp(Commands()).c_str(), words.empty() ? stderr : stdout);
    return words.empty() ? 2 : 0;
  }
  if (words[0] == "--version") {
    std::puts("grouper " GROUPER_VERSION);
    return 0;
  }
  for (const Command* command : Commands()) {
    if (words[0] == "help" && command->name == words[1]) {
      std::fputs(CommandHelp(*command).c_str(), stdout);
      return 0;
    }
    if (command->name != words[0]) continue;
    const std::vector<std::string> rest(words.begin() + 1, words.end());
    for (const std::string& word : rest) {
      if (word == "--") break;
      if (word == "--help" || word == "-h") {
        std::fputs(CommandHelp(*command).c_str(), stdout);
        return 0;
      }
    }
    if (const absl::Status status = failpoint::InitFromEnvironment(); !status.ok()) return Fail(status, 2);
    const absl::StatusOr<Arguments> arguments = ParseArguments(*command, rest);
    if (!arguments.ok()) return Fail(arguments.status(), 2);
    const absl::Status status = command->run(*arguments);
    if (!status.ok()) return Fail(status, 1);
    // A full disk, or a pipe that nobody reads: what was to be printed is not there.
    if (std::fflush(stdout) != 0 || std::ferror(stdout)) return Fail(absl::DataLossError("cannot write to standard output"), 1);
    return 0;
  }
  const std::string& name = words[0] == "help" ? words[1] : words[0];
  return Fail(absl::InvalidArgumentError("unknown command \"" + name + "\" (see grouper --help)"), 2);
}

}  // namespace
}  // namespace grouper::cli

int main(int argc, char** argv) { return grouper::cli::Main(argc, argv); }
