// The whole model's gradients: against central differences in double, and bit for bit under every cut of the batch.
#include <cmath>

#include "gmock/gmock.h"
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

class Gradient : public testing::TestWithParam<std::string> {};

TEST_P(Gradient, EqualsCentralDifferences) {
  ThreadPool threads(2);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel(GetParam(), DType::kF64, stream);
  const std::vector<std::vector<int32_t>> sequences = {RandomTokens(9, 1), RandomTokens(66, 2)};
  Training training(*model);
  training.Step(stream, sequences, 0, {});
  training.gradients.Finish(stream);
  PhiloxStream random(MakePhiloxKey(3, "elements"));
  for (size_t i = 0; i < model->tensors().size(); ++i) {
    const LogicalTensor& tensor = model->tensors()[i];
    if (!tensor.trainable) continue;
    for (int sample = 0; sample < 3; ++sample) {
      int64_t element = static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(tensor.value.size())));
      if (tensor.name == "model.embed_tokens.weight") element = sequences[1][sample] * 24 + element % 24;
      const double original = GetElement(tensor.value, element), h = 1e-5;
      auto loss_at = [&](double value) {
        SetElement(tensor.value, element, value);
        model->WeightsChanged(stream);
        return training.Step(stream, sequences, 0, {}, /*backward=*/false);
      };
      const double difference = (loss_at(original + h) - loss_at(original - h)) / (2 * h);
      SetElement(tensor.value, element, original);
      const double gradient = GetElement(training.gradients.tensor(i), element);
      EXPECT_NEAR(gradient, difference, 1e-6 * (1 + std::abs(difference))) << tensor.name << "[" << element << "]";
    }
  }
}

TEST_P(Gradient, BitsDoNotDependOnCutThreadsOrRecomputation) {
  ThreadPool one(1);
  Stream stream(one);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const std::unique_ptr<Model> model = TinyModel(GetParam(), dtype, stream);
    std::vector<std::vector<int32_t>> sequences;
    for (int i = 0; i < 16; ++i) sequences.push_back(RandomTokens(3 + (i * 29) % 90, static_cast<uint64_t>(i)));
    auto run = [&](const std::vector<size_t>& cuts, int threads, bool recompute) {
      ThreadPool pool(threads);
      Stream local(pool);
      Training training(*model);
      size_t begin = 0;
      for (size_t n : cuts) {
        training.Step(
            local,
            {sequences.begin() + static_cast<ptrdiff_t>(begin), sequences.begin() + static_cast<ptrdiff_t>(begin + n)},
            static_cast<int>(begin), {.recompute = recompute});
        begin += n;
      }
      EXPECT_EQ(begin, sequences.size());
      training.gradients.Finish(local);
      return training.Bits();
    };
    const std::string whole = run({16}, 1, false);
    EXPECT_TRUE(run({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 1, false) == whole) << "16 x 1, " << Name(dtype);
    EXPECT_TRUE(run({3, 1, 7, 5}, 1, false) == whole) << "ragged, " << Name(dtype);
    EXPECT_TRUE(run({16}, 2, false) == whole) << "2 threads, " << Name(dtype);
    EXPECT_TRUE(run({5, 11}, 3, false) == whole) << "3 threads, " << Name(dtype);
    EXPECT_TRUE(run({16}, 2, true) == whole) << "recomputed, " << Name(dtype);
    EXPECT_TRUE(run({2, 6, 8}, 1, true) == whole) << "recomputed, ragged, " << Name(dtype);
  }
}

TEST_P(Gradient, ZeroForgetsWhatWasThere) {
  ThreadPool threads(2);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel(GetParam(), DType::kF32, stream);
  const std::vector<std::vector<int32_t>> first = {RandomTokens(40, 5), RandomTokens(7, 6)}, second = {RandomTokens(19, 7)};
  Training training(*model);
  const auto run = [&] {
    training.Step(stream, first, 0, {});
    training.Step(stream, second, 2, {});
    training.gradients.Finish(stream);
    return training.Bits();
  };
  const std::string want = run();  // onto the zeros that new gradients are
  training.Forget(stream);
  EXPECT_TRUE(run() == want);
  training.Forget(stream);
  training.gradients.Finish(stream);
  EXPECT_EQ(training.Bits(), std::string(want.size(), '\0')) << "no pass";
}

TEST_P(Gradient, GoOnAfterFinish) {
  ThreadPool threads(2);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel(GetParam(), DType::kF64, stream);
  const std::vector<std::vector<int32_t>> sequences = {RandomTokens(40, 5)};
  Training once(*model), twice(*model);
  once.Step(stream, sequences, 0, {});
  once.gradients.Finish(stream);
  for (int i = 0; i < 2; ++i) {
    twice.Step(stream, sequences, 0, {});
    twice.gradients.Finish(stream);
  }
  for (size_t i = 0; i < once.gradients.size(); ++i) {
    const Tensor a = once.gradients.tensor(i), b = twice.gradients.tensor(i);
    for (int64_t k = 0; k < a.size(); ++k) ASSERT_NEAR(2 * GetElement(a, k), GetElement(b, k), 1e-9 * (1 + std::abs(GetElement(b, k)))) << i << "[" << k << "]";
  }
}

TEST_P(Gradient, Bf16IsCloseToF32) {
  ThreadPool threads(2);
  Stream stream(threads);
  const std::unique_ptr<Model> narrow = TinyModel(GetParam(), DType::kBF16, stream),
                               wide = TinyModel(GetParam(), DType::kF32, stream);
  for (size_t i = 0; i < wide->tensors().size(); ++i) {
    for (int64_t k = 0; k < wide->tensors()[i].value.size(); ++k) {
      SetElement(wide->tensors()[i].value, k, GetElement(narrow->tensors()[i].value, k));
    }
  }
  wide->WeightsChanged(stream);
  Training a(*narrow), b(*wide);
  const std::vector<std::vector<int32_t>> sequences = {RandomTokens(40, 5)};
  a.Step(stream, sequences, 0, {});
  b.Step(stream, sequences, 0, {});
  a.gradients.Finish(stream);
  b.gradients.Finish(stream);
  if (a.expert_load != b.expert_load) GTEST_SKIP() << "rounding moved a token to another expert";
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    const Tensor x = a.gradients.tensor(i), y = b.gradients.tensor(i);
    for (int64_t k = 0; k < x.size(); ++k) {
      difference += std::pow(GetElement(x, k) - GetElement(y, k), 2);
      norm += std::pow(GetElement(y, k), 2);
    }
  }
  EXPECT_LT(std::sqrt(difference / norm), 0.05);
}

TEST_P(Gradient, MemoryIsPredicted) {
  ThreadPool threads(2);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel(GetParam(), DType::kF32, stream);
  std::vector<std::vector<int32_t>> sequences;
  for (int i = 0; i < 2; ++i) sequences.push_back(RandomTokens(256, static_cast<uint64_t>(i)));
  for (bool recompute : {false, true}) {
    Training training(*model);
    training.Step(stream, sequences, 0, {.recompute = recompute});
    const double predicted = static_cast<double>(model->SavedBytes(2 * 256, {.recompute = recompute}));
    // Logits and hidden states are the caller's; two of three rows are output. Everything fits the arena's first block.
    const double taken = static_cast<double>(training.arena_bytes) - 2.0 * 256 * (41 + 2 * 24) * 4 * 2 / 3;
    EXPECT_NEAR(taken / predicted, 1, 0.1) << "recompute " << recompute;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Gradient, testing::ValuesIn(TinyFamilies()),
                         [](const auto& info) { return info.param; });

TEST(ExpertLoad, CountsEveryTokenTopKTimes) {
  ThreadPool threads(1);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel("deepseek_v3", DType::kF32, stream);
  Training training(*model);
  training.Step(stream, {RandomTokens(20, 1), RandomTokens(13, 2)}, 0, {.recompute = true});
  ASSERT_EQ(training.expert_load.size(), 2u);
  for (int64_t load : training.expert_load[0]) EXPECT_EQ(load, 0) << "the first layer is dense";
  int64_t sum = 0;
  for (int64_t load : training.expert_load[1]) sum += load;
  EXPECT_EQ(sum, 33 * 3);
}

}  // namespace
}  // namespace grouper
