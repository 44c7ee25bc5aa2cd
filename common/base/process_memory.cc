#include "common/base/process_memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/numbers.h"

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
int64_t NumberIn(const char* path, int64_t otherwise) {
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

int64_t MemoryLimitBytes() {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  const int64_t available = AvailableBytes(), physical = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  const int64_t machine = available < 0 ? physical : std::min(physical, ResidentBytes() + available);
  const int64_t group = std::min(NumberIn("/sys/fs/cgroup/memory.max", kNone), NumberIn("/sys/fs/cgroup/memory/memory.limit_in_bytes", kNone));
  return std::min(machine, group);
}

}  // namespace grouper
