#include "reward/code/process_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace grouper::code {
namespace {

constexpr size_t kMaxProcesses = 4096;

std::string ReadSmall(const std::string& path) {
  std::string text;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char buffer[16384];
  ssize_t n;
  while (text.size() < (1 << 20) && (n = read(fd, buffer, sizeof buffer)) > 0) text.append(buffer, static_cast<size_t>(n));
  close(fd);
  return text;
}

uint64_t Number(absl::string_view text) {
  uint64_t value = 0;
  return absl::SimpleAtoi(text, &value) ? value : 0;
}

void AddChildren(const std::string& directory, std::vector<pid_t>& pids) {
  DIR* const tasks = opendir((directory + "/task").c_str());
  if (tasks == nullptr) return;
  while (const dirent* task = readdir(tasks)) {
    if (task->d_name[0] == '.') continue;
    const std::string children = ReadSmall(absl::StrCat(directory, "/task/", task->d_name, "/children"));
    for (const absl::string_view child : absl::StrSplit(children, ' ', absl::SkipEmpty())) {
      if (pids.size() < kMaxProcesses) pids.push_back(static_cast<pid_t>(Number(child)));
    }
  }
  closedir(tasks);
}

}  // namespace

TreeUsage UsageOfTree(pid_t root) {
  static const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  static const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  TreeUsage usage;
  std::vector<pid_t> pids = {root};
  for (size_t i = 0; i < pids.size(); ++i) {
    const std::string directory = absl::StrCat("/proc/", pids[i]);
    const std::string stat = ReadSmall(directory + "/stat");
    const size_t name_end = stat.rfind(')');  // the name may hold anything
    if (name_end == std::string::npos || name_end + 2 >= stat.size()) continue;
    const std::vector<absl::string_view> fields = absl::StrSplit(absl::string_view(stat).substr(name_end + 2), ' ');
    if (fields.size() < 15) continue;
    // utime, stime, cutime, cstime: fields 14 to 17 of proc(5), the first here being 3.
    for (int k = 11; k < 15; ++k) usage.cpu_seconds += static_cast<double>(Number(fields[static_cast<size_t>(k)])) / ticks;
    const std::vector<std::string> memory = absl::StrSplit(ReadSmall(directory + "/statm"), ' ');
    if (memory.size() >= 3) {
      const uint64_t resident = Number(memory[1]), shared = Number(memory[2]);
      usage.resident_bytes += (resident > shared ? resident - shared : 0) * page;
    }
    ++usage.processes;
    AddChildren(directory, pids);
  }
  return usage;
}

}  // namespace grouper::code
