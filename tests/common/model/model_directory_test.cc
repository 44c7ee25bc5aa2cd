#include "common/model/model_directory.h"

#include <cstdlib>
#include <filesystem>

#include "common/base/file.h"
#include "common/checkpoint/safetensors.h"
#include "common/model/load_weights.h"
#include "gmock/gmock.h"
#include "tests/testing/faulty_file_system.h"
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

using testing::HasSubstr;

std::string QuickstartConfig() { return absl::StrCat(GROUPER_SOURCE_DIR, "/recipes/quickstart"); }

class ModelDirectory : public testing::Test {
 protected:
  ModelDirectory() : threads_(2) {
    char name[] = "/tmp/model_directory_XXXXXX";
    root_ = mkdtemp(name);
  }
  ~ModelDirectory() override { std::filesystem::remove_all(root_); }

  LoadedModel Init(const LoadOptions& options = {}) {
    absl::StatusOr<LoadedModel> loaded = InitModel(QuickstartConfig(), options, 5, threads_);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }
  absl::Status Save(const LoadedModel& loaded, const std::string& directory, const std::string& dtype = "float32",
                    uint64_t shard = 1 << 30) {
    return SaveHuggingFace(DefaultFileSystem(), ModelRows(*loaded.model), *loaded.tokenizer, loaded.stop_token_ids, directory,
                           dtype, shard);
  }
  std::string Error(const std::string& path, const LoadOptions& options = {}) {
    const absl::StatusOr<LoadedModel> loaded = LoadModel(path, options, threads_);
    return loaded.ok() ? "" : std::string(loaded.status().message());
  }

  ThreadPool threads_;
  std::string root_;
};

TEST_F(ModelDirectory, SavedAndLoadedAgainIsTheSame) {
  const LoadedModel first = Init();
  ASSERT_EQ(Save(first, root_ + "/a"), absl::OkStatus());
  const absl::StatusOr<LoadedModel> again = LoadModel(root_ + "/a", {}, threads_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(WeightsDigest(*again->model, threads_), WeightsDigest(*first.model, threads_));
  EXPECT_EQ(again->stop_token_ids, first.stop_token_ids);
  EXPECT_EQ(again->tokenizer->Encode("1+2=3"), first.tokenizer->Encode("1+2=3"));
}

// Someone copies another model over the files, or a network file system loses one, while the weights are read.
TEST_F(ModelDirectory, AFileThatBecomesShorterWhileItIsReadIsAnErrorAndNotASignal) {
  const LoadedModel first = Init();
  ASSERT_EQ(Save(first, root_ + "/a"), absl::OkStatus());
  const absl::StatusOr<OpenedModel> opened = OpenModel(root_ + "/a", {});
  ASSERT_TRUE(opened.ok()) << opened.status();
  std::filesystem::resize_file(root_ + "/a/model.safetensors", 20000);
  const LoadedModel to = Init();
  const absl::Status status = LoadWeights(*opened->weights, *to.model, threads_);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), testing::AllOf(HasSubstr("model.safetensors"), HasSubstr("tensor \""), HasSubstr("ends at byte 2")));
}

TEST_F(ModelDirectory, ShardsAreReadBack) {
  const LoadedModel first = Init();
  ASSERT_EQ(Save(first, root_ + "/a", "float32", 200000), absl::OkStatus());
  EXPECT_TRUE(std::filesystem::exists(root_ + "/a/model.safetensors.index.json"));
  const absl::StatusOr<LoadedModel> again = LoadModel(root_ + "/a", {}, threads_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(WeightsDigest(*again->model, threads_), WeightsDigest(*first.model, threads_));
}

TEST_F(ModelDirectory, Bfloat16RoundsMatricesAndKeepsTheRoutersBias) {
  const LoadedModel first = Init();
  const size_t bias = static_cast<size_t>(first.model->FindTensor("model.layers.1.mlp.gate.e_score_correction_bias"));
  first.model->tensors()[bias].value.data<float>()[0] = 0.123456f;
  ASSERT_EQ(Save(first, root_ + "/a", "bfloat16"), absl::OkStatus());
  const absl::StatusOr<LoadedModel> again = LoadModel(root_ + "/a", {}, threads_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->model->tensors()[bias].value.data<float>()[0], 0.123456f);
  const Tensor a = first.model->tensors()[0].value, b = again->model->tensors()[0].value;
  EXPECT_EQ(b.data<float>()[7], static_cast<float>(bf16(a.data<float>()[7])));
}

TEST_F(ModelDirectory, ARunDirectoryStandsForItsModel) {
  ASSERT_EQ(DefaultFileSystem().CreateDirectories(root_ + "/run"), absl::OkStatus());
  ASSERT_EQ(Save(Init(), root_ + "/run/model"), absl::OkStatus());
  EXPECT_EQ(Error(root_ + "/run"), "");
}

TEST_F(ModelDirectory, ContextCanBeLimitedWithoutChangingWhatIsSaved) {
  const LoadedModel loaded = Init({.dtype = DType::kF32, .tokenizer = "", .max_context = 32});
  EXPECT_EQ(loaded.model->config().max_position_embeddings, 32);
  ASSERT_EQ(Save(loaded, root_ + "/a"), absl::OkStatus());
  const absl::StatusOr<LoadedModel> again = LoadModel(root_ + "/a", {}, threads_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->model->config().max_position_embeddings, 64);
}

TEST_F(ModelDirectory, AnExistingModelIsNotOverwritten) {
  const LoadedModel loaded = Init();
  ASSERT_EQ(Save(loaded, root_ + "/a"), absl::OkStatus());
  EXPECT_EQ(Save(loaded, root_ + "/a").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Save(loaded, root_ + "/b", "float16").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ModelDirectory, AValueThatBfloat16CannotSayIsNamedAndNothingIsLeftBehind) {
  const LoadedModel loaded = Init();
  loaded.model->tensors()[3].value.data<float>()[1] = 3.4e38f;  // rounds to infinity
  EXPECT_THAT(std::string(Save(loaded, root_ + "/a", "bfloat16").message()), testing::AllOf(HasSubstr(loaded.model->tensors()[3].name), HasSubstr("bfloat16")));
  EXPECT_TRUE(std::filesystem::is_empty(root_));
  EXPECT_EQ(Save(loaded, root_ + "/a"), absl::OkStatus());
}

// A directory of somebody's beside the new model, and a file where it should stand.
TEST_F(ModelDirectory, WhatStandsBesideANewModelIsLeftAlone) {
  const LoadedModel loaded = Init();
  FileSystem& fs = DefaultFileSystem();
  ASSERT_EQ(fs.CreateDirectories(root_ + "/a.tmp"), absl::OkStatus());
  ASSERT_EQ(WriteFileAtomically(fs, root_ + "/a.tmp/notes", "mine"), absl::OkStatus());
  ASSERT_EQ(Save(loaded, root_ + "/a"), absl::OkStatus());
  EXPECT_EQ(*fs.ReadFile(root_ + "/a.tmp/notes", 100), "mine");
  EXPECT_THAT(std::string(Save(loaded, root_ + "/a.tmp/notes").message()), testing::AllOf(HasSubstr("a.tmp/notes"), HasSubstr("a new directory")));
  EXPECT_EQ(*fs.ReadFile(root_ + "/a.tmp/notes", 100), "mine");
}

// Where FindDirectory looks for a model.
bool IsAModel(FileSystem& fs, const std::string& directory) { return fs.Exists(directory + "/config.json"); }

TEST_F(ModelDirectory, AFullDiskLeavesNothingAndADeathNoHalfAModel) {
  const LoadedModel loaded = Init();
  const auto save = [&](FileSystem& fs) { return SaveHuggingFace(fs, ModelRows(*loaded.model), *loaded.tokenizer, loaded.stop_token_ids, "out/a", "bfloat16", 300000); };
  FaultyFileSystem whole;
  ASSERT_EQ(save(whole), absl::OkStatus());
  const uint64_t operations = whole.operations();
  const std::vector<std::string> names = *whole.ListDirectory("out/a");
  EXPECT_GT(names.size(), 8u);  // shards, their index and the rest
  const auto complete = [&](FileSystem& fs, const std::string& directory) {
    for (const std::string& name : names) {
      const absl::StatusOr<std::string> text = fs.ReadFile(directory + "/" + name, 1 << 24);
      if (!text.ok() || *text != *whole.ReadFile("out/a/" + name, 1 << 24)) return false;
    }
    return true;
  };
  const std::string unfinished = absl::StrCat("out/a", kUnfinishedModel);
  using Loss = FaultyFileSystem::Loss;
  for (uint64_t n = 1; n <= operations; ++n) {
    FaultyFileSystem full;
    full.FailAt(n, ENOSPC);
    if (!save(full).ok()) {
      EXPECT_FALSE(full.Exists(unfinished)) << n;
    }
    EXPECT_TRUE(!full.Exists("out/a") || complete(full, "out/a")) << n;
    for (const Loss loss : {Loss::kProcessKilled, Loss::kUnsyncedBytes, Loss::kUnsyncedEntries, Loss::kTornWrite, Loss::kRandom}) {
      FaultyFileSystem fs;
      fs.CrashAt(n);
      EXPECT_FALSE(save(fs).ok()) << n;
      fs.Restart(loss, n);
      for (const std::string& directory : {std::string("out/a"), unfinished}) {
        EXPECT_TRUE(!IsAModel(fs, directory) || complete(fs, directory)) << directory << ", operation " << n << ", loss " << static_cast<int>(loss);
      }
      if (fs.Exists("out/a")) continue;
      EXPECT_EQ(save(fs), absl::OkStatus()) << n;
      EXPECT_TRUE(complete(fs, "out/a") && !fs.Exists(unfinished)) << n;
    }
  }
}

TEST_F(ModelDirectory, BadModelsAreNamed) {
  EXPECT_THAT(Error(root_ + "/nothing"), HasSubstr("/nothing: no such file or directory: expected a directory with config.json"));
  EXPECT_THAT(Error(root_), HasSubstr("not a model"));
  const LoadedModel loaded = Init();
  ASSERT_EQ(Save(loaded, root_ + "/a"), absl::OkStatus());
  FileSystem& fs = DefaultFileSystem();

  const std::string weights = root_ + "/a/model.safetensors";
  const uint64_t size = *fs.FileSize(weights);
  ASSERT_EQ(fs.Truncate(weights, size - 10), absl::OkStatus());
  EXPECT_THAT(Error(root_ + "/a"), HasSubstr("model.safetensors"));

  const std::string config = root_ + "/a/config.json";
  const std::string text = *fs.ReadFile(config, 1 << 20);
  ASSERT_EQ(WriteFileAtomically(fs, config, text.substr(0, 40)), absl::OkStatus());
  EXPECT_THAT(Error(root_ + "/a"), HasSubstr("config.json"));
}

TEST_F(ModelDirectory, AConfigThatDescribesFarMoreThanTheFilesHoldTakesNoMemory) {
  ASSERT_EQ(Save(Init(), root_ + "/a"), absl::OkStatus());
  FileSystem& fs = DefaultFileSystem();
  json::Json config = *json::Parse(*fs.ReadFile(root_ + "/a/config.json", 1 << 20));
  config["num_hidden_layers"] = 4000;
  ASSERT_EQ(WriteFileAtomically(fs, root_ + "/a/config.json", config.dump()), absl::OkStatus());
  EXPECT_THAT(Error(root_ + "/a"), HasSubstr("the config describes"));
  config["num_hidden_layers"] = 4;
  ASSERT_EQ(WriteFileAtomically(fs, root_ + "/a/config.json", config.dump()), absl::OkStatus());
  EXPECT_THAT(Error(root_ + "/a"), HasSubstr("model.layers.3.self_attn.o_proj.weight"));
}

TEST_F(ModelDirectory, ATokenizerLargerThanTheVocabularyIsRefused) {
  const std::string directory = root_ + "/small";
  FileSystem& fs = DefaultFileSystem();
  ASSERT_EQ(fs.CreateDirectories(directory), absl::OkStatus());
  json::Json config = *json::Parse(*fs.ReadFile(QuickstartConfig() + "/config.json", 1 << 20));
  config["vocab_size"] = 30;
  ASSERT_EQ(WriteFileAtomically(fs, directory + "/config.json", config.dump()), absl::OkStatus());
  const absl::StatusOr<LoadedModel> loaded =
      InitModel(directory, {.dtype = DType::kF32, .tokenizer = QuickstartConfig(), .max_context = 0}, 1, threads_);
  ASSERT_FALSE(loaded.ok());
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("tokenizer has ids up to 30"));
}

TEST_F(ModelDirectory, MissingTokenizerIsAnError) {
  const LoadedModel loaded = Init();
  ASSERT_EQ(Save(loaded, root_ + "/a"), absl::OkStatus());
  std::filesystem::remove(root_ + "/a/tokenizer.json");
  EXPECT_THAT(Error(root_ + "/a"), HasSubstr("tokenizer"));
}

// --- SmolLM2-135M-Instruct from its GGUF file (scripts/fetch_smollm2.sh), against transformers
// (scripts/make_golden_smollm2.py) -----------

TEST(SmolLm2, GreedyTokensAndLogitsEqualTransformers) {
  const std::string path = absl::StrCat(GROUPER_SOURCE_DIR, "/models/SmolLM2-135M-Instruct.gguf");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there (scripts/fetch_smollm2.sh)";
  ThreadPool threads(2);
  Stream stream(threads);
  absl::StatusOr<LoadedModel> loaded =
      LoadModel(path, {.dtype = DType::kF32, .tokenizer = "", .max_context = 1024}, threads);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Model& model = *loaded->model;
  EXPECT_EQ(model.config().NumParameters(), 134515008);
  absl::StatusOr<std::shared_ptr<const SafetensorsFile>> golden =
      SafetensorsFile::Open(absl::StrCat(GROUPER_SOURCE_DIR, "/tests/golden/smollm2.safetensors"));
  ASSERT_TRUE(golden.ok()) << golden.status();
  auto ints = [&](const char* name) {
    const StoredTensor* tensor = (*golden)->Find(name);
    std::vector<int32_t> values(static_cast<size_t>(tensor->num_elements()));
    memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
    return values;
  };
  const std::vector<int32_t> prompt = ints("prompt");
  EXPECT_EQ(loaded->tokenizer->Encode((*golden)->metadata().at("prompt")), prompt);

  const StoredTensor* expected = (*golden)->Find("logits");
  std::vector<float> want(static_cast<size_t>(expected->num_elements()));
  ASSERT_TRUE(DecodeToFloat(*expected, 0, expected->num_elements(), want.data()).ok());
  Cache cache(model);
  std::string logits = cache.Run(model, stream, {{0, prompt}})[0];
  const float* got = reinterpret_cast<const float*>(logits.data());
  const size_t vocab = 49152;
  double worst = 0;
  for (size_t row = 0; row < prompt.size(); ++row) {
    for (size_t i = 0; i < vocab / 64; ++i)
      worst = std::max<double>(worst, std::abs(got[row * vocab + i * 64] - want[row * (vocab / 64) + i]));
  }
  EXPECT_LT(worst, 1e-3);

  std::vector<int32_t> tokens;
  for (int i = 0; i < 64; ++i) {
    const float* last = reinterpret_cast<const float*>(logits.data() + logits.size()) - vocab;
    tokens.push_back(static_cast<int32_t>(std::max_element(last, last + vocab) - last));
    logits = cache.Run(model, stream, {{0, {tokens.back()}}})[0];
  }
  EXPECT_EQ(tokens, ints("greedy"));
}

}  // namespace
}  // namespace grouper
