// What a process and all its descendants use together, from /proc.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace grouper::code {

struct TreeUsage {
  double cpu_seconds = 0;       // of living ones and of those that were waited for
  uint64_t resident_bytes = 0;  // private memory: what is shared with files and other processes is left out
  int processes = 0;
};

// A process that ends meanwhile is left out. Bounded: at most 4096 processes are looked at.
TreeUsage UsageOfTree(pid_t root);

}  // namespace grouper::code
