#include "common/model/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

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

// Llama 3's scaling comes as a tensor of divisors, one for each rotary pair. The parameters behind it are always the
// same but for the factor: check that they reproduce the tensor.
absl::Status ReadRopeFreqs(const GgufFile& file, const StoredTensor& tensor, ModelConfig& config) {
  const int64_t pairs = config.head_dim / 2;
  if (tensor.shape != std::vector<int64_t>{pairs} || !CanDecodeToFloat(tensor.type)) {
    return Error(file, absl::StrCat("rope_freqs.weight is ", tensor.ShapeString(), ", expected [", pairs, "]"));
  }
  std::vector<float> divisors(static_cast<size_t>(pairs));
  RETURN_IF_ERROR(DecodeToFloat(tensor, 0, pairs, divisors.data()));
  RopeScaling scaling;
  scaling.type = RopeScaling::Type::kLlama3;
  scaling.factor = *std::max_element(divisors.begin(), divisors.end());
  scaling.low_freq_factor = 1;
  scaling.high_freq_factor = 4;
  scaling.original_max_position_embeddings = 8192;
  for (int64_t i = 0; i < pairs; ++i) {
    const double wavelength =
        2 * std::numbers::pi *
        std::pow(config.rope_theta, 2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    double expected = 1;
    if (wavelength > 8192) {
      expected = scaling.factor;
    } else if (wavelength > 8192.0 / 4) {
      const double smooth = (8192 / wavelength - 1) / (4 - 1);
      expected = 1 / ((1 - smooth) / scaling.factor + smooth);
    }
    if (!(std::abs(divisors[static_cast<size_t>(i)] - expected) <= 1e-3 * expected)) {
      return Error(file,
                   "rope_freqs.weight is not Llama 3's scaling (low 1, high 4, original context 8192), which alone is "
                   "supported");
    }
  }
  config.rope_scaling = scaling;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> GgufConfig(const GgufFile& file) {
  ASSIGN_OR_RETURN(const absl::string_view architecture, file.GetString("general.architecture"));
  ModelConfig c;
  if (architecture == "llama") {
    c.architecture = "LlamaForCausalLM";
  } else if (architecture == "qwen2") {
    c.architecture = "Qwen2ForCausalLM";
  } else if (architecture == "qwen3") {
    c.architecture = "Qwen3ForCausalLM";
    c.qk_norm = true;
  } else {
    return Error(
        file, absl::StrCat("general.architecture is ", QuoteName(architecture), "; supported are llama, qwen2, qwen3"));
  }
  Metadata m(file, std::string(architecture));
  ASSIGN_OR_RETURN(c.num_hidden_layers, m.Int("block_count"));
  ASSIGN_OR_RETURN(c.max_position_embeddings, m.Int("context_length"));
  ASSIGN_OR_RETURN(c.hidden_size, m.Int("embedding_length"));
  ASSIGN_OR_RETURN(c.intermediate_size, m.Int("feed_forward_length"));
  ASSIGN_OR_RETURN(c.num_attention_heads, m.Int("attention.head_count"));
  ASSIGN_OR_RETURN(c.num_key_value_heads, m.Int("attention.head_count_kv", c.num_attention_heads));
  ASSIGN_OR_RETURN(c.rms_norm_eps, m.Float("attention.layer_norm_rms_epsilon", 1e-6));
  ASSIGN_OR_RETURN(c.rope_theta, m.Float("rope.freq_base", 10000));
  if (c.num_attention_heads <= 0) return Error(file, absl::StrCat(architecture, ".attention.head_count is 0"));
  ASSIGN_OR_RETURN(c.head_dim, m.Int("attention.key_length", c.hidden_size / c.num_attention_heads));
  ASSIGN_OR_RETURN(const int64_t value_length, m.Int("attention.value_length", c.head_dim));
  ASSIGN_OR_RETURN(const int64_t rotated, m.Int("rope.dimension_count", c.head_dim));
  if (value_length != c.head_dim)
    return Error(file, absl::StrCat(m.Key("attention.value_length"), " differs from the keys' length"));
  if (rotated != c.head_dim)
    return Error(file, absl::StrCat(m.Key("rope.dimension_count"), " is ", rotated, ", only the head's width (",
                                    c.head_dim, ") is supported"));
  for (const char* key : {"expert_count", "expert_used_count", "attention.sliding_window"}) {
    ASSIGN_OR_RETURN(const int64_t value, m.Int(key, 0));
    if (value != 0) return Error(file, absl::StrCat(m.Key(key), " is ", value, ", which is not supported"));
  }
  ASSIGN_OR_RETURN(const std::string scaling, m.String("rope.scaling.type", "none"));
  RopeScaling& s = c.rope_scaling;
  if (scaling == "linear" || scaling == "yarn") {
    s.type = scaling == "linear" ? RopeScaling::Type::kLinear : RopeScaling::Type::kYarn;
    ASSIGN_OR_RETURN(s.factor, m.Float("rope.scaling.factor", 1));
    ASSIGN_OR_RETURN(s.original_max_position_embeddings,
                     m.Int("rope.scaling.original_context_length", c.max_position_embeddings));
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
    ASSIGN_OR_RETURN(const int64_t id, file.GetInt(name, 0, INT32_MAX));
    if (key[0] == 'b') c.bos_token_id = static_cast<int32_t>(id);
    if (key[0] == 'e') c.eos_token_ids.push_back(static_cast<int32_t>(id));
    if (key[0] == 'p') c.pad_token_id = static_cast<int32_t>(id);
  }
  const std::vector<std::string> unknown = m.Unknown();
  if (!unknown.empty()) return Error(file, absl::StrCat("unsupported metadata: ", absl::StrJoin(unknown, ", ")));
  RETURN_IF_ERROR(Annotate(c.Validate(), file.path()));
  if (const StoredTensor* divisors = file.Find("rope_freqs.weight")) RETURN_IF_ERROR(ReadRopeFreqs(file, *divisors, c));
  return c;
}

std::vector<NamedTensor> GgufTensors(const ModelConfig& config, const GgufFile& file) {
  static constexpr std::pair<absl::string_view, absl::string_view> kParts[] = {
      {"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
      {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
      {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},
      {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"}};
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
      const absl::string_view layer = rest.substr(0, rest.find('.'));
      rest.remove_prefix(layer.size() + 1);
      const absl::string_view part = rest.substr(0, rest.find('.'));
      for (const auto& [theirs, ours] : kParts) {
        if (part == theirs) named.name = absl::StrCat("model.layers.", layer, ".", ours, rest.substr(part.size()));
      }
      if (interleaved && part == "attn_q") named.rotated_heads = config.num_attention_heads;
      if (interleaved && part == "attn_k") named.rotated_heads = config.num_key_value_heads;
    }
    result.push_back(std::move(named));
  }
  return result;
}

}  // namespace grouper
