// `grouper bench train`, `rollout` and `step`: their check against the CPU, the work that they count, their lines and what they refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "cli/bench_check.h"
#include "cli/bench_work.h"
#include "common/base/file.h"
#include "tests/common/model/model_world.h"
#include "tests/testing/process.h"

namespace grouper::cli {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::GrouperBinary;
using testing::Outcome;
using testing::SourcePath;

ModelConfig ConfigOf(const std::string& path) {
  const absl::StatusOr<std::string> text = DefaultFileSystem().ReadFile(SourcePath(path), 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  return *ModelConfig::FromHuggingFace(*json::Parse(*text), path);
}

std::vector<ModelConfig> AllConfigs() {
  std::vector<ModelConfig> configs = {ConfigOf("recipes/quickstart/config.json"), ConfigOf("recipes/shapes/smollm2_135m.json")};
  for (const std::string& family : TinyFamilies()) configs.push_back(TinyConfig(family));
  for (const std::string& family : TensorCoreFamilies()) configs.push_back(TinyConfig(family));
  return configs;
}

TEST(BenchTest, ALineIsThereWhenItIsMeasured) {
  testing::Process bench({GrouperBinary(), "bench", "exactness", "--model", SourcePath("recipes/quickstart/config.json"), "--device", "cpu", "--length",
                          "64", "--tokens", "1000000000"});
  EXPECT_TRUE(bench.WaitForOutput("differ, largest difference 0,", 120));
  EXPECT_LT(bench.Output().size(), 4096) << "lines came when a buffer was full";
}

TEST(BenchReferenceTest, EveryFamilyIsNearDoubleOnTheCpu) {
  ThreadPool threads(2);
  for (const ModelConfig& config : AllConfigs()) {
    EXPECT_EQ(CheckAgainstCpu(config, DType::kF32, {}, threads, {}), absl::OkStatus()) << config.architecture;
    EXPECT_EQ(CheckAgainstCpu(config, DType::kF32, {}, threads, {.recompute = true, .ahead = EngineOptions::Ahead::kAlways}), absl::OkStatus())
        << config.architecture;
    // kNarrow leaves room for what rounding to bf16 does.
    EXPECT_EQ(CheckAgainstCpu(config, DType::kBF16, {}, threads, {}), absl::OkStatus()) << config.architecture;
  }
}

TEST(BenchReferenceTest, AGpuHasTheCpusFloatsAndIsNearItsBf16) {
  if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  ThreadPool threads(2);
  const Device gpu = {Device::Kind::kCuda, 0};
  for (const char* family : {"llama_64", "deepseek_576", "qwen3_moe", "deepseek_v3"}) {
    EXPECT_EQ(CheckAgainstCpu(TinyConfig(family), DType::kBF16, gpu, threads, {}), absl::OkStatus()) << family;
  }
  EXPECT_EQ(CheckAgainstCpu(TinyConfig("deepseek_576"), DType::kBF16, gpu, threads, {.gradients = DType::kBF16, .recompute = true}), absl::OkStatus());
}

TEST(BenchReferenceTest, CutDownKeepsHeadsRouterAndBothKindsOfLayer) {
  for (ModelConfig config : AllConfigs()) EXPECT_EQ(CutDown(config).Validate(), absl::OkStatus()) << config.architecture;
  const ModelConfig lite = CutDown(ConfigOf("recipes/shapes/deepseek_v2_lite.json"));
  EXPECT_EQ(lite.num_hidden_layers, 2);
  EXPECT_FALSE(lite.IsMoeLayer(0));
  EXPECT_TRUE(lite.IsMoeLayer(1));
  EXPECT_EQ(lite.num_attention_heads, 16);
  EXPECT_EQ(lite.mla->kv_lora_rank, 512);
  EXPECT_EQ(lite.moe->router.top_k, 6);
  EXPECT_EQ(lite.moe->router.num_experts, 16);
  // DeepSeek-V3's router: 8 of 256 experts, in 4 of 8 groups.
  ModelConfig large = TinyConfig("deepseek_v3");
  large.moe->router.num_experts = 256;
  large.moe->router.top_k = 8;
  large.moe->router.num_groups = 8;
  large.moe->router.topk_groups = 4;
  large.num_hidden_layers = 61;
  large.moe->first_k_dense_replace = 3;
  EXPECT_EQ(CutDown(large).Validate(), absl::OkStatus());
  EXPECT_EQ(CutDown(large).moe->router.num_experts, 16);
  // Qwen3-MoE, where every second layer has experts.
  ModelConfig sparse = TinyConfig("qwen3_moe");
  sparse.num_hidden_layers = 8;
  sparse.moe->decoder_sparse_step = 2;
  sparse.moe->mlp_only_layers = {};
  EXPECT_FALSE(CutDown(sparse).IsMoeLayer(0));
  EXPECT_TRUE(CutDown(sparse).IsMoeLayer(1));
}

TEST(BenchReferenceTest, CompareNamesWhatDiffers) {
  const PassResult want = {{-1, -2}, {{1, 2, 2}, {1e-9}}, {{}, {3, 4}}};
  const std::vector<LogicalTensor> tensors = {{"a.weight", Tensor()}, {"b.weight", Tensor()}};
  EXPECT_TRUE(Compare(want, want, tensors, {}).ok());
  struct Case {
    PassResult got;
    Tolerance allowed;
    std::string expected;  // empty: accepted
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Case cases[] = {
      {{{-1, -2.5}, want.gradients, want.expert_load}, {0.4, 1}, "log-probability of token 1 is -2.5, expected -2 within 0.4"},
      {{{-1, -2.25}, want.gradients, want.expert_load}, {0.4, 1}, ""},
      {{{nan, -2}, want.gradients, want.expert_load}, {0.4, 1}, "log-probability of token 0 is nan, expected -1"},
      {{{-1, std::nextafter(-2, 0)}, want.gradients, want.expert_load}, {}, "log-probability of token 1"},
      {{want.logprobs, {{1, 2.5, 2}, {1e-9}}, want.expert_load}, {0.1, 0.1}, "gradient of a.weight: element 1 is 2.5, expected 2"},
      {{want.logprobs, {{1, 2.25, 2}, {1e-9}}, want.expert_load}, {0.1, 0.1}, ""},
      {{want.logprobs, {{1, nan, 2}, {1e-9}}, want.expert_load}, {0.1, 0.1}, "gradient of a.weight: element 1 is nan"},
      {{want.logprobs, {{1, 2, 2}, {1e-3}}, want.expert_load}, {0.1, 0.1}, ""},  // little of the whole
      {{want.logprobs, {{1, 2, 2}, {1e-2}}, want.expert_load}, {0.1, 0.1}, "gradient of b.weight: element 0"},
      {{want.logprobs, {{1, 2, 2}, {2e-9}}, want.expert_load}, {}, "gradient of b.weight: element 0"},
      {{want.logprobs, want.gradients, {{}, {4, 3}}}, {0.1, 0.1}, "layer 1 sent 4 tokens to expert 0, expected 3"},
  };
  for (const Case& c : cases) {
    const absl::StatusOr<std::string> result = Compare(c.got, want, tensors, c.allowed);
    EXPECT_EQ(result.ok(), c.expected.empty()) << c.expected << result.status();
    EXPECT_THAT(result.status().message(), HasSubstr(c.expected));
  }
}

TEST(BenchWorkTest, CountsByHand) {
  // SmolLM2-135M: 134,515,008 parameters with the tied head's 49152 x 576; 30 layers of 9 heads, keys and values 64 wide.
  const ModelConfig smollm2 = ConfigOf("recipes/shapes/smollm2_135m.json");
  EXPECT_DOUBLE_EQ(TrainingFlops(smollm2, 2, 100, 99), 2 * (6.0 * 134515008 * 100 - 6.0 * 49152 * 576 + 6.0 * 30 * 9 * 128 * 5050));
  const absl::StatusOr<std::unique_ptr<Model>> model = Model::Create(smollm2, DType::kBF16, {}, WeightUse::kShapes);
  ASSERT_TRUE(model.ok()) << model.status();
  // A token's keys and values: 30 layers of 3 heads. Of a prompt of 128 tokens one page is shared: the last token is each sample's own.
  const double token = 30 * 3 * 128 * 2;
  EXPECT_DOUBLE_EQ(DecodeStepBytes(**model, 16, 1, 128, 200), 2.0 * 134515008 + token * 16 * 200);
  EXPECT_DOUBLE_EQ(DecodeStepBytes(**model, 16, 8, 128, 200), 2.0 * 134515008 + token * (16 * (200 - 64) + 2 * 64));
  // With experts a batch reads more of them the larger it is, at most all.
  const absl::StatusOr<std::unique_ptr<Model>> lite = Model::Create(ConfigOf("recipes/shapes/deepseek_v2_lite.json"), DType::kBF16, {}, WeightUse::kShapes);
  ASSERT_TRUE(lite.ok()) << lite.status();
  const double expert = 2.0 * 3 * 2048 * 1408, one = DecodeStepBytes(**lite, 1, 1, 1, 0), all = DecodeStepBytes(**lite, 1000, 1, 1, 0);
  EXPECT_NEAR(all - one, 26 * 58 * expert + 999 * 2048 * 2, 1e-6 * all);
}

class BenchCommandTest : public ::testing::Test {
 protected:
  static Outcome Bench(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& environment = {}) {
    std::vector<std::string> words = {GrouperBinary(), "bench"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    return testing::RunProgram(words, 120, environment);
  }
  const std::string model_ = SourcePath("recipes/quickstart/config.json");
};

TEST_F(BenchCommandTest, ChecksThenPrintsALineAShape) {
  const std::string check = "check of F32 on cpu against double on the CPU, 2 layers: 161 log-probabilities within 0.0001 .*\n"
                            "ceilings of cpu: copy [0-9.]+ GB/s, product of [0-9]+ x .* TFLOP/s\n";
  const std::string flops = "[0-9.e-]+ TFLOP/s .[0-9]+% of a product's.", bytes = "decoding alone [0-9]+ tokens/s, [0-9.e-]+ GB/s .[0-9]+% of a copy's.";
  const Outcome train = Bench({"train", "--model", model_, "--device", "cpu", "--batch", "2,3", "--length", "8"});
  EXPECT_EQ(train.exit_code, 0) << train.output;
  EXPECT_THAT(train.output, ContainsRegex(check + "train DeepseekV3ForCausalLM 2 x 8, .*: [0-9]+ tok/s, [0-9.]+ ms a step, " + flops + "\ntrain .* 3 x 8"));
  const Outcome rollout = Bench({"rollout", "--model", model_, "--device", "cpu", "--batch", "8", "--group", "4", "--new-tokens", "3"});
  EXPECT_EQ(rollout.exit_code, 0) << rollout.output;
  EXPECT_THAT(rollout.output, ContainsRegex(check + "rollout DeepseekV3ForCausalLM batch 8, 4 a prompt, 9 . 3, .*: [0-9]+ tok/s, [0-9.]+ ms; " + bytes + "; 0 of [0-9]+ passes ahead"));
  const Outcome step = Bench({"step", "--model", model_, "--device", "cpu", "--batch", "8", "--group", "4", "--new-tokens", "3", "--recompute"});
  EXPECT_EQ(step.exit_code, 0) << step.output;
  EXPECT_THAT(step.output, ContainsRegex(check + "step DeepseekV3ForCausalLM 2 x 4, 9 . 3, .*: [0-9.]+ ms a step .rollout [0-9.]+, train [0-9.]+., "
                                                 "log-probabilities of 192 tokens equal; train " + flops + "; " + bytes));
}

TEST_F(BenchCommandTest, SamplesThousandsOfSequences) {
  const Outcome outcome = Bench({"rollout", "--model", model_, "--device", "cpu", "--batch", "4096", "--group", "8", "--new-tokens", "2"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("batch 4096, 8 a prompt, 9 + 2"));
}

TEST_F(BenchCommandTest, AWrongResultIsAnErrorAndNothingIsTimed) {
  const struct {
    std::string fail, expected;
  } cases[] = {{"trainer.logits:1:nan", "log-probability of token 0 is nan, expected -"}, {"rollout.logits:3:nan", "the logits are not finite"}};
  for (const auto& c : cases) {
    const Outcome outcome = Bench({"rollout", "--model", model_, "--device", "cpu"}, {{"GROUPER_FAIL", c.fail}});
    EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("check of F32 on cpu"));
    EXPECT_THAT(outcome.output, HasSubstr(c.expected));
    EXPECT_THAT(outcome.output, Not(HasSubstr("tok/s")));
  }
}

TEST_F(BenchCommandTest, RefusesWhatABenchmarkDoesNotHave) {
  const struct {
    std::vector<std::string> arguments;
    std::string expected;
  } cases[] = {
      {{"rollout", "--recompute"}, "--recompute: bench rollout has no such option, only bench train, step"},
      {{"rollout", "--length", "5"}, "--length: bench rollout has no such option, only bench train, exactness"},
      {{"kernels", "--device", "cpu"}, "--device: bench kernels has no such option, only bench train, rollout, step, exactness"},
      {{"step", "--no-optimizer"}, "--no-optimizer: bench step has no such option, only bench train"},
      {{"train", "--filter", "x"}, "--filter: bench train has no such option, only bench kernels"},
      {{"step", "--model", model_, "--batch", "16,4", "--group", "8"}, "--batch 4: expected a multiple of --group 8"},
      {{"rollout", "--model", model_, "--prompt", "60"}, "--prompt and --new-tokens: 92 tokens, the model's context is 64"},
      {{"train", "--model", model_, "--device", "cpu", "--gradients", "bfloat16"}, "--gradients bfloat16: expected a GPU"},
      {{"train"}, "expected --model MODEL"},
      {{"train", "--model", model_, "--device", "cpu", "--batch", "1048576", "--length", "64", "--batch-tokens", "16777216"},
       "GB for it; mostly a micro-batch"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Bench(c.arguments);
    EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(c.expected));
  }
}

}  // namespace
}  // namespace grouper::cli
