// Gradients of grouped-query attention of widths 64 and 128 on the tensor cores, deterministic: no sum is shared
// between blocks.
//
//   p = exp(scale s - lse),  dp = dout V^T,  ds = p (dp - <dout, out>)
//   KeyKernel   a block: one page of keys of one sequence and kv head; over all rows from the first that sees it, 64 at
//   a
//               time:  dV += P^T dout,  dK += dS^T Q  (then * scale)
//   QueryKernel a block: 64 rows; over their pages:  dQ += dS K  (then * scale)
//
// Seven products instead of five, for sums that need no atomics. One warpgroup a block and two or three blocks a
// multiprocessor, which hide each other's waiting. Bound by the tensor cores and exponentials.
#include "kernels/attention_backward.cuh"
#include "kernels/cuda_launch.h"

namespace grouper::kernels::cuda {
namespace {

// acc += A B over 64 of k, A from registers (weights), B MN-major boxes of 64 rows: P^T dout and the like.
template <int kDim>
__device__ __forceinline__ void MultiplyWeights(float (&acc)[kDim / 2], const uint32_t (&p)[4][4], const char* boxes) {
  const uint64_t desc = DescriptorMnMajor(boxes, 8192);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    WgmmaBF16<kDim>::template MmaA<1>(acc, p[k][0], p[k][1], p[k][2], p[k][3], Advance(desc, k * 2048));
}

// c = A B^T and d = E F^T over kDim of k, all K-major boxes of 64 rows. Both are there on return.
template <int kDim>
__device__ __forceinline__ void MultiplyTwo(float (&c)[32], const char* a, const char* b, float (&d)[32], const char* e,
                                            const char* f) {
#pragma unroll
  for (int i = 0; i < 32; ++i) c[i] = d[i] = 0;
  const uint64_t desc_a = DescriptorKMajor(a), desc_b = DescriptorKMajor(b), desc_e = DescriptorKMajor(e),
                 desc_f = DescriptorKMajor(f);
  WgmmaTouch(c);
  WgmmaTouch(d);
  WgmmaFence();
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const uint32_t step = k / 4 * 8192 + k % 4 * 32;
    WgmmaBF16<64>::Mma<0, 0>(c, Advance(desc_a, step), Advance(desc_b, step));
  }
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const uint32_t step = k / 4 * 8192 + k % 4 * 32;
    WgmmaBF16<64>::Mma<0, 0>(d, Advance(desc_e, step), Advance(desc_f, step));
  }
  WgmmaCommit();
  WgmmaWait<0>();
  WgmmaTouch(c);
  WgmmaTouch(d);
}

template <int kDim>
struct KeyShape {
  static constexpr int kBoxes = kDim / 64, kTileBytes = kBoxes * 8192, kThreads = 128;
  static constexpr int kBlocks = kDim == 64 ? 3 : 2;
  // A page of keys and values, two stages of (q, dout), and per stage lse, row_dot and the rows' tokens.
  static constexpr int kSharedBytes = 1024 + 6 * kTileBytes + 2 * 3 * 64 * 4 + 16;
};

template <int kDim>
__global__ void __launch_bounds__(KeyShape<kDim>::kThreads, KeyShape<kDim>::kBlocks)
    KeyKernel(const __grid_constant__ BackwardArguments args) {
  using Shape = KeyShape<kDim>;
  extern __shared__ char shared_raw[];
  const DeviceSequence s = args.batch.sequences[blockIdx.x];
  const int head = blockIdx.z, start = blockIdx.y * 64, rows = s.q_len * args.group;
  if (start >= s.q_len) return;
  char* shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* tiles = shared + 2 * Shape::kTileBytes;  // [stage][q, dout]
  float* stats = reinterpret_cast<float*>(tiles + 4 * Shape::kTileBytes);
  uint64_t* full = reinterpret_cast<uint64_t*>(stats + 2 * 3 * 64);
  const int thread = threadIdx.x;
  char* keys = shared;
  char* values = keys + Shape::kTileBytes;
  const int valid = min(64, s.q_len - start);

  const auto load = [&](int row0, int stage) {
    char* q = tiles + stage * 2 * Shape::kTileBytes;
    char* dout = q + Shape::kTileBytes;
    constexpr int kChunks = kDim / 8;
    for (int i = threadIdx.x; i < 64 * kChunks; i += Shape::kThreads) {
      const int row = i / kChunks, d = i % kChunks * 8, r = min(row0 + row, rows - 1);
      const int64_t token = s.q_begin + r / args.group, query_head = head * args.group + r % args.group;
      const bool present = row0 + row < rows;
      CopyAsync(q + PageView::Box(row, d),
                args.q.data + token * args.q.token_stride + query_head * args.q.head_stride + d, present);
      CopyAsync(dout + PageView::Box(row, d),
                args.dout.data + token * args.dout.token_stride + query_head * args.dout.head_stride + d, present);
    }
    if (threadIdx.x < 64) {
      float* stat = stats + stage * 192;
      const int r = row0 + static_cast<int>(threadIdx.x);
      const bool present = r < rows;
      const int64_t place = StatisticOf(args, s, head, min(r, rows - 1));
      stat[threadIdx.x] = present ? args.lse[place] * kLog2E : INFINITY;
      stat[64 + threadIdx.x] = present ? args.row_dot[place] : 0.0f;
      reinterpret_cast<int*>(stat)[128 + threadIdx.x] = r / args.group;
    }
    CopyAsyncCommit();
  };

  if (threadIdx.x == 0) {
    BarrierInit(full, 1);
    BarrierInitFence();
  }
  __syncthreads();
  const int32_t* table = args.batch.pages + s.first_page;
  if (threadIdx.x == 0) {
    BarrierExpect(full, 2 * Shape::kTileBytes);
    CopyBulk(keys, args.pages.Head(table[blockIdx.y], head), 2 * Shape::kTileBytes, full);
  }
  const int row_begin = start * args.group;
  load(row_begin, 0);
  BarrierWait(full, 0);
  if (valid < 64) {
    ZeroTokens(keys, 2 * Shape::kBoxes, valid, thread, 128);  // both are one run of boxes
    FenceAsyncShared();
  }

  float dk[kDim / 2], dv[kDim / 2];
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) dk[i] = dv[i] = 0;
  const int row = thread / 32 * 16 + thread % 32 / 4, column = 2 * (thread % 4);
  int stage = 0;
  for (int row0 = row_begin; row0 < rows; row0 += 64, stage ^= 1) {
    if (row0 + 64 < rows) {
      load(row0 + 64, stage ^ 1);
      CopyAsyncWait<1>();
    } else {
      CopyAsyncWait<0>();
    }
    FenceAsyncShared();
    __syncthreads();
    const char* q = tiles + stage * 2 * Shape::kTileBytes;
    const char* dout = q + Shape::kTileBytes;
    const float* stat = stats + stage * 192;
    const int* tokens = reinterpret_cast<const int*>(stat) + 128;
    float score[32], dp[32];
    MultiplyTwo<kDim>(score, keys, q, dp, values, dout);
    const bool diagonal = row0 / args.group < start + 63;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int r = i / 4 * 8 + column + i % 2;
      float p = Exp2(__fmaf_rn(score[i], args.scale_log2, -stat[r]));
      if (diagonal && start + row + 8 * (i / 2 % 2) > tokens[r]) p = 0;
      score[i] = p;
      dp[i] = p * (dp[i] - stat[64 + r]);
    }
    uint32_t p[4][4], ds[4][4];
    PackWeights(score, p);
    PackWeights(dp, ds);
    WgmmaTouch(dv);
    WgmmaTouch(dk);
    WgmmaFence();
    MultiplyWeights<kDim>(dv, p, dout);
    MultiplyWeights<kDim>(dk, ds, q);
    WgmmaCommit();
    WgmmaWait<0>();
    WgmmaTouch(dv);
    WgmmaTouch(dk);
    __syncthreads();
  }
  const auto row_of = [&](__nv_bfloat16* data, int64_t token_stride, int64_t head_stride) {
    return [=](int m) -> __nv_bfloat16* {
      return m < valid ? data + (s.q_begin + start + m) * token_stride + head * head_stride : nullptr;
    };
  };
  StoreFragment<kDim>(dk, args.scale, thread, row_of(args.dk, args.dk_token, args.dk_head));
  StoreFragment<kDim>(dv, 1.0f, thread, row_of(args.dv, args.dv_token, args.dv_head));
}

template <int kDim>
struct QueryShape {
  static constexpr int kBoxes = kDim / 64, kTileBytes = kBoxes * 8192, kThreads = 160, kStages = 2;
  static constexpr int kBlocks = kDim == 64 ? 3 : 2;
  static constexpr int kSharedBytes = 1024 + (2 + 2 * kStages) * kTileBytes + 16 * kStages;
};

template <int kDim>
__global__ void __launch_bounds__(QueryShape<kDim>::kThreads, QueryShape<kDim>::kBlocks)
    QueryKernel(const __grid_constant__ BackwardArguments args) {
  using Shape = QueryShape<kDim>;
  extern __shared__ char shared_raw[];
  const DeviceSequence s = args.batch.sequences[blockIdx.x];
  const int head = blockIdx.z, rows = s.q_len * args.group;
  const int first_row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * 64;  // the longest first
  if (first_row >= rows) return;
  char* shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* stages = shared + 2 * Shape::kTileBytes;
  uint64_t* full = reinterpret_cast<uint64_t*>(stages + Shape::kStages * 2 * Shape::kTileBytes);
  uint64_t* empty = full + Shape::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      BarrierInit(&full[i], 1);
      BarrierInit(&empty[i], 4);
    }
    BarrierInitFence();
  }
  __syncthreads();
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, lane = threadIdx.x % 32;
  const int page_end = (min(first_row + 63, rows - 1) / args.group) / 64 + 1;
  int stage = 0;
  uint32_t phase = 0;
  const auto next = [&] {
    if (++stage == Shape::kStages) stage = 0, phase ^= 1;
  };
  if (warpgroup == 1) {  // the warp that fetches
    if (lane != 0) return;
    const int32_t* table = args.batch.pages + s.first_page;
    for (int page = 0; page < page_end; ++page) {
      BarrierWait(&empty[stage], phase ^ 1);
      BarrierExpect(&full[stage], 2 * Shape::kTileBytes);
      CopyBulk(stages + stage * 2 * Shape::kTileBytes, args.pages.Head(table[page], head), 2 * Shape::kTileBytes,
               &full[stage]);
      next();
    }
    return;
  }

  char* q = shared;
  char* dout = q + Shape::kTileBytes;
  const int count = min(64, rows - first_row);
  LoadRows(args.q, s, head, args.group, first_row, count, kDim, q, thread, 128);
  LoadRows(args.dout, s, head, args.group, first_row, count, kDim, dout, thread, 128);
  FenceAsyncShared();
  NamedBarrier(1, 128);
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
  float dq[kDim / 2];
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) dq[i] = 0;
  for (int page = 0; page < page_end; ++page) {
    BarrierWait(&full[stage], phase);
    if (page * 64 <= last) {
      char* keys = stages + stage * 2 * Shape::kTileBytes;
      char* values = keys + Shape::kTileBytes;
      const int valid = s.q_len - page * 64;
      if (valid < 64) {
        ZeroTokens(keys, 2 * Shape::kBoxes, valid, thread, 128);
        FenceAsyncShared();
        NamedBarrier(1, 128);
      }
      float score[32], dp[32];
      MultiplyTwo<kDim>(score, q, keys, dp, dout, values);
      const bool diagonal = own[0] < page * 64 + 63 || own[1] < page * 64 + 63;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int h = i / 2 % 2;
        float p = Exp2(__fmaf_rn(score[i], args.scale_log2, -lse[h]));
        if (diagonal && page * 64 + i / 4 * 8 + column + i % 2 > own[h]) p = 0;
        dp[i] = p * (dp[i] - row_dot[h]);
      }
      uint32_t ds[4][4];
      PackWeights(dp, ds);
      WgmmaTouch(dq);
      WgmmaFence();
      MultiplyWeights<kDim>(dq, ds, keys);
      WgmmaCommit();
      WgmmaWait<0>();
      WgmmaTouch(dq);
    }
    if (lane == 0) BarrierArrive(&empty[stage]);
    next();
  }
  StoreFragment<kDim>(dq, args.scale, thread, [&](int m) -> __nv_bfloat16* {
    if (m >= count) return nullptr;
    const int r = first_row + m;
    return args.dq + (s.q_begin + r / args.group) * args.dq_token + (head * args.group + r % args.group) * args.dq_head;
  });
}

template <int kDim>
void Launch(Stream& stream, const BackwardArguments& args) {
  using Keys = KeyShape<kDim>;
  using Queries = QueryShape<kDim>;
  static uint64_t allowed_keys = 0, allowed_queries = 0;
  AllowSharedMemory(KeyKernel<kDim>, Keys::kSharedBytes, allowed_keys);
  AllowSharedMemory(QueryKernel<kDim>, Queries::kSharedBytes, allowed_queries);
  const unsigned sequences = static_cast<unsigned>(args.batch.num_sequences);
  const unsigned heads = static_cast<unsigned>(args.pages.num_kv_heads);
  const int64_t rows = int64_t{args.batch.max_q_len} * args.group;
  const dim3 key_grid(sequences, static_cast<unsigned>((args.batch.max_q_len + 63) / 64), heads);
  KeyKernel<kDim><<<key_grid, Keys::kThreads, Keys::kSharedBytes, HandleOf(stream)>>>(args);
  GROUPER_CUDA_CHECK(cudaGetLastError());
  const dim3 query_grid(sequences, static_cast<unsigned>((rows + 63) / 64), heads);
  QueryKernel<kDim><<<query_grid, Queries::kThreads, Queries::kSharedBytes, HandleOf(stream)>>>(args);
  GROUPER_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void GqaBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                 const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                 const Tensor& dv) {
  const Arena::Mark mark = stream.scratch.mark();
  const BackwardArguments args = MakeBackwardArguments(stream, kv, prepared, q, scale, out, lse, dout, dq, dk, dv);
  kv.layout.key_dim == 128 ? Launch<128>(stream, args) : Launch<64>(stream, args);
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
