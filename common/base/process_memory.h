// What this process holds of the machine's memory, and what the machine could give it.
#pragma once

#include <cstdint>

namespace grouper {

int64_t ResidentBytes();      // now (VmRSS)
int64_t PeakResidentBytes();  // at most, since the process began
// What the process may hold in all before the machine, or its control group, runs out: what it holds now and what is available.
int64_t MemoryLimitBytes();

}  // namespace grouper
