// Initial weights, digests, and weights from stored tensors.
#include <cmath>

#include "common/model/load_weights.h"
#include "gmock/gmock.h"
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

using testing::HasSubstr;

class Weights : public testing::Test {
 protected:
  Weights() : threads_(2), stream_(threads_) {}
  std::unique_ptr<Model> Create(const std::string& family = "deepseek_v3", DType dtype = DType::kF32) {
    return *Model::Create(TinyConfig(family), dtype);
  }
  // The tensors of a model as stored F32 tensors.
  std::vector<StoredTensor> StoredOf(const Model& model) {
    std::vector<StoredTensor> result;
    for (const LogicalTensor& tensor : model.tensors()) {
      StoredTensor stored;
      stored.name = tensor.name;
      for (int d = 0; d < tensor.value.rank(); ++d) stored.shape.push_back(tensor.value.dim(d));
      stored.bytes = {static_cast<const char*>(tensor.value.raw()), static_cast<size_t>(tensor.value.size()) * 4};
      stored.file = "model.safetensors";
      result.push_back(stored);
    }
    return result;
  }
  absl::Status Load(const std::vector<StoredTensor>& stored, Model& model, Fp8Blocks blocks = {}) {
    return LoadWeights(HuggingFaceTensors(model.config(), stored, "dir"), "dir", blocks, model, threads_);
  }
  ThreadPool threads_;
  Stream stream_;
};

TEST_F(Weights, InitialOnesAreAFunctionOfTheSeed) {
  ThreadPool one(1);
  Stream single(one);
  auto a = Create(), b = Create(), c = Create();
  a->InitRandom(stream_, 1);
  b->InitRandom(single, 1);
  c->InitRandom(stream_, 2);
  EXPECT_EQ(WeightsDigest(*a, threads_), WeightsDigest(*b, one));
  EXPECT_NE(WeightsDigest(*a, threads_), WeightsDigest(*c, threads_));
}

// A model for passes alone keeps each matrix once, as the kernels read it: the same weights, the same logits.
TEST_F(Weights, AModelForForwardPassesHasTheSameBitsInHalfTheMemory) {
  for (const std::string& family : TinyFamilies()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
      const std::unique_ptr<Model> full = TinyModel(family, dtype, stream_);
      const std::unique_ptr<Model> forward = *Model::Create(TinyConfig(family), dtype, {}, WeightUse::kForward);
      for (size_t i = 0; i < full->tensors().size(); ++i) {
        const LogicalTensor &from = full->tensors()[i], &to = forward->tensors()[i];
        EXPECT_EQ(from.name, to.name);
        EXPECT_EQ(from.value.ShapeString(), to.value.ShapeString());
        const size_t row = NumBytes(from.value) / static_cast<size_t>(from.value.dim(0));
        const int64_t rows = from.value.dim(0), cut = rows / 3;
        const char* bytes = static_cast<const char*>(from.value.raw());
        forward->WriteRows(i, cut, rows, bytes + static_cast<size_t>(cut) * row);
        forward->WriteRows(i, 0, cut, bytes);
        std::string back(NumBytes(from.value), '\0');
        forward->ReadRows(i, 0, 1, back.data());
        forward->ReadRows(i, 1, rows, back.data() + row);
        EXPECT_EQ(back, absl::string_view(bytes, back.size())) << from.name;
      }
      forward->WeightsChanged(stream_);
      EXPECT_EQ(WeightsDigest(*forward, threads_), WeightsDigest(*full, threads_)) << family;
      EXPECT_EQ(forward->PackedBytes(), 0u);
      EXPECT_GT(full->PackedBytes(), 0u);
      const std::vector<int32_t> tokens = RandomTokens(70, 3);
      Cache a(*full), b(*forward);
      EXPECT_EQ(a.Run(*full, stream_, {{0, tokens}}), b.Run(*forward, stream_, {{0, tokens}})) << family << " " << Name(dtype);
    }
  }
}

TEST_F(Weights, RandomOnesAreTheSameHoweverTheyAreKept) {
  const std::unique_ptr<Model> full = Create("llama"), forward = *Model::Create(TinyConfig("llama"), DType::kF32, {}, WeightUse::kForward);
  full->InitRandom(stream_, 5);
  forward->InitRandom(stream_, 5);
  EXPECT_EQ(WeightsDigest(*forward, threads_), WeightsDigest(*full, threads_));
}

TEST_F(Weights, ShapesAloneTakeNoMemory) {
  ModelConfig config = TinyConfig("qwen2");
  config.vocab_size = 1 << 24;
  config.hidden_size = 1 << 16;  // four terabytes
  const absl::StatusOr<std::unique_ptr<Model>> model = Model::Create(config, DType::kF32, {}, WeightUse::kShapes);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->tensors()[static_cast<size_t>((*model)->FindTensor("lm_head.weight"))].value.empty());
  EXPECT_EQ((*model)->tensors()[static_cast<size_t>((*model)->FindTensor("lm_head.weight"))].value.dim(0), 1 << 24);
  EXPECT_EQ((*model)->WeightBytes(), 0u);
}

TEST_F(Weights, AValueBeyondBfloat16IsAnErrorThatNamesTheTensor) {
  const std::unique_ptr<Model> from = Create(), wide = Create(), narrow = Create("deepseek_v3", DType::kBF16);
  from->InitRandom(stream_, 3);
  from->tensors()[3].value.data<float>()[1] = 3.4e38f;  // rounds to infinity
  EXPECT_TRUE(Load(StoredOf(*from), *wide).ok());
  EXPECT_THAT(std::string(Load(StoredOf(*from), *narrow).message()), testing::AllOf(HasSubstr(from->tensors()[3].name), HasSubstr("bfloat16")));
}

TEST_F(Weights, RowsInFilesAndInAModelHaveOneDigest) {
  const std::unique_ptr<Model> from = Create();
  from->InitRandom(stream_, 3);
  const std::vector<StoredTensor> stored = StoredOf(*from);
  const absl::StatusOr<std::unique_ptr<StoredWeights>> weights =
      StoredWeights::Create(from->config(), HuggingFaceTensors(from->config(), stored, "dir"), "dir", {}, nullptr, {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  const absl::StatusOr<Sha256Digest> digest = FloatWeightsDigest(**weights, threads_);
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, WeightsDigest(*from, threads_));
  EXPECT_EQ(*FloatWeightsDigest(ModelRows(*from), threads_), *digest);
}

TEST_F(Weights, RowsHaveTheDigestOfTheModelTheyWouldMake) {
  const std::unique_ptr<Model> from = Create();
  from->InitRandom(stream_, 3);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::unique_ptr<Model> model = Create("deepseek_v3", dtype);
    ASSERT_TRUE(Load(StoredOf(*from), *model).ok());
    const absl::StatusOr<Sha256Digest> digest = WeightsDigestLike(*model, ModelRows(*from), threads_);
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*digest, WeightsDigest(*model, threads_));
  }
  const std::unique_ptr<Model> other = Create("llama");
  EXPECT_THAT(std::string(WeightsDigestLike(*other, ModelRows(*from), threads_).status().message()), HasSubstr(", expected "));
}

TEST_F(Weights, InitialOnesHaveTheDocumentedSpread) {
  auto model = Create();
  model->InitRandom(stream_, 1);
  auto deviation = [&](const std::string& name) {
    const Tensor& w = model->tensors()[static_cast<size_t>(model->FindTensor(name))].value;
    double sum = 0;
    for (int64_t i = 0; i < w.size(); ++i) sum += std::pow(GetElement(w, i), 2);
    return std::sqrt(sum / static_cast<double>(w.size()));
  };
  EXPECT_NEAR(deviation("model.embed_tokens.weight"), 0.5, 0.05);
  EXPECT_NEAR(deviation("lm_head.weight"), 1 / std::sqrt(24.0), 0.02);
  EXPECT_NEAR(deviation("model.layers.0.mlp.down_proj.weight"), 1 / std::sqrt(40.0) / 2, 0.01);
  EXPECT_EQ(deviation("model.layers.0.input_layernorm.weight"), 1);
  EXPECT_EQ(deviation("model.layers.1.mlp.gate.e_score_correction_bias"), 0);
}

TEST_F(Weights, ADigestSeesEveryBit) {
  auto model = Create();
  model->InitRandom(stream_, 1);
  std::vector<Sha256Digest> tensors;
  const Sha256Digest before = WeightsDigest(*model, threads_, &tensors);
  EXPECT_EQ(WeightsDigestOf(model->tensors(), tensors), before);
  float& last = model->tensors().back().value.data<float>()[0];
  last = std::nextafter(last, 2.0f);
  EXPECT_NE(WeightsDigest(*model, threads_), before);
}

TEST_F(Weights, NumericsIdNamesTheDtype) { EXPECT_NE(NumericsId(DType::kF32), NumericsId(DType::kBF16)); }

TEST_F(Weights, TensorsAreSortedAndFound) {
  auto model = Create();
  for (size_t i = 0; i < model->tensors().size(); ++i) {
    EXPECT_EQ(model->FindTensor(model->tensors()[i].name), static_cast<int>(i));
    if (i > 0) {
      EXPECT_LT(model->tensors()[i - 1].name, model->tensors()[i].name);
    }
  }
  EXPECT_EQ(model->FindTensor("nothing"), -1);
  EXPECT_FALSE(
      model->tensors()[static_cast<size_t>(model->FindTensor("model.layers.1.mlp.gate.e_score_correction_bias"))]
          .trainable);
}

TEST_F(Weights, AModelThatCannotFitIsAnErrorNotACrash) {
  ModelConfig config = TinyConfig("llama");
  config.vocab_size = 1 << 24;
  config.hidden_size = 1 << 17;
  const absl::StatusOr<std::unique_ptr<Model>> model = Model::Create(config, DType::kF32);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted) << model.status();
  EXPECT_THAT(std::string(model.status().message()), testing::HasSubstr("this machine has")) << model.status();
  EXPECT_THAT(std::string(model.status().message()), testing::EndsWith("take a smaller model or model.dtype: \"bfloat16\""));
}

TEST_F(Weights, LoadEverythingThatWasStored) {
  for (const std::string& family : TinyFamilies()) {
    const std::unique_ptr<Model> from = TinyModel(family, DType::kF32, stream_);
    auto to = Create(family);
    const absl::Status status = Load(StoredOf(*from), *to);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(WeightsDigest(*from, threads_), WeightsDigest(*to, threads_)) << family;
  }
}

TEST_F(Weights, MissingExtraAndMisshapenTensorsAreNamedAtOnce) {
  const std::unique_ptr<Model> from = TinyModel("deepseek_v3", DType::kF32, stream_);
  std::vector<StoredTensor> stored = StoredOf(*from);
  stored[0].name = "something.else";  // lm_head.weight
  stored[5].shape[0] -= 1;
  stored[7].type = StorageType::kI32;
  auto to = Create();
  const std::string error(Load(stored, *to).message());
  EXPECT_THAT(error, HasSubstr("dir"));
  EXPECT_THAT(error, HasSubstr("lm_head.weight"));
  EXPECT_THAT(error, HasSubstr("something.else"));
  EXPECT_THAT(error, HasSubstr(stored[5].name));
  EXPECT_THAT(error, HasSubstr(stored[7].name));
  EXPECT_THAT(error, HasSubstr("I32"));
}

TEST_F(Weights, ValuesThatAreNotFiniteAreRefused) {
  const std::unique_ptr<Model> from = TinyModel("llama", DType::kF32, stream_);
  from->tensors()[3].value.data<float>()[1] = std::nanf("");
  auto to = Create("llama");
  EXPECT_THAT(std::string(Load(StoredOf(*from), *to).message()), HasSubstr(from->tensors()[3].name));
}

TEST_F(Weights, BuffersTiedHeadsAndPredictionLayersAreLeftAside) {
  const std::unique_ptr<Model> from = TinyModel("llama", DType::kF32, stream_);
  std::vector<StoredTensor> stored = StoredOf(*from);
  for (const char* name : {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}) {
    stored.push_back(stored[0]);
    stored.back().name = name;
  }
  auto to = Create("llama");
  EXPECT_TRUE(Load(stored, *to).ok());
  stored.push_back(stored[0]);
  stored.back().name = "model.layers.2.enorm.weight";
  EXPECT_FALSE(Load(stored, *to).ok());
  ModelConfig config = TinyConfig("llama");
  config.num_nextn_predict_layers = 1;
  EXPECT_TRUE(LoadWeights(HuggingFaceTensors(config, stored, "dir"), "dir", {}, *to, threads_).ok());
}

TEST_F(Weights, Fp8BlocksAreDequantised) {
  const std::unique_ptr<Model> from = TinyModel("deepseek_v3", DType::kF32, stream_);
  std::vector<StoredTensor> stored = StoredOf(*from);
  const std::string name = "model.layers.0.mlp.down_proj.weight";  // [24, 40], blocks of 16 x 16
  std::string bytes;
  for (int i = 0; i < 24 * 40; ++i) bytes.push_back(static_cast<char>(i % 2 == 0 ? 0x38 : 0xc4));  // 1 and -3
  float scales[2 * 3] = {1, 2, 4, 8, 16, 32};
  for (StoredTensor& tensor : stored) {
    if (tensor.name != name) continue;
    tensor.type = StorageType::kF8E4M3;
    tensor.bytes = bytes;
  }
  auto to = Create();
  EXPECT_THAT(std::string(Load(stored, *to, {16, 16}).message()), HasSubstr("scale_inv"));
  StoredTensor scale;
  scale.name = name + "_scale_inv";
  scale.shape = {2, 3};
  scale.bytes = {reinterpret_cast<const char*>(scales), sizeof scales};
  stored.push_back(scale);
  const absl::Status status = Load(stored, *to, {16, 16});
  ASSERT_TRUE(status.ok()) << status;
  const Tensor& w = to->tensors()[static_cast<size_t>(to->FindTensor(name))].value;
  EXPECT_EQ(w.row<float>(0)[0], 1);
  EXPECT_EQ(w.row<float>(0)[1], -3);
  EXPECT_EQ(w.row<float>(15)[17], -6);
  EXPECT_EQ(w.row<float>(16)[39], -96);
}

TEST_F(Weights, InterleavedRotaryRowsBecomeHalves) {
  auto to = Create("qwen2");
  std::vector<float> rows(24 * 24);
  for (int i = 0; i < 24 * 24; ++i) rows[static_cast<size_t>(i)] = static_cast<float>(i / 24);
  std::vector<NamedTensor> named;
  const std::unique_ptr<Model> from = TinyModel("qwen2", DType::kF32, stream_);
  std::vector<StoredTensor> stored = StoredOf(*from);
  for (StoredTensor& tensor : stored) {
    NamedTensor n{tensor.name, &tensor};
    if (tensor.name == "model.layers.0.self_attn.q_proj.weight") {
      tensor.bytes = {reinterpret_cast<const char*>(rows.data()), rows.size() * 4};
      n.rotated_heads = 4;
    }
    named.push_back(n);
  }
  ASSERT_TRUE(LoadWeights(named, "file", {}, *to, threads_).ok());
  const Tensor& w = to->tensors()[static_cast<size_t>(to->FindTensor("model.layers.0.self_attn.q_proj.weight"))].value;
  std::vector<float> first_column;
  for (int64_t r = 0; r < 12; ++r) first_column.push_back(w.row<float>(r)[0]);
  EXPECT_THAT(first_column, testing::ElementsAre(0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11));  // heads of 6
}

}  // namespace
}  // namespace grouper
