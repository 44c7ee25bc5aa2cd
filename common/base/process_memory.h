// What this process holds of the machine's memory, and what the machine could give it.
#pragma once

#include <cstdint>
#include <string>

namespace grouper {

int64_t ResidentBytes();      // now (VmRSS)
int64_t PeakResidentBytes();  // at most, since the process began
// What the process may hold in all before the machine, or one of its control groups (a container's, a batch job's), runs out: what it holds now and
// what is available.
int64_t MemoryLimitBytes();

// The smallest limit of the control groups that `memberships` names (the text of /proc/self/cgroup; versions 1 and 2) and of those around them,
// under `root` (/sys/fs/cgroup); the largest number where there is none.
int64_t ControlGroupLimit(const std::string& memberships, const std::string& root);

}  // namespace grouper
