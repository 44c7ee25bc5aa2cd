// Against transformers: models that it saved (scripts/make_golden_models.py), logits, greedy tokens and gradients.
#include <cmath>

#include "common/base/file.h"
#include "common/checkpoint/model_tensors.h"
#include "common/checkpoint/safetensors.h"
#include "common/model/gguf_model.h"
#include "common/model/load_weights.h"
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

std::string GoldenPath(const std::string& family) {
  return absl::StrCat(GROUPER_SOURCE_DIR, "/tests/golden/models/", family);
}

class HuggingFace : public testing::TestWithParam<std::string> {
 protected:
  HuggingFace() : threads_(2), stream_(threads_) {}

  void SetUp() override {
    const std::string directory = GoldenPath(GetParam());
    absl::StatusOr<std::string> text = DefaultFileSystem().ReadFile(JoinPath(directory, "config.json"), 1 << 20);
    ASSERT_TRUE(text.ok()) << text.status();
    absl::StatusOr<ModelConfig> config = ModelConfig::FromHuggingFace(*json::Parse(*text), directory);
    ASSERT_TRUE(config.ok()) << config.status();
    model_ = *Model::Create(*config, DType::kF32);
    absl::StatusOr<std::shared_ptr<const ModelTensors>> tensors = ModelTensors::Open(directory);
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    const absl::Status loaded =
        LoadWeights(HuggingFaceTensors(*config, (*tensors)->tensors(), directory), directory, {}, *model_, threads_);
    ASSERT_TRUE(loaded.ok()) << loaded;
    model_->WeightsChanged(stream_);
    absl::StatusOr<std::shared_ptr<const SafetensorsFile>> golden =
        SafetensorsFile::Open(JoinPath(directory, "golden.safetensors"));
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *golden;
  }

  std::vector<float> Floats(const std::string& name) const {
    const StoredTensor* tensor = golden_->Find(name);
    std::vector<float> values(static_cast<size_t>(tensor->num_elements()));
    EXPECT_TRUE(DecodeToFloat(*tensor, 0, tensor->num_elements(), values.data()).ok());
    return values;
  }
  std::vector<int32_t> Ints(const std::string& name) const {
    const StoredTensor* tensor = golden_->Find(name);
    std::vector<int32_t> values(static_cast<size_t>(tensor->num_elements()));
    memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
    return values;
  }

  ThreadPool threads_;
  Stream stream_;
  std::unique_ptr<Model> model_;
  std::shared_ptr<const SafetensorsFile> golden_;
};

double LargestDifference(const std::vector<float>& expected, const float* actual) {
  double difference = 0, scale = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, std::abs(double{expected[i]} - actual[i]));
    scale = std::max(scale, std::abs(double{expected[i]}));
  }
  return scale > 0 ? difference / scale : difference;
}

TEST_P(HuggingFace, LogitsAgree) {
  Cache cache(*model_);
  const std::string logits = cache.Run(*model_, stream_, {{0, Ints("input_ids")}})[0];
  const std::vector<float> expected = Floats("logits");
  ASSERT_EQ(logits.size(), expected.size() * sizeof(float));
  EXPECT_LT(LargestDifference(expected, reinterpret_cast<const float*>(logits.data())), 1e-5);
}

TEST_P(HuggingFace, GreedyTokensAgree) {
  const std::vector<int32_t> input = Ints("input_ids");
  Cache cache(*model_);
  std::vector<int32_t> next(input.begin(), input.begin() + 8), tokens;
  for (int i = 0; i < 64; ++i) {
    const std::string logits = cache.Run(*model_, stream_, {{0, next}})[0];
    const float* last = reinterpret_cast<const float*>(logits.data() + logits.size()) - 40;
    next = {static_cast<int32_t>(std::max_element(last, last + 40) - last)};
    tokens.push_back(next[0]);
  }
  EXPECT_EQ(tokens, Ints("greedy"));
}

TEST_P(HuggingFace, GradientsAgree) {
  const std::vector<int32_t> input = Ints("input_ids");
  const int32_t t = static_cast<int32_t>(input.size());
  std::vector<int32_t> pages = {0, 1};
  Batch batch;
  batch.token_ids = input;
  batch.sequences = {{0, t, 0, pages.data()}};
  for (int32_t i = 0; i < t; ++i) batch.output_rows.push_back(i);
  KvPool kv(model_->config(), DType::kF32, 2);
  Arena arena;
  SavedActivations saved(arena);
  const Tensor hidden = arena.New(DType::kF32, {t, 32}), dhidden = arena.New(DType::kF32, {t, 32}),
               dlogits = arena.New(DType::kF32, {t, 40});
  model_->Forward(stream_, batch, kv, hidden, &saved);
  for (int64_t i = 0; i < dlogits.size(); ++i)
    dlogits.data<float>()[i] = static_cast<float>(std::cos(0.37 * static_cast<double>(i)));
  Gradients gradients(*model_);
  model_->LogitsBackward(stream_, dlogits, hidden, dhidden, gradients);
  model_->Backward(stream_, batch, kv, saved, dhidden, gradients);
  gradients.Finish(stream_);
  int compared = 0;
  for (const StoredTensor& tensor : golden_->tensors()) {
    if (tensor.name.rfind("gradient.", 0) != 0) continue;
    const int index = model_->FindTensor(tensor.name.substr(9));
    ASSERT_GE(index, 0) << tensor.name;
    EXPECT_LT(LargestDifference(Floats(tensor.name), gradients.tensor(static_cast<size_t>(index)).data<float>()), 1e-4)
        << tensor.name;
    ++compared;
  }
  EXPECT_GE(compared, 7);
}

TEST(GgufModel, GivesTheSameLogitsAsTheDirectory) {
  const std::string directory = GoldenPath("llama_bias");
  ThreadPool threads(1);
  Stream stream(threads);
  absl::StatusOr<std::shared_ptr<const GgufFile>> file = GgufFile::Open(directory + "/model.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  absl::StatusOr<ModelConfig> config = GgufConfig(**file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->attention_bias && config->o_bias && config->mlp_bias && !config->tie_word_embeddings);
  const std::unique_ptr<Model> model = *Model::Create(*config, DType::kF32);
  const absl::Status loaded = LoadWeights(GgufTensors(*config, **file), directory, {}, *model, threads);
  ASSERT_TRUE(loaded.ok()) << loaded;
  model->WeightsChanged(stream);

  const std::shared_ptr<const SafetensorsFile> golden = *SafetensorsFile::Open(directory + "/golden.safetensors");
  std::vector<int32_t> input(80);
  memcpy(input.data(), golden->Find("input_ids")->bytes.data(), 320);
  std::vector<float> expected(80 * 40);
  ASSERT_TRUE(DecodeToFloat(*golden->Find("logits"), 0, 80 * 40, expected.data()).ok());
  Cache cache(*model);
  const std::string logits = cache.Run(*model, stream, {{0, input}})[0];
  EXPECT_LT(LargestDifference(expected, reinterpret_cast<const float*>(logits.data())), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, HuggingFace,
                         testing::Values("llama", "llama_bias", "qwen2", "qwen2_yarn", "qwen3", "qwen3_moe",
                                         "deepseek_v2_lite", "deepseek_v2", "deepseek_v3", "deepseek_v3_no_q_lora"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace grouper
