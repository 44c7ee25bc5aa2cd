#include "common/model/config.h"

#include <cmath>

#include "common/base/file.h"
#include "gmock/gmock.h"
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

using testing::HasSubstr;

// A valid config with some fields replaced; null removes none, it stays null.
std::string Error(const std::string& family, const std::string& changes) {
  json::Json config = *json::Parse(TinyConfigText(family));
  const json::Json changed = *json::Parse(changes);
  for (const auto& [key, value] : changed.items()) {
    if (value == "REMOVED") {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  const absl::StatusOr<ModelConfig> result = ModelConfig::FromHuggingFace(config, "dir/config.json");
  return result.ok() ? "" : std::string(result.status().message());
}

TEST(Config, AFieldThatChangesResultsIsRefusedByName) {
  const struct {
    const char* family;
    const char* changes;
    const char* expected;
  } kCases[] = {
      {"llama", R"({"hidden_act": "gelu"})", "hidden_act: \"gelu\""},
      {"llama", R"({"architectures": ["GemmaForCausalLM"]})", "GemmaForCausalLM"},
      {"llama", R"({"architectures": "REMOVED"})", "architectures"},
      {"llama", R"({"architectures": []})", "architectures"},
      {"llama", R"({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}})", "longrope"},
      {"llama", R"({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})", "rope_scaling.rope_type"},
      {"llama", R"({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}})", "low_freq_factor"},
      {"llama", R"({"rope_scaling": {"rope_type": "linear", "factor": -2.0}})", "rope_scaling.factor"},
      {"llama", R"({"rope_scaling": 3})", "rope_scaling"},
      {"llama", R"({"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": null})",
       "partial_rotary_factor"},
      {"llama", R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor"},
      {"llama", R"({"sliding_window": 128})", "sliding_window"},
      {"qwen2", R"({"use_sliding_window": true, "sliding_window": 128, "max_window_layers": 1})", "use_sliding_window"},
      {"qwen3", R"({"layer_types": ["full_attention", "sliding_attention"]})", "layer_types"},
      {"llama", R"({"attention_multiplier": 0.5})", "attention_multiplier"},
      {"llama", R"({"final_logit_softcapping": 30.0})", "final_logit_softcapping"},
      {"llama", R"({"rope_interleaved": true})", "rope_interleaved"},
      {"llama", R"({"quantization_config": {"quant_method": "gptq"}})", "quantization_config"},
      {"qwen2", R"({"attention_bias": false})", "attention_bias"},
      {"deepseek_v3", R"({"topk_method": "greedy"})", "topk_method"},
      {"deepseek_v3", R"({"scoring_func": "softmax"})", "scoring_func"},
      {"deepseek_v3", R"({"moe_layer_freq": 2})", "moe_layer_freq"},
      {"deepseek_v2", R"({"norm_topk_prob": true})", "norm_topk_prob"},
      {"deepseek_v3", R"({"num_key_value_heads": 2})", "num_key_value_heads"},
      {"deepseek_v3", R"({"index_topk": 64})", "index_topk"},
  };
  for (const auto& c : kCases) EXPECT_THAT(Error(c.family, c.changes), HasSubstr(c.expected)) << c.changes;
}

TEST(Config, SizesOutOfRangeAreRefusedByName) {
  const struct {
    const char* family;
    const char* changes;
    const char* expected;
  } kCases[] = {
      {"llama", R"({"vocab_size": 0})", "vocab_size"},
      {"llama", R"({"vocab_size": "many"})", "vocab_size"},
      {"llama", R"({"vocab_size": 1e30})", "vocab_size"},
      {"llama", R"({"vocab_size": 4e1})", "vocab_size"},
      {"llama", R"({"hidden_size": -1})", "hidden_size"},
      {"llama", R"({"hidden_size": 9223372036854775807})", "hidden_size"},
      {"llama", R"({"hidden_size": "REMOVED"})", "hidden_size"},
      {"llama", R"({"num_hidden_layers": 100000})", "num_hidden_layers"},
      {"llama", R"({"num_attention_heads": 0, "head_dim": "REMOVED"})", "num_attention_heads"},
      {"llama", R"({"num_attention_heads": 5, "head_dim": "REMOVED"})", "num_attention_heads"},
      {"llama", R"({"num_key_value_heads": 3})", "num_key_value_heads"},
      {"llama", R"({"head_dim": 7})", "head_dim"},
      {"llama", R"({"max_position_embeddings": 0})", "max_position_embeddings"},
      {"llama", R"({"rms_norm_eps": -1})", "rms_norm_eps"},
      {"llama", R"({"rope_theta": 0})", "rope_theta"},
      {"llama", R"({"eos_token_id": 41})", "eos_token_id"},
      {"llama", R"({"eos_token_id": [1, "2"]})", "eos_token_id"},
      {"llama", R"({"vocab_size": 16777216, "hidden_size": 1048576, "intermediate_size": 1048576})", "2^42"},
      {"deepseek_v3", R"({"n_group": 3})", "n_group"},
      {"deepseek_v3", R"({"n_group": 8, "topk_group": 4})", "n_group"},
      {"deepseek_v3", R"({"topk_group": 5})", "topk_group"},
      {"deepseek_v3", R"({"topk_group": 1})", "num_experts_per_tok"},
      {"deepseek_v3", R"({"num_experts_per_tok": 9})", "num_experts_per_tok"},
      {"deepseek_v3", R"({"qk_rope_head_dim": 3})", "qk_rope_head_dim"},
      {"deepseek_v3", R"({"kv_lora_rank": "REMOVED"})", "kv_lora_rank"},
      {"deepseek_v3", R"({"n_routed_experts": "REMOVED"})", "n_routed_experts"},
      {"deepseek_v3", R"({"n_routed_experts": 99999999999})", "n_routed_experts"},
      {"qwen3_moe", R"({"decoder_sparse_step": 0})", "decoder_sparse_step"},
  };
  for (const auto& c : kCases) EXPECT_THAT(Error(c.family, c.changes), HasSubstr(c.expected)) << c.changes;
}

TEST(Config, AllProblemsComeInOneErrorWithTheFile) {
  const std::string error = Error("llama", R"({"hidden_act": "relu", "vocab_size": "x", "sliding_window": 5})");
  EXPECT_THAT(error, HasSubstr("dir/config.json"));
  EXPECT_THAT(error, HasSubstr("hidden_act"));
  EXPECT_THAT(error, HasSubstr("vocab_size"));
  EXPECT_THAT(error, HasSubstr("sliding_window"));
}

TEST(Config, NullsUnknownFieldsAndNeutralValuesAreAccepted) {
  EXPECT_EQ(
      Error("llama",
            R"({"sliding_window": null, "attention_multiplier": 1.0, "is_llama_config": true, "rope_interleaved": false,
                               "some_trainer_note": "x", "pad_token_id": -1, "torch_dtype": "bfloat16"})"),
      "");
  EXPECT_EQ(Error("qwen2", R"({"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28})"), "");
}

TEST(Config, NotAnObjectIsAnError) { EXPECT_FALSE(ModelConfig::FromHuggingFace(json::Json::array(), "x").ok()); }

class Families : public testing::TestWithParam<std::string> {};

TEST_P(Families, SurviveWritingAndReading) {
  const ModelConfig config = TinyConfig(GetParam());
  const json::OrderedJson written = config.ToHuggingFace("float32");
  const absl::StatusOr<ModelConfig> again = ModelConfig::FromHuggingFace(*json::Parse(json::Dump(written)), "again");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(json::Dump(again->ToHuggingFace("float32")), json::Dump(written));
  EXPECT_EQ(again->AttentionScale(), config.AttentionScale());
  EXPECT_EQ(again->NumParameters(), config.NumParameters());
}

TEST_P(Families, CountTheirParameters) {
  const ModelConfig config = TinyConfig(GetParam());
  const std::unique_ptr<Model> model = *Model::Create(config, DType::kF32);
  int64_t sum = 0;
  for (const LogicalTensor& tensor : model->tensors()) sum += tensor.value.size();
  EXPECT_EQ(config.NumParameters(), sum);
  EXPECT_LE(config.NumActiveParameters(), config.NumParameters());
}

// Every field of every family told every lie: an error that names file and field, or a configuration that is safe to compute with.
TEST_P(Families, EveryLieInEveryFieldIsNamedOrHarmless) {
  const json::Json lies = *json::Parse(R"([null, true, false, -1, 0, 1, 3, 1.5, -1e300, 1e300, 1e-300, 2147483648, 9223372036854775807,
      18446744073709551615, "", "x", "NaN", "\u0000", [], [[]], [-1], [1, 1e300], ["x"], {}, {"a": {}}, {"rope_type": 3}, {"rope_type": "yarn"}])");
  const json::Json valid = *json::Parse(TinyConfigText(GetParam()));
  int refused = 0;
  auto judge = [&](const json::Json& config, const std::string& field) {
    const absl::StatusOr<ModelConfig> result = ModelConfig::FromHuggingFace(config, "dir/config.json");
    if (!result.ok()) {
      ++refused;
      const std::string error(result.status().message());
      EXPECT_THAT(error, HasSubstr("dir/config.json")) << field;
      EXPECT_LT(error.size(), 4096u) << field;
      return;
    }
    EXPECT_GT(result->NumParameters(), 0) << field;
    EXPECT_TRUE(std::isfinite(result->AttentionScale())) << field;
    EXPECT_TRUE(ModelConfig::FromHuggingFace(*json::Parse(json::Dump(result->ToHuggingFace("float32"))), "again").ok()) << field << config.dump();
  };
  for (const auto& [key, value] : valid.items()) {
    for (const json::Json& lie : lies) {
      json::Json config = valid;
      config[key] = lie;
      judge(config, key);
      if (!value.is_object()) continue;
      for (const auto& [inner, unused] : value.items()) {
        json::Json nested = valid;
        nested[key][inner] = lie;
        judge(nested, key + "." + inner);
      }
    }
  }
  EXPECT_GE(refused, 100);
}

// Cut at every byte, and each byte overwritten: what still is JSON is judged, the rest is refused by the parser.
TEST_P(Families, TextCutAndOverwrittenAnywhereNeverCrashes) {
  const std::string text = TinyConfigText(GetParam());
  int parsed = 0;
  auto judge = [&](const std::string& changed) {
    const absl::StatusOr<json::Json> config = json::Parse(changed);
    if (!config.ok()) return;
    ++parsed;
    const absl::StatusOr<ModelConfig> result = ModelConfig::FromHuggingFace(*config, "config.json");
    if (result.ok()) {
      EXPECT_GT(result->NumParameters(), 0);
    }
  };
  for (size_t i = 0; i < text.size(); ++i) {
    judge(text.substr(0, i));
    for (char c : {'9', '-', '"', '{', ',', '\xff', 'e'}) {
      std::string changed = text;
      changed[i] = c;
      judge(changed);
    }
  }
  EXPECT_GE(parsed, 100);
}

INSTANTIATE_TEST_SUITE_P(Config, Families, testing::ValuesIn(TinyFamilies()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace grouper
