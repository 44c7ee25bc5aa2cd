#include "common/model/model.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/model/model_state.h"

namespace grouper {

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::~Model() = default;

absl::StatusOr<std::unique_ptr<Model>> Model::Create(const ModelConfig& config, DType dtype, Device device) {
  RETURN_IF_ERROR(config.Validate());
  if (device.kind != Device::Kind::kCpu) return absl::UnimplementedError("this build has no CUDA backend");
  auto state = std::make_unique<State>(config, dtype);
  State& s = *state;
  WeightStore& store = s.store;
  const kernels::RopeTable rope = MakeRopeTable(config, dtype, s.tables);
  s.embedding = store.AddMatrix({{"model.embed_tokens.weight", config.vocab_size}}, config.hidden_size);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    State::Block block;
    block.input_norm = store.AddVector({{prefix + "input_layernorm.weight", config.hidden_size}});
    block.attention = config.mla ? MakeMlaLayer(config, prefix + "self_attn.", rope, store)
                                 : MakeGqaLayer(config, prefix + "self_attn.", rope, store);
    block.post_norm = store.AddVector({{prefix + "post_attention_layernorm.weight", config.hidden_size}});
    block.feed_forward = config.IsMoeLayer(i) ? MakeMoeLayer(config, prefix + "mlp.", store)
                                              : MakeDenseLayer(config, prefix + "mlp.", config.intermediate_size, store);
    s.blocks.push_back(std::move(block));
  }
  s.final_norm = store.AddVector({{"model.norm.weight", config.hidden_size}});
  s.head = config.tie_word_embeddings ? s.embedding : store.AddMatrix({{"lm_head.weight", config.vocab_size}}, config.hidden_size);

  std::map<std::string, int> by_name;
  for (size_t i = 0; i < store.logical.size(); ++i) by_name[store.logical[i].tensor.name] = static_cast<int>(i);
  CHECK_EQ(by_name.size(), store.logical.size());
  for (const auto& [name, index] : by_name) {
    s.tensors.push_back(store.logical[index].tensor);
    s.logical_of.push_back(index);
  }
  return std::unique_ptr<Model>(new Model(std::move(state)));
}

const ModelConfig& Model::config() const { return state_->config; }
DType Model::dtype() const { return state_->dtype; }
DType Model::logits_dtype() const { return AccumulatorType(state_->dtype); }
const std::vector<LogicalTensor>& Model::tensors() const { return state_->tensors; }

int Model::FindTensor(const std::string& name) const {
  const auto& tensors = state_->tensors;
  auto it = std::lower_bound(tensors.begin(), tensors.end(), name, [](const LogicalTensor& t, const std::string& n) { return t.name < n; });
  return it != tensors.end() && it->name == name ? static_cast<int>(it - tensors.begin()) : -1;
}

void Model::InitRandom(Stream& stream, uint64_t seed) {
  const double residual = 1 / std::sqrt(2.0 * static_cast<double>(state_->config.num_hidden_layers));
  stream.threads.ParallelForDynamic(static_cast<int64_t>(state_->tensors.size()), [&](int64_t i) {
    const LogicalTensor& tensor = state_->tensors[static_cast<size_t>(i)];
    const Tensor& w = tensor.value;
    PhiloxStream random(MakePhiloxKey(seed, absl::StrCat("init ", tensor.name).c_str()));
    double scale = 0, constant = 0;
    if (w.rank() == 1) {
      constant = absl::EndsWith(tensor.name, "norm.weight") ? 1 : 0;
    } else if (tensor.name == "model.embed_tokens.weight") {
      scale = state_->config.tie_word_embeddings ? 1 / std::sqrt(static_cast<double>(w.dim(1))) : 0.5;
    } else {
      scale = 1 / std::sqrt(static_cast<double>(w.dim(1)));
      if (absl::EndsWith(tensor.name, "o_proj.weight") || absl::EndsWith(tensor.name, "down_proj.weight")) scale *= residual;
    }
    for (int64_t k = 0; k < w.size(); ++k) {
      const double value = scale > 0 ? scale * random.NextNormal() : constant;
      switch (w.dtype()) {
        case DType::kF64: w.data<double>()[k] = value; break;
        case DType::kBF16: w.data<bf16>()[k] = bf16(static_cast<float>(value)); break;
        default: w.data<float>()[k] = static_cast<float>(value);
      }
    }
  });
  WeightsChanged(stream);
}

void Model::WeightsChanged(Stream& stream) {
  for (const auto& weight : state_->store.weights) {
    if (weight->keep_packed && (weight.get() != state_->embedding || state_->head == state_->embedding)) weight->packed.Pack(stream, weight->value);
  }
}

size_t Model::SavedBytes(int64_t tokens, SaveOptions options) const {
  const ModelConfig& c = state_->config;
  const int64_t item = static_cast<int64_t>(SizeOf(state_->dtype)), d = c.hidden_size;
  int64_t attention, feed_forward = 0;
  if (c.mla) {
    const int64_t h = c.num_attention_heads, q = h * (c.mla->qk_nope_head_dim + c.mla->qk_rope_head_dim);
    const int64_t key = c.mla->kv_lora_rank + c.mla->qk_rope_head_dim;
    attention = 2 * q + 2 * c.mla->q_lora_rank + 2 * key + h * (key + c.mla->kv_lora_rank + c.mla->v_head_dim);
  } else {
    attention = (2 * c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim * (c.qk_norm ? 2 : 1);
  }
  int64_t dense = 3 * c.intermediate_size, moe = 0;
  if (c.moe) moe = 3 * c.moe->moe_intermediate_size * (c.moe->router.top_k + c.moe->n_shared_experts) + d * c.moe->router.top_k;
  feed_forward = std::max(dense, moe);
  const int64_t block = 5 * d + attention + feed_forward;
  const int64_t total = options.recompute ? c.num_hidden_layers * d + 2 * block : c.num_hidden_layers * block + 2 * block;
  return static_cast<size_t>(total * item * tokens);
}

}  // namespace grouper
