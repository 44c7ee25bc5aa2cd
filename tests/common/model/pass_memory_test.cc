// What is counted without running a pass is what a pass takes.
#include "common/model/pass_memory.h"

#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

TEST(ArenaSizerTest, TakesTheBlocksThatAnArenaTakes) {
  Arena arena;
  ArenaSizer sizer({});
  const size_t sizes[] = {1, 63, 64, 65, 5 << 20, 4 << 20, 9 << 20, 100, 33 << 20, (2 << 20) + 1};
  for (size_t size : sizes) {
    arena.Allocate(size);
    sizer.Allocate(size);
    EXPECT_EQ(sizer.reserved(), arena.reserved_bytes()) << size;
  }
  arena.Reset();
  sizer.Release({});
  for (size_t size : {size_t{7} << 20, size_t{34} << 20}) {
    arena.Allocate(size);
    sizer.Allocate(size);
    EXPECT_EQ(sizer.reserved(), arena.reserved_bytes()) << size;
  }
}

TEST(ArenaTest, RenewKeepsOneBlock) {
  Arena arena;
  arena.Renew(3 << 20);
  const size_t least = arena.reserved_bytes();
  arena.Allocate(9 << 20);
  arena.Allocate(20 << 20);
  arena.Reset();
  arena.Renew(1 << 20);
  EXPECT_EQ(arena.reserved_bytes(), least);
  arena.Renew(40 << 20);
  EXPECT_EQ(arena.reserved_bytes(), size_t{40} << 20);
  arena.Renew(30 << 20);
  EXPECT_EQ(arena.reserved_bytes(), size_t{40} << 20) << "large enough";
}

// Llama-3-8B's heads.
ModelConfig WideConfig() {
  ModelConfig config;
  config.hidden_size = 4096;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 32;
  config.num_key_value_heads = 8;
  config.head_dim = 128;
  config.intermediate_size = 14336;
  config.vocab_size = 128257;
  config.max_position_embeddings = 131072;
  return config;
}

// A training pass attends from each sequence's beginning on, and so needs no memory for splits side by side.
TEST(PassMemoryOnDevice, ALongSequencesScratchIsLinearInItsLength) {
  const Device gpu = {Device::Kind::kCuda, 0};
  const auto scratch = [&](int64_t tokens) {
    const PassSize size = {.tokens = tokens, .rows = tokens, .sequences = tokens / 32, .longest = tokens, .logit_rows = 64, .whole = true};
    return static_cast<double>(TrainingBytes(WideConfig(), DType::kBF16, gpu, size, false).scratch);
  };
  EXPECT_LT(scratch(100000), 1e9);
  EXPECT_LT(scratch(65536), 2.01 * scratch(32768));
}

TEST(PassMemoryOnDevice, LogitsHaveAPitchThatTheCopyEngineReads) {
  const Device gpu = {Device::Kind::kCuda, 0};
  EXPECT_EQ(LogitsPitch(WideConfig(), gpu), 128264);
  EXPECT_EQ(LogitsPitch(WideConfig(), {}), 128257);
  const PassSize size = {.tokens = 64, .rows = 64, .sequences = 1, .longest = 64, .logit_rows = 64};
  EXPECT_EQ(TrainingBytes(WideConfig(), DType::kBF16, gpu, size, false).logits, 64u * 128264 * 2);
}

class PassMemoryTest : public ::testing::TestWithParam<std::string> {};

TEST_P(PassMemoryTest, CountsWhatATrainingPassTakes) {
  ThreadPool threads(1);
  Stream stream(threads);
  constexpr int64_t kTokens = 230;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const std::unique_ptr<Model> model = TinyModel(GetParam(), dtype, stream);
    const ModelConfig& config = model->config();
    for (bool recompute : {false, true}) {
      Arena arena;  // all of it fits one block
      KvPool kv(config, dtype, 4);
      Gradients gradients(*model);
      gradients.Zero(stream);
      Batch batch;
      const std::vector<int32_t> pages = {0, 1, 2, 3};
      batch.token_ids = RandomTokens(kTokens, 1);
      batch.sequences = {{0, static_cast<int32_t>(kTokens), 0, pages.data()}};
      for (int32_t row = 0; row < 100; ++row) batch.output_rows.push_back(row);
      const Tensor hidden = arena.New(dtype, {100, config.hidden_size});
      SavedActivations saved(arena, {recompute});
      model->Forward(stream, batch, kv, hidden, &saved);
      for (int i = 0; i < 3; ++i) arena.New(model->dtype(), {100});
      const Tensor logits = arena.New(model->dtype(), {60, config.vocab_size});
      const Tensor dhidden = arena.NewZero(dtype, {100, config.hidden_size});
      model->Backward(stream, batch, kv, saved, dhidden, gradients);
      const PassBytes counted = TrainingBytes(config, dtype, {}, {kTokens, 100, 1, kTokens, 60}, recompute);
      const double taken = static_cast<double>(arena.peak_bytes());
      EXPECT_NEAR(static_cast<double>(counted.arena), taken, 0.01 * taken) << Name(dtype) << (recompute ? " recomputed" : "");
      EXPECT_EQ(counted.logits, NumBytes(logits));
    }
  }
}

// TrainingPass lets a pass begin in memory that is lent, and takes this much beside it.
TEST_P(PassMemoryTest, WhatIsLostWhereABlockEndsIsAtMostTheLargestPiece) {
  ThreadPool threads(1);
  Stream stream(threads);
  constexpr int64_t kTokens = 230;
  const std::unique_ptr<Model> model = TinyModel(GetParam(), DType::kBF16, stream);
  const ModelConfig& config = model->config();
  const PassBytes counted = TrainingBytes(config, DType::kBF16, {}, {kTokens, 100, 1, kTokens, 60}, false);
  EXPECT_GE(counted.largest, counted.logits);
  EXPECT_LT(counted.largest, counted.arena / 2);
  Batch batch;
  const std::vector<int32_t> pages = {0, 1, 2, 3};
  batch.token_ids = RandomTokens(kTokens, 1);
  batch.sequences = {{0, static_cast<int32_t>(kTokens), 0, pages.data()}};
  for (int32_t row = 0; row < 100; ++row) batch.output_rows.push_back(row);
  for (int percent : {10, 33, 50, 60, 71, 80, 90, 97}) {
    Arena storage;
    const size_t lent = counted.arena * static_cast<size_t>(percent) / 100 / 64 * 64;
    Arena arena({}, nullptr, storage.Allocate(lent), lent);
    arena.Reserve(counted.arena - lent + counted.largest);  // else blocks of 8 MB follow
    KvPool kv(config, DType::kBF16, 4);
    Gradients gradients(*model);
    gradients.Zero(stream);
    const Tensor hidden = arena.New(DType::kBF16, {100, config.hidden_size});
    SavedActivations saved(arena, {false});
    model->Forward(stream, batch, kv, hidden, &saved);
    for (int i = 0; i < 3; ++i) arena.New(DType::kBF16, {100});
    arena.New(DType::kBF16, {60, config.vocab_size});
    const Tensor dhidden = arena.NewZero(DType::kBF16, {100, config.hidden_size});
    model->Backward(stream, batch, kv, saved, dhidden, gradients);
    EXPECT_LE(arena.peak_bytes(), counted.arena * 101 / 100 + counted.largest) << percent << "% lent";
  }
}

TEST_P(PassMemoryTest, CountsWhatAForwardPassTakes) {
  ThreadPool threads(1);
  constexpr int64_t kTokens = 200;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    Stream stream(threads), making(threads);
    const std::unique_ptr<Model> model = TinyModel(GetParam(), dtype, making);
    KvPool kv(model->config(), dtype, 4);
    const std::vector<int32_t> pages = {0, 1, 2, 3};
    Batch batch;
    batch.token_ids = RandomTokens(kTokens, 1);
    batch.sequences = {{0, static_cast<int32_t>(kTokens), 0, pages.data()}};
    batch.output_rows = {static_cast<int32_t>(kTokens) - 1};
    Arena arena;
    const Tensor hidden = arena.New(dtype, {1, model->config().hidden_size});
    model->Forward(stream, batch, kv, hidden, nullptr);
    const double counted = static_cast<double>(ForwardBytes(model->config(), dtype, {}, {kTokens, 1, 1, kTokens, 1}).scratch);
    // Packing of small operands comes on top.
    EXPECT_GE(static_cast<double>(stream.scratch.peak_bytes()), 0.99 * counted) << Name(dtype);
    EXPECT_LE(static_cast<double>(stream.scratch.peak_bytes()), 1.05 * counted + (2 << 20)) << Name(dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PassMemoryTest, ::testing::ValuesIn(TinyFamilies()));

}  // namespace
}  // namespace grouper
