// Cutting a batch into items, and finding the slots of its tokens.
#include <algorithm>
#include <climits>

#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_pages.cuh"
#include "kernels/cuda_launch.h"

namespace grouper::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kMaxSharing = 32;

struct Shape {
  int rows, blocks, splits, items, partial_rows;
  bool apart;
};

__device__ Shape ShapeOf(const DeviceSequence& s, int kv_heads, int group, const PreparedBatch& plan, bool apart) {
  Shape shape;
  shape.rows = s.q_len * group;
  shape.blocks = (shape.rows + plan.rows_per_item - 1) / plan.rows_per_item;
  shape.splits = SplitsOf(s.context + s.q_len, plan.split_pages);
  shape.apart = apart && shape.rows > 0 && shape.rows <= kMaxRowsApart && shape.splits > 1;
  shape.items = kv_heads * shape.blocks * (shape.apart ? shape.splits : 1);
  shape.partial_rows = shape.apart ? kv_heads * shape.splits * shape.rows : 0;
  return shape;
}

// `combine` of the values of the threads up to and with this one; *all: of all threads. `nothing`: its neutral element.
template <typename Combine>
__device__ int ScanBlock(int value, int nothing, Combine combine, int* all) {
  __shared__ int warps[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto scan_warp = [&](int x) {
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffff, x, step);
      if (lane >= step) x = combine(x, other);
    }
    return x;
  };
  value = scan_warp(value);
  __syncthreads();  // those who read the last scan's results
  if (lane == 31) warps[warp] = value;
  __syncthreads();
  const int upto = scan_warp(warps[lane]);
  *all = __shfl_sync(0xffffffff, upto, 31);
  const int before = __shfl_sync(0xffffffff, upto, max(warp - 1, 0));
  return combine(value, warp == 0 ? nothing : before);
}

// The sum of the values of the threads before this one.
__device__ int SumBefore(int value, int* all) {
  return ScanBlock(value, 0, [](int x, int y) { return x + y; }, all) - value;
}

// The largest value of the threads up to and with this one.
__device__ int LargestUpTo(int value, int* all) {
  return ScanBlock(value, INT_MIN, [](int x, int y) { return max(x, y); }, all);
}

// A warp a sequence: how many full pages it has in common with the one before it, from the first on; 0 where the two cannot lie on
// one tile.
__global__ void __launch_bounds__(128) SharedPagesKernel(const DeviceBatch batch, int split_pages, int32_t* shared_pages) {
  KernelBegin();
  const int index = static_cast<int>(blockIdx.x) * 4 + static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (index >= batch.num_sequences) return;
  int shared = 0;
  if (index > 0) {
    const DeviceSequence s = batch.sequences[index], t = batch.sequences[index - 1];
    const bool together = s.q_len == 1 && t.q_len == 1 && s.q_begin == t.q_begin + 1 &&
                          (SplitsOf(s.context + 1, split_pages) > 1) == (SplitsOf(t.context + 1, split_pages) > 1);
    const int most = together ? min(s.context, t.context) / kPageTokens : 0;
    while (shared < most) {
      const int page = shared + lane;
      const bool same = page < most && batch.pages[s.first_page + page] == batch.pages[t.first_page + page];
      const int run = __ffs(static_cast<int>(~__ballot_sync(0xffffffff, same))) - 1;  // -1: all 32
      shared += run < 0 ? 32 : run;
      if (run >= 0) break;
    }
  }
  if (lane == 0) shared_pages[index] = shared;
}

// How the batch is best cut: how many sequences that share pages are put on one tile, and whether a sequence's splits run side by side
// or one after another. The bits are the same either way.
struct Cut {
  int sharing;
  bool apart;
};

// Times in pages: what `slots` blocks do side by side is bound by memory, a block alone takes half as long for a page. So tiles that do
// much are slower where there are few of them. Splits that run apart move a tenth more bytes: their results.
__device__ Cut BestCut(const PreparedBatch& plan, int kv_heads, int slots) {
  int shared = 0, own = 0, longest_shared = 0, longest_own = 0, longest = 0;
  for (int i = static_cast<int>(threadIdx.x); i < plan.batch.num_sequences; i += kThreads) {
    const DeviceSequence s = plan.batch.sequences[i];
    const int common = plan.max_sharing > 1 ? plan.shared_pages[i] : 0, rest = PagesOf(s.context + s.q_len) - common;
    shared += common;
    own += rest;
    longest_shared = max(longest_shared, common);
    if (common > 0) longest_own = max(longest_own, rest);
    longest = max(longest, common + rest);
  }
  __shared__ int warps[kThreads / 32][5];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto reduce_warp = [&] {
    shared = __reduce_add_sync(0xffffffff, shared);
    own = __reduce_add_sync(0xffffffff, own);
    longest_shared = __reduce_max_sync(0xffffffff, longest_shared);
    longest_own = __reduce_max_sync(0xffffffff, longest_own);
    longest = __reduce_max_sync(0xffffffff, longest);
  };
  reduce_warp();
  if (lane == 0) {
    int* const mine = warps[warp];
    mine[0] = shared, mine[1] = own, mine[2] = longest_shared, mine[3] = longest_own, mine[4] = longest;
  }
  __syncthreads();
  const int* const other = warps[lane];
  shared = other[0], own = other[1], longest_shared = other[2], longest_own = other[3], longest = other[4];
  reduce_warp();
  // A lane a choice of `sharing`; the first of the fastest.
  static_assert(kMaxSharing <= 32);
  const int sharing = lane + 1, split = plan.split_pages;
  const float work = static_cast<float>(kv_heads) * (static_cast<float>(own) + static_cast<float>(shared) / static_cast<float>(sharing)) /
                     static_cast<float>(slots);
  const auto alone = [&](int most) {
    const int tile = sharing == 1 ? 0 : min(longest_shared, most) + sharing * min(longest_own, most);
    return 0.5f * static_cast<float>(max(tile, min(longest, most)));
  };
  const float apart = fmaxf(longest > split ? 1.1f * work : work, alone(split)), whole = fmaxf(work, alone(INT_MAX / 64));
  const float time = plan.may_run_whole ? fminf(apart, whole) : apart;
  const int rank = sharing <= plan.max_sharing ? __float_as_int(time) : INT_MAX;  // positive floats are ordered as their bits are
  const int best = __ffs(static_cast<int>(__ballot_sync(0xffffffff, rank == __reduce_min_sync(0xffffffff, rank)))) - 1;
  return {best + 1, __shfl_sync(0xffffffff, !plan.may_run_whole || apart < whole, best) != 0};
}

// One block. Items lie in the order of the sequences, or of their tiles' first; of one sequence the last rows (the longest contexts) first.
__global__ void __launch_bounds__(kThreads)
    PlanKernel(const PreparedBatch plan, int kv_heads, int group, int slots) {
  KernelBegin();
  const DeviceBatch& batch = plan.batch;
  const Cut cut = BestCut(plan, kv_heads, slots);
  const int split_pages = plan.split_pages, sharing = cut.sharing;
  __shared__ int shared_pages[kMaxSharing + kThreads + kMaxSharing];  // of this round's sequences and their neighbours
  int items_before = 0, partials_before = 0;
  int run_before = 0;  // where the latest run of sequences that share pages began
  for (int first = 0; first < batch.num_sequences; first += kThreads) {
    const int index = first + static_cast<int>(threadIdx.x);
    DeviceSequence s = {0, 0, 0, 0};
    if (index < batch.num_sequences) s = batch.sequences[index];
    const Shape shape = ShapeOf(s, kv_heads, group, plan, cut.apart);
    // Sequences [leader, leader + members) are on one tile: for all their pages where splits do not run apart, else for the splits in
    // which their first `shared` pages lie; in later splits each has items of its own.
    int members = 1, shared = 0, together = 0, longest = 0;
    bool leads = true;
    if (sharing > 1) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < kMaxSharing + kThreads + kMaxSharing; i += kThreads) {
        const int neighbour = first - kMaxSharing + i;
        shared_pages[i] = neighbour >= 0 && neighbour < batch.num_sequences ? plan.shared_pages[neighbour] : 0;
      }
      __syncthreads();
      const auto pages_of = [&](int i) { return shared_pages[kMaxSharing + i - first]; };
      int latest;
      const bool begins = index < batch.num_sequences && pages_of(index) == 0;
      const int run = max(LargestUpTo(begins ? index : 0, &latest), run_before);
      run_before = max(run_before, latest);
      leads = (index - run) % sharing == 0;
      const int leader = index - (index - run) % sharing;
      shared = INT_MAX;
      for (members = 1; members < sharing && leader + members < batch.num_sequences; ++members) {
        const int pages = pages_of(leader + members);
        if (pages == 0) break;
        shared = min(shared, pages);
      }
      if (members == 1 || index >= batch.num_sequences) members = 1, shared = 0;
      if (members > 1) together = shape.apart ? (shared + split_pages - 1) / split_pages : 1;
    }
    int count = shape.items;
    if (members > 1) count = kv_heads * ((shape.apart ? shape.splits : 1) - (leads ? 0 : together));
    int items_total, partials_total;
    AttentionItem* item = plan.items + items_before + SumBefore(count, &items_total);
    const int partial = partials_before + SumBefore(shape.partial_rows, &partials_total);
    if (index < batch.num_sequences) {
      plan.partial_begin[index] = shape.apart ? partial : -1;
      if (leads && together > 0 && !shape.apart) {
        for (int i = 0; i < members; ++i) longest = max(longest, PagesOf(batch.sequences[index + i].context + 1));
      }
      for (int head = 0; head < kv_heads; ++head) {
        for (int split = 0; leads && split < together; ++split) {
          const int begin = split * split_pages, end = shape.apart ? begin + split_pages : longest;
          *item++ = {index, members, head, 0, members * group, begin, end, min(end, shared), shape.apart};
        }
        for (int block = shape.blocks - 1; block >= 0; --block) {
          const int row = block * plan.rows_per_item, rows = min(plan.rows_per_item, shape.rows - row);
          const int pages = PagesOf(s.context + (row + rows - 1) / group + 1);
          if (!shape.apart) {
            if (together == 0) *item++ = {index, 1, head, row, rows, 0, pages, 0, false};
            continue;
          }
          for (int split = together; split < shape.splits; ++split) {
            *item++ = {index, 1, head, row, rows, split * split_pages, min(pages, (split + 1) * split_pages), 0, true};
          }
        }
      }
    }
    items_before += items_total;
    partials_before += partials_total;
  }
  if (threadIdx.x == 0) *plan.num_items = items_before;
}

__global__ void SlotsKernel(const DeviceBatch batch, int32_t* slots) {
  KernelBegin();
  const DeviceSequence s = batch.sequences[blockIdx.x];
  for (int t = threadIdx.x; t < s.q_len; t += blockDim.x) {
    const int position = s.context + t;
    slots[s.q_begin + t] = batch.pages[s.first_page + position / kPageTokens] * kPageTokens + position % kPageTokens;
  }
}

}  // namespace

int32_t* SlotsOf(Stream& stream, const DeviceBatch& batch, Arena& memory) {
  auto* const slots = static_cast<int32_t*>(memory.Allocate(static_cast<size_t>(std::max(batch.tokens, 1)) * 4));
  if (batch.num_sequences == 0) return slots;
  LaunchKernel(stream, static_cast<unsigned>(batch.num_sequences), 128, 0, SlotsKernel, batch, slots);
  return slots;
}

PreparedBatch PrepareAttention(Stream& stream, const DeviceBatch& batch, const KvLayout& layout, int query_heads,
                               Arena& memory, int split_pages, int64_t partial_rows) {
  PreparedBatch plan;
  plan.batch = batch;
  plan.split_pages = split_pages;
  const int kv_heads = layout.num_kv_heads, group = query_heads / kv_heads;
  // Two warpgroups share a page's keys and values when there are rows for both.
  plan.rows_per_item = layout.values_in_keys || batch.max_q_len * group <= 64 ? 64 : 128;
  plan.may_run_whole = layout.values_in_keys;
  if (TiledPages(layout) && batch.num_sequences > 1) plan.max_sharing = std::clamp(64 / group, 1, kMaxSharing);
  const int64_t splits = SplitsOf(batch.max_context, split_pages), sequences = batch.num_sequences;
  const int64_t rows = int64_t{batch.tokens} * group;
  // Splits run apart have at most kMaxRowsApart / rows_per_item blocks each.
  const int64_t blocks_apart =
      (std::min<int64_t>(int64_t{batch.max_q_len} * group, kMaxRowsApart) + plan.rows_per_item - 1) /
      plan.rows_per_item;
  plan.max_items = kv_heads * (rows / plan.rows_per_item + sequences * std::max<int64_t>(splits * blocks_apart, 1));
  plan.max_partial_rows = partial_rows >= 0 ? partial_rows : splits > 1 ? kv_heads * splits * std::min(rows, sequences * kMaxRowsApart) : 0;
  CHECK(plan.max_items <= INT_MAX && plan.max_partial_rows <= INT_MAX) << "attention over " << sequences << " sequences";
  const auto allocate = [&](int64_t count, size_t size) {
    return memory.Allocate(static_cast<size_t>(std::max<int64_t>(count, 1)) * size);
  };
  plan.slots = SlotsOf(stream, batch, memory);
  plan.items = static_cast<AttentionItem*>(allocate(plan.max_items, sizeof(AttentionItem)));
  plan.num_items = static_cast<int32_t*>(allocate(1, 4));
  plan.partial_begin = static_cast<int32_t*>(allocate(sequences, 4));
  if (plan.max_sharing > 1) plan.shared_pages = static_cast<int32_t*>(allocate(sequences, 4));
  if (sequences == 0) return plan;
  if (plan.max_sharing > 1) {
    LaunchKernel(stream, static_cast<unsigned>((sequences + 3) / 4), 128, 0, SharedPagesKernel, batch, split_pages, plan.shared_pages);
  }
  const int slots = NumMultiprocessors() * (layout.values_in_keys ? 1 : DecodeBlocks(layout.key_dim));
  LaunchKernel(stream, 1, kThreads, 0, PlanKernel, plan, kv_heads, group, slots);
  return plan;
}

}  // namespace grouper::kernels::cuda
