// What llama.cpp calls our architectures and the parts of a layer. Beside one-to-one names there are
//
//   blk.N.ffn_{gate,up,down}_exps.weight [E, rows, columns]   all experts' matrices of layer N, one after another
//   blk.N.attn_k_b.weight [heads, kv_lora_rank, qk_nope]      kv_b_proj's rows for k, each head's transposed, and
//   blk.N.attn_v_b.weight [heads, v_head_dim, kv_lora_rank]   its rows for v
//   blk.N.exp_probs_b.bias [E]                                mlp.gate.e_score_correction_bias
//   rope_freqs.weight [head_dim / 2]                          Llama 3's scaling, a divisor for each rotary pair
#pragma once

#include "absl/strings/string_view.h"

namespace grouper {

struct GgufPart {
  absl::string_view theirs;
  absl::string_view ours;
};

inline constexpr GgufPart kGgufParts[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
};

// Of each expert of a layer.
inline constexpr GgufPart kGgufExpertParts[] = {
    {"ffn_gate_exps", "gate_proj"}, {"ffn_up_exps", "up_proj"}, {"ffn_down_exps", "down_proj"}};

// general.expert_gating_func
inline constexpr int kGgufSoftmax = 1, kGgufSigmoid = 2;

}  // namespace grouper
