#include "common/model/config.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace grouper {

bool ModelConfig::IsMoeLayer(int64_t layer) const {
  if (!moe || layer < moe->first_k_dense_replace || (layer + 1) % moe->decoder_sparse_step != 0) return false;
  return std::find(moe->mlp_only_layers.begin(), moe->mlp_only_layers.end(), layer) == moe->mlp_only_layers.end();
}

namespace {

// T: int64_t, or double for sizes that nobody has checked yet. active: of the experts, those that one token touches; of
// the embedding, the head.
template <typename T>
T CountParameters(const ModelConfig& c, bool active) {
  const T d = static_cast<T>(c.hidden_size);
  T attention = 0;
  if (c.mla) {
    const MlaConfig& m = *c.mla;
    const T q = static_cast<T>(c.num_attention_heads) * (m.qk_nope_head_dim + m.qk_rope_head_dim);
    const T latent = m.kv_lora_rank + m.qk_rope_head_dim;
    attention += m.q_lora_rank > 0 ? d * m.q_lora_rank + m.q_lora_rank + m.q_lora_rank * q : d * q;
    attention += d * latent + m.kv_lora_rank;
    attention += static_cast<T>(m.kv_lora_rank) * c.num_attention_heads * (m.qk_nope_head_dim + m.v_head_dim);
    attention += d * c.num_attention_heads * m.v_head_dim;
    if (c.attention_bias) attention += m.q_lora_rank + latent;
  } else {
    const T q = static_cast<T>(c.num_attention_heads) * c.head_dim,
            kv = static_cast<T>(c.num_key_value_heads) * c.head_dim;
    attention = d * (2 * q + 2 * kv);
    if (c.attention_bias) attention += q + 2 * kv;
    if (c.qk_norm) attention += 2 * c.head_dim;
  }
  if (c.o_bias) attention += d;
  auto dense = [&](T width) { return 3 * d * width + (c.mlp_bias ? 2 * width + d : 0); };
  T total = d * c.vocab_size * (c.tie_word_embeddings || active ? 1 : 2) + d;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    total += attention + 2 * d;
    if (!c.IsMoeLayer(layer)) {
      total += dense(static_cast<T>(c.intermediate_size));
      continue;
    }
    const MoeConfig& m = *c.moe;
    total += static_cast<T>(m.router.num_experts) * (d + (m.score_correction_bias ? 1 : 0));
    total += 3 * d * (active ? m.router.top_k : m.router.num_experts) * m.moe_intermediate_size;
    if (m.n_shared_experts > 0) total += dense(static_cast<T>(m.n_shared_experts) * m.moe_intermediate_size);
  }
  return total;
}

}  // namespace

int64_t ModelConfig::NumParameters() const { return CountParameters<int64_t>(*this, false); }
int64_t ModelConfig::NumActiveParameters() const { return CountParameters<int64_t>(*this, true); }

absl::Status ModelConfig::Validate() const {
  std::vector<std::string> problems;
  auto range = [&](const char* field, int64_t value, int64_t min, int64_t max) {
    if (value < min || value > max) {
      problems.push_back(absl::StrCat(field, " is ", value, ", expected ", min, " to ", max));
      return false;
    }
    return true;
  };
  auto positive = [&](const char* field, double value) {
    if (!(value > 0) || !(value < 1e30))
      problems.push_back(absl::StrCat(field, " is ", value, ", expected a positive number"));
  };
  constexpr int64_t kMaxWidth = int64_t{1} << 20;
  range("vocab_size", vocab_size, 1, int64_t{1} << 24);
  range("hidden_size", hidden_size, 1, kMaxWidth);
  range("intermediate_size", intermediate_size, moe ? 0 : 1, kMaxWidth);
  range("num_hidden_layers", num_hidden_layers, 1, 4096);
  const bool heads_ok = range("num_attention_heads", num_attention_heads, 1, 65536);
  range("max_position_embeddings", max_position_embeddings, 1, int64_t{1} << 24);
  positive("rms_norm_eps", rms_norm_eps);
  positive("rope_theta", rope_theta);
  if (!mla) {
    if (heads_ok && range("num_key_value_heads", num_key_value_heads, 1, num_attention_heads) &&
        num_attention_heads % num_key_value_heads != 0) {
      problems.push_back(absl::StrCat("num_attention_heads (", num_attention_heads,
                                      ") is not a multiple of num_key_value_heads (", num_key_value_heads, ")"));
    }
    if (range("head_dim", head_dim, 2, 4096) && head_dim % 2 != 0) problems.push_back("head_dim is odd");
    if (heads_ok && head_dim > 0 && head_dim <= 4096 && num_attention_heads * head_dim > kMaxWidth) {
      problems.push_back("num_attention_heads * head_dim is too large");
    }
  } else {
    range("q_lora_rank", mla->q_lora_rank, 0, kMaxWidth);
    range("kv_lora_rank", mla->kv_lora_rank, 1, 65536);
    range("qk_nope_head_dim", mla->qk_nope_head_dim, 1, 4096);
    range("v_head_dim", mla->v_head_dim, 1, 4096);
    if (range("qk_rope_head_dim", mla->qk_rope_head_dim, 2, 4096) && mla->qk_rope_head_dim % 2 != 0) {
      problems.push_back("qk_rope_head_dim is odd");
    }
    if (qk_norm) problems.push_back("q/k norms are not supported with MLA");
  }
  if (moe) {
    const kernels::RouterConfig& r = moe->router;
    const bool experts_ok = range("n_routed_experts", r.num_experts, 1, 4096);
    const bool top_ok = experts_ok && range("num_experts_per_tok", r.top_k, 1, r.num_experts);
    range("moe_intermediate_size", moe->moe_intermediate_size, 1, kMaxWidth);
    range("n_shared_experts", moe->n_shared_experts, 0, 1024);
    range("first_k_dense_replace", moe->first_k_dense_replace, 0, 4096);
    if (range("decoder_sparse_step", moe->decoder_sparse_step, 1, 4096) && num_hidden_layers <= 4096 &&
        intermediate_size == 0) {
      for (int64_t layer = 0; layer < num_hidden_layers; ++layer) {
        if (!IsMoeLayer(layer)) {
          problems.push_back(absl::StrCat("intermediate_size is 0, and layer ", layer, " has no experts"));
          break;
        }
      }
    }
    positive("routed_scaling_factor", r.routed_scaling_factor);
    if (experts_ok && range("n_group", r.num_groups, 1, r.num_experts) &&
        range("topk_group", r.topk_groups, 1, r.num_groups)) {
      if (r.num_experts % r.num_groups != 0) {
        problems.push_back(
            absl::StrCat("n_routed_experts (", r.num_experts, ") is not a multiple of n_group (", r.num_groups, ")"));
      } else if (top_ok && r.num_experts / r.num_groups * r.topk_groups < r.top_k) {
        problems.push_back("num_experts_per_tok is larger than the number of experts in topk_group groups");
      } else if (r.num_groups > 1 && r.group_score == kernels::RouterConfig::GroupScore::kTop2Sum &&
                 r.num_experts / r.num_groups < 2) {
        problems.push_back("n_group leaves a group one expert, and a group's score is the sum of two");
      }
    }
    if (mlp_bias && moe->n_shared_experts == 0) problems.push_back("mlp_bias is not supported with experts");
  }
  if (rope_scaling.type != RopeScaling::Type::kNone) positive("rope_scaling.factor", rope_scaling.factor);
  if (rope_scaling.type == RopeScaling::Type::kLlama3 || rope_scaling.type == RopeScaling::Type::kYarn) {
    range("rope_scaling.original_max_position_embeddings", rope_scaling.original_max_position_embeddings, 1,
          int64_t{1} << 24);
  }
  if (rope_scaling.type == RopeScaling::Type::kLlama3) {
    positive("rope_scaling.low_freq_factor", rope_scaling.low_freq_factor);
    positive("rope_scaling.high_freq_factor", rope_scaling.high_freq_factor);
    if (!(rope_scaling.high_freq_factor > rope_scaling.low_freq_factor)) {
      problems.push_back("rope_scaling.high_freq_factor must be larger than rope_scaling.low_freq_factor");
    }
  }
  if (rope_scaling.type == RopeScaling::Type::kYarn) {
    positive("rope_scaling.beta_fast", rope_scaling.beta_fast);
    positive("rope_scaling.beta_slow", rope_scaling.beta_slow);
    if (rope_theta == 1) problems.push_back("rope_theta is 1, which YaRN cannot scale");
    if (rope_scaling.attention_factor) positive("rope_scaling.attention_factor", *rope_scaling.attention_factor);
    for (const auto& [field, value] : {std::pair("rope_scaling.mscale", rope_scaling.mscale), std::pair("rope_scaling.mscale_all_dim", rope_scaling.mscale_all_dim)}) {
      if (!(value >= 0 && value <= 1000)) problems.push_back(absl::StrCat(field, " is ", value, ", expected 0 to 1000"));
    }
  }
  for (int32_t id : eos_token_ids) range("eos_token_id", id, 0, vocab_size - 1);
  // 2^42 parameters: every product of sizes below fits 64 bits.
  if (problems.empty() && CountParameters<double>(*this, false) > 4.4e12)
    problems.push_back("the model has more than 2^42 parameters");
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

}  // namespace grouper
