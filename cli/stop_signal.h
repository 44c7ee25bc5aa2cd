// SIGTERM and SIGINT: the first asks to stop (finish the step, save, exit 0), the second ends the process at once.
#pragma once

#include <atomic>

namespace grouper::cli {

// Installs the handlers (once) and returns the flag that the first signal sets.
std::atomic<bool>& StopFlag();

// Sleeps until the flag is set.
void WaitForStop();

}  // namespace grouper::cli
