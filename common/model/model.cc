#include "common/model/model.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/model/layers.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"

namespace grouper {

struct Model::State {
  explicit State(const ModelConfig& config, DType dtype) : config(config), dtype(dtype), store(dtype) {}

  struct Block {
    Weight* input_norm;
    Weight* post_norm;
    std::unique_ptr<AttentionLayer> attention;
    std::unique_ptr<FeedForwardLayer> feed_forward;
  };

  ModelConfig config;
  DType dtype;
  Arena tables;
  WeightStore store;
  Weight* embedding = nullptr;
  Weight* final_norm = nullptr;
  Weight* head = nullptr;  // the embedding when tied
  std::vector<Block> blocks;
  std::vector<LogicalTensor> tensors;  // sorted by name
  std::vector<int> logical_of;         // tensors[i] is store.logical[logical_of[i]]
};

// What a block's backward needs. `input` alone is kept under recomputation.
struct SavedActivations::Blocks {
  struct Block {
    Tensor input, rstd1, y1, middle, rstd2, y2;
    AttentionSaved attention;
    FeedForwardSaved feed_forward;
  };
  std::vector<Block> blocks;
  std::vector<int32_t> positions;
  Tensor final_input, final_rstd;  // rows of output_rows
};

SavedActivations::SavedActivations(Arena& arena, SaveOptions options)
    : arena(arena), options(options), blocks(std::make_unique<Blocks>()) {}
SavedActivations::~SavedActivations() = default;

namespace {

std::vector<int32_t> Positions(const Batch& batch) {
  std::vector<int32_t> positions(batch.token_ids.size());
  size_t covered = 0;
  for (const kernels::AttentionSequence& s : batch.sequences) {
    CHECK_EQ(static_cast<size_t>(s.q_begin), covered);
    for (int32_t i = 0; i < s.q_len; ++i) positions[s.q_begin + i] = s.context + i;
    covered += static_cast<size_t>(s.q_len);
  }
  CHECK_EQ(covered, positions.size());
  return positions;
}

// Rows of x listed in `rows` -> out, and the other way round (added to a zeroed dx elsewhere).
void GatherRows(const Tensor& x, const std::vector<int32_t>& rows, const Tensor& out) {
  const size_t bytes = static_cast<size_t>(x.dim(1)) * SizeOf(x.dtype());
  const size_t stride = static_cast<size_t>(x.stride(0)) * SizeOf(x.dtype());
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(static_cast<const char*>(x.raw()) + static_cast<size_t>(rows[i]) * stride, bytes, static_cast<char*>(out.raw()) + i * bytes);
  }
}

void ScatterRows(const Tensor& rows_in, const std::vector<int32_t>& rows, const Tensor& x) {
  const size_t bytes = static_cast<size_t>(x.dim(1)) * SizeOf(x.dtype());
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(static_cast<const char*>(rows_in.raw()) + i * bytes, bytes, static_cast<char*>(x.raw()) + static_cast<size_t>(rows[i]) * bytes);
  }
}

}  // namespace

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
    if (weight->matrix && (weight.get() != state_->embedding || state_->head == state_->embedding)) weight->packed.Pack(stream, weight->value);
  }
}

// One block. x [T, D] is replaced by the block's output when nothing is saved; else the output is a new tensor and all that the backward
// needs stays in the arena.
namespace {

Tensor BlockForward(Pass& pass, const ModelConfig& config, const Weight& norm1, const AttentionLayer& attention, const Weight& norm2,
                    const FeedForwardLayer& feed_forward, int64_t layer, const Tensor& x, SavedActivations::Blocks::Block* saved,
                    std::vector<int64_t>* load) {
  const int64_t t = pass.tokens, d = config.hidden_size;
  const DType dtype = x.dtype(), acc = AccumulatorType(dtype);
  const Tensor y1 = pass.arena.New(dtype, {t, d}), y2 = pass.arena.New(dtype, {t, d}), delta = pass.arena.New(dtype, {t, d});
  Tensor rstd1, rstd2, middle = x;
  if (saved != nullptr) {
    rstd1 = pass.arena.New(acc, {t});
    rstd2 = pass.arena.New(acc, {t});
    middle = pass.arena.New(dtype, {t, d});
  }
  kernels::RmsNorm(pass.stream, x, norm1.value, config.rms_norm_eps, y1, rstd1);
  attention.Forward(pass, layer, y1, delta, saved != nullptr ? &saved->attention : nullptr);
  if (saved != nullptr) kernels::Copy(pass.stream, x, middle);
  kernels::AddRmsNorm(pass.stream, delta, middle, norm2.value, config.rms_norm_eps, y2, rstd2);
  Tensor out = middle;
  feed_forward.Forward(pass, y2, delta, saved != nullptr ? &saved->feed_forward : nullptr, load);
  if (saved != nullptr) {
    saved->rstd1 = rstd1;
    saved->y1 = y1;
    saved->middle = middle;
    saved->rstd2 = rstd2;
    saved->y2 = y2;
    out = delta;  // delta + middle, written over delta
    kernels::Add(pass.stream, middle, out);
  } else {
    kernels::Add(pass.stream, delta, out);
  }
  return out;
}

}  // namespace

void Model::Forward(Stream& stream, const Batch& batch, KvPool& kv, const Tensor& hidden, SavedActivations* saved) const {
  const State& s = *state_;
  const ModelConfig& config = s.config;
  const int64_t t = static_cast<int64_t>(batch.token_ids.size()), d = config.hidden_size;
  const DType acc = AccumulatorType(s.dtype);
  std::vector<int32_t> positions = Positions(batch);
  if (t == 0) return;
  Arena& arena = saved != nullptr ? saved->arena : stream.scratch;
  const Arena::Mark start = arena.mark();
  const int32_t* position = positions.data();
  if (saved != nullptr) {
    saved->blocks->positions = std::move(positions);
    position = saved->blocks->positions.data();
    saved->blocks->blocks.clear();
    saved->blocks->blocks.resize(s.blocks.size());
    saved->expert_load.resize(s.blocks.size());
  }
  Pass pass{stream, batch, kv, position, arena, t};
  Tensor x = arena.New(s.dtype, {t, d});
  kernels::Embedding(stream, s.embedding->value, batch.token_ids.data(), x);
  for (size_t i = 0; i < s.blocks.size(); ++i) {
    const State::Block& block = s.blocks[i];
    std::vector<int64_t>* load = saved != nullptr && config.IsMoeLayer(static_cast<int64_t>(i)) ? &saved->expert_load[i] : nullptr;
    const int64_t layer = static_cast<int64_t>(i);
    if (saved == nullptr) {
      const Arena::Mark mark = arena.mark();
      BlockForward(pass, config, *block.input_norm, *block.attention, *block.post_norm, *block.feed_forward, layer, x, nullptr, load);
      arena.Release(mark);
      continue;
    }
    SavedActivations::Blocks::Block& keep = saved->blocks->blocks[i];
    keep.input = x;
    if (!saved->options.recompute) {
      x = BlockForward(pass, config, *block.input_norm, *block.attention, *block.post_norm, *block.feed_forward, layer, x, &keep, load);
      continue;
    }
    // Keep the input alone; Backward runs the block again.
    const Tensor next = arena.New(s.dtype, {t, d});
    const Arena::Mark mark = arena.mark();
    kernels::Copy(stream, x, next);
    BlockForward(pass, config, *block.input_norm, *block.attention, *block.post_norm, *block.feed_forward, layer, next, nullptr, load);
    arena.Release(mark);
    x = next;
  }
  const int64_t rows = static_cast<int64_t>(batch.output_rows.size());
  CHECK_EQ(hidden.dim(0), rows);
  if (rows > 0) {
    const Tensor last = arena.New(s.dtype, {rows, d});
    GatherRows(x, batch.output_rows, last);
    Tensor rstd;
    if (saved != nullptr) {
      rstd = arena.New(acc, {rows});
      saved->blocks->final_input = last;
      saved->blocks->final_rstd = rstd;
    }
    kernels::RmsNorm(stream, last, s.final_norm->value, config.rms_norm_eps, hidden, rstd);
  }
  if (saved == nullptr) arena.Release(start);
}

void Model::Logits(Stream& stream, const Tensor& hidden, const Tensor& logits) const {
  const State& s = *state_;
  if (s.dtype == logits.dtype()) {
    kernels::Linear(stream, hidden, s.head->value, &s.head->packed, {}, logits);
    return;
  }
  // bf16: the product is rounded to bf16, as the CUDA kernels store it, and widened.
  const Arena::Mark mark = stream.scratch.mark();
  const Tensor narrow = stream.scratch.New(s.dtype, {logits.dim(0), logits.dim(1)});
  kernels::Linear(stream, hidden, s.head->value, &s.head->packed, {}, narrow);
  kernels::Copy(stream, narrow, logits);
  stream.scratch.Release(mark);
}

void Model::LogitsBackward(Stream& stream, const Tensor& dlogits, const Tensor& hidden, const Tensor& dhidden, Gradients& gradients) const {
  const State& s = *state_;
  const Tensor& d_head = gradients.fused_[s.head->index];
  if (s.dtype == dlogits.dtype()) {
    kernels::LinearBackwardInput(stream, dlogits, s.head->value, dhidden, false);
    kernels::LinearBackwardWeight(stream, dlogits, hidden, d_head, {});
    return;
  }
  const Arena::Mark mark = stream.scratch.mark();
  const Tensor narrow = stream.scratch.New(s.dtype, {dlogits.dim(0), dlogits.dim(1)});
  kernels::Copy(stream, dlogits, narrow);
  kernels::LinearBackwardInput(stream, narrow, s.head->value, dhidden, false);
  kernels::LinearBackwardWeight(stream, narrow, hidden, d_head, {});
  stream.scratch.Release(mark);
}

void Model::Backward(Stream& stream, const Batch& batch, KvPool& kv, SavedActivations& saved, const Tensor& dhidden,
                     Gradients& gradients) const {
  const State& s = *state_;
  const ModelConfig& config = s.config;
  const int64_t t = static_cast<int64_t>(batch.token_ids.size()), d = config.hidden_size;
  if (t == 0) return;
  Arena& arena = saved.arena;
  const Arena::Mark start = arena.mark();
  Pass pass{stream, batch, kv, saved.blocks->positions.data(), arena, t};
  const GradientSink sink{gradients.fused_};
  const int64_t rows = static_cast<int64_t>(batch.output_rows.size());

  Tensor dx = arena.NewZero(s.dtype, {t, d});
  if (rows > 0) {
    const Tensor d_last = arena.New(s.dtype, {rows, d});
    kernels::RmsNormBackward(stream, dhidden, saved.blocks->final_input, s.final_norm->value, saved.blocks->final_rstd, d_last, false,
                             sink[s.final_norm]);
    ScatterRows(d_last, batch.output_rows, dx);
  }
  const Tensor dy = arena.New(s.dtype, {t, d});
  for (size_t i = s.blocks.size(); i-- > 0;) {
    const State::Block& block = s.blocks[i];
    const int64_t layer = static_cast<int64_t>(i);
    const Arena::Mark mark = arena.mark();
    SavedActivations::Blocks::Block again;
    SavedActivations::Blocks::Block* keep = &saved.blocks->blocks[i];
    if (saved.options.recompute) {
      again.input = keep->input;
      BlockForward(pass, config, *block.input_norm, *block.attention, *block.post_norm, *block.feed_forward, layer, again.input, &again, nullptr);
      keep = &again;
    }
    // out = middle + feed_forward(norm2(middle))
    block.feed_forward->Backward(pass, keep->y2, keep->feed_forward, dx, dy, sink);
    kernels::RmsNormBackward(stream, dy, keep->middle, block.post_norm->value, keep->rstd2, dx, true, sink[block.post_norm]);
    // middle = input + attention(norm1(input))
    block.attention->Backward(pass, layer, keep->y1, keep->attention, dx, dy, sink);
    kernels::RmsNormBackward(stream, dy, keep->input, block.input_norm->value, keep->rstd1, dx, true, sink[block.input_norm]);
    arena.Release(mark);
  }
  kernels::EmbeddingBackward(stream, dx, batch.token_ids.data(), sink[s.embedding]);
  arena.Release(start);
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

// --- gradients -------------------------------------------------------------------------------------------------------------------

Gradients::Gradients(const Model& model) : memory_(std::make_unique<Arena>()) {
  const Model::State& s = *model.state_;
  const DType type = AccumulatorType(s.dtype);
  for (const auto& weight : s.store.weights) {
    const Tensor& w = weight->value;
    switch (w.rank()) {
      case 1: fused_.push_back(memory_->NewZero(type, {w.dim(0)})); break;
      case 2: fused_.push_back(memory_->NewZero(type, {w.dim(0), w.dim(1)})); break;
      default: fused_.push_back(memory_->NewZero(type, {w.dim(0), w.dim(1), w.dim(2)}));
    }
  }
  for (int index : s.logical_of) {
    const WeightStore::Logical& logical = s.store.logical[index];
    const Tensor& fused = fused_[logical.weight];
    char* data = static_cast<char*>(fused.raw()) + static_cast<size_t>(logical.offset) * SizeOf(type);
    const Tensor& shape = logical.tensor.value;
    tensors_.push_back(shape.rank() == 1 ? Tensor(data, type, {shape.dim(0)}) : Tensor(data, type, {shape.dim(0), shape.dim(1)}));
  }
}

Gradients::~Gradients() = default;

void Gradients::Zero(Stream& stream) {
  for (const Tensor& tensor : fused_) kernels::Fill(stream, tensor.Reshape({1, tensor.size()}), 0);
}

}  // namespace grouper
