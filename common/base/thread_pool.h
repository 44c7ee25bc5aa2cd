// A fixed set of threads for data-parallel loops that last microseconds to seconds.
//
// ParallelFor cuts [0, n) into at most num_threads() contiguous ranges; the caller runs one of them. Idle threads spin for
// some microseconds, then sleep. Which thread runs which range never changes a result: ops partition outputs, not sums.
// Thread-safe: calls from several threads take turns. A nested call from inside a range runs in that thread alone.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"

namespace grouper {

class ThreadPool {
 public:
  // num_threads counts the calling thread; 1 starts none. 0: one per core this process may use.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // fn(begin, end) over a partition of [0, n) whose ranges are at least `grain` long (the last may be shorter).
  // Returns when all are done. n == 0 calls nothing.
  void ParallelFor(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> fn);

  // fn(i) for each i in [0, n), handed out one by one in ascending order: for uneven items.
  void ParallelForDynamic(int64_t n, absl::FunctionRef<void(int64_t i)> fn);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace grouper
