#include "common/base/read_ahead.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include <chrono>

namespace grouper {
namespace {
constexpr size_t kRequest = size_t{1} << 20;
constexpr std::chrono::milliseconds kPause{1};  // while far enough ahead
}  // namespace

ReadAhead::ReadAhead(std::vector<std::string> paths, int64_t distance)
    : paths_(std::move(paths)), distance_(distance), thread_([this] { Run(); }) {}

ReadAhead::~ReadAhead() {
  stop_ = true;
  thread_.join();
}

void ReadAhead::Run() {
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere < 0) return;
  for (const std::string& path : paths_) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) continue;
    while (!stop_) {
      if (fetched() - taken_.load(std::memory_order_relaxed) >= distance_) {
        std::this_thread::sleep_for(kPause);
        continue;
      }
      const ssize_t sent = sendfile(nowhere, fd, nullptr, kRequest);
      if (sent <= 0) break;
      fetched_.fetch_add(sent, std::memory_order_relaxed);
    }
    close(fd);
  }
  close(nowhere);
}

}  // namespace grouper
