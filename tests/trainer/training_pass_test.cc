// The bits of losses and gradients must not depend on how a batch is cut, on threads, or on what is recomputed.
#include "trainer/training_pass.h"

#include <cmath>

#include "tests/common/model/model_world.h"
#include "trainer/evaluate.h"
#include "trainer/expert_load.h"

namespace grouper {
namespace {

std::vector<TrainSequence> MixedSequences() {
  std::vector<TrainSequence> sequences;
  const int64_t lengths[] = {1, 17, 64, 65, 3, 130, 40, 2, 63, 90, 7, 12, 66, 31, 5, 20};
  for (uint64_t i = 0; i < 16; ++i) {
    TrainSequence s;
    s.token_ids = RandomTokens(lengths[i], i);
    for (int64_t t = 0; t < lengths[i]; ++t) s.trained.push_back(t >= lengths[i] / 3 && t > 0);
    if (i % 4 == 1) s.filter.temperature = 0.7f;
    sequences.push_back(std::move(s));
  }
  return sequences;
}

struct Result {
  std::vector<float> logprobs;
  std::vector<std::vector<float>> gradients;
  ExpertCounts load;
  bool operator==(const Result&) const = default;
};

Result RunPass(const std::string& family, int num_threads, const TrainingPass::Options& options, Device device = {}, DType dtype = DType::kF32,
               const std::vector<TrainSequence>& sequences = MixedSequences()) {
  ThreadPool threads(num_threads);
  Stream stream(threads, device);
  const std::unique_ptr<Model> model = TinyModel(family, dtype, stream);
  Gradients gradients(*model);
  gradients.Zero(stream);
  ExpertLoad load(*model);
  load.Zero(stream);
  TrainingPass pass(*model, stream, options);
  Result result;
  pass.Run(
      sequences,
      [&](size_t, size_t, int64_t first, absl::Span<const float> logprobs, absl::Span<const float>, absl::Span<float> slopes) {
        EXPECT_EQ(static_cast<size_t>(first), result.logprobs.size());
        result.logprobs.insert(result.logprobs.end(), logprobs.begin(), logprobs.end());
        for (size_t i = 0; i < slopes.size(); ++i) slopes[i] = static_cast<float>(std::sin(static_cast<double>(first) + static_cast<double>(i)));
      },
      gradients, &load);
  result.load = load.Read(stream);
  gradients.Finish(stream);
  stream.Synchronize();
  for (size_t i = 0; i < gradients.size(); ++i) {
    const HostBytes g(gradients.tensor(i));
    result.gradients.emplace_back(g.tensor().data<float>(), g.tensor().data<float>() + g.tensor().size());
  }
  return result;
}

class TrainingPassTest : public ::testing::TestWithParam<std::string> {};

TEST_P(TrainingPassTest, OneBatchOfSixteenSixteenOfOneAndRaggedCutsGiveTheSameBits) {
  const Result whole = RunPass(GetParam(), 1, {1 << 20, false});
  for (int64_t tokens : {1, 70, 129, 300}) EXPECT_TRUE(RunPass(GetParam(), 1, {tokens, false}) == whole) << tokens << " tokens a micro-batch";
}

TEST_P(TrainingPassTest, ThreadsRecomputationAndLogitChunksGiveTheSameBits) {
  const Result one = RunPass(GetParam(), 1, {200, false});
  EXPECT_TRUE(RunPass(GetParam(), 2, {200, false}) == one) << "2 threads";
  EXPECT_TRUE(RunPass(GetParam(), 3, {1 << 20, false}) == one) << "3 threads";
  EXPECT_TRUE(RunPass(GetParam(), 2, {200, true}) == one) << "recomputed";
  EXPECT_TRUE(RunPass(GetParam(), 1, {200, false, 41 * 4 * 5}) == one) << "logits of 5 tokens at once";
}

// Memory that it has in turn with others, too little of it and enough.
TEST_P(TrainingPassTest, LentMemoryGivesTheSameBitsAndIsGivenBack) {
  const Result own = RunPass(GetParam(), 1, {200, false});
  for (const size_t bytes : {size_t{4} << 10, size_t{200} << 10, size_t{64} << 20}) {
    TurnMemory memory({}, bytes);
    EXPECT_TRUE(RunPass(GetParam(), 2, {200, false, 0, &memory}) == own) << bytes;
    int other;
    memory.Take(&other);
  }
}

TEST_P(TrainingPassTest, ScoreGivesTheLogprobsOfTheTrainingPass) {
  ThreadPool threads(2);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel(GetParam(), DType::kF32, stream);
  TrainingPass pass(*model, stream, {100, false});
  EXPECT_EQ(pass.Score(MixedSequences()), RunPass(GetParam(), 1, {1 << 20, false}).logprobs);
}

TEST(TrainingPassCudaTest, LogitChunksGiveTheSameBits) {
  if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  std::vector<TrainSequence> sequences(72);  // 4248 logits: three chunks of the smallest size
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].token_ids = RandomTokens(60, i);
    sequences[i].trained.assign(60, 1);
  }
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const auto run = [&](int64_t logits_bytes) { return RunPass("llama", 2, {1 << 20, false, logits_bytes}, {Device::Kind::kCuda, 0}, dtype, sequences); };
    EXPECT_TRUE(run(1) == run(0)) << Name(dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TrainingPassTest, ::testing::Values("llama", "qwen3_moe", "deepseek_v2", "deepseek_v3"),
                         [](const auto& info) { return info.param; });

TEST(TrainingPassTest, CutsOfWholeSequencesInOrder) {
  const std::vector<TrainSequence> sequences = MixedSequences();
  for (int64_t limit : {1, 64, 100, 1000}) {
    size_t next = 0;
    for (const auto& [begin, end] : TrainingPass::Cut(sequences, limit)) {
      EXPECT_EQ(begin, next);
      ASSERT_GT(end, begin);
      int64_t tokens = 0;
      for (size_t i = begin; i < end; ++i) tokens += static_cast<int64_t>(sequences[i].token_ids.size());
      EXPECT_TRUE(tokens <= limit || end == begin + 1) << "a longer sequence goes alone";
      next = end;
    }
    EXPECT_EQ(next, sequences.size());
  }
  EXPECT_TRUE(TrainingPass::Cut({}, 10).empty());
}

TEST(TrainingPassTest, ABatchWithNothingToTrainLeavesTheGradientsAlone) {
  ThreadPool threads(1);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel("llama", DType::kF32, stream);
  Gradients gradients(*model);
  gradients.Zero(stream);
  TrainSequence s;
  s.token_ids = RandomTokens(9, 1);
  s.trained.assign(9, 0);
  TrainingPass pass(*model, stream, {64, false});
  pass.Run({s}, [](size_t, size_t, int64_t, absl::Span<const float> logprobs, absl::Span<const float>, absl::Span<float>) {
    EXPECT_TRUE(logprobs.empty());
  }, gradients, nullptr);
  gradients.Finish(stream);
  for (size_t i = 0; i < gradients.size(); ++i) {
    for (int64_t j = 0; j < gradients.tensor(i).size(); ++j) ASSERT_EQ(GetElement(gradients.tensor(i), j), 0);
  }
}

TEST(WilsonIntervalTest, AgreesWithPublishedValues) {
  // R: prop.test(x, n, correct = FALSE)$conf.int
  struct Row {
    double right;
    int64_t n;
    double low, high;
  };
  for (const Row& row : {Row{0, 10, 0, 0.27753}, Row{10, 10, 0.72247, 1}, Row{5, 10, 0.23659, 0.76341}, Row{81, 263, 0.25527, 0.36619}}) {
    const Interval interval = WilsonInterval(row.right, row.n);
    EXPECT_NEAR(interval.low, row.low, 1e-4) << row.right << " of " << row.n;
    EXPECT_NEAR(interval.high, row.high, 1e-4) << row.right << " of " << row.n;
  }
  EXPECT_EQ(WilsonInterval(0, 0).low, 0);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

}  // namespace
}  // namespace grouper
