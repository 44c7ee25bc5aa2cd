#include "common/base/process_memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace grouper {
namespace {

// "MemAvailable:   23632000 kB" of /proc/meminfo, in bytes; -1 when it is not there.
int64_t AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  int64_t kilobytes = 0;
  while (file >> name >> kilobytes) {
    std::getline(file, unit);
    if (name == "MemAvailable:") return kilobytes * 1024;
  }
  return -1;
}

// A file with one number, as control groups have them; `otherwise` for "max" and for no file.
int64_t NumberIn(const std::string& path, int64_t otherwise) {
  std::ifstream file(path);
  std::string text;
  int64_t number = 0;
  return file >> text && absl::SimpleAtoi(text, &number) ? number : otherwise;
}

}  // namespace

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0, resident = 0;
  return file >> pages >> resident ? resident * sysconf(_SC_PAGESIZE) : 0;
}

int64_t PeakResidentBytes() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return std::max<int64_t>(usage.ru_maxrss * 1024, ResidentBytes());
}

int64_t ControlGroupLimit(const std::string& memberships, const std::string& root) {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  int64_t limit = kNone;
  for (const absl::string_view line : absl::StrSplit(memberships, '\n')) {
    // "0::/user.slice/job_7" of version 2, "9:cpu,memory:/slurm/job_7" of version 1.
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const bool unified = parts[0] == "0" && parts[1].empty();
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    if (!unified && std::find(controllers.begin(), controllers.end(), "memory") == controllers.end()) continue;
    const std::string hierarchy = unified ? root : absl::StrCat(root, "/memory");
    // In a container the path may be the host's, which is not there; what is mounted is the container's own group then.
    for (absl::string_view path = parts[2];; path = path.substr(0, path.rfind('/'))) {
      while (absl::ConsumeSuffix(&path, "/")) {
      }
      limit = std::min(limit, NumberIn(absl::StrCat(hierarchy, path, unified ? "/memory.max" : "/memory.limit_in_bytes"), kNone));
      if (path.empty()) break;
    }
  }
  return limit;
}

int64_t MemoryLimitBytes() {
  const int64_t available = AvailableBytes(), physical = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  const int64_t machine = available < 0 ? physical : std::min(physical, ResidentBytes() + available);
  std::ifstream file("/proc/self/cgroup");
  const std::string memberships((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return std::min(machine, ControlGroupLimit(memberships, "/sys/fs/cgroup"));
}

}  // namespace grouper
