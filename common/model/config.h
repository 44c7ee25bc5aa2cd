// ModelConfig: what a decoder of ours consists of, read from a Hugging Face config.json or a GGUF file's metadata.
//
// Field names are config.json's. A field that would change results and that we do not support is an error that names
// it; it is never ignored. Ranges are checked here, once, before any arithmetic: a config that Validate() accepted can
// be used without checks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/json.h"
#include "kernels/moe.h"
#include "kernels/rope.h"

namespace grouper {

struct RopeScaling {
  enum class Type { kNone, kLinear, kLlama3, kYarn };
  Type type = Type::kNone;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  int64_t original_max_position_embeddings = 0;      // llama3, yarn
  double beta_fast = 32, beta_slow = 1;              // yarn
  double mscale = 0, mscale_all_dim = 0;             // yarn as DeepSeek uses it (0: absent)
  std::optional<double> attention_factor;            // yarn: multiplies cos and sin
  bool truncate = true;                              // yarn: correction range rounded to integers
};

struct MlaConfig {          // DeepSeek-V2, section 2.1
  int64_t q_lora_rank = 0;  // 0: q_proj is one matrix
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
};

struct MoeConfig {
  kernels::RouterConfig router;
  bool score_correction_bias = false;  // a bias that steers the choice (DeepSeek-V3's e_score_correction_bias)
  int64_t moe_intermediate_size = 0;
  int64_t n_shared_experts = 0;          // shared experts are one SwiGLU of n_shared_experts * moe_intermediate_size
  int64_t first_k_dense_replace = 0;     // the first k layers have a dense feed-forward
  int64_t decoder_sparse_step = 1;       // Qwen3-MoE: layer i has experts when (i + 1) % step == 0 ...
  std::vector<int64_t> mlp_only_layers;  // ... and i is not in this list
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM", ... (DESIGN's table)
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // GQA; with MLA there is one latent head
  int64_t head_dim = 0;             // GQA
  bool attention_bias = false;  // Qwen2.5: bias on q, k, v (Llama's attention_bias puts one on o too: o_bias). MLA: on
                                // q_a_proj, kv_a_proj_with_mqa and o_proj
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // Qwen3: RMSNorm on each head of q and k
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  kernels::RopePairing rope_pairing = kernels::RopePairing::kHalfSplit;
  int64_t max_position_embeddings = 0;
  int64_t declared_max_position_embeddings = 0;  // what config.json says, when a caller lowered the former; 0: the same
  bool tie_word_embeddings = false;
  std::optional<MlaConfig> mla;
  std::optional<MoeConfig> moe;
  int64_t num_nextn_predict_layers =
      0;  // multi-token prediction layers behind the last one: in the file, not in the model
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id, pad_token_id;

  bool IsMoeLayer(int64_t layer) const;
  // Of all logical tensors, e_score_correction_bias included; a tied head counts once.
  int64_t NumParameters() const;
  int64_t NumActiveParameters() const;  // touched by one token
  // Softmax scale: 1/sqrt(head width), times YaRN's mscale squared for DeepSeek.
  double AttentionScale() const;

  absl::Status Validate() const;

  // `source` names the file in errors. All problems are named in one error. Fields of other programs' making are left
  // alone; those that this program does not know are named in a notice.
  static absl::StatusOr<ModelConfig> FromHuggingFace(const json::Json& config, const std::string& source);
  json::OrderedJson ToHuggingFace(const std::string& torch_dtype) const;
};

}  // namespace grouper
