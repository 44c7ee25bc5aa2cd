#include "common/model/own_dtype.h"

#include <deque>
#include <functional>

#include "absl/strings/match.h"
#include "common/base/bf16.h"
#include "common/checkpoint/ggml_encode.h"
#include "gmock/gmock.h"
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

// A tiny DeepSeek-V3 in storage, each tensor in the type that is chosen for it.
class OwnDType : public testing::Test {
 protected:
  OwnDType() : threads_(2), stream_(threads_), model_(TinyModel("deepseek_v3", DType::kF32, stream_)) {}

  // "hf and gguf"
  std::string Own(const std::function<StorageType(const LogicalTensor&)>& type_of) {
    std::vector<StoredTensor> stored;
    std::deque<std::string> bytes;
    for (const LogicalTensor& tensor : model_->tensors()) {
      StoredTensor one;
      one.name = tensor.name;
      one.type = type_of(tensor);
      one.file = "model.safetensors";
      for (int d = 0; d < tensor.value.rank(); ++d) one.shape.push_back(tensor.value.dim(d));
      one.bytes = bytes.emplace_back(Encoded(one.type, tensor.value));
      stored.push_back(one);
      if (one.type != StorageType::kF8E4M3) continue;
      StoredTensor scale;
      scale.name = tensor.name + "_scale_inv";
      scale.shape = {(one.shape[0] + 127) / 128, (one.shape[1] + 127) / 128};
      const float third = 1.0f / 3;
      scale.bytes = bytes.emplace_back(reinterpret_cast<const char*>(&third), sizeof third);
      stored.push_back(scale);
    }
    const absl::StatusOr<std::unique_ptr<StoredWeights>> weights =
        StoredWeights::Create(model_->config(), HuggingFaceTensors(model_->config(), stored, "dir"), "dir", {}, nullptr, {});
    if (!weights.ok()) return std::string(weights.status().message());
    return absl::StrCat(*OwnHuggingFaceDType(**weights), " and ", *OwnGgufType(**weights));
  }

  static std::string Encoded(StorageType type, const Tensor& value) {
    std::string bytes;
    for (int64_t i = 0; i < value.size(); ++i) {
      const float x = value.data<float>()[i];
      const uint16_t narrow = type == StorageType::kBF16 ? bf16(x).bits : HalfFromFloat(x);
      if (type == StorageType::kF8E4M3) {
        bytes.push_back(static_cast<char>(i % 100));
      } else if (type == StorageType::kF32) {
        bytes.append(reinterpret_cast<const char*>(&x), sizeof x);
      } else {
        bytes.append(reinterpret_cast<const char*>(&narrow), sizeof narrow);
      }
    }
    return bytes;
  }

  // What a file in `type` keeps of the weights that `chosen` takes.
  void Round(StorageType type, const std::function<bool(const LogicalTensor&)>& chosen) {
    for (const LogicalTensor& tensor : model_->tensors()) {
      if (!chosen(tensor)) continue;
      for (int64_t i = 0; i < tensor.value.size(); ++i) {
        float& x = tensor.value.data<float>()[i];
        x = type == StorageType::kBF16 ? static_cast<float>(bf16(x)) : HalfToFloat(HalfFromFloat(x));
      }
    }
  }

  static bool IsVector(const LogicalTensor& tensor) { return tensor.value.rank() == 1; }
  static bool IsRouter(const LogicalTensor& tensor) { return absl::EndsWith(tensor.name, ".mlp.gate.weight"); }
  static bool StaysF32(const LogicalTensor& tensor) { return IsVector(tensor) || IsRouter(tensor); }

  ThreadPool threads_;
  Stream stream_;
  std::unique_ptr<Model> model_;
};

TEST_F(OwnDType, OneTypeIsItself) {
  const std::pair<StorageType, std::string> kTypes[] = {{StorageType::kF32, "float32 and F32"},
                                                        {StorageType::kBF16, "bfloat16 and BF16"},
                                                        {StorageType::kF16, "float32 and F16"}};
  for (const auto& [type, expected] : kTypes) {
    EXPECT_EQ(Own([type = type](const LogicalTensor&) { return type; }), expected);
  }
}

TEST_F(OwnDType, Fp8IsBfloat16) {
  EXPECT_EQ(Own([](const LogicalTensor& tensor) { return StaysF32(tensor) ? StorageType::kBF16 : StorageType::kF8E4M3; }), "bfloat16 and BF16");
}

// GGUF keeps vectors and routers in F32.
TEST_F(OwnDType, F32BesideANarrowTypeCountsByWhatItHolds) {
  const auto beside = [](StorageType type) { return [type](const LogicalTensor& tensor) { return StaysF32(tensor) ? StorageType::kF32 : type; }; };
  EXPECT_EQ(Own(beside(StorageType::kBF16)), "float32 and BF16");  // trained in F32
  EXPECT_EQ(Own(beside(StorageType::kF16)), "float32 and F16");
  Round(StorageType::kBF16, IsVector);
  EXPECT_EQ(Own(beside(StorageType::kBF16)), "float32 and BF16");  // the router still is
  Round(StorageType::kBF16, [](const LogicalTensor& tensor) { return IsRouter(tensor) && tensor.trainable; });
  EXPECT_EQ(Own(beside(StorageType::kBF16)), "bfloat16 and BF16");
}

TEST_F(OwnDType, AMatrixThatTheTypeOfMostWouldRoundKeepsAllInF32) {
  const auto head = [](const LogicalTensor& tensor) { return tensor.name == "lm_head.weight"; };
  for (const StorageType type : {StorageType::kBF16, StorageType::kF16}) {
    EXPECT_EQ(Own([&](const LogicalTensor& tensor) { return head(tensor) ? StorageType::kF32 : type; }), "float32 and F32");
  }
  EXPECT_EQ(Own([&](const LogicalTensor& tensor) { return head(tensor) ? StorageType::kF16 : StorageType::kBF16; }), "float32 and F32");
  EXPECT_EQ(Own([&](const LogicalTensor& tensor) { return head(tensor) ? StorageType::kBF16 : StorageType::kF32; }), "float32 and F32");
  Round(StorageType::kBF16, head);
  EXPECT_EQ(Own([&](const LogicalTensor& tensor) { return head(tensor) ? StorageType::kF32 : StorageType::kBF16; }), "bfloat16 and BF16");
}

}  // namespace
}  // namespace grouper
