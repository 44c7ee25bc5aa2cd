// Gradients of attention whose keys and values are 64/64, 128/128, 128/64 or 192/128 wide (the last two: MLA's heads, unabsorbed) on the tensor
// cores, deterministic: no sum is shared between blocks.
//
//   p = exp(scale s - lse),  dp = dout V^T,  ds = p (dp - <dout, out>)
//   KeyKernel   a warpgroup: one page of keys of one sequence and kv head; over all rows from the first that sees it, 64 at a time:
//               dV += P^T dout,  dK += dS^T Q  (then * scale)
//   QueryKernel a warpgroup: 64 rows; over their pages:  dQ += dS K  (then * scale)
//
// Seven products instead of five, for sums that need no atomics. Narrow heads have one warpgroup a block and three blocks a multiprocessor. Wide
// ones need the registers of a whole multiprocessor for two, which share the rows or pages that they walk over: a ring of stages that a third
// warpgroup fills. Either way some multiply while others compute exponentials. Scores are ready before dp is, so that exponentials begin while
// it is multiplied.
#include "kernels/attention_backward.cuh"
#include "kernels/cuda_launch.h"

namespace grouper::kernels::cuda {
namespace {

template <int kKey_, int kValue_>
struct BackwardShape {
  static constexpr int kKey = kKey_, kValue = kValue_;
  static constexpr int kKeyBoxes = kKey / 64, kValueBoxes = kValue / 64, kKeyBytes = kKeyBoxes * 8192, kValueBytes = kValueBoxes * 8192;
  static constexpr int kTileBytes = kKeyBytes + kValueBytes;  // 64 tokens' keys and values, or 64 rows' q and dout
  static constexpr bool kWide = kKey > 64;
  // In KeyKernel the scores' registers are dp's too, which is multiplied after them: ds is made with the weights as they were rounded for dV. (In
  // QueryKernel they are not rounded.)
  static constexpr bool kTight = kKey + kValue > 256;
  static constexpr int kWarpgroups = kWide ? 2 : 1, kBlocks = kWide ? 1 : 3, kStages = kWide ? 3 : 2;
  static constexpr int kMathThreads = 128 * kWarpgroups;
  static constexpr int kKeyThreads = kMathThreads + (kWide ? 128 : 0), kQueryThreads = kMathThreads + (kWide ? 128 : 32);
  static constexpr int kStats = 2 * 64;  // floats of a stage: lse and row_dot of 64 rows
  static constexpr int kKeyKernelBytes = 1024 + (kWarpgroups + kStages) * kTileBytes + kStages * kStats * 4 + 16 * kStages + 8 * kWarpgroups;
  static constexpr int kQueryKernelBytes = 1024 + (kWarpgroups + kStages) * kTileBytes + 16 * kStages;
};

// acc += A B over 64 of k, A from registers (weights), B MN-major boxes of 64 rows: P^T dout and the like. Left in flight.
template <int kDim>
__device__ __forceinline__ void MultiplyWeights(float (&acc)[kDim / 2], const uint32_t (&p)[4][4], const char* boxes) {
  const uint64_t desc = DescriptorMnMajor(boxes, 8192);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    WgmmaBF16<kDim>::template MmaA<1>(acc, p[k][0], p[k][1], p[k][2], p[k][3], Advance(desc, k * 2048));
  WgmmaCommit();
}

__device__ __forceinline__ void Zero(float (&c)[32]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) c[i] = 0;
  WgmmaTouch(c);
}

// c += A B^T over kDim of k, K-major boxes of 64 rows. Left in flight.
template <int kDim>
__device__ __forceinline__ void AddScores(float (&c)[32], const char* a, const char* b) {
  const uint64_t desc_a = DescriptorKMajor(a), desc_b = DescriptorKMajor(b);
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const uint32_t step = k / 4 * 8192 + k % 4 * 32;
    WgmmaBF16<64>::Mma<0, 0>(c, Advance(desc_a, step), Advance(desc_b, step));
  }
  WgmmaCommit();
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kKeyThreads, Shape::kBlocks)
    KeyKernel(const __grid_constant__ BackwardArguments args) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  const DeviceSequence s = args.batch.sequences[blockIdx.x];
  const int head = blockIdx.z, first_page = blockIdx.y * Shape::kWarpgroups, rows = s.q_len * args.group;
  const int pages = min(Shape::kWarpgroups, PagesOf(s.q_len) - first_page);
  if (pages <= 0) return;
  char* shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* stages = shared + Shape::kWarpgroups * Shape::kTileBytes;  // q, dout
  float* stats = reinterpret_cast<float*>(stages + Shape::kStages * Shape::kTileBytes);
  uint64_t* full = reinterpret_cast<uint64_t*>(stats + Shape::kStages * Shape::kStats);
  uint64_t* empty = full + Shape::kStages;
  uint64_t* page_full = empty + Shape::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      BarrierInit(&full[i], 128);
      BarrierInit(&empty[i], 128 * pages);  // every thread reads statistics
    }
    for (int w = 0; w < Shape::kWarpgroups; ++w) BarrierInit(&page_full[w], 1);
    BarrierInitFence();
  }
  __syncthreads();
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
  const int row_begin = first_page * 64 * args.group;
  int stage = 0;
  uint32_t phase = 0;
  const auto next = [&] {
    if (++stage == Shape::kStages) stage = 0, phase ^= 1;
  };

  // Rows [row0, row0 + 64) into a stage, by 128 threads, without waiting: a thread copies the same part of several rows.
  const auto copy = [&](int row0, int to) {
    constexpr int kChunks = Shape::kTileBytes / 64 / 16;
    char* const tile = stages + to * Shape::kTileBytes;
    for (int row = thread / 8; row < 64; row += 16) {
      const int r = min(row0 + row, rows - 1);
      const int64_t token = s.q_begin + r / args.group, query_head = head * args.group + r % args.group;
      const bool present = row0 + row < rows;
      const __nv_bfloat16* const q = args.q.data + token * args.q.token_stride + query_head * args.q.head_stride;
      const __nv_bfloat16* const dout = args.dout.data + token * args.dout.token_stride + query_head * args.dout.head_stride;
#pragma unroll
      for (int i = 0; i < kChunks / 8; ++i) {
        const int d = (thread % 8 + 8 * i) * 8;
        if (8 * i < Shape::kKey / 8) {
          CopyAsync(tile + PageView::Box(row, d), q + d, present);
        } else {
          CopyAsync(tile + Shape::kKeyBytes + PageView::Box(row, d - Shape::kKey), dout + d - Shape::kKey, present);
        }
      }
    }
    if (thread < 64) {
      float* const stat = stats + to * Shape::kStats;
      const int r = row0 + thread;
      const int64_t place = StatisticOf(args, s, head, min(r, rows - 1));
      stat[thread] = r < rows ? args.lse[place] * kLog2E : INFINITY;
      stat[64 + thread] = r < rows ? args.row_dot[place] : 0.0f;
    }
    CopyAsyncCommit();
  };

  if constexpr (Shape::kWide) {
    if (warpgroup == Shape::kWarpgroups) {  // copies rows
      GiveRegisters<40>();
      int previous = -1;
      for (int row0 = row_begin; row0 < rows; row0 += 64) {
        BarrierWait(&empty[stage], phase ^ 1);
        copy(row0, stage);
        if (previous >= 0) {
          CopyAsyncWait<1>();
          FenceAsyncShared();
          BarrierArrive(&full[previous]);
        }
        previous = stage;
        next();
      }
      CopyAsyncWait<0>();
      FenceAsyncShared();
      BarrierArrive(&full[previous]);
      return;
    }
  }
  if constexpr (Shape::kWide) TakeRegisters<232>();
  if (warpgroup >= pages) return;
  if constexpr (!Shape::kWide) copy(row_begin, 0);

  char* const keys = shared + warpgroup * Shape::kTileBytes;
  char* const values = keys + Shape::kKeyBytes;
  const int start = (first_page + warpgroup) * 64, valid = min(64, s.q_len - start);
  if (thread == 0) {
    BarrierExpect(&page_full[warpgroup], Shape::kTileBytes);
    CopyBulk(keys, args.pages.Head(args.batch.pages[s.first_page + first_page + warpgroup], head), Shape::kTileBytes, &page_full[warpgroup]);
  }
  BarrierWait(&page_full[warpgroup], 0);
  if (valid < 64) {
    ZeroTokens(keys, Shape::kKeyBoxes + Shape::kValueBoxes, valid, thread, 128);  // one run of boxes
    FenceAsyncShared();
    NamedBarrier(1 + warpgroup, 128);
  }
  float dk[Shape::kKey / 2], dv[Shape::kValue / 2];
#pragma unroll
  for (int i = 0; i < Shape::kKey / 2; ++i) dk[i] = 0;
#pragma unroll
  for (int i = 0; i < Shape::kValue / 2; ++i) dv[i] = 0;
  const int row = thread / 32 * 16 + thread % 32 / 4, column = 2 * (thread % 4);
  for (int row0 = row_begin; row0 < rows; row0 += 64) {
    if constexpr (Shape::kWide) {
      BarrierWait(&full[stage], phase);
    } else {
      if (row0 + 64 < rows) {
        copy(row0 + 64, stage ^ 1);
        CopyAsyncWait<1>();
      } else {
        CopyAsyncWait<0>();
      }
      FenceAsyncShared();
      __syncthreads();
    }
    if ((row0 + 63) / args.group >= start) {
      const char* const q = stages + stage * Shape::kTileBytes;
      const char* const dout = q + Shape::kKeyBytes;
      const float* const stat = stats + stage * Shape::kStats;
      float score[32], dp[32];
      Zero(score);
      if constexpr (!Shape::kTight) Zero(dp);
      WgmmaFence();
      AddScores<Shape::kKey>(score, keys, q);
      if constexpr (!Shape::kTight) AddScores<Shape::kValue>(dp, values, dout);
      WgmmaWait<Shape::kTight ? 0 : 1>();
      WgmmaTouch(score);
      if (row0 < (start + 63) * args.group) {  // some rows do not see all of the keys
        const int first = (start + row) * args.group - row0 - column;
#pragma unroll
        for (int i = 0; i < 32; ++i) {
          if (i / 4 * 8 + i % 2 < first + i / 2 % 2 * 8 * args.group) score[i] = -INFINITY;
        }
      }
#pragma unroll
      for (int i = 0; i < 32; ++i) score[i] = Exp2(__fmaf_rn(score[i], args.scale_log2, -stat[i / 4 * 8 + column + i % 2]));
      uint32_t p[4][4], ds[4][4];
      PackWeights(score, p);
      if constexpr (Shape::kTight) {
        Zero(dp);
        WgmmaFence();
        AddScores<Shape::kValue>(dp, values, dout);
      }
      WgmmaWait<0>();
      WgmmaTouch(dp);
#pragma unroll
      for (int i = 0; i < 32; i += 2) {
        const float2 weight = Shape::kTight ? UnpackBF16(p[i / 8][i % 8 / 2]) : make_float2(score[i], score[i + 1]);
        const float* const dot = stat + 64 + i / 4 * 8 + column;
        dp[i] = weight.x * (dp[i] - dot[0]);
        dp[i + 1] = weight.y * (dp[i + 1] - dot[1]);
      }
      PackWeights(dp, ds);
      WgmmaTouch(dv);
      WgmmaTouch(dk);
      WgmmaFence();
      MultiplyWeights<Shape::kValue>(dv, p, dout);
      MultiplyWeights<Shape::kKey>(dk, ds, q);
      WgmmaWait<0>();
      WgmmaTouch(dv);
      WgmmaTouch(dk);
    }
    if constexpr (Shape::kWide) {
      BarrierArrive(&empty[stage]);
    } else {
      __syncthreads();
    }
    next();
  }
  const auto row_of = [&](__nv_bfloat16* data, int64_t token_stride, int64_t head_stride) {
    return [=](int m) -> __nv_bfloat16* {
      return m < valid ? data + (s.q_begin + start + m) * token_stride + head * head_stride : nullptr;
    };
  };
  StoreFragment<Shape::kKey>(dk, args.scale, args.dk_vector, thread, row_of(args.dk, args.dk_token, args.dk_head));
  StoreFragment<Shape::kValue>(dv, 1.0f, args.dv_vector, thread, row_of(args.dv, args.dv_token, args.dv_head));
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kQueryThreads, Shape::kBlocks) QueryKernel(const __grid_constant__ BackwardArguments args) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  const DeviceSequence s = args.batch.sequences[blockIdx.x];
  const int head = blockIdx.z, rows = s.q_len * args.group;
  const int block_row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * 64 * Shape::kWarpgroups;  // the longest first
  if (block_row >= rows) return;
  char* shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* stages = shared + Shape::kWarpgroups * Shape::kTileBytes;  // keys, values
  uint64_t* full = reinterpret_cast<uint64_t*>(stages + Shape::kStages * Shape::kTileBytes);
  uint64_t* empty = full + Shape::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      BarrierInit(&full[i], 1);
      BarrierInit(&empty[i], 4 * Shape::kWarpgroups);
    }
    BarrierInitFence();
  }
  __syncthreads();
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, lane = threadIdx.x % 32;
  const int page_end = min(block_row + 64 * Shape::kWarpgroups - 1, rows - 1) / args.group / 64 + 1;
  int stage = 0;
  uint32_t phase = 0;
  const auto next = [&] {
    if (++stage == Shape::kStages) stage = 0, phase ^= 1;
  };
  if (warpgroup == Shape::kWarpgroups) {  // one thread fetches
    if constexpr (Shape::kWide) GiveRegisters<40>();
    if (thread != 0) return;
    const int32_t* table = args.batch.pages + s.first_page;
    for (int page = 0; page < page_end; ++page) {
      BarrierWait(&empty[stage], phase ^ 1);
      BarrierExpect(&full[stage], Shape::kTileBytes);
      CopyBulk(stages + stage * Shape::kTileBytes, args.pages.Head(table[page], head), Shape::kTileBytes, &full[stage]);
      next();
    }
    return;
  }

  if constexpr (Shape::kWide) TakeRegisters<232>();
  char* const q = shared + warpgroup * Shape::kTileBytes;
  char* const dout = q + Shape::kKeyBytes;
  const int first_row = block_row + warpgroup * 64, count = min(64, rows - first_row);
  LoadRows(args.q, s, head, args.group, first_row, count, Shape::kKey, q, thread, 128);
  LoadRows(args.dout, s, head, args.group, first_row, count, Shape::kValue, dout, thread, 128);
  CopyAsyncWait<0>();
  FenceAsyncShared();
  NamedBarrier(1 + warpgroup, 128);
  const int row = thread / 32 * 16 + thread % 32 / 4, column = 2 * (thread % 4);
  int own[2];
  float lse[2], row_dot[2];
  for (int h = 0; h < 2; ++h) {
    const bool present = row + 8 * h < count;
    const int r = first_row + row + 8 * h;
    own[h] = present ? r / args.group : -1;
    lse[h] = present ? args.lse[StatisticOf(args, s, head, r)] * kLog2E : 0.0f;
    row_dot[h] = present ? args.row_dot[StatisticOf(args, s, head, r)] : 0.0f;
  }
  const int last = count > 0 ? (first_row + count - 1) / args.group : -1;
  float dq[Shape::kKey / 2];
#pragma unroll
  for (int i = 0; i < Shape::kKey / 2; ++i) dq[i] = 0;
  for (int page = 0; page < page_end; ++page) {
    BarrierWait(&full[stage], phase);
    char* const keys = stages + stage * Shape::kTileBytes;
    char* const values = keys + Shape::kKeyBytes;
    const int valid = s.q_len - page * 64;
    if (valid < 64) {
      ZeroTokens(keys, Shape::kKeyBoxes + Shape::kValueBoxes, valid, threadIdx.x, Shape::kMathThreads);
      FenceAsyncShared();
      NamedBarrier(1 + Shape::kWarpgroups, Shape::kMathThreads);
    }
    if (page * 64 <= last) {
      float score[32], dp[32];
      Zero(score);
      Zero(dp);
      WgmmaFence();
      AddScores<Shape::kKey>(score, q, keys);
      AddScores<Shape::kValue>(dp, dout, values);
      WgmmaWait<1>();
      WgmmaTouch(score);
      const bool diagonal = own[0] < page * 64 + 63 || own[1] < page * 64 + 63;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int h = i / 2 % 2;
        float p = Exp2(__fmaf_rn(score[i], args.scale_log2, -lse[h]));
        if (diagonal && page * 64 + i / 4 * 8 + column + i % 2 > own[h]) p = 0;
        score[i] = p;
      }
      WgmmaWait<0>();
      WgmmaTouch(dp);
#pragma unroll
      for (int i = 0; i < 32; ++i) dp[i] = score[i] * (dp[i] - row_dot[i / 2 % 2]);
      uint32_t ds[4][4];
      PackWeights(dp, ds);
      WgmmaTouch(dq);
      WgmmaFence();
      MultiplyWeights<Shape::kKey>(dq, ds, keys);
      WgmmaWait<0>();
      WgmmaTouch(dq);
    }
    if (lane == 0) BarrierArrive(&empty[stage]);
    next();
  }
  StoreFragment<Shape::kKey>(dq, args.scale, args.dq_vector, thread, [&](int m) -> __nv_bfloat16* {
    if (m >= count) return nullptr;
    const int r = first_row + m;
    return args.dq + (s.q_begin + r / args.group) * args.dq_token + (head * args.group + r % args.group) * args.dq_head;
  });
}

template <int kKey, int kValue>
void Launch(Stream& stream, const BackwardArguments& args) {
  using Shape = BackwardShape<kKey, kValue>;
  static std::atomic<uint64_t> allowed_keys = 0, allowed_queries = 0;
  AllowSharedMemory(KeyKernel<Shape>, Shape::kKeyKernelBytes, allowed_keys);
  AllowSharedMemory(QueryKernel<Shape>, Shape::kQueryKernelBytes, allowed_queries);
  const unsigned sequences = static_cast<unsigned>(args.batch.num_sequences), heads = static_cast<unsigned>(args.pages.num_kv_heads);
  constexpr int kRows = 64 * Shape::kWarpgroups;
  const auto blocks = [](int64_t n) {
    CHECK_LE((n + kRows - 1) / kRows, 65535) << "attention's gradients over a sequence of " << n << " rows";
    return static_cast<unsigned>((n + kRows - 1) / kRows);
  };
  LaunchKernel(stream, dim3(sequences, blocks(args.batch.max_q_len), heads), Shape::kKeyThreads, Shape::kKeyKernelBytes, KeyKernel<Shape>,
               args);
  LaunchKernel(stream, dim3(sequences, blocks(int64_t{args.batch.max_q_len} * args.group), heads), Shape::kQueryThreads,
               Shape::kQueryKernelBytes, QueryKernel<Shape>, args);
}

}  // namespace

void GqaBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                 const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                 const Tensor& dv) {
  const Arena::Mark mark = stream.scratch.mark();
  const BackwardArguments args = MakeBackwardArguments(stream, kv, prepared, q, scale, out, lse, dout, dq, dk, dv);
  if (kv.layout.key_dim == 64) {
    Launch<64, 64>(stream, args);
  } else if (kv.layout.key_dim == 192) {
    Launch<192, 128>(stream, args);
  } else if (kv.layout.value_dim == 64) {
    Launch<128, 64>(stream, args);
  } else {
    Launch<128, 128>(stream, args);
  }
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
