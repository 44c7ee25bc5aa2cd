// The model on a GPU: float gives the CPU's bits, forward and backward; bf16 is near the CPU's and the same every time.
#include <cmath>

#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

constexpr Device kGpu = {Device::Kind::kCuda, 0};

std::vector<std::string> AllFamilies() {
  std::vector<std::string> families = TinyFamilies();
  for (const std::string& family : TensorCoreFamilies()) families.push_back(family);
  return families;
}

class ModelOnCuda : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  }

  struct Result {
    double loss = 0;
    std::vector<std::vector<double>> gradients;  // by tensor
    std::string bits;
    std::vector<std::vector<int64_t>> load;
    std::string weights;
  };
  // Forward and backward of five sequences.
  static Result Train(const std::string& family, DType dtype, Device device, SaveOptions options = {}) {
    ThreadPool threads(2);
    Stream stream(threads, device);
    const std::unique_ptr<Model> model = TinyModel(family, dtype, stream);
    Training training(*model);
    training.Forget(stream);
    std::vector<std::vector<int32_t>> sequences;
    for (int length : {64, 16, 128, 48, 208}) sequences.push_back(RandomTokens(length, static_cast<uint64_t>(length)));
    Result result;
    result.loss = training.Step(stream, sequences, 0, options);
    result.load = training.expert_load;
    training.gradients.Finish(stream);
    stream.Synchronize();
    result.bits = training.Bits();
    for (size_t i = 0; i < training.gradients.size(); ++i) {
      const HostBytes bytes(training.gradients.tensor(i));
      std::vector<double>& values = result.gradients.emplace_back();
      for (int64_t k = 0; k < bytes.tensor().size(); ++k) values.push_back(GetElement(bytes.tensor(), k));
    }
    result.weights = Hex(WeightsDigest(*model, threads));
    return result;
  }
};

TEST_P(ModelOnCuda, FloatHasTheBitsOfTheCpu) {
  for (const bool recompute : {false, true}) {
    const Result cpu = Train(GetParam(), DType::kF32, {}, {.recompute = recompute}),
                 gpu = Train(GetParam(), DType::kF32, kGpu, {.recompute = recompute});
    EXPECT_EQ(gpu.weights, cpu.weights);
    EXPECT_EQ(gpu.loss, cpu.loss);
    EXPECT_EQ(gpu.load, cpu.load);
    EXPECT_TRUE(gpu.bits == cpu.bits) << "recompute " << recompute;
  }
}

TEST_P(ModelOnCuda, NarrowGradientsAreNearTheCpusAndTheSameEveryTime) {
  const Result cpu = Train(GetParam(), DType::kBF16, {}), gpu = Train(GetParam(), DType::kBF16, kGpu);
  EXPECT_TRUE(Train(GetParam(), DType::kBF16, kGpu).bits == gpu.bits) << "twice";
  EXPECT_TRUE(Train(GetParam(), DType::kBF16, kGpu, {.recompute = true}).bits == gpu.bits) << "recomputed";
  if (gpu.load != cpu.load) GTEST_SKIP() << "rounding moved a token to another expert";
  EXPECT_NEAR(gpu.loss, cpu.loss, 0.02 * std::abs(cpu.loss) + 2);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < cpu.gradients.size(); ++i) {
    for (size_t k = 0; k < cpu.gradients[i].size(); ++k) {
      difference += std::pow(gpu.gradients[i][k] - cpu.gradients[i][k], 2);
      norm += std::pow(cpu.gradients[i][k], 2);
    }
  }
  EXPECT_LT(std::sqrt(difference / norm), 0.05);
}

INSTANTIATE_TEST_SUITE_P(Families, ModelOnCuda, testing::ValuesIn(AllFamilies()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace grouper
