#include "common/model/gguf_metadata.h"

#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/gguf_names.h"

namespace grouper {
namespace {

absl::Status NoPlace(const std::string& what) { return absl::UnimplementedError(absl::StrCat(what, "; use --format hf")); }

// A number that is written as 32 bits.
class Keys {
 public:
  Keys(GgufWriter& out, const std::string& architecture) : out_(out), architecture_(architecture) {}
  std::string operator()(const char* name) const { return absl::StrCat(architecture_, ".", name); }
  void Int(const char* name, int64_t value) { out_.AddUint32((*this)(name), static_cast<uint32_t>(value)); }
  void Float(const char* name, double value) { out_.AddFloat32((*this)(name), static_cast<float>(value)); }

 private:
  GgufWriter& out_;
  const std::string architecture_;
};

absl::Status AddRope(GgufWriter& out, Keys& key, const ModelConfig& c) {
  key.Float("rope.freq_base", c.rope_theta);
  key.Int("rope.dimension_count", c.mla ? c.mla->qk_rope_head_dim : c.head_dim);
  const RopeScaling& s = c.rope_scaling;
  const bool yarn = s.type == RopeScaling::Type::kYarn;
  if (c.mla && s.type == RopeScaling::Type::kLlama3) return NoPlace("rope_scaling: llama.cpp's deepseek2 has no Llama 3 scaling");
  if (s.type != RopeScaling::Type::kLinear && !yarn) return absl::OkStatus();
  out.AddString(key("rope.scaling.type"), yarn ? "yarn" : "linear");
  key.Float("rope.scaling.factor", s.factor);
  if (!yarn) return absl::OkStatus();
  key.Int("rope.scaling.original_context_length", s.original_max_position_embeddings);
  if (s.attention_factor || !s.truncate) return NoPlace("rope_scaling: GGUF has no place for YaRN's attention_factor and truncate");
  if (s.beta_fast != 32) key.Float("rope.scaling.yarn_beta_fast", s.beta_fast);
  if (s.beta_slow != 1) key.Float("rope.scaling.yarn_beta_slow", s.beta_slow);
  if (!c.mla) {
    return s.mscale == 0 && s.mscale_all_dim == 0 ? absl::OkStatus() : NoPlace("rope_scaling: GGUF has a place for YaRN's mscale with DeepSeek alone");
  }
  if (!(s.mscale > 0) || s.mscale != s.mscale_all_dim) {
    return NoPlace(absl::StrCat("rope_scaling: mscale is ", s.mscale, " and mscale_all_dim ", s.mscale_all_dim, "; GGUF has one number for both"));
  }
  key.Float("rope.scaling.yarn_log_multiplier", 0.1 * s.mscale_all_dim);
  return absl::OkStatus();
}

absl::Status AddExperts(GgufWriter& out, Keys& key, const ModelConfig& c) {
  const MoeConfig& m = *c.moe;
  const bool sigmoid = m.router.scoring == kernels::RouterConfig::Scoring::kSigmoid;
  key.Int("expert_count", m.router.num_experts);
  key.Int("expert_used_count", m.router.top_k);
  key.Int("expert_feed_forward_length", m.moe_intermediate_size);
  if (!c.mla) {
    if (!m.mlp_only_layers.empty()) return NoPlace("mlp_only_layers: llama.cpp's qwen3moe has experts in every layer");
    if (m.decoder_sparse_step != 1) return NoPlace("decoder_sparse_step: llama.cpp's qwen3moe has experts in every layer");
    if (!m.router.norm_topk_prob) return NoPlace("norm_topk_prob: llama.cpp's qwen3moe always normalises");
    return absl::OkStatus();
  }
  if (m.n_shared_experts == 0) return NoPlace("n_shared_experts: llama.cpp's deepseek2 always has a shared expert");
  key.Int("leading_dense_block_count", m.first_k_dense_replace);
  key.Int("expert_shared_count", m.n_shared_experts);
  key.Int("expert_gating_func", sigmoid ? kGgufSigmoid : kGgufSoftmax);
  if (m.router.num_groups > 1) {
    key.Int("expert_group_count", m.router.num_groups);
    key.Int("expert_group_used_count", m.router.topk_groups);
  }
  key.Float("expert_weights_scale", m.router.routed_scaling_factor);
  out.AddBool(key("expert_weights_norm"), m.router.norm_topk_prob);
  return absl::OkStatus();
}

absl::Status AddMla(Keys& key, const ModelConfig& c) {
  const MlaConfig& m = *c.mla;
  if (c.attention_bias || c.o_bias) return NoPlace("attention_bias: llama.cpp's deepseek2 has no biases");
  if (c.mlp_bias) return NoPlace("mlp_bias: llama.cpp's deepseek2 has no biases");
  if (c.rope_pairing != kernels::RopePairing::kInterleaved) return NoPlace("rope_interleave: llama.cpp's deepseek2 rotates neighbours");
  if (m.q_lora_rank > 0) key.Int("attention.q_lora_rank", m.q_lora_rank);
  key.Int("attention.kv_lora_rank", m.kv_lora_rank);
  // One latent head of key and value; *_mla are the widths of the heads that kv_b_proj makes of it.
  key.Int("attention.head_count_kv", 1);
  key.Int("attention.key_length", m.kv_lora_rank + m.qk_rope_head_dim);
  key.Int("attention.value_length", m.kv_lora_rank);
  key.Int("attention.key_length_mla", m.qk_nope_head_dim + m.qk_rope_head_dim);
  key.Int("attention.value_length_mla", m.v_head_dim);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> GgufArchitecture(const ModelConfig& config) {
  static constexpr std::pair<absl::string_view, absl::string_view> kNames[] = {
      {"LlamaForCausalLM", "llama"},        {"Qwen2ForCausalLM", "qwen2"},           {"Qwen3ForCausalLM", "qwen3"},
      {"Qwen3MoeForCausalLM", "qwen3moe"},  {"DeepseekV2ForCausalLM", "deepseek2"},  {"DeepseekV3ForCausalLM", "deepseek2"}};
  for (const auto& [ours, theirs] : kNames) {
    if (config.architecture == ours) return std::string(theirs);
  }
  return NoPlace(absl::StrCat(config.architecture, " is not written to GGUF"));
}

absl::Status AddGgufMetadata(GgufWriter& out, const std::string& architecture, const ModelConfig& c, uint32_t file_type) {
  Keys key(out, architecture);
  out.AddString("general.architecture", architecture);
  out.AddString("general.type", "model");
  out.AddUint32("general.file_type", file_type);
  out.AddUint32("general.quantization_version", 2);
  key.Int("block_count", c.num_hidden_layers);
  key.Int("context_length", c.declared_max_position_embeddings > 0 ? c.declared_max_position_embeddings : c.max_position_embeddings);
  key.Int("embedding_length", c.hidden_size);
  key.Int("feed_forward_length", c.intermediate_size);
  key.Int("attention.head_count", c.num_attention_heads);
  key.Float("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
  key.Int("vocab_size", c.vocab_size);
  if (c.mla) {
    RETURN_IF_ERROR(AddMla(key, c));
  } else {
    key.Int("attention.head_count_kv", c.num_key_value_heads);
    key.Int("attention.key_length", c.head_dim);
    key.Int("attention.value_length", c.head_dim);
  }
  if (c.moe) {
    RETURN_IF_ERROR(AddExperts(out, key, c));
  } else if (c.mla) {
    key.Int("leading_dense_block_count", c.num_hidden_layers);
  }
  return AddRope(out, key, c);
}

void AddGgufVocab(GgufWriter& out, const GgufVocab& vocab, const std::vector<int32_t>& stop_token_ids) {
  out.AddString("tokenizer.ggml.model", vocab.model);
  out.AddString("tokenizer.ggml.pre", vocab.pre);
  out.AddStrings("tokenizer.ggml.tokens", vocab.tokens);
  out.AddInt32s("tokenizer.ggml.token_type", vocab.token_types);
  if (!vocab.scores.empty()) out.AddFloat32s("tokenizer.ggml.scores", vocab.scores);
  if (vocab.model == "gpt2") out.AddStrings("tokenizer.ggml.merges", vocab.merges);
  if (vocab.model == "llama") out.AddBool("tokenizer.ggml.add_space_prefix", vocab.add_space_prefix);
  // llama.cpp ends a generation at eos: the first stop token, where the model has several.
  const int32_t eos = stop_token_ids.empty() ? vocab.eos_id : stop_token_ids[0];
  const std::pair<const char*, int32_t> ids[] = {{"bos", vocab.bos_id}, {"eos", eos}, {"padding", vocab.pad_id}, {"unknown", vocab.unk_id}};
  for (const auto& [name, id] : ids) {
    if (id >= 0) out.AddUint32(absl::StrCat("tokenizer.ggml.", name, "_token_id"), static_cast<uint32_t>(id));
  }
  out.AddBool("tokenizer.ggml.add_bos_token", vocab.add_bos);
  out.AddBool("tokenizer.ggml.add_eos_token", vocab.add_eos);
  if (!vocab.chat_template.empty()) out.AddString("tokenizer.chat_template", vocab.chat_template);
}

std::vector<float> Llama3Divisors(const ModelConfig& c) {
  const RopeScaling& s = c.rope_scaling;
  const double original = static_cast<double>(s.original_max_position_embeddings);
  std::vector<float> divisors;
  for (int64_t i = 0; i < c.head_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(c.rope_theta, 2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
    double divisor = 1;
    if (wavelength > original / s.low_freq_factor) {
      divisor = s.factor;
    } else if (wavelength > original / s.high_freq_factor) {
      const double smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      divisor = 1 / ((1 - smooth) / s.factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

}  // namespace grouper
