#include "common/base/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/check.h"

namespace grouper {
namespace {

// About 50 µs of pauses on current cores: longer than the gap between two ops of a forward pass, short enough that an
// idle pool costs nothing.
constexpr int kSpins = 2000;

thread_local bool inside_pool = false;

int CoresAllowed() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

struct ThreadPool::State {
  std::mutex turn;  // one loop at a time
  std::vector<std::thread> threads;

  // The current loop; written by the caller before `generation` advances, read by workers after they see it advance.
  absl::FunctionRef<void(int)>* work = nullptr;
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<int> pending{0};
  std::atomic<bool> stop{false};

  void WorkerLoop(int index) {
    inside_pool = true;
    uint32_t seen = 0;
    while (true) {
      for (int i = 0; i < kSpins && generation.load(std::memory_order_acquire) == seen; ++i) _mm_pause();
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      (*work)(index);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
    }
  }

  // Runs fn(thread index) on all threads, the caller being the last index.
  void RunOnAll(absl::FunctionRef<void(int)> fn) {
    std::lock_guard<std::mutex> lock(turn);
    work = &fn;
    pending.store(static_cast<int>(threads.size()), std::memory_order_relaxed);
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
    inside_pool = true;
    fn(static_cast<int>(threads.size()));
    inside_pool = false;
    for (int i = 0; i < kSpins && pending.load(std::memory_order_acquire) != 0; ++i) _mm_pause();
    for (int left = pending.load(std::memory_order_acquire); left != 0; left = pending.load(std::memory_order_acquire)) {
      pending.wait(left, std::memory_order_acquire);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  CHECK_GE(num_threads, 0);
  if (num_threads == 0) num_threads = CoresAllowed();
  for (int i = 0; i + 1 < num_threads; ++i) {
    state_->threads.emplace_back([state = state_.get(), i] { state->WorkerLoop(i); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true);
  state_->generation.fetch_add(1, std::memory_order_release);
  state_->generation.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::num_threads() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::ParallelFor(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> fn) {
  if (n <= 0) return;
  const int64_t parts = std::min<int64_t>(num_threads(), (n + grain - 1) / std::max<int64_t>(grain, 1));
  if (parts <= 1 || inside_pool) {
    fn(0, n);
    return;
  }
  auto part = [&](int index) {
    if (index >= parts) return;
    const int64_t begin = n * index / parts, end = n * (index + 1) / parts;
    if (begin < end) fn(begin, end);
  };
  // The caller has the highest index: let it take part 0 so that it always has work.
  const int callers = num_threads() - 1;
  auto shifted = [&](int index) { part(index == callers ? 0 : index + 1); };
  state_->RunOnAll(shifted);
}

void ThreadPool::ParallelForDynamic(int64_t n, absl::FunctionRef<void(int64_t)> fn) {
  if (n <= 0) return;
  if (n == 1 || num_threads() == 1 || inside_pool) {
    for (int64_t i = 0; i < n; ++i) fn(i);
    return;
  }
  std::atomic<int64_t> next{0};
  auto work = [&](int) {
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < n; i = next.fetch_add(1, std::memory_order_relaxed)) {
      fn(i);
    }
  };
  state_->RunOnAll(work);
}

}  // namespace grouper
