// Models as GGUF files (save_gguf.h), read back by our reader. scripts/check_gguf.py has them read by llama.cpp.
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/checkpoint/gguf.h"
#include "common/model/model_directory.h"
#include "common/model/save_gguf.h"
#include "common/text/byte_alphabet.h"
#include "gmock/gmock.h"
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

using testing::HasSubstr;

class GgufOut : public testing::Test {
 protected:
  GgufOut() : threads_(2) {
    char name[] = "/tmp/gguf_out_XXXXXX";
    root_ = mkdtemp(name);
    GgufVocab vocab;
    vocab.model = "gpt2";
    vocab.pre = "smollm";
    for (int byte = 0; byte < 256; ++byte) vocab.tokens.push_back(text::CharacterOfByte(static_cast<uint8_t>(byte)));
    for (const char* token : {"th", "the"}) vocab.tokens.push_back(token);
    vocab.merges = {"t h", "th e"};
    vocab.token_types.assign(vocab.tokens.size(), 1);
    for (const char* token : {"<s>", "</s>"}) {
      vocab.tokens.push_back(token);
      vocab.token_types.push_back(3);
    }
    vocab.bos_id = 258;
    vocab.eos_id = 259;
    vocab.add_bos = true;
    vocab.chat_template = "{{ messages[0]['content'] }}";
    tokenizer_ = *Tokenizer::FromGgufVocab(vocab, "test");
  }
  ~GgufOut() override { std::filesystem::remove_all(root_); }

  // A golden family's configuration with 300 words, wide enough for blocks, and random numbers in every tensor.
  LoadedModel Make(const std::string& family, const json::Json& changes = json::Json::object()) {
    FileSystem& fs = DefaultFileSystem();
    json::Json config = *json::Parse(*fs.ReadFile(absl::StrCat(GROUPER_SOURCE_DIR, "/tests/golden/models/", family, "/config.json"), 1 << 20));
    config["vocab_size"] = 300;
    config["hidden_size"] = 256;
    config["eos_token_id"] = 259;
    config["bos_token_id"] = 258;
    for (const auto& [key, value] : changes.items()) config[key] = value;
    const std::string directory = root_ + "/" + family;
    EXPECT_EQ(fs.CreateDirectories(directory), absl::OkStatus());
    EXPECT_EQ(WriteFileAtomically(fs, directory + "/config.json", config.dump()), absl::OkStatus());
    EXPECT_EQ(WriteFileAtomically(fs, directory + "/tokenizer.json", tokenizer_->ToJson()), absl::OkStatus());
    EXPECT_EQ(WriteFileAtomically(fs, directory + "/tokenizer_config.json", tokenizer_->TokenizerConfigJson()), absl::OkStatus());
    absl::StatusOr<LoadedModel> loaded = InitModel(directory, {}, 7, threads_);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    for (const LogicalTensor& tensor : loaded->model->tensors()) {
      if (tensor.value.rank() != 1) continue;
      for (int64_t i = 0; i < tensor.value.size(); ++i) tensor.value.data<float>()[i] += static_cast<float>(i * 31 % 17) / 64;
    }
    return *std::move(loaded);
  }
  absl::Status Save(const LoadedModel& loaded, const std::string& path, const std::string& type) {
    return SaveGguf(DefaultFileSystem(), ModelRows(*loaded.model), *loaded.tokenizer, loaded.stop_token_ids, path, type);
  }

  ThreadPool threads_;
  std::string root_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

const json::Json kLlama3Rope = {{"rope_type", "llama3"}, {"rope_theta", 500000.0}, {"factor", 8.0}, {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};

const json::Json kYarn = {{"rope_type", "yarn"}, {"rope_theta", 10000.0}, {"factor", 4.0}, {"mscale", 0.707}, {"mscale_all_dim", 0.707},
                          {"beta_fast", 24}, {"original_max_position_embeddings", 64}};

TEST_F(GgufOut, F32KeepsEveryBitOfWeightsVocabularyAndConfiguration) {
  const std::pair<std::string, json::Json> kFamilies[] = {
      {"llama", {{"rope_parameters", kLlama3Rope}}},
      {"llama_bias", json::Json::object()},
      {"qwen2", json::Json::object()},
      {"qwen2_yarn", json::Json::object()},
      {"qwen3", json::Json::object()},
      {"qwen3_moe", {{"mlp_only_layers", json::Json::array()}}},
      {"deepseek_v2", {{"attention_bias", false}, {"rope_parameters", kYarn}}},
      {"deepseek_v2_lite", {{"rope_parameters", kYarn}}},
      {"deepseek_v3", json::Json::object()},
      {"deepseek_v3_no_q_lora", {{"attention_bias", false}, {"rope_interleave", true}}},
  };
  for (const auto& [family, changes] : kFamilies) {
    SCOPED_TRACE(family);
    const LoadedModel first = Make(family, changes);
    const std::string path = absl::StrCat(root_, "/", family, ".gguf");
    ASSERT_EQ(Save(first, path, "F32"), absl::OkStatus());
    const absl::StatusOr<LoadedModel> again = LoadModel(path, {}, threads_);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(WeightsDigest(*again->model, threads_), WeightsDigest(*first.model, threads_));
    EXPECT_EQ(again->stop_token_ids, std::vector<int32_t>{259});
    EXPECT_EQ(again->tokenizer->Encode("the <s>cat\n 12é", true, true), first.tokenizer->Encode("the <s>cat\n 12é", true, true));
    EXPECT_EQ(again->tokenizer->chat_template(), first.tokenizer->chat_template());
    json::OrderedJson a = again->model->config().ToHuggingFace("float32"), b = first.model->config().ToHuggingFace("float32");
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "num_nextn_predict_layers"}) {
      a.erase(key);
      b.erase(key);
    }
    for (const char* key : {"rms_norm_eps", "routed_scaling_factor"}) {  // the file has floats
      EXPECT_FLOAT_EQ(static_cast<float>(a.value(key, 0.0)), static_cast<float>(b.value(key, 0.0))) << key;
    }
    for (const char* key : {"rms_norm_eps", "routed_scaling_factor"}) {
      a.erase(key);
      b.erase(key);
    }
    EXPECT_EQ(json::Json::parse(a.dump()), json::Json::parse(b.dump()));
  }
}

TEST_F(GgufOut, NarrowTypesAreAsCloseAsTheirSteps) {
  const LoadedModel first = Make("qwen3");
  for (const auto& [type, bound] : std::vector<std::pair<std::string, double>>{{"F16", 1e-3}, {"BF16", 1e-2}, {"Q8_0", 2e-2}, {"Q4_0", 0.2}, {"Q4_K", 0.2}}) {
    const std::string path = absl::StrCat(root_, "/", type, ".gguf");
    ASSERT_EQ(Save(first, path, type), absl::OkStatus());
    const absl::StatusOr<LoadedModel> again = LoadModel(path, {}, threads_);
    ASSERT_TRUE(again.ok()) << type << " " << again.status();
    double error = 0, sum = 0;
    for (size_t i = 0; i < first.model->tensors().size(); ++i) {
      const Tensor &a = first.model->tensors()[i].value, &b = again->model->tensors()[i].value;
      for (int64_t j = 0; j < a.size(); ++j) {
        error += std::pow(a.data<float>()[j] - b.data<float>()[j], 2);
        sum += std::pow(a.data<float>()[j], 2);
      }
    }
    EXPECT_LT(std::sqrt(error / sum), bound) << type;
  }
}

TEST_F(GgufOut, StackedExpertsAndSplitLatentsSurviveNarrowTypes) {
  const LoadedModel first = Make("deepseek_v3", {{"kv_lora_rank", 256}, {"moe_intermediate_size", 256}});
  for (const auto& [type, bound] : std::vector<std::pair<std::string, double>>{{"Q8_0", 2e-2}, {"Q4_K", 0.2}}) {
    const std::string path = absl::StrCat(root_, "/", type, ".gguf");
    ASSERT_EQ(Save(first, path, type), absl::OkStatus());
    const absl::StatusOr<LoadedModel> again = LoadModel(path, {}, threads_);
    ASSERT_TRUE(again.ok()) << type << " " << again.status();
    for (const LogicalTensor& tensor : first.model->tensors()) {
      const Tensor &a = tensor.value, &b = again->model->tensors()[static_cast<size_t>(again->model->FindTensor(tensor.name))].value;
      double error = 0, sum = 0;
      for (int64_t j = 0; j < a.size(); ++j) {
        error += std::pow(a.data<float>()[j] - b.data<float>()[j], 2);
        sum += std::pow(a.data<float>()[j], 2);
      }
      EXPECT_LE(std::sqrt(error), bound * std::sqrt(sum)) << type << " " << tensor.name;
    }
  }
}

TEST_F(GgufOut, AnyLlama3ScalingIsRecoveredFromItsDivisors) {
  const struct {
    double factor, low, high;
    int64_t original;
  } kScalings[] = {{8, 1, 4, 8192}, {32, 1, 4, 8192}, {4, 1, 8, 2048}, {16, 2, 8, 4096}, {2.5, 1, 3, 32768}, {2.5, 1, 2, 32768}};
  for (const auto& s : kScalings) {
    SCOPED_TRACE(absl::StrCat(s.factor, " ", s.low, " ", s.high, " ", s.original));
    const LoadedModel first = Make("llama", {{"head_dim", 64},
                                             {"rope_parameters", {{"rope_type", "llama3"}, {"rope_theta", 500000.0}, {"factor", s.factor}, {"low_freq_factor", s.low},
                                                                  {"high_freq_factor", s.high}, {"original_max_position_embeddings", s.original}}}});
    const std::string path = absl::StrCat(root_, "/", s.factor, "_", s.high, ".gguf");
    ASSERT_EQ(Save(first, path, "F32"), absl::OkStatus());
    const absl::StatusOr<LoadedModel> again = LoadModel(path, {}, threads_);
    ASSERT_TRUE(again.ok()) << again.status();
    const RopeScaling& read = again->model->config().rope_scaling;
    EXPECT_DOUBLE_EQ(read.factor, s.factor);
    EXPECT_DOUBLE_EQ(read.low_freq_factor, 1);
    if (s.high == 2) continue;  // one divisor between 1 and the factor: other parameters give it too
    EXPECT_DOUBLE_EQ(read.high_freq_factor, s.high / s.low);
    EXPECT_EQ(read.original_max_position_embeddings, static_cast<int64_t>(static_cast<double>(s.original) / s.low));
  }
}

TEST_F(GgufOut, TypesOfTheFileAreThoseAsked) {
  ASSERT_EQ(Save(Make("qwen3"), root_ + "/m.gguf", "Q4_K"), absl::OkStatus());
  const absl::StatusOr<std::shared_ptr<const GgufFile>> file = GgufFile::Open(root_ + "/m.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Find("token_embd.weight")->type, StorageType::kQ8_0);
  EXPECT_EQ((*file)->Find("blk.0.attn_q.weight")->type, StorageType::kQ4_K);
  EXPECT_EQ((*file)->Find("blk.0.ffn_down.weight")->type, StorageType::kF16);  // rows of 48
  EXPECT_EQ((*file)->Find("blk.0.attn_q_norm.weight")->type, StorageType::kF32);
}

TEST_F(GgufOut, ItsDirectoryIsMadeAndWhatStandsBesideIsLeftAlone) {
  const LoadedModel loaded = Make("llama_bias");
  FileSystem& fs = DefaultFileSystem();
  const std::string path = root_ + "/new/folder/m.gguf";
  ASSERT_EQ(fs.CreateDirectories(path + ".tmp"), absl::OkStatus());
  ASSERT_EQ(WriteFileAtomically(fs, path + ".tmp/notes", "mine"), absl::OkStatus());
  ASSERT_EQ(Save(loaded, path, "F32"), absl::OkStatus());
  EXPECT_EQ(*fs.ReadFile(path + ".tmp/notes", 100), "mine");
  EXPECT_EQ(Save(loaded, root_ + "/other/m.gguf", "F32"), absl::OkStatus());
}

TEST_F(GgufOut, WhatCannotBeWrittenIsNamed) {
  const LoadedModel loaded = Make("llama_bias");
  EXPECT_THAT(std::string(Save(loaded, root_ + "/m.gguf", "Q2_K").message()), HasSubstr("Q2_K"));
  ASSERT_EQ(Save(loaded, root_ + "/m.gguf", "F32"), absl::OkStatus());
  EXPECT_EQ(Save(loaded, root_ + "/m.gguf", "F32").code(), absl::StatusCode::kAlreadyExists);
  loaded.model->tensors()[static_cast<size_t>(loaded.model->FindTensor("model.layers.1.mlp.up_proj.weight"))].value.data<float>()[3] = 1e5f;
  EXPECT_THAT(std::string(Save(loaded, root_ + "/n.gguf", "F16").message()), HasSubstr("blk.1.ffn_up.weight holds 100000"));
  EXPECT_FALSE(std::filesystem::exists(root_ + "/n.gguf"));
  EXPECT_FALSE(std::filesystem::exists(root_ + "/n.gguf" + kUnfinishedModel));
  const std::pair<std::pair<std::string, json::Json>, std::string> kNoPlace[] = {
      {{"deepseek_v2", {{"rope_parameters", kYarn}}}, "attention_bias"},
      {{"deepseek_v2", {{"attention_bias", false}}}, "mscale"},
      {{"deepseek_v3_no_q_lora", {{"attention_bias", false}}}, "rope_interleave"},
      {{"qwen3_moe", json::Json::object()}, "mlp_only_layers"},
      {{"qwen3_moe", {{"mlp_only_layers", json::Json::array()}, {"norm_topk_prob", false}}}, "norm_topk_prob"},
      {{"qwen3_moe", {{"mlp_only_layers", json::Json::array()}, {"decoder_sparse_step", 2}}}, "decoder_sparse_step"},
  };
  for (const auto& [model, field] : kNoPlace) {
    const absl::Status refused = Save(Make(model.first, model.second), root_ + "/o.gguf", "F32");
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented) << field;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(field));
    EXPECT_FALSE(std::filesystem::exists(root_ + "/o.gguf"));
  }
}

}  // namespace
}  // namespace grouper
