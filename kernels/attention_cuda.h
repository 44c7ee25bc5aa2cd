// Paged attention on CUDA. The batch is described on the device, so that a decode step can be captured as a graph.
//
// Order of sums (bf16, key widths that the tensor cores take: 64/64, 128/128, 128/64, 192/128, MLA 576/512): pages of 64 tokens
// ascending, an online softmax over the 32 pages of a split, splits of 2048 tokens combined in order. A row's
// operations do not depend on who shares its tile or on whether its splits ran side by side or one after another. All
// other widths, and float: the CPU's order, the CPU's bits.
//
// Sequences of one token (decode) that follow one another in the batch and begin with the same pages (the samples of a
// group, with their prompt's) may be put on one tile, which reads those pages once for all of them, then each one's own
// with the others' rows masked: their weights there are 0, which changes no finite result. Keys or values that are not
// finite spoil the rows of the whole tile (the sampler then finds NaN in all of them).
#pragma once

#include <vector>

#include "kernels/attention.h"

namespace grouper::kernels::cuda {

inline constexpr int kSplitPages = 32;
inline constexpr int kMaxMultiprocessors = 256;  // ids of Hopper's are below
// Only the splits of a sequence with at most so many rows a kv head (decode) may run side by side.
inline constexpr int kMaxRowsApart = 128;

// attention.h's AttentionSequence on the device: its page table starts at pages[first_page].
struct DeviceSequence {
  int32_t q_begin, q_len, context, first_page;
};

// A batch on the device. The bounds are the host's knowledge: they size grids and scratch memory.
struct DeviceBatch {
  const DeviceSequence* sequences = nullptr;
  const int32_t* pages = nullptr;
  int32_t num_sequences = 0;
  int32_t tokens = 0;  // sum of q_len
  int32_t max_q_len = 0;
  int32_t max_context = 0;  // of context + q_len
};

// One block's work for one kv head: rows [row, row + rows) of `sequences` sequences from `sequence` on (row = token *
// group + query head within the kv head, tokens counted from the first sequence's), over pages [page_begin, page_end).
// Several sequences have one token each; pages before `shared_end` are the same for all of them, and pages end for each with
// its tokens. An item without pages (page_end <= page_begin) has rows that end before its split.
struct AttentionItem {
  int32_t sequence, sequences, head, row, rows, page_begin, page_end, shared_end;
  bool apart;  // the splits run side by side: the rows' results are partial
};

// A batch cut into items, by kernels that read the sequences: all layers of a step use the same. Its memory is
// `memory`'s.
struct PreparedBatch {
  DeviceBatch batch;
  int32_t* slots = nullptr;  // [tokens]: page * 64 + place of the batch's own tokens
  AttentionItem* items = nullptr;
  int32_t* num_items = nullptr;
  int32_t* partial_begin = nullptr;  // [num_sequences]: first partial row of a sequence whose splits run apart, else -1
  int32_t* shared_pages = nullptr;   // [num_sequences]: full pages that a sequence of one token has in common with the one before
  int64_t max_items = 0, max_partial_rows = 0;
  int rows_per_item = 0, split_pages = kSplitPages;
  int max_sharing = 1;         // sequences on one tile
  bool may_run_whole = false;  // whether a few rows' splits may also run one after another
};
// How many rows of partial results a sequence has at most, over all query heads: 0 where its splits never run side by side.
inline int64_t PartialRows(const AttentionSequence& sequence, const KvLayout& layout, int64_t query_heads, int split_pages = kSplitPages) {
  const int64_t group = query_heads / layout.num_kv_heads, tokens_a_split = int64_t{split_pages} * kPageTokens;
  const int64_t splits = (int64_t{sequence.context} + sequence.q_len + tokens_a_split - 1) / tokens_a_split;
  return splits > 1 && sequence.q_len * group <= kMaxRowsApart ? splits * sequence.q_len * query_heads : 0;
}

// Another split_pages than kSplitPages gives other bits: for measuring what one size for all batches costs.
// partial_rows: sum of the sequences' PartialRows; -1: not known here, as many as such a batch may have.
PreparedBatch PrepareAttention(Stream& stream, const DeviceBatch& batch, const KvLayout& layout, int query_heads,
                               Arena& memory, int split_pages = kSplitPages, int64_t partial_rows = -1);
// From the host's description, copied first. Sequences from their beginning on have no splits side by side, and take no memory for them.
PreparedBatch PrepareAttention(Stream& stream, const std::vector<AttentionSequence>& sequences, const KvLayout& layout,
                               int query_heads, Arena& memory, int split_pages = kSplitPages);

// For WriteKv and AttentionBackward only: not cut into items.
PreparedBatch PrepareGradients(Stream& stream, const std::vector<AttentionSequence>& sequences, Arena& memory);

void WriteKv(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& k, const Tensor& v);
void Attention(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
               const Tensor& out, const Tensor& lse);
void AttentionBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                       const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                       const Tensor& dv);

// The whole page: what lies beyond the wanted tokens may be anything.
void CopyPage(Stream& stream, const PagedKv& kv, int64_t layers, size_t layer_stride, int32_t from, int32_t to);

}  // namespace grouper::kernels::cuda
