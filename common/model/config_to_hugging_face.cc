// ModelConfig -> config.json, as transformers 4 and 5 read it.
#include <algorithm>

#include "common/model/config.h"

namespace grouper {

using kernels::RouterConfig;

json::OrderedJson ModelConfig::ToHuggingFace(const std::string& torch_dtype) const {
  json::OrderedJson j;
  const bool v3 = architecture == "DeepseekV3ForCausalLM";
  j["architectures"] = {architecture};
  j["model_type"] = architecture == "LlamaForCausalLM"      ? "llama"
                    : architecture == "Qwen2ForCausalLM"    ? "qwen2"
                    : architecture == "Qwen3ForCausalLM"    ? "qwen3"
                    : architecture == "Qwen3MoeForCausalLM" ? "qwen3_moe"
                    : v3                                    ? "deepseek_v3"
                                                            : "deepseek_v2";
  j["vocab_size"] = vocab_size;
  j["hidden_size"] = hidden_size;
  j["intermediate_size"] = intermediate_size;
  j["num_hidden_layers"] = num_hidden_layers;
  j["num_attention_heads"] = num_attention_heads;
  j["num_key_value_heads"] = num_key_value_heads;
  j["hidden_act"] = "silu";
  j["max_position_embeddings"] = std::max(max_position_embeddings, declared_max_position_embeddings);
  j["rms_norm_eps"] = rms_norm_eps;
  j["tie_word_embeddings"] = tie_word_embeddings;
  if (architecture != "Qwen2ForCausalLM") j["attention_bias"] = attention_bias;
  if (architecture == "LlamaForCausalLM" || architecture == "DeepseekV2ForCausalLM") j["mlp_bias"] = mlp_bias;
  if (!mla) {
    j["head_dim"] = head_dim;
  } else {
    j["q_lora_rank"] = mla->q_lora_rank > 0 ? json::OrderedJson(mla->q_lora_rank) : json::OrderedJson();
    j["kv_lora_rank"] = mla->kv_lora_rank;
    j["qk_nope_head_dim"] = mla->qk_nope_head_dim;
    j["qk_rope_head_dim"] = mla->qk_rope_head_dim;
    j["v_head_dim"] = mla->v_head_dim;
    if (v3) j["rope_interleave"] = rope_pairing == kernels::RopePairing::kInterleaved;
  }
  if (moe) {
    const RouterConfig& r = moe->router;
    j["moe_intermediate_size"] = moe->moe_intermediate_size;
    j["num_experts_per_tok"] = r.top_k;
    j["norm_topk_prob"] = r.norm_topk_prob;
    if (mla) {
      j["n_routed_experts"] = r.num_experts;
      j["n_shared_experts"] = moe->n_shared_experts;
      j["first_k_dense_replace"] = moe->first_k_dense_replace;
      j["n_group"] = r.num_groups;
      j["topk_group"] = r.topk_groups;
      j["routed_scaling_factor"] = r.routed_scaling_factor;
      j["scoring_func"] = v3 ? "sigmoid" : "softmax";
      j["topk_method"] = v3 ? "noaux_tc" : r.num_groups > 1 ? "group_limited_greedy" : "greedy";
    } else {
      j["num_experts"] = r.num_experts;
      j["decoder_sparse_step"] = moe->decoder_sparse_step;
      j["mlp_only_layers"] = moe->mlp_only_layers;
    }
  } else if (mla) {
    j["first_k_dense_replace"] = num_hidden_layers;
  }
  if (v3) j["num_nextn_predict_layers"] = 0;
  j["rope_theta"] = rope_theta;
  const RopeScaling& s = rope_scaling;
  if (s.type == RopeScaling::Type::kNone) {
    j["rope_scaling"] = nullptr;
  } else {
    json::OrderedJson& r = j["rope_scaling"];
    r["rope_type"] = s.type == RopeScaling::Type::kLinear   ? "linear"
                     : s.type == RopeScaling::Type::kLlama3 ? "llama3"
                                                            : "yarn";
    r["factor"] = s.factor;
    if (s.type != RopeScaling::Type::kLinear)
      r["original_max_position_embeddings"] = s.original_max_position_embeddings;
    if (s.type == RopeScaling::Type::kLlama3) {
      r["low_freq_factor"] = s.low_freq_factor;
      r["high_freq_factor"] = s.high_freq_factor;
    }
    if (s.type == RopeScaling::Type::kYarn) {
      r["beta_fast"] = s.beta_fast;
      r["beta_slow"] = s.beta_slow;
      if (s.mscale > 0) r["mscale"] = s.mscale;
      if (s.mscale_all_dim > 0) r["mscale_all_dim"] = s.mscale_all_dim;
      if (s.attention_factor) r["attention_factor"] = *s.attention_factor;
      if (!s.truncate) r["truncate"] = false;
    }
  }
  j["bos_token_id"] = bos_token_id ? json::OrderedJson(*bos_token_id) : json::OrderedJson();
  if (eos_token_ids.empty()) {
    j["eos_token_id"] = nullptr;
  } else if (eos_token_ids.size() == 1) {
    j["eos_token_id"] = eos_token_ids[0];
  } else {
    j["eos_token_id"] = eos_token_ids;
  }
  j["pad_token_id"] = pad_token_id ? json::OrderedJson(*pad_token_id) : json::OrderedJson();
  j["torch_dtype"] = torch_dtype;
  j["use_cache"] = true;
  return j;
}

}  // namespace grouper
