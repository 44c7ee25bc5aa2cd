// Paged attention on CUDA. The batch is described on the device, so that a decode step can be captured as a graph.
//
// Order of sums (bf16, key widths that the tensor cores take: 64/64, 128/128, MLA 576/512): pages of 64 tokens
// ascending, an online softmax over the 16 pages of a split, splits of 1024 tokens combined in order. A row's
// operations do not depend on who shares its tile or on whether its splits ran side by side or one after another. All
// other widths, and float: the CPU's order, the CPU's bits.
#pragma once

#include <vector>

#include "kernels/attention.h"

namespace grouper::kernels::cuda {

inline constexpr int kSplitPages = 16;
// A sequence with at most so many rows a kv head (decode) has its splits run side by side.
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

// One block's work: rows [row, row + rows) of one sequence and kv head (row = token * group + query head within the kv
// head), over pages [page_begin, page_end).
struct AttentionItem {
  int32_t sequence, head, row, rows, page_begin, page_end;
  int32_t partial;  // < 0: writes the result; else the place of its first row among the partial results
};

// A batch cut into items, by kernels that read the sequences: all layers of a step use the same. Its memory is
// `memory`'s.
struct PreparedBatch {
  DeviceBatch batch;
  int32_t* slots = nullptr;  // [tokens]: page * 64 + place of the batch's own tokens
  AttentionItem* items = nullptr;
  int32_t* num_items = nullptr;
  int32_t* partial_begin = nullptr;  // [num_sequences]: first partial row of a sequence whose splits run apart, else -1
  int64_t max_items = 0, max_partial_rows = 0;
  int rows_per_item = 0;
};
PreparedBatch PrepareAttention(Stream& stream, const DeviceBatch& batch, const KvLayout& layout, int query_heads,
                               Arena& memory);
// From the host's description, copied first.
PreparedBatch PrepareAttention(Stream& stream, const std::vector<AttentionSequence>& sequences, const KvLayout& layout,
                               int query_heads, Arena& memory);

void WriteKv(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& k, const Tensor& v);
void Attention(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
               const Tensor& out, const Tensor& lse);
void AttentionBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                       const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                       const Tensor& dv);

void CopyPage(Stream& stream, const PagedKv& kv, int32_t from, int32_t to, int tokens);

}  // namespace grouper::kernels::cuda
