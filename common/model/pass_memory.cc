#include "common/model/pass_memory.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/model/expanded_kv.h"
#include "common/model/layers.h"
#include "kernels/attention_cuda.h"

namespace grouper {
namespace {

// Arena's (common/tensor/arena.cc).
constexpr size_t kAlign = 64, kCudaAlign = 256;
constexpr size_t kBlock = size_t{8} << 20, kCudaBlock = size_t{64} << 20, kHuge = size_t{2} << 20;

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

size_t BlockBytes(size_t bytes, bool cuda) { return RoundUp(std::max(bytes, cuda ? kCudaBlock : kBlock), kHuge); }

}  // namespace

size_t HeldBytes(size_t bytes, Device device) {
  if (bytes == 0) return 0;
  return device.is_cuda() ? BlockBytes(bytes, true) : RoundUp(bytes, kHuge);
}

void ArenaSizer::Allocate(size_t bytes) {
  const size_t align = cuda_ ? kCudaAlign : kAlign;
  bytes = std::max(RoundUp(bytes, align), align);
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_]) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    blocks_.push_back(BlockBytes(bytes, cuda_));
    used_ = 0;
  }
  used_ += bytes;
  handed_out_ += bytes;
  peak_ = std::max(peak_, handed_out_);
  largest_ = std::max(largest_, bytes);
}

void ArenaSizer::Release(Mark mark) {
  CHECK_LE(mark.handed_out, handed_out_);
  block_ = mark.block;
  used_ = mark.used;
  handed_out_ = mark.handed_out;
}

size_t ArenaSizer::reserved() const {
  size_t total = 0;
  for (size_t block : blocks_) total += block;
  return total;
}

size_t ArenaSizer::held() const { return cuda_ ? reserved() : RoundUp(peak_, kHuge); }

namespace {

// Walks through a pass as forward_backward.cc does.
class PassWalk {
 public:
  PassWalk(const ModelConfig& config, DType dtype, Device device, const PassSize& size, ArenaSizer& arena, ArenaSizer& scratch)
      : c_(config),
        dtype_(dtype),
        acc_(AccumulatorType(dtype)),
        cuda_(device.is_cuda()),
        narrow_(dtype == DType::kBF16),
        size_(size),
        t_(size.tokens),
        d_(config.hidden_size),
        arena_(arena),
        scratch_(scratch) {}

  void Forward(bool saved, bool recompute) {
    arena_.New(dtype_, t_ * d_);
    arena_.New(dtype_, t_ * d_);
    if (recompute) arena_.New(dtype_, t_ * d_);
    Batch();
    Indices(t_);
    for (int64_t layer = 0; layer < c_.num_hidden_layers; ++layer) {
      if (saved && layer > 0) arena_.New(dtype_, t_ * d_);
      if (saved && !recompute) {
        arena_.New(dtype_, t_ * d_);
        BlockForward(layer, true);
        continue;
      }
      const ArenaSizer::Mark mark = arena_.mark();
      BlockForward(layer, false);
      arena_.Release(mark);
    }
    if (size_.rows == 0) return;
    arena_.New(dtype_, size_.rows * d_);
    arena_.New(dtype_, size_.rows * d_);
    Indices(size_.rows);
    if (saved) arena_.New(acc_, size_.rows);
  }

  void Backward(bool recompute) {
    const ArenaSizer::Mark start = arena_.mark();
    Batch();
    if (c_.mla) GradientTables();
    arena_.New(dtype_, t_ * d_);
    arena_.New(dtype_, size_.rows * d_);
    NormGradient(size_.rows, d_);
    NormGradient(t_, d_);
    Indices(size_.rows);
    arena_.New(dtype_, t_ * d_);
    for (int64_t layer = 0; layer < c_.num_hidden_layers; ++layer) {
      const ArenaSizer::Mark mark = arena_.mark();
      if (recompute) {
        arena_.New(dtype_, t_ * d_);
        BlockForward(layer, true);
      }
      FeedForwardBackward(layer);
      AttentionBackward();
      arena_.Release(mark);
    }
    arena_.Release(start);
  }

  void Logits() {
    if (cuda_) OfOneOp(static_cast<size_t>(size_.logit_rows) * 40);  // requests, filters, targets, tokens
  }

  void LogitsBackward() {
    WeightGradient(c_.vocab_size, d_, size_.logit_rows);
  }

 private:
  void OfOneOp(size_t bytes) {
    const ArenaSizer::Mark mark = scratch_.mark();
    scratch_.Allocate(bytes);
    scratch_.Release(mark);
  }

  // Integers that a device reads.
  void Indices(int64_t n) {
    if (cuda_ && n > 0) arena_.New(DType::kI32, n);
  }

  void Batch() {
    Indices(t_);  // positions
    AttentionTables(c_.mla ? 1 : c_.num_key_value_heads);
  }

  // The batch as attention's gradients read it on a device (kernels/attention_plan_cuda.cu)
  void GradientTables() {
    if (!cuda_) return;
    const int64_t pages_each = (size_.longest + kernels::kPageTokens - 1) / kernels::kPageTokens;
    arena_.New(DType::kI32, size_.sequences * (4 + pages_each));
    arena_.New(DType::kI32, t_);
  }
  // and as attention does.
  void AttentionTables(int64_t kv_heads) {
    if (!cuda_) return;
    GradientTables();
    const int64_t group = c_.num_attention_heads / kv_heads, sequences = size_.sequences;
    arena_.Allocate(static_cast<size_t>(kv_heads * (t_ * group / 64 + sequences * 2 * Splits())) * sizeof(kernels::cuda::AttentionItem));
    Indices(1);
    Indices(sequences);
    Indices(sequences);
  }

  // LinearBackwardWeight of a [rows, columns] matrix: pieces of 2048 tokens for small ones (kernels/linear_cuda.cu).
  void WeightGradient(int64_t rows, int64_t columns, int64_t tokens) {
    if (!cuda_ || !narrow_ || ((rows + 127) / 128) * ((columns + 191) / 192) > 66) return;
    OfOneOp(static_cast<size_t>((tokens + 2047) / 2048 * rows * columns) * 4);
  }

  // RmsNormBackward: the weight's sums of 32 rows (kernels/rms_norm_cuda.cu).
  void NormGradient(int64_t rows, int64_t width) {
    if (cuda_ && narrow_) OfOneOp(static_cast<size_t>((rows + 31) / 32 * width) * 4);
  }

  void BlockForward(int64_t layer, bool saved) {
    arena_.New(dtype_, t_ * d_);
    arena_.New(dtype_, t_ * d_);
    if (saved) {
      arena_.New(acc_, t_);
      arena_.New(acc_, t_);
    }
    if (c_.mla) {
      MlaForward(saved);
    } else {
      GqaForward(saved);
    }
    FeedForward(layer, saved);
  }

  // Of all sequences, in pages of their own.
  int64_t Pages() const {
    return size_.pages > 0 ? size_.pages : std::max(std::min(size_.sequences, t_), (t_ + kernels::kPageTokens - 1) / kernels::kPageTokens);
  }

  int64_t Splits() const {
    constexpr int64_t kTokens = int64_t{kernels::cuda::kSplitPages} * kernels::kPageTokens;
    return std::max<int64_t>(1, (size_.longest + kTokens - 1) / kTokens);
  }

  // Splits of few rows with long contexts may run side by side: of sequences that decode, and of a prompt's last piece. Others wait for the next
  // one in `running` bytes (kernels/attention_cuda.cu, attention_mla_cuda.cu).
  void SplitScratch(int64_t value_width, size_t running = 0) {
    if (!cuda_ || !narrow_ || Splits() < 2) return;
    const int64_t kv_heads = c_.mla ? 1 : c_.num_key_value_heads, group = c_.num_attention_heads / kv_heads;
    const int64_t rows = size_.whole ? 0 : std::min(t_ * group, size_.sequences * group + kernels::cuda::kMaxRowsApart);
    OfOneOp(static_cast<size_t>(kv_heads * Splits() * rows * (value_width + 2)) * 4 + running);
  }

  void GqaForward(bool saved) {
    const int64_t h = c_.num_attention_heads, kv = c_.num_key_value_heads, w = c_.head_dim;
    arena_.New(dtype_, t_ * (h + 2 * kv) * w);
    if (c_.qk_norm && saved) {
      arena_.New(dtype_, t_ * h * w);
      arena_.New(dtype_, t_ * kv * w);
      arena_.New(acc_, t_ * h);
      arena_.New(acc_, t_ * kv);
    }
    arena_.New(dtype_, t_ * h * w);
    if (saved) arena_.New(acc_, t_ * h);
    SplitScratch(w);
  }

  void MlaForward(bool saved) {
    const MlaConfig& m = *c_.mla;
    const int64_t h = c_.num_attention_heads, q = h * (m.qk_nope_head_dim + m.qk_rope_head_dim);
    const int64_t key = m.kv_lora_rank + m.qk_rope_head_dim;
    arena_.New(dtype_, t_ * ((m.q_lora_rank > 0 ? m.q_lora_rank : q) + key));
    if (m.q_lora_rank > 0) {
      arena_.New(dtype_, t_ * m.q_lora_rank);
      if (saved) arena_.New(acc_, t_);
      arena_.New(dtype_, t_ * q);
    }
    arena_.New(dtype_, t_ * key);
    if (saved) arena_.New(acc_, t_);
    if (saved) arena_.New(acc_, t_ * h);
    arena_.New(dtype_, t_ * h * m.v_head_dim);
    const ArenaSizer::Mark mark = arena_.mark();
    arena_.New(dtype_, t_ * h * key);
    arena_.New(dtype_, t_ * h * m.kv_lora_rank);
    SplitScratch(m.kv_lora_rank, size_t{kernels::cuda::kMaxMultiprocessors} * 64 * static_cast<size_t>(m.kv_lora_rank) * 4);
    arena_.Release(mark);
  }

  void DenseForward(int64_t width, bool saved) {
    if (saved) arena_.New(dtype_, t_ * 2 * width);
    arena_.New(dtype_, t_ * width);
    if (!saved) OfOneOp(static_cast<size_t>(t_ * 2 * width) * SizeOf(dtype_));
  }

  void FeedForward(int64_t layer, bool saved) {
    if (!c_.IsMoeLayer(layer)) return DenseForward(c_.intermediate_size, saved);
    const MoeConfig& m = *c_.moe;
    const int64_t k = m.router.top_k, experts = m.router.num_experts, width = m.moe_intermediate_size, rows = t_ * k;
    if (m.n_shared_experts > 0) DenseForward(m.n_shared_experts * width, saved);
    if (!cuda_ && dtype_ != acc_) OfOneOp(static_cast<size_t>(t_ * d_) * 4);  // the router's rows, widened
    arena_.New(acc_, t_ * experts);
    arena_.New(DType::kI32, rows);
    arena_.New(acc_, rows);
    arena_.New(acc_, t_ * experts);
    arena_.New(DType::kI32, experts + 1);
    arena_.New(DType::kI32, rows);
    arena_.New(DType::kI32, rows);
    if (saved) arena_.New(dtype_, rows * 2 * width);
    arena_.New(dtype_, rows * width);
    arena_.New(dtype_, rows * d_);
    if (!saved) OfOneOp(static_cast<size_t>(rows * 2 * width) * SizeOf(dtype_) + (cuda_ && narrow_ ? static_cast<size_t>(rows * d_) * 2 : 0));
    if (saved && cuda_ && narrow_) OfOneOp(static_cast<size_t>(rows * d_) * 2);  // rows gathered for the experts
  }

  void AttentionBackward() {
    const ArenaSizer::Mark mark = arena_.mark();
    const int64_t h = c_.num_attention_heads;
    if (!c_.mla) {
      const int64_t q = h * c_.head_dim, all = q + 2 * c_.num_key_value_heads * c_.head_dim;
      arena_.New(dtype_, t_ * q);
      arena_.New(dtype_, t_ * all);
      if (c_.qk_norm) NormGradient(t_ * h, c_.head_dim);
      WeightGradient(d_, q, t_);
      WeightGradient(all, d_, t_);
      if (cuda_) OfOneOp(static_cast<size_t>(t_ * h) * 4);
    } else {
      const MlaConfig& m = *c_.mla;
      const int64_t q = h * (m.qk_nope_head_dim + m.qk_rope_head_dim), key = m.kv_lora_rank + m.qk_rope_head_dim;
      const int64_t first = (m.q_lora_rank > 0 ? m.q_lora_rank : q) + key;
      const int64_t kv = h * (m.qk_nope_head_dim + m.v_head_dim);
      arena_.New(dtype_, t_ * h * m.v_head_dim);
      arena_.New(dtype_, t_ * kv);
      arena_.New(dtype_, t_ * q);
      arena_.Allocate(static_cast<size_t>(Pages()) * ExpandedKv::LayoutOf(c_, dtype_).PageBytes());
      arena_.New(dtype_, t_ * first);
      if (m.q_lora_rank > 0) arena_.New(dtype_, t_ * q);
      NormGradient(t_, m.kv_lora_rank);
      if (m.q_lora_rank > 0) NormGradient(t_, m.q_lora_rank);
      WeightGradient(d_, h * m.v_head_dim, t_);
      WeightGradient(kv, m.kv_lora_rank, t_);
      WeightGradient(first, d_, t_);
      if (m.q_lora_rank > 0) WeightGradient(q, m.q_lora_rank, t_);
      if (cuda_) OfOneOp(static_cast<size_t>(t_ * h) * 4);
    }
    arena_.Release(mark);
  }

  void DenseBackward(int64_t width) {
    const ArenaSizer::Mark mark = arena_.mark();
    arena_.New(dtype_, t_ * width);
    arena_.New(dtype_, t_ * 2 * width);
    WeightGradient(d_, width, t_);
    WeightGradient(2 * width, d_, t_);
    arena_.Release(mark);
  }

  void FeedForwardBackward(int64_t layer) {
    if (!c_.IsMoeLayer(layer)) return DenseBackward(c_.intermediate_size);
    const MoeConfig& m = *c_.moe;
    const int64_t k = m.router.top_k, experts = m.router.num_experts, width = m.moe_intermediate_size, rows = t_ * k;
    const ArenaSizer::Mark mark = arena_.mark();
    if (m.n_shared_experts > 0) DenseBackward(m.n_shared_experts * width);
    arena_.New(dtype_, rows * d_);
    arena_.New(acc_, rows);
    arena_.New(dtype_, rows * width);
    arena_.New(dtype_, rows * 2 * width);
    arena_.New(dtype_, rows * d_);
    arena_.New(acc_, t_ * experts);
    if (!cuda_ && dtype_ != acc_) OfOneOp(static_cast<size_t>(t_ * d_) * (4 + 2));  // the router's dx, in float and rounded
    if (cuda_ && narrow_) OfOneOp(static_cast<size_t>(rows * d_) * 2);
    arena_.Release(mark);
  }

  const ModelConfig& c_;
  const DType dtype_, acc_;
  const bool cuda_, narrow_;
  const PassSize size_;
  const int64_t t_, d_;
  ArenaSizer &arena_, &scratch_;
};

}  // namespace

int64_t LogitsPitch(const ModelConfig& config, Device device) { return device.is_cuda() ? (config.vocab_size + 7) / 8 * 8 : config.vocab_size; }

PassBytes TrainingBytes(const ModelConfig& config, DType dtype, Device device, const PassSize& size, bool recompute) {
  ArenaSizer arena(device), scratch(device);
  PassWalk walk(config, dtype, device, size, arena, scratch);
  const DType acc = AccumulatorType(dtype);
  arena.New(dtype, size.rows * config.hidden_size);
  walk.Forward(true, recompute);
  arena.New(acc, size.rows);
  arena.New(acc, size.rows);
  arena.New(acc, size.rows * 2);
  arena.New(dtype, size.logit_rows * LogitsPitch(config, device));
  walk.Logits();
  arena.New(acc, size.rows);
  arena.New(dtype, size.rows * config.hidden_size);
  walk.LogitsBackward();
  walk.Backward(recompute);
  return {arena.peak(), static_cast<size_t>(size.logit_rows * LogitsPitch(config, device)) * SizeOf(dtype), arena.largest(), scratch.peak()};
}

PassBytes ForwardBytes(const ModelConfig& config, DType dtype, Device device, const PassSize& size) {
  ArenaSizer arena(device), scratch(device);
  arena.New(dtype, size.rows * config.hidden_size);
  arena.New(AccumulatorType(dtype), size.rows);
  arena.New(dtype, size.logit_rows * LogitsPitch(config, device));
  const ArenaSizer::Mark mark = scratch.mark();
  PassWalk walk(config, dtype, device, size, scratch, scratch);  // without `saved`, activations are scratch
  walk.Forward(false, false);
  scratch.Release(mark);
  walk.Logits();
  return {arena.peak(), static_cast<size_t>(size.logit_rows * LogitsPitch(config, device)) * SizeOf(dtype), arena.largest(), scratch.peak()};
}

}  // namespace grouper
