#include "common/model/kv_pool.h"

#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

TEST(KvPool, GivesTheLowestFreePageUntilThereIsNone) {
  KvPool pool(TinyConfig("llama"), DType::kF32, 3);
  EXPECT_EQ(pool.Allocate(), 0);
  EXPECT_EQ(pool.Allocate(), 1);
  EXPECT_EQ(pool.Allocate(), 2);
  EXPECT_EQ(pool.Allocate(), -1);
  pool.Release(2);
  pool.Release(0);
  EXPECT_EQ(pool.free_pages(), 2);
  EXPECT_EQ(pool.Allocate(), 0);
}

TEST(KvPool, APageIsFreeWithItsLastReference) {
  KvPool pool(TinyConfig("llama"), DType::kF32, 1);
  const int32_t page = pool.Allocate();
  pool.Retain(page);
  pool.Release(page);
  EXPECT_EQ(pool.free_pages(), 0);
  pool.Release(page);
  EXPECT_EQ(pool.free_pages(), 1);
  pool.Allocate();
  pool.ReleaseAll();
  EXPECT_EQ(pool.Allocate(), 0);
}

TEST(KvPool, MlaKeepsOnlyTheLatentAndTheRotaryKey) {
  const ModelConfig config = TinyConfig("deepseek_v3");
  EXPECT_EQ(KvPool::BytesPerPage(config, DType::kF32), 2 * size_t{64} * (12 + 4) * 4);
  const ModelConfig gqa = TinyConfig("llama");
  EXPECT_EQ(KvPool::BytesPerPage(gqa, DType::kBF16), 2 * size_t{64} * 2 * 2 * 6 * 2);
}

}  // namespace
}  // namespace grouper
