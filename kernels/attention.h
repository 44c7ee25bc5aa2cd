// Causal attention over paged keys and values, for prefill, decode, scoring and training alike: GQA and absorbed MLA.
//
// For a query token at absolute position p of its sequence (0-based), head h, its kv head g = h / (Hq / Hkv):
//   s_j = scale * <q, k_j>  for j = 0..p;   o = sum_j softmax(s)_j v_j
// computed page by page (64 tokens, fixed boundaries), pages ascending, online softmax: per page m' = max, p_j =
// exp(s_j - m'), l' = sum p_j, a' = sum p_j v_j; the running (m, l, a) is rescaled and added. <q, k> is one ascending
// fma chain over the key's elements. Nothing depends on how many queries come together, so decode, chunked prefill and
// training agree bit for bit.
//
// MLA (DeepSeek-V2, arXiv 2405.04434) runs absorbed forward: one kv head whose key is [latent (kv_lora_rank), rope key], and
// whose value is the first kv_lora_rank elements of that key.
#pragma once

#include <memory>
#include <vector>

#include "common/tensor/stream.h"

namespace grouper::kernels {

namespace cuda {
struct PreparedBatch;  // attention_cuda.h
}

inline constexpr int kPageTokens = 64;

struct KvLayout {
  int num_kv_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
  bool values_in_keys = false;  // MLA: value = key[0 .. value_dim), no storage of its own
  DType dtype = DType::kF32;

  // Bytes of one page of one layer, a multiple of 64. How tokens lie inside is the kernels' business (the CPU keeps
  // keys transposed, [key_dim][64], so that scores of 64 tokens come from consecutive memory).
  size_t PageBytes() const;
};

// The pages of one layer: page i is at base + i * page_stride bytes.
struct PagedKv {
  void* base = nullptr;
  size_t page_stride = 0;
  KvLayout layout;
};

// One sequence's share of a ragged batch: query rows [q_begin, q_begin + q_len) are its tokens at positions
// [context, context + q_len); pages[i] holds positions [64 i, 64 i + 64). The page table covers context + q_len tokens.
struct AttentionSequence {
  int32_t q_begin = 0;
  int32_t q_len = 0;
  int32_t context = 0;
  const int32_t* pages = nullptr;
};

// A batch's sequences in memory that the stream's ops read, a device's, so that a recorded pass (common/tensor/graph.h) takes what lies there when
// it runs. The bounds are the host's knowledge: they size grids and memory.
struct AttentionTables {
  Tensor sequences;     // [S, 4] int32: q_begin, q_len, context, and where in `pages` the sequence's page table begins
  Tensor pages;         // [n] int32
  int32_t tokens = 0;   // sum of q_len
  int32_t max_q_len = 0;
  int32_t max_context = 0;  // of context + q_len
  int64_t partial_rows = -1;  // sum of cuda::PartialRows; -1: not known when the pass is recorded, as many as such a batch may have
};

// What a batch is made ready for.
enum class AttentionUse { kAll, kGradients };  // kGradients: WriteKv and AttentionBackward only

// A batch's sequences made ready for the ops below, once for all layers of a pass: on a device, their copies there and, for
// Attention, the batch cut into work items.
class AttentionBatch {
 public:
  AttentionBatch() = default;
  // What it needs lies in `memory`, of the stream's device. `sequences` and their page tables must outlive this.
  AttentionBatch(Stream& stream, const std::vector<AttentionSequence>& sequences, const KvLayout& layout, int64_t query_heads,
                 Arena& memory, AttentionUse use = AttentionUse::kAll);
  // REQUIRES: a stream of a device.
  AttentionBatch(Stream& stream, const AttentionTables& tables, const KvLayout& layout, int64_t query_heads, Arena& memory);

  // REQUIRES: a batch that was made from the host's sequences.
  const std::vector<AttentionSequence>& sequences() const { return *sequences_; }
  const cuda::PreparedBatch* prepared() const { return prepared_.get(); }  // null on the CPU

 private:
  const std::vector<AttentionSequence>* sequences_ = nullptr;
  std::shared_ptr<const cuda::PreparedBatch> prepared_;
};

// Stores the batch's own keys [T, Hkv, key_dim] and values [T, Hkv, value_dim] (empty when values_in_keys) at their
// positions. REQUIRES: no two rows go to the same slot.
void WriteKv(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences, const Tensor& k,
             const Tensor& v);

// Copies the first `tokens` (<= 64) tokens of a page, for a partially filled prompt page that several samples continue, in each of
// `layers` layers, of which kv is the first and each lies `layer_stride` bytes after the one before.
void CopyPage(Stream& stream, const PagedKv& kv, int64_t layers, size_t layer_stride, int32_t from, int32_t to, int tokens);

// q [T, Hq, key_dim] (strided), out [T, Hq, value_dim] (=), lse [T, Hq] float/double (=; log-sum-exp of the scores; may
// be empty). The batch's own keys must be in the pages before the call. Slots beyond a sequence's end may hold
// anything, NaN included.
void Attention(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences, const Tensor& q,
               double scale, const Tensor& out, const Tensor& lse);

// Gradients for sequences that are wholly in the batch (context == 0), of keys with values of their own: MLA takes its
// gradient unabsorbed (common/model/mla_layer.cc). dq [T, Hq, key_dim] (=), dk [T, Hkv, key_dim] (=), dv [T, Hkv,
// value_dim] (=). Deterministic, and independent of the other sequences in the batch. REQUIRES: not values_in_keys.
//   p_j = exp(s_j - lse);  ds_j = p_j (<dout, v_j> - <dout, out>);  dq = scale sum ds_j k_j;  dk_j = scale sum ds_j q;
//   dv_j = sum p_j dout
void AttentionBackward(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences,
                       const Tensor& q, double scale, const Tensor& out, const Tensor& lse, const Tensor& dout,
                       const Tensor& dq, const Tensor& dk, const Tensor& dv);

// The same with a batch that is ready.
void WriteKv(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& k, const Tensor& v);
void Attention(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& q, double scale, const Tensor& out,
               const Tensor& lse);
void AttentionBackward(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& q, double scale,
                       const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                       const Tensor& dv);

}  // namespace grouper::kernels
