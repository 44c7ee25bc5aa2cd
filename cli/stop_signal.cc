#include "cli/stop_signal.h"

#include <signal.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace grouper::cli {
namespace {

std::atomic<bool> stop{false};

void OnSignal(int signal) {
  if (stop.exchange(true)) _exit(128 + signal);
}

}  // namespace

std::atomic<bool>& StopFlag() {
  static const bool installed = [] {
    struct sigaction action = {};
    action.sa_handler = OnSignal;
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);
    return true;
  }();
  static_cast<void>(installed);
  return stop;
}

void WaitForStop() {
  while (!StopFlag()) absl::SleepFor(absl::Milliseconds(100));
}

}  // namespace grouper::cli
