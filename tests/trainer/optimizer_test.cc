#include "trainer/optimizer.h"

#include <cmath>
#include <limits>

#include "tests/common/model/model_world.h"
#include "trainer/learning_rate.h"

namespace grouper {
namespace {

v1::Optimizer Config() {
  v1::Optimizer config;
  config.set_lr(1e-2);
  config.set_beta1(0.9);
  config.set_beta2(0.95);
  config.set_eps(1e-8);
  config.set_weight_decay(0.1);
  config.set_max_grad_norm(1);
  return config;
}

// Deterministic gradients of about `size`.
void FillGradients(Gradients& gradients, double size) {
  PhiloxStream random(MakePhiloxKey(3, "gradients"));
  for (size_t i = 0; i < gradients.size(); ++i) {
    for (int64_t j = 0; j < gradients.tensor(i).size(); ++j) SetElement(gradients.tensor(i), j, size * random.NextNormal());
  }
}

std::vector<double> AllWeights(const Model& model) {
  std::vector<double> all;
  for (const LogicalTensor& tensor : model.tensors()) {
    for (int64_t i = 0; i < tensor.value.size(); ++i) all.push_back(GetElement(tensor.value, i));
  }
  return all;
}

TEST(OptimizerTest, ThreeStepsFollowAdamWInDoubleWithClippingAndDecayOnMatricesOnly) {
  ThreadPool threads(1);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel("deepseek_v3", DType::kF32, stream);
  const v1::Optimizer config = Config();
  Gradients gradients(*model);
  FillGradients(gradients, 0.5);

  std::vector<double> expected, matrix, gradient;
  double squares = 0;
  for (size_t i = 0; i < model->tensors().size(); ++i) {
    const LogicalTensor& tensor = model->tensors()[i];
    for (int64_t j = 0; j < tensor.value.size(); ++j) {
      expected.push_back(GetElement(tensor.value, j));
      matrix.push_back(tensor.value.rank() >= 2);
      gradient.push_back(tensor.trainable ? GetElement(gradients.tensor(i), j) : std::numeric_limits<double>::quiet_NaN());
      if (tensor.trainable) squares += gradient.back() * gradient.back();
    }
  }
  const double norm = std::sqrt(squares);
  ASSERT_GT(norm, 1) << "clipping must act";
  std::vector<double> m(expected.size()), v(expected.size());
  OptimizerState optimizer(*model, stream);
  for (int step = 1; step <= 3; ++step) {
    const OptimizerState::Outcome outcome = optimizer.Step(stream, config, 1e-2 / step, gradients);
    EXPECT_TRUE(outcome.applied);
    EXPECT_NEAR(outcome.grad_norm, norm, 1e-6 * norm);
    for (size_t i = 0; i < expected.size(); ++i) {
      if (std::isnan(gradient[i])) continue;
      const double g = gradient[i] / norm;
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      const double decay = matrix[i] ? 0.1 * expected[i] : 0;
      expected[i] -= 1e-2 / step * (m[i] / (1 - std::pow(0.9, step)) / (std::sqrt(v[i] / (1 - std::pow(0.95, step))) + 1e-8) + decay);
    }
  }
  const std::vector<double> weights = AllWeights(*model);
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(weights[i], expected[i], 2e-6) << i;
  EXPECT_EQ(optimizer.steps_applied(), 3);
}

TEST(OptimizerTest, WithoutClippingTheNormIsOnlyReported) {
  ThreadPool threads(1);
  Stream stream(threads);
  v1::Optimizer config = Config();
  config.set_max_grad_norm(0);
  config.set_weight_decay(0);
  // The first AdamW step does not depend on the gradient's scale, the second moment does.
  const std::unique_ptr<Model> model = TinyModel("llama", DType::kF32, stream);
  Gradients gradients(*model);
  FillGradients(gradients, 10);
  OptimizerState optimizer(*model, stream);
  EXPECT_GT(optimizer.Step(stream, config, 1e-3, gradients).grad_norm, 100);
  const Tensor v = optimizer.tensors()[1].tensor;
  const double g = GetElement(gradients.tensor(0), 0);
  EXPECT_NEAR(v.data<float>()[0], 0.05 * g * g, 1e-4 * g * g);
}

TEST(OptimizerTest, AGradientThatIsNotFiniteChangesNothing) {
  ThreadPool threads(1);
  Stream stream(threads);
  for (double poison : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const std::unique_ptr<Model> model = TinyModel("llama", DType::kF32, stream);
    const std::vector<double> before = AllWeights(*model);
    Gradients gradients(*model);
    FillGradients(gradients, 1);
    SetElement(gradients.tensor(2), 1, poison);
    OptimizerState optimizer(*model, stream);
    const OptimizerState::Outcome outcome = optimizer.Step(stream, Config(), 1e-2, gradients);
    EXPECT_FALSE(outcome.applied);
    EXPECT_EQ(outcome.not_finite, "the gradient of " + model->tensors()[2].name);
    EXPECT_EQ(optimizer.steps_applied(), 0);
    EXPECT_EQ(AllWeights(*model), before);
    for (const OptimizerState::Named& named : optimizer.tensors()) {
      for (int64_t i = 0; i < named.tensor.size(); ++i) ASSERT_EQ(GetElement(named.tensor, i), 0) << named.name;
    }
  }
}

TEST(OptimizerTest, Bf16WeightsHaveAFloatMasterThatKeepsSmallSteps) {
  ThreadPool threads(1);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel("llama", DType::kBF16, stream);
  const std::vector<double> before = AllWeights(*model);
  Gradients gradients(*model);
  FillGradients(gradients, 1);
  v1::Optimizer config = Config();
  config.set_weight_decay(0);
  OptimizerState optimizer(*model, stream);
  // Each step moves a weight by 1e-5: too little for bf16 to see at once, enough after 400.
  for (int i = 0; i < 400; ++i) ASSERT_TRUE(optimizer.Step(stream, config, 1e-5, gradients).applied);
  const std::vector<double> after = AllWeights(*model);
  int moved = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    ASSERT_NEAR(after[i], before[i], 1.01 * 4e-3 + std::abs(after[i]) / 256);  // bf16 has 8 bits
    moved += after[i] != before[i];
  }
  EXPECT_GT(moved, static_cast<int>(before.size() / 2));
  int masters = 0;
  for (const OptimizerState::Named& named : optimizer.tensors()) masters += named.name.rfind("master.", 0) == 0;
  EXPECT_EQ(masters, static_cast<int>(model->tensors().size()));
}

TEST(OptimizerTest, TheSameBitsForAnyNumberOfThreads) {
  std::vector<double> one;
  for (int count : {1, 2, 5}) {
    ThreadPool threads(count);
    Stream stream(threads);
    const std::unique_ptr<Model> model = TinyModel("qwen3_moe", DType::kF32, stream);
    Gradients gradients(*model);
    FillGradients(gradients, 1);
    OptimizerState optimizer(*model, stream);
    for (int i = 0; i < 3; ++i) optimizer.Step(stream, Config(), 1e-3, gradients);
    if (count == 1) one = AllWeights(*model);
    EXPECT_EQ(AllWeights(*model), one) << count << " threads";
  }
}

TEST(LearningRateTest, WarmsUpToThePeakAndThenFollowsTheSchedule) {
  v1::Optimizer config;
  config.set_lr(8);
  config.set_warmup_steps(4);
  config.set_min_lr_ratio(0.25);
  struct Row {
    const char* schedule;
    int64_t step;
    double lr;
  };
  const Row rows[] = {
      {"constant", 0, 2}, {"constant", 3, 8}, {"constant", 4, 8},  {"constant", 11, 8},
      {"linear", 0, 2},   {"linear", 3, 8},   {"linear", 4, 8},    {"linear", 8, 5},   {"linear", 12, 2},
      {"cosine", 1, 4},   {"cosine", 4, 8},   {"cosine", 8, 5},    {"cosine", 12, 2},  {"cosine", 6, 8 * (0.25 + 0.75 * (1 + std::sqrt(0.5)) / 2)},
      {"linear", 50, 2},
  };
  for (const Row& row : rows) {
    config.set_schedule(row.schedule);
    EXPECT_NEAR(LearningRate(config, row.step, 12), row.lr, 1e-12) << row.schedule << " at " << row.step;
  }
}

TEST(LearningRateTest, WithoutWarmUpTheFirstStepHasThePeak) {
  v1::Optimizer config;
  config.set_lr(3);
  for (const char* schedule : {"constant", "linear", "cosine"}) {
    config.set_schedule(schedule);
    EXPECT_EQ(LearningRate(config, 0, 10), 3) << schedule;
    EXPECT_EQ(LearningRate(config, 0, 1), 3) << schedule;
  }
}

}  // namespace
}  // namespace grouper
