#include "common/model/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/quote.h"
#include "common/base/status.h"
#include "common/model/gguf_names.h"

namespace grouper {
namespace {

constexpr int64_t kMax = int64_t{1} << 40;

class Metadata {
 public:
  Metadata(const GgufFile& file, std::string architecture) : file_(file), prefix_(architecture + ".") {}

  std::string Key(const std::string& name) {
    seen_.insert(prefix_ + name);
    return prefix_ + name;
  }
  bool Has(const std::string& name) { return file_.Has(Key(name)); }
  absl::StatusOr<int64_t> Int(const std::string& name) { return file_.GetInt(Key(name), 0, kMax); }
  absl::StatusOr<int64_t> Int(const std::string& name, int64_t fallback) { return Has(name) ? Int(name) : fallback; }
  absl::StatusOr<double> Float(const std::string& name) { return file_.GetFloat(Key(name)); }
  absl::StatusOr<double> Float(const std::string& name, double fallback) {
    return Has(name) ? file_.GetFloat(Key(name)) : absl::StatusOr<double>(fallback);
  }
  absl::StatusOr<std::string> String(const std::string& name, const std::string& fallback) {
    if (!Has(name)) return fallback;
    ASSIGN_OR_RETURN(const absl::string_view text, file_.GetString(Key(name)));
    return std::string(text);
  }
  // Keys of the architecture that nobody asked for.
  std::vector<std::string> Unknown() const {
    std::vector<std::string> unknown;
    for (const std::string& key : file_.keys()) {
      if (absl::StartsWith(key, prefix_) && seen_.count(key) == 0) unknown.push_back(key);
    }
    return unknown;
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
  std::set<std::string> seen_;
};

absl::Status Error(const GgufFile& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", what));
}

// Do these parameters give the divisors?
bool Reproduces(const RopeScaling& s, const std::vector<float>& divisors, double theta, double tolerance) {
  const double original = static_cast<double>(s.original_max_position_embeddings);
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / static_cast<double>(divisors.size()));
    double expected = 1;
    if (wavelength > original / s.low_freq_factor) {
      expected = s.factor;
    } else if (wavelength > original / s.high_freq_factor) {
      const double smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      expected = 1 / ((1 - smooth) / s.factor + smooth);
    }
    if (!(std::abs(divisors[i] - expected) <= tolerance * expected)) return false;
  }
  return true;
}

// Llama 3's scaling comes as a tensor of divisors, one for each rotary pair. Of those between 1 and the factor, 1/divisor is linear in
// 1/wavelength: (1/divisor - 1/factor) / (1 - 1/factor) = (original/wavelength - low) / (high - low), which gives original and high for
// low = 1 (other lows only rename the same divisors).
absl::Status ReadRopeFreqs(const GgufFile& file, const StoredTensor& tensor, ModelConfig& config) {
  const int64_t pairs = config.head_dim / 2;
  if (tensor.shape != std::vector<int64_t>{pairs} || !CanDecodeToFloat(tensor.type)) {
    return Error(file, absl::StrCat("rope_freqs.weight is ", tensor.ShapeString(), ", expected [", pairs, "]"));
  }
  std::vector<float> divisors(static_cast<size_t>(pairs));
  RETURN_IF_ERROR(DecodeToFloat(tensor, 0, pairs, divisors.data()));
  RopeScaling scaling;
  scaling.type = RopeScaling::Type::kLlama3;
  scaling.factor = divisors.empty() ? 1 : *std::max_element(divisors.begin(), divisors.end());
  scaling.low_freq_factor = 1;
  scaling.high_freq_factor = 4;
  scaling.original_max_position_embeddings = 8192;
  constexpr double kFloatSteps = 1e-6, kLoose = 1e-3;
  bool found = Reproduces(scaling, divisors, config.rope_theta, kFloatSteps);
  std::vector<std::pair<double, double>> between;  // (1/wavelength, smooth)
  for (size_t i = 0; i < divisors.size(); ++i) {
    if (!(divisors[i] > 1.0001 && divisors[i] < scaling.factor * 0.9999)) continue;
    const double wavelength = 2 * std::numbers::pi * std::pow(config.rope_theta, static_cast<double>(i) / static_cast<double>(pairs));
    between.push_back({1 / wavelength, (1 / divisors[i] - 1 / scaling.factor) / (1 - 1 / scaling.factor)});
  }
  if (!found && between.size() >= 2) {
    const auto [x0, y0] = between.front();
    const auto [x1, y1] = between.back();
    const double slope = (y0 - y1) / (x0 - x1), intercept = slope * x1 - y1;  // original / (high - 1), 1 / (high - 1)
    if (slope / intercept > 0 && slope / intercept < 1e15) {
      scaling.original_max_position_embeddings = std::llround(slope / intercept);
      scaling.high_freq_factor = std::round((1 + 1 / intercept) * 1000) / 1000;
      found = Reproduces(scaling, divisors, config.rope_theta, kLoose);
    }
  } else if (!found && between.size() == 1) {  // any high that leaves the others where they are
    const auto [x, y] = between.front();
    for (const double high : {4.0, 2.0, 8.0, 3.0, 1.5, 1.25}) {
      scaling.high_freq_factor = high;
      scaling.original_max_position_embeddings = std::llround((1 + y * (high - 1)) / x);
      found = Reproduces(scaling, divisors, config.rope_theta, kLoose);
      if (found) break;
    }
  } else if (!found) {
    found = Reproduces(scaling, divisors, config.rope_theta, kLoose);
  }
  if (!found) return Error(file, "rope_freqs.weight holds divisors that no parameters of Llama 3's scaling give, which alone is supported");
  config.rope_scaling = scaling;
  return absl::OkStatus();
}

struct ArchitectureName {
  absl::string_view theirs, ours;
};
constexpr ArchitectureName kArchitectures[] = {{"llama", "LlamaForCausalLM"},
                                               {"qwen2", "Qwen2ForCausalLM"},
                                               {"qwen3", "Qwen3ForCausalLM"},
                                               {"qwen3moe", "Qwen3MoeForCausalLM"},
                                               {"deepseek2", "DeepseekV2ForCausalLM"}};  // or DeepseekV3ForCausalLM

// The experts' numbers, where there are experts.
absl::Status ReadExperts(const GgufFile& file, bool deepseek, Metadata& m, ModelConfig& c) {
  ASSIGN_OR_RETURN(const int64_t experts, m.Int("expert_count", 0));
  ASSIGN_OR_RETURN(const int64_t top_k, m.Int("expert_used_count", 0));
  ASSIGN_OR_RETURN(const int64_t shared, m.Int("expert_shared_count", 0));
  ASSIGN_OR_RETURN(const int64_t dense, m.Int("leading_dense_block_count", 0));
  ASSIGN_OR_RETURN(const int64_t width, m.Int("expert_feed_forward_length", 0));
  ASSIGN_OR_RETURN(const int64_t gating, m.Int("expert_gating_func", kGgufSoftmax));
  ASSIGN_OR_RETURN(const int64_t groups, m.Int("expert_group_count", 1));
  ASSIGN_OR_RETURN(const int64_t topk_groups, m.Int("expert_group_used_count", 1));
  ASSIGN_OR_RETURN(const double scale, m.Float("expert_weights_scale", 1));
  const bool norm_there = m.Has("expert_weights_norm");
  bool norm = !deepseek;  // qwen3moe: always
  if (norm_there) {
    ASSIGN_OR_RETURN(norm, file.GetBool(m.Key("expert_weights_norm")));
  }
  if (experts == 0) return absl::OkStatus();
  for (const auto& [key, value] : {std::pair("expert_count", experts), std::pair("expert_used_count", top_k), std::pair("expert_group_count", groups),
                                   std::pair("expert_group_used_count", topk_groups)}) {
    if (value > 1 << 20) return Error(file, absl::StrCat(m.Key(key), " is ", value, ", out of range"));
  }
  const bool sigmoid = gating == kGgufSigmoid;
  if ((gating != kGgufSoftmax && !sigmoid) || (sigmoid && !deepseek)) {
    return Error(file, absl::StrCat(m.Key("expert_gating_func"), " is ", gating, ", which is not supported"));
  }
  if (norm != (sigmoid || !deepseek) && !sigmoid) {
    return Error(file, absl::StrCat(m.Key("expert_weights_norm"), " is ", norm ? "true" : "false", ", which is not supported here"));
  }
  MoeConfig& moe = c.moe.emplace();
  moe.router.num_experts = static_cast<int>(experts);
  moe.router.top_k = static_cast<int>(top_k);
  moe.router.num_groups = static_cast<int>(groups);
  moe.router.topk_groups = static_cast<int>(topk_groups);
  moe.router.norm_topk_prob = norm;
  moe.router.routed_scaling_factor = scale == 0 ? 1 : scale;  // llama.cpp takes 0 for "no scale"
  moe.moe_intermediate_size = width;
  moe.n_shared_experts = shared;
  moe.first_k_dense_replace = dense;
  if (sigmoid) {
    c.architecture = "DeepseekV3ForCausalLM";
    moe.router.scoring = kernels::RouterConfig::Scoring::kSigmoid;
    moe.router.group_score = kernels::RouterConfig::GroupScore::kTop2Sum;
    moe.score_correction_bias = true;
  }
  return absl::OkStatus();
}

// Multi-head latent attention. Files since the split of kv_b say the latent's widths as key_length and value_length, and the heads' as *_mla.
absl::Status ReadMla(const GgufFile& file, Metadata& m, ModelConfig& c) {
  const bool split = m.Has("attention.key_length_mla");
  (void)m.Key("attention.value_length_mla");
  ASSIGN_OR_RETURN(const int64_t key_length, m.Int(split ? "attention.key_length_mla" : "attention.key_length"));
  ASSIGN_OR_RETURN(const int64_t value_length, m.Int(split ? "attention.value_length_mla" : "attention.value_length"));
  MlaConfig& mla = c.mla.emplace();
  ASSIGN_OR_RETURN(mla.q_lora_rank, m.Int("attention.q_lora_rank", 0));
  ASSIGN_OR_RETURN(mla.kv_lora_rank, m.Int("attention.kv_lora_rank"));
  ASSIGN_OR_RETURN(mla.qk_rope_head_dim, m.Int("rope.dimension_count"));
  if (mla.qk_rope_head_dim > key_length) {
    return Error(file, absl::StrCat(m.Key("rope.dimension_count"), " is ", mla.qk_rope_head_dim, ", wider than the key (", key_length, ")"));
  }
  mla.qk_nope_head_dim = key_length - mla.qk_rope_head_dim;
  mla.v_head_dim = value_length;
  if (split) {
    ASSIGN_OR_RETURN(const int64_t latent_key, m.Int("attention.key_length", mla.kv_lora_rank + mla.qk_rope_head_dim));
    ASSIGN_OR_RETURN(const int64_t latent_value, m.Int("attention.value_length", mla.kv_lora_rank));
    if (latent_key != mla.kv_lora_rank + mla.qk_rope_head_dim || latent_value != mla.kv_lora_rank) {
      return Error(file, absl::StrCat(m.Key("attention.key_length"), " and value_length are not the latent's (", mla.kv_lora_rank + mla.qk_rope_head_dim,
                                      " and ", mla.kv_lora_rank, ")"));
    }
  }
  c.num_key_value_heads = c.num_attention_heads;
  c.rope_pairing = kernels::RopePairing::kInterleaved;
  // 0.1 * mscale_all_dim; mscale, which would scale cos and sin, equals it. To six digits: the file has a float.
  ASSIGN_OR_RETURN(const double log_multiplier, m.Float("rope.scaling.yarn_log_multiplier", 0));
  c.rope_scaling.mscale = c.rope_scaling.mscale_all_dim = std::round(log_multiplier * 1e7) / 1e6;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> GgufConfig(const GgufFile& file) {
  ASSIGN_OR_RETURN(const absl::string_view architecture, file.GetString("general.architecture"));
  ModelConfig c;
  const auto known = std::find_if(std::begin(kArchitectures), std::end(kArchitectures), [&](const ArchitectureName& n) { return n.theirs == architecture; });
  if (known == std::end(kArchitectures)) {
    return Error(file, absl::StrCat("general.architecture is ", QuoteName(architecture), "; supported are llama, qwen2, qwen3, qwen3moe, deepseek2"));
  }
  c.architecture = std::string(known->ours);
  c.qk_norm = architecture == "qwen3" || architecture == "qwen3moe";
  const bool deepseek = architecture == "deepseek2";
  Metadata m(file, std::string(architecture));
  ASSIGN_OR_RETURN(c.num_hidden_layers, m.Int("block_count"));
  ASSIGN_OR_RETURN(c.max_position_embeddings, m.Int("context_length"));
  ASSIGN_OR_RETURN(c.hidden_size, m.Int("embedding_length"));
  ASSIGN_OR_RETURN(c.intermediate_size, m.Int("feed_forward_length"));
  ASSIGN_OR_RETURN(c.num_attention_heads, m.Int("attention.head_count"));
  ASSIGN_OR_RETURN(c.num_key_value_heads, m.Int("attention.head_count_kv", c.num_attention_heads));
  ASSIGN_OR_RETURN(c.rms_norm_eps, m.Float("attention.layer_norm_rms_epsilon"));
  ASSIGN_OR_RETURN(c.rope_theta, m.Float("rope.freq_base", 10000));
  if (c.num_attention_heads <= 0) return Error(file, absl::StrCat(architecture, ".attention.head_count is 0"));
  if (deepseek) {
    RETURN_IF_ERROR(ReadMla(file, m, c));
  } else {
    ASSIGN_OR_RETURN(c.head_dim, m.Int("attention.key_length", c.hidden_size / c.num_attention_heads));
    ASSIGN_OR_RETURN(const int64_t value_length, m.Int("attention.value_length", c.head_dim));
    ASSIGN_OR_RETURN(const int64_t rotated, m.Int("rope.dimension_count", c.head_dim));
    if (value_length != c.head_dim)
      return Error(file, absl::StrCat(m.Key("attention.value_length"), " differs from the keys' length"));
    if (rotated != c.head_dim)
      return Error(file, absl::StrCat(m.Key("rope.dimension_count"), " is ", rotated, ", only the head's width (",
                                      c.head_dim, ") is supported"));
  }
  if (deepseek || architecture == "qwen3moe") RETURN_IF_ERROR(ReadExperts(file, deepseek, m, c));
  for (const char* key : {"expert_count", "expert_used_count", "attention.sliding_window"}) {
    ASSIGN_OR_RETURN(const int64_t value, m.Int(key, 0));
    if (value != 0 && !c.moe) return Error(file, absl::StrCat(m.Key(key), " is ", value, ", which is not supported"));
  }
  ASSIGN_OR_RETURN(const std::string scaling, m.String("rope.scaling.type", "none"));
  RopeScaling& s = c.rope_scaling;
  if (scaling == "linear" || scaling == "yarn") {
    s.type = scaling == "linear" ? RopeScaling::Type::kLinear : RopeScaling::Type::kYarn;
    ASSIGN_OR_RETURN(s.factor, m.Float("rope.scaling.factor", 1));
    ASSIGN_OR_RETURN(s.original_max_position_embeddings,
                     m.Int("rope.scaling.original_context_length", c.max_position_embeddings));
    if (s.type == RopeScaling::Type::kYarn) {
      ASSIGN_OR_RETURN(s.beta_fast, m.Float("rope.scaling.yarn_beta_fast", 32));
      ASSIGN_OR_RETURN(s.beta_slow, m.Float("rope.scaling.yarn_beta_slow", 1));
    }
  } else if (scaling != "none") {
    return Error(file, absl::StrCat(m.Key("rope.scaling.type"), " is ", QuoteName(scaling),
                                    "; supported are none, linear, yarn"));
  }
  for (const char* key : {"rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned",
                          "vocab_size", "tensor_data_layout"}) {
    (void)m.Has(key);
  }

  const StoredTensor* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2)
    return Error(file, "token_embd.weight is missing or not a matrix");
  c.vocab_size = embedding->shape[0];
  ASSIGN_OR_RETURN(const int64_t declared, m.Int("vocab_size", c.vocab_size));
  if (declared != c.vocab_size) {
    return Error(file, absl::StrCat(m.Key("vocab_size"), " is ", declared, ", but token_embd.weight has ", c.vocab_size,
                                    " rows"));
  }
  c.tie_word_embeddings = file.Find("output.weight") == nullptr;
  c.attention_bias = file.Find("blk.0.attn_q.bias") != nullptr;
  c.o_bias = file.Find("blk.0.attn_output.bias") != nullptr;
  c.mlp_bias = file.Find("blk.0.ffn_down.bias") != nullptr;
  for (const char* key : {"bos", "eos", "padding"}) {
    const std::string name = absl::StrCat("tokenizer.ggml.", key, "_token_id");
    if (!file.Has(name)) continue;
    ASSIGN_OR_RETURN(const int64_t id, file.GetInt(name, 0, c.vocab_size - 1));
    if (key[0] == 'b') c.bos_token_id = static_cast<int32_t>(id);
    if (key[0] == 'e') c.eos_token_ids.push_back(static_cast<int32_t>(id));
    if (key[0] == 'p') c.pad_token_id = static_cast<int32_t>(id);
  }
  const std::vector<std::string> unknown = m.Unknown();
  if (!unknown.empty()) return Error(file, absl::StrCat("unsupported metadata: ", absl::StrJoin(unknown, ", ")));
  RETURN_IF_ERROR(Annotate(c.Validate(), file.path()));
  if (const StoredTensor* divisors = file.Find("rope_freqs.weight")) {
    RETURN_IF_ERROR(ReadRopeFreqs(file, *divisors, c));
    RETURN_IF_ERROR(Annotate(c.Validate(), file.path()));
  }
  return c;
}

namespace {

// k_b and v_b of one layer as the rows of kv_b_proj; null when they are not what they should be.
std::shared_ptr<const StoredTensor> JoinKvB(const ModelConfig& config, const StoredTensor& k_b, const StoredTensor& v_b) {
  const MlaConfig& mla = *config.mla;
  const int64_t heads = config.num_attention_heads, nope = mla.qk_nope_head_dim, width = mla.v_head_dim, rank = mla.kv_lora_rank;
  if (k_b.shape != std::vector<int64_t>{heads, rank, nope} || v_b.shape != std::vector<int64_t>{heads, width, rank}) return nullptr;
  if (!CanDecodeToFloat(k_b.type) || !CanDecodeToFloat(v_b.type)) return nullptr;
  struct Joined {
    StoredTensor tensor;
    std::vector<float> values;
  };
  auto joined = std::make_shared<Joined>();
  joined->values.resize(static_cast<size_t>(heads * (nope + width) * rank));
  std::vector<float> k(static_cast<size_t>(heads * rank * nope)), v(static_cast<size_t>(heads * width * rank));
  if (!DecodeToFloat(k_b, 0, k_b.num_elements(), k.data()).ok() || !DecodeToFloat(v_b, 0, v_b.num_elements(), v.data()).ok()) return nullptr;
  for (int64_t h = 0; h < heads; ++h) {
    float* const rows = joined->values.data() + h * (nope + width) * rank;
    for (int64_t d = 0; d < nope; ++d) {
      for (int64_t l = 0; l < rank; ++l) rows[d * rank + l] = k[static_cast<size_t>((h * rank + l) * nope + d)];
    }
    std::copy_n(v.data() + h * width * rank, width * rank, rows + nope * rank);
  }
  joined->tensor.name = absl::StrCat(k_b.name, " and ", v_b.name);
  joined->tensor.shape = {heads * (nope + width), rank};
  joined->tensor.file = k_b.file;
  joined->tensor.bytes = {reinterpret_cast<const char*>(joined->values.data()), joined->values.size() * sizeof(float)};
  return std::shared_ptr<const StoredTensor>(joined, &joined->tensor);
}

// The experts of one stacked tensor, one by one; none when its shape is another.
void AddExperts(const ModelConfig& config, const StoredTensor& stacked, const std::string& layer, absl::string_view part, std::vector<NamedTensor>* result) {
  const int64_t experts = config.moe->router.num_experts;
  auto tensors = std::make_shared<std::vector<StoredTensor>>(static_cast<size_t>(experts));
  const size_t bytes = stacked.bytes.size() / static_cast<size_t>(experts);
  for (int64_t e = 0; e < experts; ++e) {
    StoredTensor& one = (*tensors)[static_cast<size_t>(e)];
    one.name = absl::StrCat(stacked.name, "[", e, "]");
    one.type = stacked.type;
    one.shape = {stacked.shape[1], stacked.shape[2]};
    one.bytes = stacked.bytes.substr(static_cast<size_t>(e) * bytes, bytes);
    one.file = stacked.file;
    NamedTensor named{absl::StrCat(layer, "mlp.experts.", e, ".", part, ".weight"), &one};
    named.owner = tensors;
    result->push_back(std::move(named));
  }
}

}  // namespace

std::vector<NamedTensor> GgufTensors(const ModelConfig& config, const GgufFile& file) {
  const bool interleaved = config.architecture == "LlamaForCausalLM";
  std::vector<NamedTensor> result;
  for (const StoredTensor& tensor : file.tensors()) {
    if (tensor.name == "rope_freqs.weight") continue;
    NamedTensor named{tensor.name, &tensor};
    if (tensor.name == "token_embd.weight") named.name = "model.embed_tokens.weight";
    if (tensor.name == "output_norm.weight") named.name = "model.norm.weight";
    if (tensor.name == "output.weight") named.name = "lm_head.weight";
    absl::string_view rest = tensor.name;
    if (absl::ConsumePrefix(&rest, "blk.") && rest.find('.') != absl::string_view::npos) {
      const std::string theirs = absl::StrCat("blk.", rest.substr(0, rest.find('.')), ".");
      const std::string layer = absl::StrCat("model.layers.", rest.substr(0, rest.find('.')), ".");
      rest.remove_prefix(rest.find('.') + 1);
      const absl::string_view part = rest.substr(0, rest.find('.'));
      for (const GgufPart& known : kGgufParts) {
        if (part == known.theirs) named.name = absl::StrCat(layer, known.ours, rest.substr(part.size()));
      }
      if (rest == "exp_probs_b.bias") named.name = absl::StrCat(layer, "mlp.gate.e_score_correction_bias");
      if (interleaved && part == "attn_q") named.rotated_heads = config.num_attention_heads;
      if (interleaved && part == "attn_k") named.rotated_heads = config.num_key_value_heads;
      if (config.mla && (rest == "attn_k_b.weight" || rest == "attn_v_b.weight")) {
        const StoredTensor* const k_b = file.Find(theirs + "attn_k_b.weight");
        const StoredTensor* const v_b = file.Find(theirs + "attn_v_b.weight");
        const auto joined = k_b != nullptr && v_b != nullptr ? JoinKvB(config, *k_b, *v_b) : nullptr;
        if (joined != nullptr) {
          if (&tensor == v_b) continue;
          named.name = absl::StrCat(layer, "self_attn.kv_b_proj.weight");
          named.stored = joined.get();
          named.owner = joined;
        }
      }
      if (config.moe && tensor.shape.size() == 3 && tensor.shape[0] == config.moe->router.num_experts) {
        const size_t before = result.size();
        for (const GgufPart& known : kGgufExpertParts) {
          if (rest == absl::StrCat(known.theirs, ".weight")) AddExperts(config, tensor, layer, known.ours, &result);
        }
        if (result.size() > before) continue;
      }
    }
    result.push_back(std::move(named));
  }
  return result;
}

}  // namespace grouper
