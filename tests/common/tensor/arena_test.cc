#include "common/tensor/arena.h"

#include <cstring>

#include "gtest/gtest.h"

namespace grouper {
namespace {

TEST(ArenaTest, TensorsAreAlignedAndApart) {
  Arena arena;
  const Tensor a = arena.New(DType::kBF16, {3}), b = arena.New(DType::kF32, {5, 7}), c = arena.NewZero(DType::kF64, {9});
  for (const Tensor* t : {&a, &b, &c}) EXPECT_EQ(reinterpret_cast<uintptr_t>(t->raw()) % 64, 0u);
  std::memset(b.raw(), 0xff, 35 * 4);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(c.data<double>()[i], 0);
  EXPECT_GE(static_cast<char*>(b.raw()) - static_cast<char*>(a.raw()), 6);
}

TEST(ArenaTest, ReleaseGivesBackEverythingSinceTheMark) {
  Arena arena;
  arena.Allocate(100);
  const Arena::Mark mark = arena.mark();
  void* first = arena.Allocate(1000);
  arena.Allocate(50 << 20);
  arena.Release(mark);
  EXPECT_EQ(arena.Allocate(1000), first);
}

TEST(ArenaTest, AfterTheFirstRoundNothingIsTakenFromTheSystem) {
  Arena arena;
  size_t reserved = 0;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20; ++i) arena.Allocate(3 << 20);
    arena.Allocate(20 << 20);
    if (round == 0) reserved = arena.reserved_bytes();
    EXPECT_EQ(arena.reserved_bytes(), reserved);
    arena.Reset();
  }
  EXPECT_GE(arena.peak_bytes(), size_t{80} << 20);
}

TEST(ArenaTest, AnEmptyTensorHasAnAddress) {
  Arena arena;
  EXPECT_FALSE(arena.New(DType::kF32, {0, 4}).empty());
  EXPECT_EQ(arena.New(DType::kF32, {0, 4}).size(), 0);
}

TEST(ArenaDeathTest, MarksFromTheFutureAreRefused) {
  Arena arena;
  arena.Allocate(1000);
  const Arena::Mark late = arena.mark();
  arena.Reset();
  EXPECT_DEATH(arena.Release(late), "mark is not from before");
}

}  // namespace
}  // namespace grouper
