#include "common/base/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/check.h"

namespace grouper {
namespace {

// Longer than the gap between two ops of a forward pass, and about what waking a sleeping thread costs (30 to 100 µs were measured
// on a virtual machine, against 0.5 µs for a loop that finds its threads spinning); short enough that an idle pool costs nothing.
constexpr std::chrono::microseconds kSpinTime{150};

// Pauses until `done()`, for kSpinTime at most. Where threads outnumber cores they would spin in each other's way: `spins` is false.
template <typename Done>
void Spin(bool spins, Done done) {
  if (!spins) return;
  std::chrono::steady_clock::time_point end;
  for (int i = 0; !done(); ++i) {
    _mm_pause();
    if (i % 64 != 63) continue;
    const auto now = std::chrono::steady_clock::now();
    if (i == 63) end = now + kSpinTime;
    if (now >= end) return;
  }
}

thread_local bool inside_pool = false;

int CoresAllowed() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

// A thread that woke up on the core of another thread of its pool would share it for milliseconds, each waiting for the other:
// some schedulers place a woken thread beside its waker. So every thread publishes its core when a loop starts, and a worker that
// finds another there moves to a core on which none of them was seen. It stays free to be moved on.
class Placement {
 public:
  explicit Placement(int num_threads) : cores_(static_cast<size_t>(num_threads)) {
    for (std::atomic<int>& core : cores_) core.store(-1, std::memory_order_relaxed);
  }

  // The caller, whose index is the last, publishes only.
  void PublishCaller() { cores_.back().store(sched_getcpu(), std::memory_order_relaxed); }

  void PublishWorker(size_t index) {
    const int mine = sched_getcpu();
    cores_[index].store(mine, std::memory_order_relaxed);
    bool shared = cores_.back().load(std::memory_order_relaxed) == mine;
    for (size_t i = 0; i < index && !shared; ++i) shared = cores_[i].load(std::memory_order_relaxed) == mine;
    if (shared) MoveAway(index);
  }

 private:
  void MoveAway(size_t index) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (!CPU_ISSET(core, &allowed)) continue;
      bool taken = false;
      for (const std::atomic<int>& other : cores_) taken = taken || other.load(std::memory_order_relaxed) == core;
      if (taken) continue;
      cpu_set_t target;
      CPU_ZERO(&target);
      CPU_SET(core, &target);
      if (sched_setaffinity(0, sizeof target, &target) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
      cores_[index].store(core, std::memory_order_relaxed);
      return;
    }
  }

  std::vector<std::atomic<int>> cores_;
};

struct ThreadPool::State {
  explicit State(int num_threads) : spins(num_threads <= CoresAllowed()), placement(num_threads) {}

  std::mutex turn;  // one loop at a time
  std::vector<std::thread> threads;
  const bool spins;
  Placement placement;

  // The current loop; written by the caller before `generation` advances, read by workers after they see it advance.
  absl::FunctionRef<void(int)>* work = nullptr;
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<int> pending{0};
  std::atomic<bool> stop{false};

  void WorkerLoop(int index) {
    inside_pool = true;
    uint32_t seen = 0;
    while (true) {
      Spin(spins, [&] { return generation.load(std::memory_order_acquire) != seen; });
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      placement.PublishWorker(static_cast<size_t>(index));
      (*work)(index);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
    }
  }

  // Runs fn(thread index) on all threads, the caller being the last index.
  void RunOnAll(absl::FunctionRef<void(int)> fn) {
    std::lock_guard<std::mutex> lock(turn);
    work = &fn;
    placement.PublishCaller();
    pending.store(static_cast<int>(threads.size()), std::memory_order_relaxed);
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
    inside_pool = true;
    fn(static_cast<int>(threads.size()));
    inside_pool = false;
    Spin(spins, [&] { return pending.load(std::memory_order_acquire) == 0; });
    for (int left = pending.load(std::memory_order_acquire); left != 0; left = pending.load(std::memory_order_acquire)) {
      pending.wait(left, std::memory_order_acquire);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) {
  CHECK_GE(num_threads, 0);
  if (num_threads == 0) num_threads = CoresAllowed();
  state_ = std::make_unique<State>(num_threads);
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
