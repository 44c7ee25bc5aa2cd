// Small models of every family and what the model's tests do with them.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/model/model.h"
#include "common/tensor/cuda.h"
#include "common/tensor/host_memory.h"
#include "kernels/elementwise.h"
#include "gtest/gtest.h"

namespace grouper {

// Families with every option switched on somewhere; sizes are odd where they may be.
inline std::vector<std::string> TinyFamilies() {
  return {"llama", "qwen2", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3", "deepseek_v3_no_q_lora"};
}

// Of the shapes that the GPU's tensor-core kernels take: GQA 64 wide, MLA 512 + 64 with gradients of 192/128.
inline std::vector<std::string> TensorCoreFamilies() { return {"llama_64", "deepseek_576"}; }

inline std::string TinyConfigText(const std::string& family) {
  if (family == "llama_64") {
    return R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 41, "hidden_size": 72, "intermediate_size": 88, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
      "hidden_act": "silu", "eos_token_id": 2, "tie_word_embeddings": true})";
  }
  if (family == "deepseek_576") {
    return R"({"architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 41, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu",
      "eos_token_id": 2, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "q_lora_rank": null,
      "moe_intermediate_size": 40, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 3,
      "n_group": 4, "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5})";
  }
  const std::string common =
      R"("vocab_size": 41, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
      "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "eos_token_id": 2, )";
  const std::string mla =
      R"("num_key_value_heads": 4, "kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 10,
      "moe_intermediate_size": 14, "n_shared_experts": 2, "first_k_dense_replace": 1, )";
  if (family == "llama") {
    return "{" + common +
           R"("architectures": ["LlamaForCausalLM"], "num_key_value_heads": 2, "tie_word_embeddings": true, "attention_bias": true,
      "mlp_bias": true, "head_dim": 6, "rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 64}})";
  }
  if (family == "qwen2") return "{" + common + R"("architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 1})";
  if (family == "qwen3") {
    return "{" + common +
           R"("architectures": ["Qwen3ForCausalLM"], "num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": true})";
  }
  if (family == "qwen3_moe") {
    return "{" + common +
           R"("architectures": ["Qwen3MoeForCausalLM"], "num_key_value_heads": 2, "head_dim": 8, "num_experts": 6,
      "num_experts_per_tok": 2, "norm_topk_prob": true, "moe_intermediate_size": 12, "mlp_only_layers": [0]})";
  }
  if (family == "deepseek_v2") {
    return "{" + common + mla +
           R"("architectures": ["DeepseekV2ForCausalLM"], "q_lora_rank": null, "n_routed_experts": 8, "num_experts_per_tok": 3,
      "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "norm_topk_prob": false, "routed_scaling_factor": 1.5,
      "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1, "mscale": 0.7,
      "mscale_all_dim": 0.9}})";
  }
  const std::string v3 =
      R"("architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
      "norm_topk_prob": true, "routed_scaling_factor": 2.5, )";
  if (family == "deepseek_v3") return "{" + common + mla + v3 + R"("q_lora_rank": 18, "attention_bias": true})";
  return "{" + common + mla + v3 + R"("q_lora_rank": null})";
}

inline ModelConfig TinyConfig(const std::string& family) {
  absl::StatusOr<json::Json> parsed = json::Parse(TinyConfigText(family));
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  absl::StatusOr<ModelConfig> config = ModelConfig::FromHuggingFace(*parsed, family);
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

inline double GetElement(const Tensor& t, int64_t i) {
  switch (t.dtype()) {
    case DType::kF64:
      return t.data<double>()[i];
    case DType::kBF16:
      return static_cast<float>(t.data<bf16>()[i]);
    default:
      return t.data<float>()[i];
  }
}

inline void SetElement(const Tensor& t, int64_t i, double value) {
  switch (t.dtype()) {
    case DType::kF64:
      t.data<double>()[i] = value;
      break;
    case DType::kBF16:
      t.data<bf16>()[i] = bf16(static_cast<float>(value));
      break;
    default:
      t.data<float>()[i] = static_cast<float>(value);
  }
}

// Random weights, norms and biases included, on the stream's device.
inline std::unique_ptr<Model> TinyModel(const std::string& family, DType dtype, Stream& stream, int64_t context = 256) {
  ModelConfig config = TinyConfig(family);
  config.max_position_embeddings = context;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Create(config, dtype, stream.device);
  EXPECT_TRUE(model.ok()) << model.status();
  (*model)->InitRandom(stream, 7);
  PhiloxStream random(MakePhiloxKey(11, "tiny model"));
  for (const LogicalTensor& tensor : (*model)->tensors()) {
    if (tensor.value.rank() != 1) continue;
    const HostBytes bytes(tensor.value);
    for (int64_t i = 0; i < tensor.value.size(); ++i) {
      SetElement(bytes.tensor(), i, GetElement(bytes.tensor(), i) + 0.1 * random.NextNormal());
    }
    CopyTensor(bytes.tensor(), tensor.value);
  }
  (*model)->WeightsChanged(stream);
  return *std::move(model);
}

inline std::vector<int32_t> RandomTokens(int64_t n, uint64_t seed, int64_t vocab = 41) {
  PhiloxStream random(MakePhiloxKey(seed, "tokens"));
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i)
    tokens.push_back(static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(vocab))));
  return tokens;
}

// A cache and page tables of its own for a set of growing sequences.
class Cache {
 public:
  Cache(const Model& model, int32_t pages = 64) : kv(model.config(), model.dtype(), pages, model.device()) {}

  struct Piece {
    int sequence;
    std::vector<int32_t> tokens;  // the next ones of that sequence
  };

  // Runs the pieces in one batch; the rows' logits, piece by piece, as raw bytes.
  std::vector<std::string> Run(const Model& model, Stream& stream, const std::vector<Piece>& pieces) {
    Batch batch;
    for (const Piece& piece : pieces) {
      std::vector<int32_t>& table = tables_[piece.sequence];
      int32_t& length = lengths_[piece.sequence];
      const int32_t n = static_cast<int32_t>(piece.tokens.size());
      while (static_cast<int32_t>(table.size()) * kernels::kPageTokens < length + n) table.push_back(kv.Allocate());
    }
    for (const Piece& piece : pieces) {
      const int32_t begin = static_cast<int32_t>(batch.token_ids.size()), n = static_cast<int32_t>(piece.tokens.size());
      batch.sequences.push_back({begin, n, lengths_[piece.sequence], tables_[piece.sequence].data()});
      lengths_[piece.sequence] += n;
      for (int32_t token : piece.tokens) {
        batch.output_rows.push_back(static_cast<int32_t>(batch.token_ids.size()));
        batch.token_ids.push_back(token);
      }
    }
    const int64_t t = static_cast<int64_t>(batch.token_ids.size());
    Arena arena(model.device(), stream.handle);
    const Tensor hidden = arena.New(model.dtype(), {t, model.config().hidden_size});
    const Tensor logits = arena.New(model.dtype(), {t, model.config().vocab_size});
    model.Forward(stream, batch, kv, hidden, nullptr);
    model.Logits(stream, hidden, logits);
    stream.Synchronize();
    std::vector<std::string> result;
    for (const auto& s : batch.sequences) result.push_back(std::string(HostBytes(logits.Rows(s.q_begin, s.q_begin + s.q_len)).view()));
    return result;
  }

  // Sequence `to` starts with the first `pages` full pages of `from`.
  void Share(int from, int to, int pages) {
    tables_[to].assign(tables_[from].begin(), tables_[from].begin() + pages);
    for (int32_t page : tables_[to]) kv.Retain(page);
    lengths_[to] = pages * kernels::kPageTokens;
  }

  KvPool kv;

 private:
  std::vector<int32_t> tables_[16];
  int32_t lengths_[16] = {};
};

// One training pass: loss = sum over output rows and ids of weight * logits, with fixed random weights that depend on
// (sequence, position) only.
struct Training {
  explicit Training(const Model& model) : model(model), gradients(model) {}

  // Sequences `first` .. `first + lengths.size()` of a fixed set.
  double Step(Stream& stream, const std::vector<std::vector<int32_t>>& sequences, int first, SaveOptions options,
              bool backward = true) {
    Batch batch;
    KvPool kv(model.config(), model.dtype(), 256, model.device());
    std::vector<std::vector<int32_t>> tables(sequences.size());
    std::vector<double> coefficients;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int32_t n = static_cast<int32_t>(sequences[i].size());
      for (int32_t p = 0; p * kernels::kPageTokens < n; ++p) tables[i].push_back(kv.Allocate());
      batch.sequences.push_back({static_cast<int32_t>(batch.token_ids.size()), n, 0, tables[i].data()});
      PhiloxStream random(MakePhiloxKey(static_cast<uint64_t>(first) + i, "loss"));
      for (int32_t p = 0; p < n; ++p) {
        if (p % 3 != 0) {
          batch.output_rows.push_back(static_cast<int32_t>(batch.token_ids.size()));
          for (int64_t v = 0; v < model.config().vocab_size; ++v) coefficients.push_back(random.NextNormal());
        }
        batch.token_ids.push_back(sequences[i][static_cast<size_t>(p)]);
      }
    }
    const int64_t rows = static_cast<int64_t>(batch.output_rows.size());
    Arena arena(model.device(), stream.handle);
    Tensor load;  // [layers, experts]
    if (model.config().moe) load = arena.NewZero(DType::kI32, {model.config().num_hidden_layers, model.config().moe->router.num_experts});
    SavedActivations saved(arena, options, load);
    const Tensor hidden = arena.New(model.dtype(), {rows, model.config().hidden_size});
    const Tensor dhidden = arena.New(model.dtype(), {rows, model.config().hidden_size});
    const Tensor logits = arena.New(model.dtype(), {rows, model.config().vocab_size});
    model.Forward(stream, batch, kv, hidden, &saved);
    model.Logits(stream, hidden, logits);
    double loss = 0;
    stream.Synchronize();
    const HostBytes bytes(logits);
    for (int64_t i = 0; i < logits.size(); ++i) {
      loss += coefficients[static_cast<size_t>(i)] * GetElement(bytes.tensor(), i);
      SetElement(bytes.tensor(), i, coefficients[static_cast<size_t>(i)]);
    }
    CopyTensor(bytes.tensor(), logits);
    expert_load.clear();
    for (int64_t layer = 0; !load.empty() && layer < load.dim(0); ++layer) {
      const HostBytes counts(load[layer]);
      expert_load.emplace_back(counts.tensor().data<int32_t>(), counts.tensor().data<int32_t>() + load.dim(1));
    }
    if (backward) {
      model.LogitsBackward(stream, logits, hidden, dhidden, gradients);
      model.Backward(stream, batch, kv, saved, dhidden, gradients);
    }
    arena_bytes = arena.peak_bytes();
    return loss;
  }

  // All gradients, byte for byte.
  std::string Bits() const {
    std::string bits;
    for (size_t i = 0; i < gradients.size(); ++i) absl::StrAppend(&bits, HostBytes(gradients.tensor(i)).view());
    return bits;
  }

  // NaN in all of them, then Zero: what was there must not be read.
  void Forget(Stream& stream) {
    for (size_t i = 0; i < gradients.size(); ++i) kernels::Fill(stream, gradients.tensor(i), std::numeric_limits<double>::quiet_NaN());
    gradients.Zero(stream);
  }

  const Model& model;
  Gradients gradients;
  std::vector<std::vector<int64_t>> expert_load;  // [layer][expert]
  size_t arena_bytes = 0;
};

}  // namespace grouper
