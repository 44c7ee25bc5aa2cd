// Absorbed multi-head latent attention on the tensor cores: one kv head whose keys are 576 wide and whose values are
// the keys' first 512 numbers.
//
// A block, alone on its multiprocessor, owns an item: up to 64 rows (token, head) over the item's pages of 64 x 576
// bf16, each fetched by one bulk copy of 73 728 bytes (a sequence's last by nine shorter ones), two in shared memory. Warpgroup 0 computes S = Q K^T, the
// softmax step and the first 256 columns of O += P V; it hands P over in shared memory to warpgroup 1, which computes
// the other 256. A page is 36 x 32 + 4 x 128 + 4 x 128 cycles of the tensor cores at 64 x 64 x 1088 multiply-adds.
// Decode with 16 heads fills 16 of the 64 rows and is bound by memory all the same; four samples of a group fill them all
// where they share pages.
#include <algorithm>

#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_rows.cuh"
#include "kernels/cuda_launch.h"

namespace grouper::kernels::cuda {
namespace {

constexpr int kKeyBoxes = 9, kValueBoxes = 8, kWidth = 512, kHalf = 256, kStages = 2, kThreads = 384;
constexpr int kPageBytes = kKeyBoxes * 8192;
constexpr int kSharedBytes = 1024 + (1 + kStages) * kPageBytes + 8192 + 64 * 16 + 16 * kStages + 32;

constexpr int kFirstGroup = 1;  // the barrier of the first warpgroup

// Joins a split's result to those before it, which wait in `running`: four numbers a thread and step, of 128 threads.
__device__ __forceinline__ void JoinSplit(float (&acc)[kHalf / 2], RowState (&joined)[2], const RowState (&state)[2],
                                          bool first, bool last, bool any_rows, float scale_log2, float4* running) {
  JoinWeights weights[2];
  for (int h = 0; h < 2; ++h) {
    if (first) {
      joined[h] = state[h];
    } else {
      weights[h] = Join(joined[h], state[h], scale_log2);
    }
  }
  if (!any_rows) return;  // of the warp
  if (!first) {
#pragma unroll
    for (int step = 0; step < kHalf / 8; ++step) {
      const float4 old = running[step * 128];
      float* const x = &acc[4 * step];
      x[0] = JoinValue(old.x, x[0], weights[0]);
      x[1] = JoinValue(old.y, x[1], weights[0]);
      x[2] = JoinValue(old.z, x[2], weights[1]);
      x[3] = JoinValue(old.w, x[3], weights[1]);
    }
  }
  if (last) return;
#pragma unroll
  for (int step = 0; step < kHalf / 8; ++step)
    running[step * 128] = make_float4(acc[4 * step], acc[4 * step + 1], acc[4 * step + 2], acc[4 * step + 3]);
}

__global__ void __launch_bounds__(kThreads, 1) MlaKernel(const __grid_constant__ AttentionArguments args) {
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  char* shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* stages = shared + kPageBytes;
  char* weights = stages + kStages * kPageBytes;  // P, one box
  float* decays = reinterpret_cast<float*>(weights + 8192);
  float2* states = reinterpret_cast<float2*>(decays + 64);
  uint64_t* full = reinterpret_cast<uint64_t*>(weights + 8192 + 64 * 16);
  uint64_t* empty = full + kStages;
  // Handed from the first warpgroup to the second: P and the decays page by page, the rows' states split by split.
  uint64_t *weights_ready = empty + kStages, *weights_taken = weights_ready + 1;
  uint64_t *states_ready = weights_ready + 2, *states_taken = weights_ready + 3;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      BarrierInit(&full[s], 1);
      BarrierInit(&empty[s], 8);
    }
    for (uint64_t* barrier : {weights_ready, weights_taken, states_ready, states_taken}) BarrierInit(barrier, 128);
    BarrierInitFence();
  }
  KernelBegin();
  if (blockIdx.x >= *args.prepared.num_items) return;
  const AttentionItem item = args.prepared.items[blockIdx.x];
  const DeviceSequence sequence = args.prepared.batch.sequences[item.sequence];
  __syncthreads();

  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, lane = threadIdx.x % 32;
  const int num_runs = NumRuns(item), split_pages = args.prepared.split_pages;
  int stage = 0;
  uint32_t phase = 0;
  const auto next = [&] {
    if (++stage == kStages) stage = 0, phase ^= 1;
  };
  if (warpgroup == 2) {  // one thread fetches
    GiveRegisters<40>();
    if (thread != 0) return;
    for (int split_begin = item.page_begin; split_begin < item.page_end; split_begin += split_pages) {
      const int split_end = min(split_begin + split_pages, item.page_end);
      for (int r = 0; r < num_runs; ++r) {
        const PageRun run = RunOf(args.prepared, item, r, split_begin, split_end);
        for (int page = run.begin; page < run.end; ++page) {
          BarrierWait(&empty[stage], phase ^ 1);
          FetchPage<kKeyBoxes>(stages + stage * kPageBytes, args.pages.Head(run.table[page], 0), run.context_end - page * kPageTokens, &full[stage]);
          next();
        }
      }
    }
    return;
  }
  TakeRegisters<232>();

  const int row = thread / 32 * 16 + thread % 32 / 4, column = 2 * (thread % 4);
  const bool several = !item.apart && item.page_end > split_pages;
  float4* running = reinterpret_cast<float4*>(args.running) + (Multiprocessor() * 2 + warpgroup) * (kHalf / 8 * 128) + thread;
  const bool any_rows = thread / 32 * 16 < item.rows;
  float acc[kHalf / 2] = {};
  RowState state[2], joined[2] = {kNothing, kNothing};  // what rows without a page in this item write
  int taken = 0;                                        // pages so far

  if (warpgroup == 0) {
    LoadRows(args.q, sequence, 0, args.group, item.row, item.rows, 576, shared, thread, 128);
    CopyAsyncWait<0>();
    FenceAsyncShared();
    NamedBarrier(kFirstGroup, 128);
    RowPosition own[2];
    for (int h = 0; h < 2; ++h)
      own[h] = PositionOf(args.prepared, item, item.row + row + 8 * h, row + 8 * h < item.rows, args.group);
    const uint64_t desc_q = DescriptorKMajor(shared);
    for (int split_begin = item.page_begin; split_begin < item.page_end; split_begin += split_pages) {
      const int split_end = min(split_begin + split_pages, item.page_end);
#pragma unroll
      for (int i = 0; i < kHalf / 2; ++i) acc[i] = 0;
      for (int h = 0; h < 2; ++h) state[h] = kNothing;
      for (int r = 0; r < num_runs; ++r) {
        const PageRun run = RunOf(args.prepared, item, r, split_begin, split_end);
        for (int page = run.begin; page < run.end; ++page) {
          BarrierWait(&full[stage], phase);
          char* keys = stages + stage * kPageBytes;
          const int valid = run.context_end - page * kPageTokens;
          if (valid < kPageTokens) {
            ZeroTokens(keys, kValueBoxes, valid, thread, 128);
            FenceAsyncShared();
            NamedBarrier(kFirstGroup, 128);
          }
          float s[32];
          PageScores<576>(s, desc_q, DescriptorKMajor(keys));
          const int position[2] = {own[0].In(run, page), own[1].In(run, page)};
          float decay[2];
          SoftmaxStep(s, state, position, column, args.scale_log2, decay);
          uint32_t p[4][4];
          PackWeights(s, p);
          if (taken > 0) BarrierWait(weights_taken, (taken - 1) & 1);
          ++taken;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
              *reinterpret_cast<uint32_t*>(weights + PageView::Box(row + 8 * (i % 2), 16 * k + 8 * (i / 2) + column)) =
                  p[k][i];
          }
          if (thread % 4 == 0) {
            decays[row] = decay[0];
            decays[row + 8] = decay[1];
          }
          FenceAsyncShared();
          BarrierArrive(weights_ready);
          MultiplyRows(acc, decay);
          const uint64_t desc_v = DescriptorMnMajor(keys, 8192);
          WgmmaTouch(acc);
          WgmmaFence();
#pragma unroll
          for (int k = 0; k < 4; ++k)
            WgmmaBF16<kHalf>::MmaA<1>(acc, p[k][0], p[k][1], p[k][2], p[k][3], Advance(desc_v, k * 2048));
          WgmmaCommit();
          WgmmaWait<0>();
          WgmmaTouch(acc);
          if (lane == 0) BarrierArrive(&empty[stage]);
          next();
        }
      }
      SumQuad(state);
      const int split = (split_begin - item.page_begin) / split_pages;
      if (split > 0) BarrierWait(states_taken, (split - 1) & 1);
      if (thread % 4 == 0) {
        for (int h = 0; h < 2; ++h) states[row + 8 * h] = make_float2(state[h].maximum, state[h].sum);
      }
      BarrierArrive(states_ready);
      if (several) {
        JoinSplit(acc, joined, state, split_begin == item.page_begin, split_end == item.page_end, any_rows, args.scale_log2, running);
      } else {
        for (int h = 0; h < 2; ++h) joined[h] = state[h];
      }
    }
  } else {
    for (int split_begin = item.page_begin; split_begin < item.page_end; split_begin += split_pages) {
      const int split_end = min(split_begin + split_pages, item.page_end);
#pragma unroll
      for (int i = 0; i < kHalf / 2; ++i) acc[i] = 0;
      for (int r = 0; r < num_runs; ++r) {
        const PageRun run = RunOf(args.prepared, item, r, split_begin, split_end);
        for (int page = run.begin; page < run.end; ++page) {
          BarrierWait(&full[stage], phase);
          BarrierWait(weights_ready, taken++ & 1);
          const float decay[2] = {decays[row], decays[row + 8]};
          MultiplyRows(acc, decay);
          const uint64_t desc_p = DescriptorKMajor(weights);
          const uint64_t desc_v = DescriptorMnMajor(stages + stage * kPageBytes + 4 * 8192, 8192);
          WgmmaTouch(acc);
          WgmmaFence();
#pragma unroll
          for (int k = 0; k < 4; ++k)
            WgmmaBF16<kHalf>::Mma<0, 1>(acc, Advance(desc_p, k * 32), Advance(desc_v, k * 2048));
          WgmmaCommit();
          WgmmaWait<0>();
          WgmmaTouch(acc);
          BarrierArrive(weights_taken);
          if (lane == 0) BarrierArrive(&empty[stage]);
          next();
        }
      }
      BarrierWait(states_ready, (split_begin - item.page_begin) / split_pages & 1);
      for (int h = 0; h < 2; ++h) {
        const float2 both = states[row + 8 * h];
        state[h] = {both.x, both.y};
      }
      BarrierArrive(states_taken);
      if (several) {
        JoinSplit(acc, joined, state, split_begin == item.page_begin, split_end == item.page_end, any_rows, args.scale_log2, running);
      } else {
        for (int h = 0; h < 2; ++h) joined[h] = state[h];
      }
    }
  }
  if (!item.apart) {
    WriteRows<kHalf>(args, sequence, 0, item.row, item.rows, acc, joined, warpgroup * kHalf, thread);
  } else {
    WritePartials<kHalf>(args, item, item.row, item.rows, acc, joined, kWidth, warpgroup * kHalf, thread);
  }
}

}  // namespace

void MlaForward(Stream& stream, const AttentionArguments& arguments) {
  AttentionArguments args = arguments;
  const Arena::Mark mark = stream.scratch.mark();
  if (args.prepared.batch.max_context > args.prepared.split_pages * kPageTokens)
    args.running = static_cast<float*>(stream.scratch.Allocate(size_t{kMaxMultiprocessors} * 64 * kWidth * 4));
  static std::atomic<uint64_t> allowed = 0;
  AllowSharedMemory(MlaKernel, kSharedBytes, allowed);
  LaunchKernel(stream, static_cast<unsigned>(args.prepared.max_items), kThreads, kSharedBytes, MlaKernel, args);
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
