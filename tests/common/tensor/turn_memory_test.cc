#include "common/tensor/turn_memory.h"

#include "common/tensor/arena.h"
#include "common/tensor/graph.h"
#include "common/tensor/pinned_memory.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

TEST(TurnMemoryTest, OneUserAtATime) {
  TurnMemory memory({}, 1000);
  EXPECT_EQ(memory.size(), 1000u);
  int a, b;
  memory.Take(&a);
  memory.Take(&a);
  EXPECT_DEATH(memory.Take(&b), "still in use");
  memory.Give(&b);  // not b's
  EXPECT_DEATH(memory.Take(&b), "still in use");
  memory.Give(&a);
  memory.Give(&a);
  memory.Take(&b);
}

TEST(TurnMemoryTest, AnArenaFillsLentMemoryFirstAndTakesTheRest) {
  TurnMemory memory({}, 1 << 20);
  Arena arena({}, nullptr, memory.data(), memory.size());
  EXPECT_EQ(arena.Allocate(512 << 10), memory.data());
  EXPECT_EQ(arena.reserved_bytes(), 0u);
  char* const beyond = static_cast<char*>(arena.Allocate(768 << 10));
  EXPECT_TRUE(beyond < memory.data() || beyond >= memory.data() + memory.size());
  EXPECT_GE(arena.reserved_bytes(), size_t{768} << 10);
  arena.Reset();
  EXPECT_EQ(arena.Allocate(1), memory.data());
}

TEST(GraphTest, OnTheCpuItsOpsRunAtEachLaunch) {
  ThreadPool threads(1);
  Stream stream(threads);
  int runs = 0, input = 3, output = 0;
  Graph graph(stream, [&] {
    ++runs;
    output = 2 * input;
  });
  EXPECT_EQ(runs, 0);
  graph.Launch(stream);
  EXPECT_EQ(output, 6);
  input = 5;
  graph.Launch(stream);
  EXPECT_EQ(output, 10);
  StreamEvent event({});
  event.Record(stream);
  event.Wait();
}

TEST(PinnedMemoryTest, CopiesThereAndBack) {
  ThreadPool threads(1);
  Stream stream(threads);
  PinnedMemory memory({}, 4);
  char device[4] = {1, 2, 3, 4};
  memory.CopyFromDevice(stream, device, 4);
  EXPECT_EQ(memory.data()[3], 4);
  memory.data()[0] = 9;
  memory.CopyToDevice(stream, device, 2);
  EXPECT_EQ(device[0], 9);
  EXPECT_EQ(device[2], 3);
  EXPECT_DEATH(memory.CopyToDevice(stream, device, 5), "");
}

}  // namespace
}  // namespace grouper
