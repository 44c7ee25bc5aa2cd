#include "common/base/thread_pool.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

using ::testing::Each;

class Pools : public ::testing::TestWithParam<int> {};

TEST_P(Pools, EveryIndexRunsOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.num_threads(), GetParam());
  for (int64_t n : {0, 1, 2, 3, 7, 64, 1000}) {
    for (int64_t grain : {1, 3, 64, 5000}) {
      std::vector<int> seen(n, 0);
      pool.ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
        EXPECT_LT(begin, end);
        for (int64_t i = begin; i < end; ++i) ++seen[i];
      });
      EXPECT_THAT(seen, Each(1)) << n << " " << grain;
    }
    std::vector<int> seen(n, 0);
    pool.ParallelForDynamic(n, [&](int64_t i) { ++seen[i]; });
    EXPECT_THAT(seen, Each(1)) << n;
  }
}

TEST_P(Pools, ThereAreAtMostAsManyRangesAsThreads) {
  ThreadPool pool(GetParam());
  std::atomic<int> ranges{0};
  pool.ParallelFor(1000, 1, [&](int64_t, int64_t) { ++ranges; });
  EXPECT_EQ(ranges, GetParam());
  ranges = 0;
  pool.ParallelFor(10, 10, [&](int64_t, int64_t) { ++ranges; });
  EXPECT_EQ(ranges, 1);
}

TEST_P(Pools, ANestedLoopRunsInItsThread) {
  ThreadPool pool(GetParam());
  std::atomic<int> inner{0};
  pool.ParallelFor(GetParam(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const std::thread::id self = std::this_thread::get_id();
      pool.ParallelFor(100, 1, [&](int64_t b, int64_t e) {
        EXPECT_EQ(std::this_thread::get_id(), self);
        inner += static_cast<int>(e - b);
      });
    }
  });
  EXPECT_EQ(inner, 100 * GetParam());
}

TEST_P(Pools, CallsFromSeveralThreadsTakeTurns) {
  ThreadPool pool(GetParam());
  std::vector<std::thread> callers;
  std::atomic<int64_t> sum{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        pool.ParallelFor(50, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
        pool.ParallelForDynamic(5, [&](int64_t) { ++sum; });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * 200 * 55);
}

INSTANTIATE_TEST_SUITE_P(Threads, Pools, ::testing::Values(1, 2, 3, 8), ::testing::PrintToStringParamName());

TEST(ThreadPool, ZeroMeansOneACore) { EXPECT_GE(ThreadPool(0).num_threads(), 1); }

TEST(ThreadPool, SleepingThreadsWakeUpForTheNextLoop) {
  ThreadPool pool(3);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> count{0};
    pool.ParallelFor(30, 1, [&](int64_t begin, int64_t end) { count += static_cast<int>(end - begin); });
    EXPECT_EQ(count, 30);
  }
}

}  // namespace
}  // namespace grouper
