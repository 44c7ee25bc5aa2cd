// Cutting a batch into items, and finding the slots of its tokens.
#include <algorithm>

#include "kernels/attention_cuda.h"
#include "kernels/attention_pages.cuh"
#include "kernels/cuda_launch.h"

namespace grouper::kernels::cuda {
namespace {

constexpr int kThreads = 1024;

struct Shape {
  int rows, blocks, splits;
  bool apart;
  int64_t items, partial_rows;
};

__host__ __device__ int Pages(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

__device__ Shape ShapeOf(const DeviceSequence& s, int kv_heads, int group, int rows_per_item) {
  Shape shape;
  shape.rows = s.q_len * group;
  shape.blocks = (shape.rows + rows_per_item - 1) / rows_per_item;
  shape.splits = (Pages(s.context + s.q_len) + kSplitPages - 1) / kSplitPages;
  shape.apart = shape.rows > 0 && shape.rows <= kMaxRowsApart && shape.splits > 1;
  shape.items = int64_t{kv_heads} * shape.blocks * (shape.apart ? shape.splits : 1);
  shape.partial_rows = shape.apart ? int64_t{kv_heads} * shape.splits * shape.rows : 0;
  return shape;
}

// The sum of the values of the threads before this one; *total: of all.
__device__ int64_t ScanBlock(int64_t value, int64_t* total) {
  __shared__ int64_t warps[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(0xffffffff, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  int64_t before = 0;
  *total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < warp) before += warps[w];
    *total += warps[w];
  }
  return before + sum - value;
}

// One block. Items of a sequence lie together, the last rows (the longest contexts) first.
__global__ void __launch_bounds__(kThreads)
    PlanKernel(const DeviceBatch batch, int kv_heads, int group, PreparedBatch plan) {
  int64_t items_before = 0, partials_before = 0;
  for (int first = 0; first < batch.num_sequences; first += kThreads) {
    const int index = first + static_cast<int>(threadIdx.x);
    DeviceSequence s = {0, 0, 0, 0};
    if (index < batch.num_sequences) s = batch.sequences[index];
    Shape shape = ShapeOf(s, kv_heads, group, plan.rows_per_item);
    int64_t items_total, partials_total;
    AttentionItem* item = plan.items + items_before + ScanBlock(shape.items, &items_total);
    const int64_t partial = partials_before + ScanBlock(shape.partial_rows, &partials_total);
    if (index < batch.num_sequences) {
      plan.partial_begin[index] = shape.apart ? static_cast<int32_t>(partial) : -1;
      for (int head = 0; head < kv_heads; ++head) {
        for (int block = shape.blocks - 1; block >= 0; --block) {
          const int row = block * plan.rows_per_item, rows = min(plan.rows_per_item, shape.rows - row);
          const int pages = Pages(s.context + (row + rows - 1) / group + 1);
          if (!shape.apart) {
            *item++ = {index, head, row, rows, 0, pages, -1};
            continue;
          }
          for (int split = 0; split < shape.splits; ++split) {
            const int64_t place = partial + (int64_t{head} * shape.splits + split) * shape.rows + row;
            *item++ = {index,
                       head,
                       row,
                       rows,
                       split * kSplitPages,
                       min(pages, (split + 1) * kSplitPages),
                       static_cast<int32_t>(place)};
          }
        }
      }
    }
    items_before += items_total;
    partials_before += partials_total;
  }
  if (threadIdx.x == 0) *plan.num_items = static_cast<int32_t>(items_before);
}

__global__ void SlotsKernel(const DeviceBatch batch, int32_t* slots) {
  const DeviceSequence s = batch.sequences[blockIdx.x];
  for (int t = threadIdx.x; t < s.q_len; t += blockDim.x) {
    const int position = s.context + t;
    slots[s.q_begin + t] = batch.pages[s.first_page + position / kPageTokens] * kPageTokens + position % kPageTokens;
  }
}

}  // namespace

PreparedBatch PrepareAttention(Stream& stream, const DeviceBatch& batch, const KvLayout& layout, int query_heads,
                               Arena& memory) {
  PreparedBatch plan;
  plan.batch = batch;
  const int kv_heads = layout.num_kv_heads, group = query_heads / kv_heads;
  // Two warpgroups share a page's keys and values when there are rows for both.
  plan.rows_per_item = layout.values_in_keys || batch.max_q_len * group <= 64 ? 64 : 128;
  const int64_t splits = (Pages(batch.max_context) + kSplitPages - 1) / kSplitPages, sequences = batch.num_sequences;
  const int64_t rows = int64_t{batch.tokens} * group;
  // Splits run apart have at most kMaxRowsApart / rows_per_item blocks each.
  const int64_t blocks_apart =
      (std::min<int64_t>(int64_t{batch.max_q_len} * group, kMaxRowsApart) + plan.rows_per_item - 1) /
      plan.rows_per_item;
  plan.max_items = kv_heads * (rows / plan.rows_per_item + sequences * std::max<int64_t>(splits * blocks_apart, 1));
  plan.max_partial_rows = splits > 1 ? kv_heads * splits * std::min(rows, sequences * kMaxRowsApart) : 0;
  const auto allocate = [&](int64_t count, size_t size) {
    return memory.Allocate(static_cast<size_t>(std::max<int64_t>(count, 1)) * size);
  };
  plan.slots = static_cast<int32_t*>(allocate(batch.tokens, 4));
  plan.items = static_cast<AttentionItem*>(allocate(plan.max_items, sizeof(AttentionItem)));
  plan.num_items = static_cast<int32_t*>(allocate(1, 4));
  plan.partial_begin = static_cast<int32_t*>(allocate(sequences, 4));
  if (sequences == 0) return plan;
  PlanKernel<<<1, kThreads, 0, HandleOf(stream)>>>(batch, kv_heads, group, plan);
  GROUPER_CUDA_CHECK(cudaGetLastError());
  SlotsKernel<<<static_cast<unsigned>(sequences), 128, 0, HandleOf(stream)>>>(batch, plan.slots);
  GROUPER_CUDA_CHECK(cudaGetLastError());
  return plan;
}

}  // namespace grouper::kernels::cuda
