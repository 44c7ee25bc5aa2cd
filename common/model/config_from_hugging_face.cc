// config.json -> ModelConfig. Defaults are those of transformers' configuration classes.
#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/model/config.h"

namespace grouper {
namespace {

using json::Json;
using kernels::RouterConfig;

// Fields of `object`; collects what is wrong with them and remembers which were asked for.
class Fields {
 public:
  Fields(const Json& object, std::string prefix, std::vector<std::string>* problems)
      : object_(object), prefix_(std::move(prefix)), problems_(problems) {}

  bool Has(const std::string& key) {
    seen_.insert(key);
    return json::Has(object_, key);
  }
  int64_t Int(const std::string& key, std::optional<int64_t> fallback = {}) {
    return Get<int64_t>(key, fallback,
                        [&] { return json::GetInt(object_, key, -(int64_t{1} << 40), int64_t{1} << 40); });
  }
  double Number(const std::string& key, std::optional<double> fallback = {}) {
    return Get<double>(key, fallback, [&] { return json::GetNumber(object_, key); });
  }
  bool Bool(const std::string& key, std::optional<bool> fallback = {}) {
    return Get<bool>(key, fallback, [&] { return json::GetBool(object_, key); });
  }
  std::string String(const std::string& key, std::optional<std::string> fallback = {}) {
    return Get<std::string>(key, fallback, [&] { return json::GetString(object_, key); });
  }
  // One integer or a list of them; absent: empty.
  std::vector<int64_t> Ints(const std::string& key) {
    if (!Has(key)) return {};
    const Json& value = object_[key];
    std::vector<int64_t> result;
    for (const Json& item : value.is_array() ? value : Json::array({value})) {
      const bool small = item.is_number_unsigned() ? item.get<uint64_t>() <= INT32_MAX
                                                   : item.is_number_integer() && item.get<int64_t>() >= INT32_MIN;
      if (!small) {
        Problem(key, "expected a 32-bit integer or a list of them");
        return {};
      }
      result.push_back(item.get<int64_t>());
    }
    return result;
  }
  // A field that would change results, and of which we support this one value (or absence, or null).
  void Require(const std::string& key, const Json& value, const std::string& why = "") {
    if (Has(key) && object_[key] != value) {
      Problem(key, absl::StrCat(json::Dump(object_[key]), " is not supported (only ", json::Dump(value), ")", why));
    }
  }
  void Ignore(std::initializer_list<const char*> keys) { seen_.insert(keys.begin(), keys.end()); }
  void Problem(const std::string& key, const std::string& what) {
    problems_->push_back(absl::StrCat(prefix_, key, ": ", what));
  }
  std::vector<std::string> Unknown() const {
    std::vector<std::string> result;
    for (const auto& [key, value] : object_.items()) {
      if (seen_.count(key) == 0 && !value.is_null()) result.push_back(prefix_ + key);
    }
    return result;
  }
  const Json& operator[](const std::string& key) const { return object_[key]; }

 private:
  template <typename T, typename F>
  T Get(const std::string& key, const std::optional<T>& fallback, F get) {
    if (!Has(key)) {
      if (!fallback) Problem(key, "missing");
      return fallback.value_or(T{});
    }
    absl::StatusOr<T> value = get();
    if (!value.ok()) {
      problems_->push_back(absl::StrCat(prefix_, value.status().message()));
      return fallback.value_or(T{});
    }
    return *std::move(value);
  }

  const Json& object_;
  std::string prefix_;
  std::vector<std::string>* problems_;
  std::set<std::string> seen_;
};

// rope_theta and rope_scaling, or transformers 5's rope_parameters, which holds both.
void ReadRope(Fields& f, ModelConfig& c, std::vector<std::string>* problems, std::vector<std::string>* unknown) {
  c.rope_theta = f.Number("rope_theta", 10000.0);
  f.Require("partial_rotary_factor", 1.0);
  const int64_t original = f.Int("original_max_position_embeddings", c.max_position_embeddings);
  const bool scaling_there = f.Has("rope_scaling");
  const char* key = scaling_there ? "rope_scaling" : "rope_parameters";
  if (!f.Has(key)) return;
  if (!f[key].is_object()) {
    f.Problem(key, "expected an object or null");
    return;
  }
  Fields r(f[key], absl::StrCat(key, "."), problems);
  RopeScaling& s = c.rope_scaling;
  c.rope_theta = r.Number("rope_theta", c.rope_theta);
  r.Require("partial_rotary_factor", 1.0);
  const std::string type = r.String("rope_type", r.String("type", "default"));
  if (type == "default") {
    s.type = RopeScaling::Type::kNone;
    for (const char* other :
         {"factor", "attention_factor", "original_max_position_embeddings", "high_freq_factor", "low_freq_factor"}) {
      (void)r.Has(other);  // of no effect with the default type
    }
  } else if (type == "linear") {
    s.type = RopeScaling::Type::kLinear;
    s.factor = r.Number("factor");
  } else if (type == "llama3") {
    s.type = RopeScaling::Type::kLlama3;
    s.factor = r.Number("factor");
    s.low_freq_factor = r.Number("low_freq_factor");
    s.high_freq_factor = r.Number("high_freq_factor");
    s.original_max_position_embeddings = r.Int("original_max_position_embeddings", original);
  } else if (type == "yarn") {
    s.type = RopeScaling::Type::kYarn;
    s.original_max_position_embeddings = r.Int("original_max_position_embeddings", original);
    s.factor = r.Number("factor", s.original_max_position_embeddings > 0
                                      ? static_cast<double>(c.max_position_embeddings) /
                                            static_cast<double>(s.original_max_position_embeddings)
                                      : 0.0);
    s.beta_fast = r.Number("beta_fast", 32.0);
    s.beta_slow = r.Number("beta_slow", 1.0);
    s.mscale = r.Number("mscale", 0.0);
    s.mscale_all_dim = r.Number("mscale_all_dim", 0.0);
    if (r.Has("attention_factor")) s.attention_factor = r.Number("attention_factor");
    s.truncate = r.Bool("truncate", true);
  } else {
    r.Problem("rope_type", absl::StrCat("\"", type, "\" is not supported (default, linear, llama3, yarn)"));
  }
  r.Ignore({"finetuned", "extrapolation_factor"});
  for (std::string& name : r.Unknown()) unknown->push_back(std::move(name));
}

void ReadSlidingWindow(Fields& f, bool has_switch, int64_t layers) {
  if (f.Has("layer_types")) {
    const Json& types = f["layer_types"];
    bool full = types.is_array();
    if (full) {
      for (const Json& type : types) full = full && type == "full_attention";
    }
    if (!full) {
      f.Problem("layer_types", "only full_attention is supported");
    } else if (static_cast<int64_t>(types.size()) != layers) {
      f.Problem("layer_types", absl::StrCat(types.size(), " layers, num_hidden_layers is ", layers));
    }
  }
  const bool window = f.Has("sliding_window");
  const int64_t first = f.Int("max_window_layers", int64_t{0});
  if (!has_switch) {
    if (window) f.Problem("sliding_window", "sliding-window attention is not supported");
    return;
  }
  const bool used = f.Bool("use_sliding_window", false);
  if (used && window && first < layers) f.Problem("use_sliding_window", "sliding-window attention is not supported");
}

void ReadMla(Fields& f, ModelConfig& c) {
  MlaConfig& m = c.mla.emplace();
  m.q_lora_rank = f.Int("q_lora_rank", int64_t{0});
  m.kv_lora_rank = f.Int("kv_lora_rank");
  m.qk_nope_head_dim = f.Int("qk_nope_head_dim");
  m.qk_rope_head_dim = f.Int("qk_rope_head_dim");
  m.v_head_dim = f.Int("v_head_dim");
  f.Ignore({"head_dim", "qk_head_dim"});  // derived
  if (c.num_key_value_heads != c.num_attention_heads) {
    f.Problem("num_key_value_heads", "must equal num_attention_heads with multi-head latent attention");
  }
  c.rope_pairing = kernels::RopePairing::kInterleaved;
  c.attention_bias = f.Bool("attention_bias", false);
  c.o_bias = c.attention_bias;
}

void ReadDeepseekMoe(Fields& f, ModelConfig& c, bool v3) {
  const int64_t dense_layers = f.Int("first_k_dense_replace", v3 ? int64_t{3} : int64_t{0});
  const int64_t experts =
      dense_layers >= c.num_hidden_layers ? f.Int("n_routed_experts", int64_t{0}) : f.Int("n_routed_experts");
  f.Require("moe_layer_freq", 1);
  f.Require("ep_size", 1);
  f.Ignore({"aux_loss_alpha", "seq_aux", "output_router_logits", "num_local_experts", "num_experts"});
  const std::string scoring = f.String("scoring_func", v3 ? "sigmoid" : "softmax");
  const std::string method = f.String("topk_method", v3 ? "noaux_tc" : "greedy");
  const bool normalise = f.Bool("norm_topk_prob", v3);
  const int64_t top_k = f.Int("num_experts_per_tok", int64_t{0}), groups = f.Int("n_group", int64_t{1}),
                topk_groups = f.Int("topk_group", int64_t{1});
  const double scale = f.Number("routed_scaling_factor", v3 ? 2.5 : 1.0);
  const int64_t width = f.Int("moe_intermediate_size", int64_t{0}), shared = f.Int("n_shared_experts", int64_t{0});
  if (experts == 0) return;
  MoeConfig& m = c.moe.emplace();
  auto narrow = [&](const char* key, int64_t value) {
    if (value < 0 || value > 1 << 20) f.Problem(key, "out of range");
    return static_cast<int>(value);
  };
  m.router.num_experts = narrow("n_routed_experts", experts);
  m.router.top_k = narrow("num_experts_per_tok", top_k);
  m.router.num_groups = narrow("n_group", groups);
  m.router.topk_groups = narrow("topk_group", topk_groups);
  m.router.routed_scaling_factor = scale;
  m.router.norm_topk_prob = normalise;
  m.moe_intermediate_size = width;
  m.n_shared_experts = shared;
  m.first_k_dense_replace = dense_layers;
  if (v3) {
    if (scoring != "sigmoid") f.Problem("scoring_func", absl::StrCat("\"", scoring, "\" is not supported (sigmoid)"));
    if (method != "noaux_tc") f.Problem("topk_method", absl::StrCat("\"", method, "\" is not supported (noaux_tc)"));
    m.router.scoring = RouterConfig::Scoring::kSigmoid;
    m.router.group_score = RouterConfig::GroupScore::kTop2Sum;
    m.score_correction_bias = true;
    return;
  }
  if (scoring != "softmax") f.Problem("scoring_func", absl::StrCat("\"", scoring, "\" is not supported (softmax)"));
  if (groups < 1) f.Problem("n_group", "expected 1 or more");
  if (topk_groups < 1) f.Problem("topk_group", "expected 1 or more");
  if (method == "greedy") {
    m.router.num_groups = m.router.topk_groups = 1;
  } else if (method != "group_limited_greedy") {
    f.Problem("topk_method", absl::StrCat("\"", method, "\" is not supported (greedy, group_limited_greedy)"));
  }
  // DeepSeek's own code normalises without the scaling factor, transformers does not normalise at all.
  if (normalise) f.Problem("norm_topk_prob", "true is not supported for DeepSeek-V2: implementations differ");
}

void ReadQwen3Moe(Fields& f, ModelConfig& c) {
  const int64_t experts = f.Has("num_experts") ? f.Int("num_experts") : f.Int("num_local_experts", int64_t{128});
  f.Ignore({"num_local_experts", "router_aux_loss_coef", "output_router_logits"});
  MoeConfig& m = c.moe.emplace();
  m.router.num_experts = static_cast<int>(std::clamp<int64_t>(experts, -1, 1 << 20));
  m.router.top_k = static_cast<int>(std::clamp<int64_t>(f.Int("num_experts_per_tok", int64_t{8}), -1, 1 << 20));
  m.router.norm_topk_prob = f.Bool("norm_topk_prob", false);
  m.moe_intermediate_size = f.Int("moe_intermediate_size", int64_t{768});
  m.decoder_sparse_step = f.Int("decoder_sparse_step", int64_t{1});
  m.mlp_only_layers = f.Ints("mlp_only_layers");
}

// Fields that other architectures of the Llama kind use to change results, with the value that changes nothing.
void RefuseForeignFields(Fields& f) {
  for (const char* key : {"attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling",
                          "logit_scale", "scale_emb", "scale_depth", "dim_model_base", "mup_base_width"}) {
    f.Require(key, 1.0);
  }
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
                          "no_rope_layers", "no_rope_layer_interval", "clip_qkv", "alibi", "index_topk",
                          "index_n_heads", "rope_local_base_freq", "attention_chunk_size", "layer_norm_eps",
                          "compression_config", "sparse_attention_config"}) {
    f.Require(key, nullptr);
  }
  for (const char* key : {"rope_interleaved", "use_parallel_residual", "parallel_attn", "add_cross_attention",
                          "is_encoder_decoder", "attn_output_gate", "use_qk_norm", "qk_layernorm", "use_bias",
                          "use_alibi", "apply_residual_connection_post_layernorm"}) {
    f.Require(key, false);
  }
  if (f.Has("quantization_config")) {
    const Json& q = f["quantization_config"];
    const bool fp8 = q.is_object() && q.value("quant_method", Json()) == "fp8" &&
                     q.value("fmt", Json("e4m3")) == "e4m3" && q.value("weight_block_size", Json()).is_array();
    if (!fp8) f.Problem("quantization_config", "only fp8 with e4m3 weights and weight_block_size is supported");
  }
  f.Ignore({"architectures",
            "model_type",
            "torch_dtype",
            "dtype",
            "transformers_version",
            "auto_map",
            "use_cache",
            "initializer_range",
            "attention_dropout",
            "hidden_dropout",
            "resid_pdrop",
            "embd_pdrop",
            "pretraining_tp",
            "output_attentions",
            "output_hidden_states",
            "return_dict",
            "_name_or_path",
            "name_or_path",
            "is_llama_config",
            "transformers.js_config",
            "unsloth_fixed",
            "unsloth_version",
            "max_window_layers",
            "_attn_implementation_autoset",
            "id2label",
            "label2id",
            "problem_type",
            "chunk_size_feed_forward",
            "is_decoder",
            "cross_attention_hidden_size",
            "_attn_implementation",
            "attn_implementation",
            "use_qkv_bias",
            "sep_token_id",
            "decoder_start_token_id",
            "tie_encoder_decoder",
            "num_mtp_layers"});
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::FromHuggingFace(const Json& config, const std::string& source) {
  if (!config.is_object()) return absl::InvalidArgumentError(absl::StrCat(source, ": expected a JSON object"));
  std::vector<std::string> problems, unknown;
  Fields f(config, "", &problems);
  ModelConfig c;
  static const std::set<std::string>* const kArchitectures =
      new std::set<std::string>{"LlamaForCausalLM",    "Qwen2ForCausalLM",      "Qwen3ForCausalLM",
                                "Qwen3MoeForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"};
  if (f.Has("architectures") && f["architectures"].is_array() && f["architectures"].size() == 1 &&
      f["architectures"][0].is_string()) {
    c.architecture = f["architectures"][0].get<std::string>();
  }
  if (kArchitectures->count(c.architecture) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": architectures: ", f.Has("architectures") ? json::Dump(f["architectures"]) : "missing",
                     "; supported are ", absl::StrJoin(*kArchitectures, ", ")));
  }
  const bool llama = c.architecture == "LlamaForCausalLM", qwen2 = c.architecture == "Qwen2ForCausalLM";
  const bool qwen3 = c.architecture == "Qwen3ForCausalLM", qwen3_moe = c.architecture == "Qwen3MoeForCausalLM";
  const bool v3 = c.architecture == "DeepseekV3ForCausalLM", deepseek = v3 || c.architecture == "DeepseekV2ForCausalLM";

  c.vocab_size = f.Int("vocab_size");
  c.hidden_size = f.Int("hidden_size");
  c.num_hidden_layers = f.Int("num_hidden_layers");
  c.num_attention_heads = f.Int("num_attention_heads");
  c.num_key_value_heads = f.Int("num_key_value_heads", c.num_attention_heads);
  c.max_position_embeddings = f.Int("max_position_embeddings");
  c.rms_norm_eps = f.Number("rms_norm_eps", 1e-6);
  c.tie_word_embeddings = f.Bool("tie_word_embeddings", false);
  f.Require("hidden_act", "silu");
  ReadRope(f, c, &problems, &unknown);
  ReadSlidingWindow(f, qwen2 || qwen3 || qwen3_moe, c.num_hidden_layers);
  if (deepseek) {
    ReadMla(f, c);
    ReadDeepseekMoe(f, c, v3);
    if (v3 && !f.Bool("rope_interleave", true)) c.rope_pairing = kernels::RopePairing::kHalfSplit;
    if (!v3) c.mlp_bias = f.Bool("mlp_bias", false);
    c.num_nextn_predict_layers = f.Int("num_nextn_predict_layers", int64_t{0});
    if (c.num_nextn_predict_layers < 0) f.Problem("num_nextn_predict_layers", "expected 0 or more");
  } else {
    if (f.Has("head_dim")) {
      c.head_dim = f.Int("head_dim");
    } else if (qwen3 || qwen3_moe) {
      c.head_dim = qwen3 ? 128 : (c.num_attention_heads > 0 ? c.hidden_size / c.num_attention_heads : 0);
    } else if (c.num_attention_heads > 0) {
      c.head_dim = c.hidden_size / c.num_attention_heads;
      if (c.hidden_size % c.num_attention_heads != 0)
        f.Problem("num_attention_heads", "does not divide hidden_size, and there is no head_dim");
    }
    if (qwen2) {
      c.attention_bias = true;
      f.Require("attention_bias", true);
    } else {
      c.attention_bias = f.Bool("attention_bias", false);
      c.o_bias = c.attention_bias;
    }
    c.qk_norm = qwen3 || qwen3_moe;
    if (llama) c.mlp_bias = f.Bool("mlp_bias", false);
    if (qwen3_moe) ReadQwen3Moe(f, c);
  }
  if (!llama && !(deepseek && !v3)) f.Require("mlp_bias", false);
  const bool all_experts =
      c.moe && c.moe->first_k_dense_replace == 0 && c.moe->decoder_sparse_step == 1 && c.moe->mlp_only_layers.empty();
  c.intermediate_size = all_experts ? f.Int("intermediate_size", int64_t{0}) : f.Int("intermediate_size");

  for (int64_t id : f.Ints("eos_token_id")) {
    if (id >= 0) c.eos_token_ids.push_back(static_cast<int32_t>(id));
  }
  auto optional_id = [&](const char* key) -> std::optional<int32_t> {
    const std::vector<int64_t> ids = f.Ints(key);
    for (int64_t id : ids) {
      if (id >= c.vocab_size) f.Problem(key, absl::StrCat(id, ", expected less than vocab_size, ", c.vocab_size));
    }
    if (ids.size() == 1 && ids[0] >= 0) return static_cast<int32_t>(ids[0]);
    return std::nullopt;
  };
  c.bos_token_id = optional_id("bos_token_id");
  c.pad_token_id = optional_id("pad_token_id");
  RefuseForeignFields(f);

  if (problems.empty()) {
    const absl::Status valid = c.Validate();
    if (!valid.ok()) problems.push_back(std::string(valid.message()));
  }
  if (!problems.empty()) return absl::InvalidArgumentError(absl::StrCat(source, ": ", absl::StrJoin(problems, "; ")));
  for (std::string& name : f.Unknown()) unknown.push_back(std::move(name));
  if (!unknown.empty()) {
    LOG(INFO) << source
              << ": fields that this program does not know, taken as of no effect: " << absl::StrJoin(unknown, ", ");
  }
  return c;
}

}  // namespace grouper
