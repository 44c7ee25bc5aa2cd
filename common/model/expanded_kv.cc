#include "common/model/expanded_kv.h"

#include <numeric>

namespace grouper {

kernels::KvLayout ExpandedKv::LayoutOf(const ModelConfig& config, DType dtype) {
  const MlaConfig& m = *config.mla;
  kernels::KvLayout layout;
  layout.num_kv_heads = static_cast<int>(config.num_attention_heads);
  layout.key_dim = static_cast<int>(m.qk_nope_head_dim + m.qk_rope_head_dim);
  layout.value_dim = static_cast<int>(m.v_head_dim);
  layout.dtype = dtype;
  return layout;
}

ExpandedKv::ExpandedKv(Stream& stream, const std::vector<kernels::AttentionSequence>& sequences, const ModelConfig& config,
                       DType dtype, Arena& memory)
    : layout_(LayoutOf(config, dtype)), sequences_(sequences) {
  const auto pages_of = [](const kernels::AttentionSequence& s) { return (s.q_len + kernels::kPageTokens - 1) / kernels::kPageTokens; };
  size_t count = 0;
  for (const kernels::AttentionSequence& s : sequences_) {
    CHECK_EQ(s.context, 0) << "gradients are of whole sequences";
    count += static_cast<size_t>(pages_of(s));
  }
  pages_.resize(count);
  std::iota(pages_.begin(), pages_.end(), 0);
  const int32_t* next = pages_.data();
  for (kernels::AttentionSequence& s : sequences_) {
    s.pages = next;
    next += pages_of(s);
  }
  batch_ = kernels::AttentionBatch(stream, sequences_, layout_, config.num_attention_heads, memory,
                                   kernels::AttentionUse::kGradients);
}

kernels::PagedKv ExpandedKv::New(Arena& memory) const {
  const size_t stride = layout_.PageBytes();
  return {memory.Allocate(pages_.size() * stride), stride, layout_};
}

}  // namespace grouper
