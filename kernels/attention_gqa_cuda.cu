// Attention whose keys and values are 64/64, 128/128, 128/64 or 192/128 wide (the last two: MLA's heads, unabsorbed) on the tensor cores.
//
// A block owns an item: up to 64 rows (token, query head of one kv head) a warpgroup, over the item's pages. One warp
// fetches pages (keys and values, 64 tokens) into a ring by bulk copies; each math warpgroup computes S = Q K^T
// (m64n64), the softmax step, and O += P V with P in registers. Decode (one warpgroup, few rows, two or more blocks a
// multiprocessor) is bound by memory: 128 (key + value) bytes a page against 64 x 64 x (key + value) multiply-adds, of which most
// rows are padding. Prefill is bound by exponentials and the tensor cores.
#include <algorithm>
#include <climits>

#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_rows.cuh"
#include "kernels/cuda_launch.h"

namespace grouper::kernels::cuda {
namespace {

constexpr int kTailBarrier = 3;  // of all that multiply; 1 and 2 are the warpgroups' own

template <int kKey_, int kValue_, int kWarpgroups_>
struct GqaShape {
  static constexpr int kKey = kKey_, kValue = kValue_, kWarpgroups = kWarpgroups_;
  static constexpr int kStages = kKey > 128 ? 2 : kKey == 64 && kWarpgroups == 1 ? 4 : 3;
  static constexpr int kBlocks = kWarpgroups == 1 ? DecodeBlocks(kKey) : kKey == 64 ? 2 : 1;
  // Not where registers do not suffice for two blocks, nor where there is no third stage.
  static constexpr bool kAhead = kKey == 128 || (kKey == 64 && kWarpgroups == 1);
  static constexpr int kThreads = kWarpgroups * 128 + 32;
  static constexpr int kQueryBytes = kKey * 128, kKeyBytes = kKey * 128, kPageBytes = kKeyBytes + kValue * 128;
  static constexpr int kRunningBytes =
      kWarpgroups == 1 ? 0 : 64 * kValue * 4;  // a warpgroup's; rows of one item's decode run apart
  static constexpr int kSharedBytes =
      kWarpgroups * (kQueryBytes + kRunningBytes) + kStages * kPageBytes + 16 * kStages;
  static_assert(kBlocks * (kSharedBytes + 1024) <= 228 * 1024);
};

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) GqaKernel(const __grid_constant__ AttentionArguments args) {
  constexpr int kWarpgroups = Shape::kWarpgroups;
  constexpr int kAcc = Shape::kValue / 2;
  GROUPER_DYNAMIC_SHARED(__align__(1024) char, shared);
  char* stages = shared + kWarpgroups * Shape::kQueryBytes;
  char* running_memory = stages + Shape::kStages * Shape::kPageBytes;
  uint64_t* full = reinterpret_cast<uint64_t*>(running_memory + kWarpgroups * Shape::kRunningBytes);
  uint64_t* empty = full + Shape::kStages;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      BarrierInit(&full[s], 1);
      BarrierInit(&empty[s], kWarpgroups * 128);
    }
    BarrierInitFence();
  }
  KernelBegin();
  if (blockIdx.x >= *args.prepared.num_items) return;
  const AttentionItem item = args.prepared.items[blockIdx.x];
  const DeviceSequence sequence = args.prepared.batch.sequences[item.sequence];
  __syncthreads();

  if (SharedAddress(shared) % 1024 != 0) __trap();  // boxes are swizzled by address
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, lane = threadIdx.x % 32;
  const int num_runs = NumRuns(item), split_pages = args.prepared.split_pages;
  if (warpgroup == kWarpgroups) {  // the warp that fetches
    if (lane != 0) return;
    int stage = 0;
    uint32_t phase = 0;
    for (int r = 0; r < num_runs; ++r) {  // items of several sequences lie within one split
      const PageRun run = RunOf(args.prepared, item, r, item.page_begin, item.page_end);
      for (int page = run.begin; page < run.end; ++page) {
        const char* source = args.pages.Head(run.table[page], item.head);
        BarrierWait(&empty[stage], phase ^ 1);
        FetchPage<Shape::kPageBytes / 8192>(stages + stage * Shape::kPageBytes, source, run.context_end - page * kPageTokens, &full[stage]);
        if (++stage == Shape::kStages) stage = 0, phase ^= 1;
      }
    }
    return;
  }

  char* queries = shared + warpgroup * Shape::kQueryBytes;
  float* running = reinterpret_cast<float*>(running_memory + warpgroup * Shape::kRunningBytes) + thread;
  const int first_row = item.row + warpgroup * 64, rows = min(64, item.rows - warpgroup * 64);
  LoadRows(args.q, sequence, item.head, args.group, first_row, rows, Shape::kKey, queries, thread, 128);
  CopyAsyncWait<0>();
  FenceAsyncShared();
  NamedBarrier(1 + warpgroup, 128);

  const int row = thread / 32 * 16 + thread % 32 / 4, column = 2 * (thread % 4);
  RowPosition own[2];
  for (int h = 0; h < 2; ++h)
    own[h] = PositionOf(args.prepared, item, first_row + row + 8 * h, row + 8 * h < rows, args.group);
  // A warpgroup's last position: pages beyond it are skipped. Several sequences have no pages beyond their tokens.
  const int last = rows <= 0 ? -1 : item.sequences > 1 ? INT_MAX : sequence.context + (first_row + rows - 1) / args.group;

  float acc[kAcc] = {};
  RowState state[2], joined[2] = {kNothing, kNothing};  // what rows without a page in this item write
  const uint64_t desc_q = DescriptorKMajor(queries);
  int stage = 0;
  uint32_t phase = 0;
  // A page's values are multiplied while the next one's scores become weights (kAhead): `before` is the stage of the page whose weights
  // are made but not used, < 0: none; `ended`: that page was a sequence's last.
  uint32_t weights[4][4] = {};
  int before = -1;
  bool ended = false;
  const bool any_rows = kWarpgroups > 1 || thread / 32 * 16 < rows;  // of this warp: in decode most have none
  // Lane 0 arrives for its warp; where lanes have written to the page each for itself, since racecheck knows no other order.
  const auto release = [&](int which, bool each) {
    if (each) {
      BarrierArrive(&empty[which]);
    } else if (lane == 0) {
      BarrierArrive(&empty[which], 32);
    }
  };
  const auto start_values = [&] {
    const uint64_t desc_v = DescriptorMnMajor(stages + before * Shape::kPageBytes + Shape::kKeyBytes, 8192);
    WgmmaTouch(acc);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      WgmmaBF16<Shape::kValue>::template MmaA<1>(acc, weights[k][0], weights[k][1], weights[k][2], weights[k][3], Advance(desc_v, k * 2048));
    WgmmaCommit();
  };
  const auto finish = [&] {
    if (before < 0) return;
    start_values();
    WgmmaWait<0>();
    WgmmaTouch(acc);
    release(before, ended);
    before = -1;
  };
  const bool several = kWarpgroups > 1 && !item.apart && item.page_end > split_pages;
  for (int split_begin = item.page_begin; split_begin < item.page_end; split_begin += split_pages) {
    const int split_end = min(split_begin + split_pages, item.page_end);
#pragma unroll
    for (int i = 0; i < kAcc; ++i) acc[i] = 0;
    for (int h = 0; h < 2; ++h) state[h] = kNothing;
    for (int r = 0; r < num_runs; ++r) {
      const PageRun run = RunOf(args.prepared, item, r, split_begin, split_end);
      for (int page = run.begin; page < run.end; ++page) {
        BarrierWait(&full[stage], phase);
        char* const keys = stages + stage * Shape::kPageBytes;
        const int valid = run.context_end - page * kPageTokens;
        if (valid < kPageTokens) {
          ZeroTokens(keys + Shape::kKeyBytes, Shape::kValue / 64, valid, threadIdx.x, kWarpgroups * 128);
          FenceAsyncShared();
          NamedBarrier(kTailBarrier, kWarpgroups * 128);
        }
        if (page * kPageTokens > last) {
          finish();
          __syncwarp();  // nothing else keeps a lane here until it has seen this round of the page
          release(stage, valid < kPageTokens);
        } else {
          const int position[2] = {own[0].In(run, page), own[1].In(run, page)};
          float s[32], decay[2];
          StartScores<Shape::kKey>(s, desc_q, DescriptorKMajor(keys));
          if (!Shape::kAhead || before < 0) {
            WgmmaWait<0>();
            WgmmaTouch(s);
            if (any_rows) {
              SoftmaxStep(s, state, position, column, args.scale_log2, decay);
              if (!Shape::kAhead) MultiplyRows(acc, decay);  // else 0 yet
            }
          } else {
            start_values();
            WgmmaWait<1>();
            WgmmaTouch(s);
            if (any_rows) SoftmaxStep(s, state, position, column, args.scale_log2, decay);
            WgmmaWait<0>();
            WgmmaTouch(acc);
            release(before, ended);
            if (any_rows) MultiplyRows(acc, decay);
          }
          if (any_rows) PackWeights(s, weights);
          before = stage;
          ended = valid < kPageTokens;
          if (!Shape::kAhead) finish();
        }
        if (++stage == Shape::kStages) stage = 0, phase ^= 1;
      }
    }
    finish();
    SumQuad(state);
    if (several) {
      if (split_begin == item.page_begin) {
        for (int h = 0; h < 2; ++h) joined[h] = state[h];
#pragma unroll
        for (int i = 0; i < kAcc; ++i) running[i * 128] = acc[i];
      } else {
        const JoinWeights join[2] = {Join(joined[0], state[0], args.scale_log2), Join(joined[1], state[1], args.scale_log2)};
#pragma unroll
        for (int i = 0; i < kAcc; ++i) {
          acc[i] = JoinValue(running[i * 128], acc[i], join[i / 2 % 2]);
          running[i * 128] = acc[i];
        }
      }
    } else {
      for (int h = 0; h < 2; ++h) joined[h] = state[h];
    }
  }

  if (!item.apart) {
    WriteRows<Shape::kValue>(args, sequence, item.head, first_row, rows, acc, joined, 0, thread);
  } else {
    WritePartials<Shape::kValue>(args, item, first_row, rows, acc, joined, Shape::kValue, 0, thread);
  }
}

template <typename Shape>
void Launch(Stream& stream, const AttentionArguments& args) {
  static std::atomic<uint64_t> allowed = 0;
  AllowSharedMemory(GqaKernel<Shape>, Shape::kSharedBytes, allowed);
  LaunchKernel(stream, static_cast<unsigned>(args.prepared.max_items), Shape::kThreads, Shape::kSharedBytes, GqaKernel<Shape>, args);
}

template <int kKey, int kValue>
void LaunchRows(Stream& stream, const AttentionArguments& args) {
  args.prepared.rows_per_item == 64 ? Launch<GqaShape<kKey, kValue, 1>>(stream, args) : Launch<GqaShape<kKey, kValue, 2>>(stream, args);
}

}  // namespace

void GqaForward(Stream& stream, const AttentionArguments& args) {
  if (args.pages.key_dim == 64) return LaunchRows<64, 64>(stream, args);
  if (args.pages.key_dim == 192) return LaunchRows<192, 128>(stream, args);
  args.pages.value_dim == 64 ? LaunchRows<128, 64>(stream, args) : LaunchRows<128, 128>(stream, args);
}

}  // namespace grouper::kernels::cuda
