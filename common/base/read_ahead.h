// Brings files into the page cache while someone else still has other things to do, and ahead of those who read them: one thread, in order, with
// large requests, so that the disk is never waited for piece by piece. It copies nothing (sendfile to /dev/null) and takes no memory of the
// process; what the kernel has already costs it 20 µs a megabyte.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace grouper {

// An error here is none: who reads the file will see it.
class ReadAhead {
 public:
  // Begins at once. Stays `distance` bytes ahead of what was told to Took.
  explicit ReadAhead(std::vector<std::string> paths, int64_t distance = int64_t{512} << 20);
  ~ReadAhead();  // stops
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // So many bytes more have been read by who wants them. Thread-safe.
  void Took(int64_t bytes) { taken_.fetch_add(bytes, std::memory_order_relaxed); }
  int64_t fetched() const { return fetched_.load(std::memory_order_relaxed); }  // bytes so far

 private:
  void Run();
  const std::vector<std::string> paths_;
  const int64_t distance_;
  std::atomic<int64_t> taken_ = 0, fetched_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace grouper
