#include "trainer/run_checkpoint.h"

#include <fstream>

#include "gmock/gmock.h"
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

using ::testing::HasSubstr;

RunState SomeState(int64_t step) {
  RunState s;
  s.step = step;
  s.stage_index = 1;
  s.stage = {.step = 3, .data_position = 77, .group_serial = 12, .skipped_in_row = 1};
  s.optimizer_steps = 9;
  s.weight_version = 5;
  s.num_tokens = int64_t{1} << 40;
  s.completions_digest = std::string(64, 'a');
  s.weights_digest = std::string(64, 'b');
  s.metrics_bytes = 1234;
  s.completions_bytes = 99;
  s.best_accuracy = 0.1 + 0.2;
  s.best_step = 4;
  s.numerics_id = "cpu";
  s.inputs_digest = std::string(64, 'c');
  return s;
}

class RunCheckpointTest : public ::testing::Test {
 protected:
  RunCheckpointTest() : threads_(1), stream_(threads_) {
    directory_ = ::testing::TempDir() + "/run_checkpoint_" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    EXPECT_TRUE(fs_.RemoveAll(directory_).ok());
  }
  ~RunCheckpointTest() override { fs_.RemoveAll(directory_).IgnoreError(); }

  absl::Status Save(const Model& model, const OptimizerState* optimizer, const Model* reference, int64_t step) {
    return SaveRunCheckpoint(fs_, directory_, {model, optimizer, reference, recipe_, SomeState(step)});
  }
  CheckpointReader Latest() {
    auto latest = FindLatestCheckpoint(fs_, directory_);
    EXPECT_TRUE(latest.ok() && latest->has_value()) << latest.status();
    return **latest;
  }

  // As the trainer keeps a reference.
  static std::unique_ptr<Model> ForwardModel(DType dtype) {
    return *Model::Create(TinyConfig("deepseek_v3"), dtype, {}, WeightUse::kForward);
  }

  FileSystem& fs_ = DefaultFileSystem();
  ThreadPool threads_;
  Stream stream_;
  std::string directory_;
  v1::Recipe recipe_;
};

TEST_F(RunCheckpointTest, WeightsMomentsReferenceAndStateComeBackBitForBit) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    ASSERT_TRUE(fs_.RemoveAll(directory_).ok());
    const std::unique_ptr<Model> model = TinyModel("deepseek_v3", dtype, stream_), reference = ForwardModel(dtype);
    OptimizerState optimizer(*model, stream_);
    double value = 0.001;
    for (const OptimizerState::Named& named : optimizer.tensors()) {
      for (int64_t i = 0; i < named.tensor.size(); ++i) SetElement(named.tensor, i, value += 1e-5);
    }
    reference->InitRandom(stream_, 8);
    ASSERT_TRUE(Save(*model, &optimizer, reference.get(), 6).ok());

    const std::unique_ptr<Model> other = TinyModel("deepseek_v3", dtype, stream_), other_reference = ForwardModel(dtype);
    for (const LogicalTensor& tensor : other->tensors()) SetElement(tensor.value, 0, 42);
    OptimizerState moments(*other, stream_);
    const CheckpointReader reader = Latest();
    ASSERT_TRUE(ReadWeights(reader, "model.safetensors", *other).ok());
    ASSERT_TRUE(ReadWeights(reader, "reference.safetensors", *other_reference).ok());
    ASSERT_TRUE(ReadOptimizer(reader, moments).ok());
    EXPECT_EQ(WeightsDigest(*other, threads_), WeightsDigest(*model, threads_));
    EXPECT_EQ(WeightsDigest(*other_reference, threads_), WeightsDigest(*reference, threads_));
    for (size_t t = 0; t < moments.tensors().size(); ++t) {
      const auto &a = moments.tensors()[t], &b = optimizer.tensors()[t];
      ASSERT_EQ(a.name, b.name);
      for (int64_t i = 0; i < a.tensor.size(); ++i) ASSERT_EQ(GetElement(a.tensor, i), GetElement(b.tensor, i)) << a.name;
    }
    const auto state = ReadRunState(reader);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(state->ToJson(), SomeState(6).ToJson());
    EXPECT_EQ(state->best_accuracy, 0.1 + 0.2);
  }
}

TEST_F(RunCheckpointTest, AHalfWrittenOneIsNeverRead) {
  const std::unique_ptr<Model> model = TinyModel("llama", DType::kF32, stream_);
  ASSERT_TRUE(Save(*model, nullptr, nullptr, 1).ok());
  ASSERT_TRUE(fs_.CreateDirectories(directory_ + "/step_2.tmp").ok());
  std::ofstream(directory_ + "/step_2.tmp/model.safetensors") << "half";
  EXPECT_EQ(ReadRunState(Latest())->step, 1);
  ASSERT_TRUE(Save(*model, nullptr, nullptr, 3).ok());
  EXPECT_FALSE(fs_.Exists(directory_ + "/step_2.tmp")) << "the next save clears it away";
}

TEST_F(RunCheckpointTest, PruningKeepsTheLastAndTheBest) {
  const std::unique_ptr<Model> model = TinyModel("llama", DType::kF32, stream_);
  for (int64_t step = 1; step <= 6; ++step) {
    ASSERT_TRUE(Save(*model, nullptr, nullptr, step).ok());
    ASSERT_TRUE(PruneCheckpoints(fs_, directory_, 2, {3}).ok());
  }
  EXPECT_EQ(*ListCheckpoints(fs_, directory_), (std::vector<int64_t>{3, 5, 6}));
}

TEST_F(RunCheckpointTest, AnotherModelsWeightsAreRefusedAndTheTensorNamed) {
  const std::unique_ptr<Model> llama = TinyModel("llama", DType::kF32, stream_), qwen = TinyModel("qwen3", DType::kF32, stream_),
                               narrow = TinyModel("llama", DType::kBF16, stream_);
  ASSERT_TRUE(Save(*llama, nullptr, nullptr, 1).ok());
  EXPECT_FALSE(ReadWeights(Latest(), "model.safetensors", *qwen).ok());
  const absl::Status status = ReadWeights(Latest(), "model.safetensors", *narrow);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.embed_tokens.weight"));
}

TEST(RunStateTest, AnUnfinishedRowComesBackAndIsNothingForAnEarlierProgram) {
  RunState state = SomeState(6);
  EXPECT_THAT(state.ToJson(), HasSubstr("\"format\": 1"));
  state.unfinished_row = "{\"step\":6,\"loss\":0.5}";
  EXPECT_THAT(state.ToJson(), HasSubstr("\"format\": 2"));
  const auto back = RunState::FromJson(state.ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->unfinished_row, state.unfinished_row);
  std::string without = SomeState(6).ToJson();
  without.replace(without.find("\"format\": 1"), 11, "\"format\": 2");
  EXPECT_THAT(std::string(RunState::FromJson(without).status().message()), HasSubstr("unfinished_row"));
}

TEST(RunStateTest, WhatIsMissingOrOutOfRangeIsNamed) {
  const std::string good = SomeState(6).ToJson();
  ASSERT_TRUE(RunState::FromJson(good).ok());
  for (const char* field : {"format", "step", "stage_index", "data_position", "group_serial", "best_accuracy", "numerics_id", "inputs_digest"}) {
    std::string bad = good;
    bad.replace(bad.find(std::string("\"") + field + "\""), 2, "\"x");
    const auto state = RunState::FromJson(bad);
    ASSERT_FALSE(state.ok()) << field;
    EXPECT_THAT(std::string(state.status().message()), HasSubstr(field));
  }
  std::string negative = good;
  negative.replace(negative.find("\"step\": 6"), 9, "\"step\": -1");
  EXPECT_FALSE(RunState::FromJson(negative).ok());
  EXPECT_FALSE(RunState::FromJson("").ok());
  EXPECT_FALSE(RunState::FromJson(good.substr(0, good.size() / 2)).ok());
}

}  // namespace
}  // namespace grouper
