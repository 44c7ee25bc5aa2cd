// The pass through the whole decoder, forward and backward.
//
//   x = embedding;  per block:  x += attention(norm1(x));  x += feed_forward(norm2(x));  hidden = norm(x) of the output
//   rows
//
// The additions are part of the following norm (AddRmsNorm): a block hands on its residual x and the feed-forward's
// delta, not yet added.
#include <algorithm>
#include <numeric>
#include <optional>

#include "common/model/expanded_kv.h"
#include "common/model/forward_parts.h"
#include "common/model/model_state.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"

namespace grouper {

SavedActivations::SavedActivations(Arena& arena, SaveOptions options, const Tensor& expert_load)
    : arena(arena), options(options), blocks(std::make_unique<Blocks>()), expert_load(expert_load) {}
SavedActivations::~SavedActivations() = default;

namespace {

// REQUIRES: sequences in order, covering all rows, within the rotary table.
std::vector<int32_t> Positions(const Batch& batch, int64_t max_positions) {
  std::vector<int32_t> positions(batch.token_ids.size());
  size_t covered = 0;
  for (const kernels::AttentionSequence& s : batch.sequences) {
    CHECK_EQ(static_cast<size_t>(s.q_begin), covered);
    CHECK(s.q_len >= 0 && s.context >= 0 && int64_t{s.context} + s.q_len <= max_positions)
        << s.context << " + " << s.q_len << " tokens, the model's context is " << max_positions;
    for (int32_t i = 0; i < s.q_len; ++i) positions[s.q_begin + i] = s.context + i;
    covered += static_cast<size_t>(s.q_len);
  }
  CHECK_EQ(covered, positions.size());
  return positions;
}

void CheckIds(const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (int32_t id : ids) CHECK(id >= 0 && id < vocab_size) << "id " << id << " of " << vocab_size;
}

// Integers of the host where the stream's ops read them: copied to `memory` on a device, the vector itself on the CPU.
Tensor Indices(Stream& stream, const std::vector<int32_t>& values, Arena& memory) {
  const int64_t n = static_cast<int64_t>(values.size());
  const Tensor host(const_cast<int32_t*>(values.data()), DType::kI32, {n});
  if (n == 0 || !stream.device.is_cuda()) return host;
  const Tensor device = memory.New(DType::kI32, {n});
  UploadAsync(stream, host, device);
  return device;
}

// On the CPU, whose memory the tables are in.
Batch HostBatch(const DeviceBatch& from) {
  const auto values = [](const Tensor& t) {
    return std::vector<int32_t>(t.data<int32_t>(), t.data<int32_t>() + t.size());
  };
  Batch batch;
  batch.token_ids = values(from.token_ids);
  const Tensor& tables = from.attention.sequences;
  for (int64_t i = 0; i < tables.dim(0); ++i) {
    const int32_t* const row = tables.row<int32_t>(i);
    batch.sequences.push_back({row[0], row[1], row[2], from.attention.pages.data<int32_t>() + row[3]});
  }
  if (from.output_rows.empty()) {
    batch.output_rows.resize(batch.token_ids.size());
    std::iota(batch.output_rows.begin(), batch.output_rows.end(), 0);
  } else {
    batch.output_rows = values(from.output_rows);
  }
  return batch;
}

Tensor Gather(Stream& stream, const Tensor& x, const Tensor& rows, Arena& arena) {
  const Tensor gathered = arena.New(x.dtype(), {rows.dim(0), x.dim(1)});
  kernels::GatherRows(stream, x, rows, gathered);
  return gathered;
}

// One block. `before` [T, D]: the residual that the block before left, with its `delta` not yet added (empty: there is none, and `input` is
// filled). `input` (=): both added. `middle` (=): the residual after attention. `delta` (=): what the feed-forward adds. The three residuals
// may be one tensor.
void BlockForward(Pass& pass, const ModelConfig& config, const Model::State::Block& block, int64_t layer,
                  const Tensor& before, const Tensor& input, const Tensor& middle, const Tensor& delta, BlockSaved* saved,
                  const Tensor& expert_load) {
  const DType dtype = input.dtype(), acc = AccumulatorType(dtype);
  const double eps = config.rms_norm_eps;
  BlockSaved local;
  BlockSaved& s = saved != nullptr ? *saved : local;
  s.input = input;
  s.middle = middle;
  s.y1 = pass.arena.New(dtype, {pass.tokens, config.hidden_size});
  s.y2 = pass.arena.New(dtype, {pass.tokens, config.hidden_size});
  if (saved != nullptr) {
    s.rstd1 = pass.arena.New(acc, {pass.tokens});
    s.rstd2 = pass.arena.New(acc, {pass.tokens});
  }
  if (!before.empty()) {
    kernels::AddRmsNorm(pass.stream, delta, before, input, block.input_norm->value, eps, s.y1, s.rstd1);
  } else {
    kernels::RmsNorm(pass.stream, input, block.input_norm->value, eps, s.y1, s.rstd1);
  }
  block.attention->Forward(pass, layer, s.y1, delta, saved != nullptr ? &s.attention : nullptr);
  kernels::AddRmsNorm(pass.stream, delta, input, middle, block.post_norm->value, eps, s.y2, s.rstd2);
  block.feed_forward->Forward(pass, s.y2, delta, saved != nullptr ? &s.feed_forward : nullptr, expert_load);
}

}  // namespace

void Model::Forward(Stream& stream, const Batch& batch, KvPool& kv, const Tensor& hidden,
                    SavedActivations* saved) const {
  const State& s = *state_;
  const ModelConfig& config = s.config;
  const int64_t t = static_cast<int64_t>(batch.token_ids.size()), d = config.hidden_size;
  const int64_t rows = static_cast<int64_t>(batch.output_rows.size());
  CHECK_EQ(hidden.dim(0), rows);
  CHECK(stream.device == s.device && hidden.device() == s.device) << "a pass runs on the model's device";
  CHECK(s.use != WeightUse::kShapes) << "a model without weights";
  if (saved == nullptr && ForwardInParts(*this, stream, batch, kv, hidden)) return;
  const std::vector<int32_t> positions = Positions(batch, config.max_position_embeddings);
  CheckIds(batch.token_ids, config.vocab_size);
  if (t == 0) return;
  s.rotary->Fill(int64_t{*std::max_element(positions.begin(), positions.end())} + 1);
  Arena& arena = saved != nullptr ? saved->arena : stream.scratch;
  const Arena::Mark start = arena.mark();
  const bool recompute = saved != nullptr && saved->options.recompute;
  if (saved != nullptr) saved->blocks->blocks.assign(s.blocks.size(), {});

  Tensor x = arena.New(s.dtype, {t, d});
  const Tensor delta = arena.New(s.dtype, {t, d});
  const Tensor work = recompute ? arena.New(s.dtype, {t, d}) : Tensor();
  Pass pass{stream, kv, arena, t, Indices(stream, positions, arena),
            kernels::AttentionBatch(stream, batch.sequences, kv.layout(), config.num_attention_heads, arena)};
  const Tensor ids = Indices(stream, batch.token_ids, arena);
  if (s.embedding->value.empty()) {
    kernels::Embedding(stream, s.embedding->packed, ids, x);
  } else {
    kernels::Embedding(stream, s.embedding->value, ids, x);
  }
  for (size_t i = 0; i < s.blocks.size(); ++i) {
    const int64_t layer = static_cast<int64_t>(i);
    const Tensor load = saved == nullptr || saved->expert_load.empty() ? Tensor() : saved->expert_load[layer];
    const Tensor before = i > 0 ? x : Tensor();
    const Tensor input = saved != nullptr && i > 0 ? arena.New(s.dtype, {t, d}) : x;
    if (saved != nullptr && !recompute) {
      const Tensor middle = arena.New(s.dtype, {t, d});
      BlockForward(pass, config, s.blocks[i], layer, before, input, middle, delta, &saved->blocks->blocks[i], load);
      x = middle;
      continue;
    }
    const Arena::Mark mark = arena.mark();
    if (recompute) saved->blocks->blocks[i].input = input;
    const Tensor middle = recompute ? work : input;
    BlockForward(pass, config, s.blocks[i], layer, before, input, middle, delta, nullptr, load);
    arena.Release(mark);
    x = middle;
  }
  if (rows > 0) {
    const Tensor output_rows = Indices(stream, batch.output_rows, arena);
    const Tensor last = Gather(stream, x, output_rows, arena), last_delta = Gather(stream, delta, output_rows, arena);
    Tensor rstd;
    if (saved != nullptr) {
      rstd = saved->blocks->final_rstd = arena.New(AccumulatorType(s.dtype), {rows});
      saved->blocks->final_input = last;
    }
    kernels::AddRmsNorm(stream, last_delta, last, last, s.final_norm->value, config.rms_norm_eps, hidden, rstd);
  }
  if (saved == nullptr) arena.Release(start);
}

void Model::Forward(Stream& stream, const DeviceBatch& batch, KvPool& kv, const Tensor& hidden) const {
  const State& s = *state_;
  if (!s.device.is_cuda()) return Forward(stream, HostBatch(batch), kv, hidden, nullptr);
  const int64_t t = batch.token_ids.dim(0), d = s.config.hidden_size, rows = batch.num_outputs();
  CHECK_EQ(hidden.dim(0), rows);
  CHECK(stream.device == s.device && hidden.device() == s.device) << "a pass runs on the model's device";
  if (t == 0) return;
  Arena& arena = stream.scratch;
  const Arena::Mark start = arena.mark();
  Tensor x = arena.New(s.dtype, {t, d}), delta = arena.New(s.dtype, {t, d});
  Pass pass{stream, kv, arena, t, batch.positions,
            kernels::AttentionBatch(stream, batch.attention, kv.layout(), s.config.num_attention_heads, arena)};
  kernels::Embedding(stream, s.embedding->value, batch.token_ids, x);
  for (size_t i = 0; i < s.blocks.size(); ++i) {
    const Arena::Mark mark = arena.mark();
    BlockForward(pass, s.config, s.blocks[i], static_cast<int64_t>(i), i > 0 ? x : Tensor(), x, x, delta, nullptr, {});
    arena.Release(mark);
  }
  if (rows > 0) {
    if (!batch.output_rows.empty()) {
      x = Gather(stream, x, batch.output_rows, arena);
      delta = Gather(stream, delta, batch.output_rows, arena);
    }
    kernels::AddRmsNorm(stream, delta, x, x, s.final_norm->value, s.config.rms_norm_eps, hidden, {});
  }
  arena.Release(start);
}

void Model::Backward(Stream& stream, const Batch& batch, KvPool& kv, SavedActivations& saved, const Tensor& dhidden,
                     Gradients& gradients) const {
  const State& s = *state_;
  const ModelConfig& config = s.config;
  const int64_t t = static_cast<int64_t>(batch.token_ids.size()), d = config.hidden_size;
  if (t == 0) return;
  Arena& arena = saved.arena;
  const Arena::Mark start = arena.mark();
  const std::vector<int32_t> positions = Positions(batch, config.max_position_embeddings);
  const auto use = saved.options.recompute ? kernels::AttentionUse::kAll : kernels::AttentionUse::kGradients;
  Pass pass{stream, kv, arena, t, Indices(stream, positions, arena),
            kernels::AttentionBatch(stream, batch.sequences, kv.layout(), config.num_attention_heads, arena, use)};
  std::optional<ExpandedKv> expanded;
  if (config.mla) pass.expanded = &expanded.emplace(stream, batch.sequences, config, s.dtype, arena);
  const GradientSink sink{gradients.fused_, !gradients.matrices_empty_};
  const int64_t rows = static_cast<int64_t>(batch.output_rows.size());

  const Tensor dx = arena.NewZero(s.dtype, {t, d});  // gradient at the residual stream, blocks from last to first
  if (rows > 0) {
    const Tensor d_last = arena.New(s.dtype, {rows, d});
    kernels::RmsNormBackward(stream, dhidden, saved.blocks->final_input, s.final_norm->value, saved.blocks->final_rstd,
                             d_last, false, sink[s.final_norm]);
    kernels::ScatterRows(stream, d_last, Indices(stream, batch.output_rows, arena), dx);
  }
  const Tensor dy = arena.New(s.dtype, {t, d});
  for (size_t i = s.blocks.size(); i-- > 0;) {
    const State::Block& block = s.blocks[i];
    const int64_t layer = static_cast<int64_t>(i);
    const Arena::Mark mark = arena.mark();
    BlockSaved again;
    const BlockSaved* keep = &saved.blocks->blocks[i];
    if (saved.options.recompute) {
      const Tensor middle = arena.New(s.dtype, {t, d});
      BlockForward(pass, config, block, layer, {}, keep->input, middle, dy, &again, {});
      keep = &again;
    }
    // out = middle + feed_forward(norm2(middle))
    block.feed_forward->Backward(pass, keep->y2, keep->feed_forward, dx, dy, sink);
    kernels::RmsNormBackward(stream, dy, keep->middle, block.post_norm->value, keep->rstd2, dx, true,
                             sink[block.post_norm]);
    // middle = input + attention(norm1(input))
    block.attention->Backward(pass, layer, keep->y1, keep->attention, dx, dy, sink);
    kernels::RmsNormBackward(stream, dy, keep->input, block.input_norm->value, keep->rstd1, dx, true,
                             sink[block.input_norm]);
    arena.Release(mark);
  }
  kernels::EmbeddingBackward(stream, dx, batch.token_ids.data(), sink[s.embedding]);
  gradients.matrices_empty_ = gradients.finished_ = false;
  arena.Release(start);
}

void Model::Logits(Stream& stream, const Tensor& hidden, const Tensor& logits) const {
  CHECK(logits.dtype() == state_->dtype);
  kernels::Linear(stream, hidden, state_->head->value, &state_->head->packed, {}, logits);
}

void Model::LogitsBackward(Stream& stream, const Tensor& dlogits, const Tensor& hidden, const Tensor& dhidden,
                           Gradients& gradients) const {
  const State& s = *state_;
  CHECK(dlogits.dtype() == s.dtype);
  kernels::LinearBackwardInput(stream, dlogits, s.head->value, dhidden, false);
  if (dlogits.dim(0) == 0) return;
  kernels::LinearBackwardWeight(stream, dlogits, hidden, gradients.head_, {}, !gradients.head_empty_);
  gradients.head_empty_ = gradients.finished_ = false;
}

}  // namespace grouper
