// What the tensor cores' attention kernels share: where a row lies, one page's step of the online softmax, joining
// splits, and writing results. All float arithmetic is spelled with intrinsics, so that every kernel that includes this
// computes the same bits.
#pragma once

#include <cuda_bf16.h>

#include "kernels/attention_cuda.h"
#include "kernels/attention_pages.cuh"
#include "kernels/fragments.cuh"
#include "kernels/hopper.cuh"
#include "kernels/wgmma.cuh"

namespace grouper::kernels::cuda {

// A tensor [tokens, heads, width]: element (token, head, d) at data[token * token_stride + head * head_stride + d].
struct HeadTensor {
  const __nv_bfloat16* data;
  int64_t token_stride, head_stride;
  bool vector;  // 16-byte loads
};

struct AttentionArguments {
  PreparedBatch prepared;
  PageView pages;
  int group = 1;  // query heads of a kv head
  HeadTensor q = {};
  __nv_bfloat16* out = nullptr;
  int64_t out_token = 0, out_head = 0;
  bool out_vector = false;
  float* lse = nullptr;  // [tokens, heads]; may be null
  float scale = 0, scale_log2 = 0;
  // Partial results, one row a (split, row): values [value_dim], and (maximum, sum).
  float* partial_values = nullptr;
  float2* partial_stats = nullptr;
  float* running = nullptr;  // per multiprocessor: results of the splits so far
  int max_rows_apart = 0;    // of any sequence whose splits run apart
};

// (maximum of the scores, sum of exponentials) of a row.
struct RowState {
  float maximum, sum;
};
__device__ constexpr RowState kNothing = {-INFINITY, 0};  // of a row that has seen no page

// 2^((a - b) c), and 0 for a = -inf.
__device__ __forceinline__ float Rescale(float a, float b, float scale_log2) {
  return a == -INFINITY ? 0.0f : Exp2(__fmul_rn(__fsub_rn(a, b), scale_log2));
}

// The weights with which a split (new) joins those before it (old); afterwards `old` describes both.
struct JoinWeights {
  float old_weight, new_weight;
};
__device__ __forceinline__ JoinWeights Join(RowState& old, RowState split, float scale_log2) {
  const float joint = fmaxf(old.maximum, split.maximum);
  const JoinWeights w = {Rescale(old.maximum, joint, scale_log2), Rescale(split.maximum, joint, scale_log2)};
  old.maximum = joint;
  old.sum = __fmaf_rn(old.sum, w.old_weight, __fmul_rn(split.sum, w.new_weight));
  return w;
}
__device__ __forceinline__ float JoinValue(float old, float split, JoinWeights w) {
  return __fmaf_rn(old, w.old_weight, __fmul_rn(split, w.new_weight));
}

__device__ __forceinline__ float LogSumExp(RowState s, float scale) { return __fmaf_rn(s.maximum, scale, logf(s.sum)); }

// s = Q K^T of a warpgroup's 64 rows and a page's 64 tokens, both in boxes in shared memory, kDim wide. Left in flight, as a group of its own.
template <int kDim>
__device__ __forceinline__ void StartScores(float (&s)[32], uint64_t desc_q, uint64_t desc_k) {
#pragma unroll
  for (int i = 0; i < 32; ++i) s[i] = 0;
  WgmmaTouch(s);
  WgmmaFence();
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const uint32_t step = k / 4 * 8192 + k % 4 * 32;
    WgmmaBF16<64>::Mma<0, 0>(s, Advance(desc_q, step), Advance(desc_k, step));
  }
  WgmmaCommit();
}
template <int kDim>
__device__ __forceinline__ void PageScores(float (&s)[32], uint64_t desc_q, uint64_t desc_k) {
  StartScores<kDim>(s, desc_q, desc_k);
  WgmmaWait<0>();
  WgmmaTouch(s);
}

// One page's scores of a warpgroup's 64 rows (this thread: rows r and r + 8, h = 0, 1) become weights in place.
// position[h]: the row's own position relative to the page's first token. `decay[h]` is what older sums are to be
// multiplied with.
__device__ __forceinline__ void SoftmaxStep(float (&s)[32], RowState (&state)[2], const int (&position)[2], int column,
                                            float scale_log2, float (&decay)[2]) {
  if (position[0] < 63 || position[1] < 63) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i / 4 * 8 + column + i % 2 > position[i / 2 % 2]) s[i] = -INFINITY;
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float high = s[2 * h];
#pragma unroll
    for (int i = 0; i < 32; i += 4) high = fmaxf(high, fmaxf(s[i + 2 * h], s[i + 2 * h + 1]));
    high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 1));
    high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, 2));
    const float maximum = fmaxf(state[h].maximum, high);
    decay[h] = Rescale(state[h].maximum, maximum, scale_log2);
    const float shift = maximum == -INFINITY ? 0.0f : __fmul_rn(-maximum, scale_log2);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = s[i + 2 * h + e];
        x = Exp2(__fmaf_rn(x, scale_log2, shift));
        sum = __fadd_rn(sum, x);
      }
    }
    state[h].maximum = maximum;
    state[h].sum = __fmaf_rn(state[h].sum, decay[h], sum);  // this thread's columns; SumQuad at the end
  }
}

// The row's sum from the four threads that share it.
__device__ __forceinline__ void SumQuad(RowState (&state)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    state[h].sum = __fadd_rn(state[h].sum, __shfl_xor_sync(0xffffffff, state[h].sum, 1));
    state[h].sum = __fadd_rn(state[h].sum, __shfl_xor_sync(0xffffffff, state[h].sum, 2));
  }
}

// Weights as wgmma's A operand in registers: [16-token chunk][4].
__device__ __forceinline__ void PackWeights(const float (&s)[32], uint32_t (&p)[4][4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) p[k][i] = PackBF16(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
  }
}

// Copies up to 64 rows (`width` numbers each, a multiple of 64) into boxes; missing rows are zeros. Returns before the copies are there:
// CopyAsyncWait.
__device__ __forceinline__ void LoadRows(const HeadTensor& from, const DeviceSequence& sequence, int head, int group,
                                         int first_row, int rows, int width, char* boxes, int thread, int threads) {
  const int chunks = width / 8;
  for (int i = thread; i < 64 * chunks; i += threads) {
    const int row = i / chunks, d = i % chunks * 8, r = first_row + min(row, max(rows - 1, 0));
    const int64_t token = sequence.q_begin + r / group, query_head = head * group + r % group;
    const __nv_bfloat16* const source = from.data + token * from.token_stride + query_head * from.head_stride + d;
    char* const to = boxes + PageView::Box(row, d);
    if (from.vector) {
      CopyAsync(to, source, row < rows);
    } else {
      uint32_t parts[4];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        parts[e] = row < rows ? __bfloat16_as_ushort(source[2 * e]) | uint32_t{__bfloat16_as_ushort(source[2 * e + 1])} << 16 : 0u;
      *reinterpret_cast<uint4*>(to) = make_uint4(parts[0], parts[1], parts[2], parts[3]);
    }
  }
  CopyAsyncCommit();
}

// A stretch of an item's pages, in the order in which they are taken: those that all its rows see, or one sequence's own.
struct PageRun {
  int begin, end;
  const int32_t* table;  // the sequence's page table
  int context_end;       // tokens beyond it are not there
  int sequence;          // whose rows see these pages, counted from the item's first; < 0: all rows do
};

// Runs of a split [begin, end) of an item's pages: one, or the shared pages and then each sequence's own.
__device__ __forceinline__ int NumRuns(const AttentionItem& item) { return item.sequences == 1 ? 1 : item.sequences + 1; }
__device__ __forceinline__ PageRun RunOf(const PreparedBatch& prepared, const AttentionItem& item, int run, int begin, int end) {
  const int member = max(run - 1, 0);
  const DeviceSequence s = prepared.batch.sequences[item.sequence + member];
  const int context_end = s.context + s.q_len;
  const int32_t* table = prepared.batch.pages + s.first_page;
  if (item.sequences == 1) return {begin, end, table, context_end, -1};
  if (run == 0) return {begin, min(end, item.shared_end), table, context_end, -1};
  return {max(begin, item.shared_end), min(end, PagesOf(context_end)), table, context_end, member};
}

// The position of a row's token in its sequence; rows that are missing see nothing.
struct RowPosition {
  int sequence, position;  // sequence: counted from the item's first
  // Relative to a page's first token, as SoftmaxStep wants it.
  __device__ __forceinline__ int In(const PageRun& run, int page) const {
    return run.sequence < 0 || run.sequence == sequence ? position - page * kPageTokens : -1;
  }
};
__device__ __forceinline__ RowPosition PositionOf(const PreparedBatch& prepared, const AttentionItem& item, int row, bool inside,
                                                  int group) {
  if (!inside) return {0, -1};
  const int token = row / group, sequence = item.sequences == 1 ? 0 : token;
  return {sequence, prepared.batch.sequences[item.sequence + sequence].context + token - sequence};
}

// One thread: the first `valid` tokens of a page of kBoxes boxes, into their places in shared memory. Beyond them there remains what was there:
// SoftmaxStep selects no score of such keys, and ZeroTokens makes the values zeros. REQUIRES: valid >= 1 (a run's pages have a token each).
template <int kBoxes>
__device__ __forceinline__ void FetchPage(char* to, const char* page, int valid, uint64_t* full) {
  if (valid >= kPageTokens) {
    BarrierExpect(full, kBoxes * 8192);
    CopyBulk(to, page, kBoxes * 8192, full);
    return;
  }
  BarrierExpect(full, kBoxes * 128 * static_cast<uint32_t>(valid));
#pragma unroll
  for (int box = 0; box < kBoxes; ++box) CopyBulk(to + box * 8192, page + box * 8192, 128 * static_cast<uint32_t>(valid), full);
}

// Zeroes tokens [valid, 64) of boxes: beyond a sequence's end lies what another page, or nobody, left there, and it may be NaN.
__device__ __forceinline__ void ZeroTokens(char* boxes, int count, int valid, int thread, int threads) {
  const int rest = (64 - valid) * 8;
  for (int i = thread; i < count * rest; i += threads)
    *reinterpret_cast<uint4*>(boxes + i / rest * 8192 + valid * 128 + i % rest * 16) = make_uint4(0, 0, 0, 0);
}

template <int kCount>
__device__ __forceinline__ void MultiplyRows(float (&acc)[kCount], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) acc[i] = __fmul_rn(acc[i], factor[i / 2 % 2]);
}

// Writes a warpgroup's finished rows, columns [column0, column0 + kColumns): out = values / sum; with the first
// columns, lse.
template <int kColumns>
__device__ __forceinline__ void WriteRows(const AttentionArguments& args, const DeviceSequence& sequence, int head,
                                          int first_row, int rows, const float (&acc)[kColumns / 2],
                                          const RowState (&state)[2], int column0, int thread) {
  const int row = thread / 32 * 16 + thread % 32 / 4, quad = thread % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float inverse = __frcp_rn(state[h].sum);
    const int r = first_row + row + 8 * h;
    const bool inside = row + 8 * h < rows;
    const int64_t token = sequence.q_begin + r / args.group, query_head = head * args.group + r % args.group;
    __nv_bfloat16* out = args.out + token * args.out_token + query_head * args.out_head + column0;
#pragma unroll
    for (int j = 0; j < kColumns / 32; ++j) {
      uint32_t packed[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* x = &acc[16 * j + 4 * i + 2 * h];
        packed[i] = PackBF16(__fmul_rn(x[0], inverse), __fmul_rn(x[1], inverse));
      }
      TransposeQuad(packed, thread);
      if (!inside) continue;
      if (args.out_vector) {
        *reinterpret_cast<uint4*>(out + 32 * j + 8 * quad) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e)
          out[32 * j + 8 * quad + e] = __ushort_as_bfloat16(static_cast<uint16_t>(packed[e / 2] >> (e % 2 * 16)));
      }
    }
    if (inside && quad == 0 && column0 == 0 && args.lse != nullptr)
      args.lse[token * (args.pages.num_kv_heads * args.group) + query_head] = LogSumExp(state[h], args.scale);
  }
}

// Where among the partial results those of a row are, of an item whose splits run apart.
__device__ __forceinline__ int64_t PartialPlace(const AttentionArguments& args, const AttentionItem& item, int row) {
  const int member = item.sequences == 1 ? 0 : row / args.group;
  const DeviceSequence s = args.prepared.batch.sequences[item.sequence + member];
  const int rows = s.q_len * args.group, splits = SplitsOf(s.context + s.q_len, args.prepared.split_pages);
  return args.prepared.partial_begin[item.sequence + member] +
         (int64_t{item.head} * splits + item.page_begin / args.prepared.split_pages) * rows + row - member * args.group;
}

// The unfinished values and states of the item's rows [first_row, first_row + rows).
template <int kColumns>
__device__ __forceinline__ void WritePartials(const AttentionArguments& args, const AttentionItem& item, int first_row, int rows,
                                              const float (&acc)[kColumns / 2], const RowState (&state)[2], int width,
                                              int column0, int thread) {
  const int row = thread / 32 * 16 + thread % 32 / 4, quad = thread % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (row + 8 * h >= rows) continue;
    const int64_t place = PartialPlace(args, item, first_row + row + 8 * h);
    if (quad == 0 && column0 == 0) args.partial_stats[place] = make_float2(state[h].maximum, state[h].sum);
    float* values = args.partial_values + place * width + column0 + 2 * quad;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j)
      *reinterpret_cast<float2*>(values + 8 * j) = make_float2(acc[4 * j + 2 * h], acc[4 * j + 2 * h + 1]);
  }
}

}  // namespace grouper::kernels::cuda
