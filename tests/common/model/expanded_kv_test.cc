#include "common/model/expanded_kv.h"

#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

TEST(ExpandedKv, SequencesLieOneAfterTheOtherWhateverTheirCachePages) {
  ThreadPool threads(1);
  Stream stream(threads);
  const ModelConfig config = TinyConfig("deepseek_v3");
  const std::vector<int32_t> cache = {7, 3, 5, 9};
  const std::vector<kernels::AttentionSequence> sequences = {
      {0, 65, 0, cache.data()}, {65, 0, 0, cache.data() + 2}, {65, 64, 0, cache.data() + 2}, {129, 1, 0, cache.data() + 3}};
  Arena arena;
  const ExpandedKv expanded(stream, sequences, config, DType::kF32, arena);
  std::vector<std::vector<int32_t>> tables;
  for (const kernels::AttentionSequence& s : expanded.batch().sequences()) tables.emplace_back(s.pages, s.pages + (s.q_len + 63) / 64);
  EXPECT_EQ(tables, (std::vector<std::vector<int32_t>>{{0, 1}, {}, {2}, {3}}));
  EXPECT_EQ(expanded.batch().sequences()[2].q_begin, 65);

  const size_t before = arena.peak_bytes();
  const kernels::PagedKv pages = expanded.New(arena);
  EXPECT_EQ(pages.layout.num_kv_heads, 4);
  EXPECT_EQ(pages.layout.key_dim, 10);
  EXPECT_EQ(pages.layout.value_dim, 10);
  EXPECT_FALSE(pages.layout.values_in_keys);
  EXPECT_EQ(arena.peak_bytes() - before, 4 * pages.layout.PageBytes());
  EXPECT_EQ(pages.page_stride, pages.layout.PageBytes());
}

TEST(ExpandedKvDeathTest, TakesWholeSequencesOnly) {
  ThreadPool threads(1);
  Stream stream(threads);
  Arena arena;
  const std::vector<int32_t> cache = {0};
  const std::vector<kernels::AttentionSequence> sequences = {{0, 3, 2, cache.data()}};
  EXPECT_DEATH(ExpandedKv(stream, sequences, TinyConfig("deepseek_v2"), DType::kF32, arena), "gradients are of whole sequences");
}

}  // namespace
}  // namespace grouper
