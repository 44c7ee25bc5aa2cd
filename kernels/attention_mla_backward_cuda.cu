// Gradients of absorbed multi-head latent attention (576/512) on the tensor cores, deterministic: no sum is shared
// between blocks.
//
//   p = exp(scale s - lse),  dp = dout V^T,  ds = p (dp - <dout, out>) scale;  V is the first 512 columns of K
//   KeyKernel   a block: one page of keys; over all rows from the first that sees it, 64 at a time:
//               dK += dS^T Q,  dK[., :512] += P^T dout
//   QueryKernel a block: 64 rows; over their pages:  dQ += dS K
//
// Two warpgroups. Each computes scores against 32 of the tile's 64 rows (keys), hands P and dS over in shared memory,
// and sums half of the 576 columns: 256 w .. 256 w + 255 and 512 + 32 w .. 512 + 32 w + 31. Shared memory holds one
// tile of everything (keys 72 KB, q 72 KB, dout 64 KB), so copies and products take turns.
#include "kernels/attention_backward.cuh"

namespace grouper::kernels::cuda {
namespace {

constexpr int kKeyBoxes = 9, kValueBoxes = 8, kBox = 8192, kThreads = 256;
constexpr int kKeyBytes = kKeyBoxes * kBox, kValueBytes = kValueBoxes * kBox;
constexpr int kKeyKernelBytes = 1024 + 2 * kKeyBytes + kValueBytes + 2 * kBox + 192 * 4 + 16;
constexpr int kQueryKernelBytes = 1024 + 2 * kKeyBytes + kValueBytes + kBox + 16;

// Scores of the 64 rows of `a_keys` boxes with 32 rows of the other side: c = A B^T over 576, d = E F^T over 512.
__device__ __forceinline__ void Scores(float (&c)[16], const char* a, const char* b, float (&d)[16], const char* e,
                                       const char* f) {
#pragma unroll
  for (int i = 0; i < 16; ++i) c[i] = d[i] = 0;
  const uint64_t desc_a = DescriptorKMajor(a), desc_b = DescriptorKMajor(b), desc_e = DescriptorKMajor(e),
                 desc_f = DescriptorKMajor(f);
  WgmmaTouch(c);
  WgmmaTouch(d);
  WgmmaFence();
#pragma unroll
  for (int k = 0; k < 36; ++k) {
    const uint32_t step = k / 4 * kBox + k % 4 * 32;
    WgmmaBF16<32>::Mma<0, 0>(c, Advance(desc_a, step), Advance(desc_b, step));
  }
#pragma unroll
  for (int k = 0; k < 32; ++k) {
    const uint32_t step = k / 4 * kBox + k % 4 * 32;
    WgmmaBF16<32>::Mma<0, 0>(d, Advance(desc_e, step), Advance(desc_f, step));
  }
  WgmmaCommit();
  WgmmaWait<0>();
  WgmmaTouch(c);
  WgmmaTouch(d);
}

// A warpgroup's columns of a 64 x 576 sum.
struct Columns {
  float wide[128], narrow[16];
};

// sum += W X over 64 of k: W one K-major box in shared memory, X MN-major boxes of 64 rows.
__device__ __forceinline__ void AddWide(float (&sum)[128], const char* weights, const char* boxes, int warpgroup) {
  const uint64_t desc_w = DescriptorKMajor(weights), desc_x = DescriptorMnMajor(boxes + warpgroup * 4 * kBox, kBox);
#pragma unroll
  for (int k = 0; k < 4; ++k) WgmmaBF16<256>::Mma<0, 1>(sum, Advance(desc_w, k * 32), Advance(desc_x, k * 2048));
}
__device__ __forceinline__ void AddNarrow(float (&sum)[16], const char* weights, const char* boxes, int warpgroup) {
  const uint64_t desc_w = DescriptorKMajor(weights);
  const uint64_t desc_x = DescriptorMnMajor(boxes + 8 * kBox + warpgroup * 64, kBox);
#pragma unroll
  for (int k = 0; k < 4; ++k) WgmmaBF16<32>::Mma<0, 1>(sum, Advance(desc_w, k * 32), Advance(desc_x, k * 2048));
}

// A fragment's 64 x 32 weights into columns [32 w, 32 w + 32) of a box.
__device__ __forceinline__ void StoreWeights(const float (&x)[16], char* box, int row, int column) {
#pragma unroll
  for (int i = 0; i < 16; i += 2)
    *reinterpret_cast<uint32_t*>(box + PageView::Box(row + 8 * (i / 2 % 2), i / 4 * 8 + column)) =
        PackBF16(x[i], x[i + 1]);
}

__global__ void __launch_bounds__(kThreads, 1) KeyKernel(const __grid_constant__ BackwardArguments args) {
  extern __shared__ char shared_raw[];
  const DeviceSequence s = args.batch.sequences[blockIdx.x];
  const int start = blockIdx.y * 64, rows = s.q_len * args.group, valid = min(64, s.q_len - start);
  if (valid <= 0) return;
  char* keys = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* q = keys + kKeyBytes;
  char* dout = q + kKeyBytes;
  char* box_p = dout + kValueBytes;
  char* box_ds = box_p + kBox;
  float* lse = reinterpret_cast<float*>(box_ds + kBox);
  float* row_dot = lse + 64;
  int* tokens = reinterpret_cast<int*>(row_dot + 64);
  uint64_t* full = reinterpret_cast<uint64_t*>(tokens + 64);
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
  if (threadIdx.x == 0) {
    BarrierInit(full, 1);
    BarrierInitFence();
    BarrierExpect(full, kKeyBytes);
    CopyBulk(keys, args.pages.Head(args.batch.pages[s.first_page + blockIdx.y], 0), kKeyBytes, full);
  }
  __syncthreads();
  BarrierWait(full, 0);
  if (valid < 64) ZeroTokens(keys, kKeyBoxes, valid, threadIdx.x, kThreads);

  Columns dk;
#pragma unroll
  for (int i = 0; i < 128; ++i) dk.wide[i] = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) dk.narrow[i] = 0;
  const int row = thread / 32 * 16 + thread % 32 / 4, column = warpgroup * 32 + 2 * (thread % 4);
  for (int row0 = start * args.group; row0 < rows; row0 += 64) {
    for (int i = threadIdx.x; i < 64 * 72; i += kThreads) {
      const int r = i / 72, d = i % 72 * 8, from = min(row0 + r, rows - 1);
      const int64_t token = s.q_begin + from / args.group, head = from % args.group;
      const bool present = row0 + r < rows;
      CopyAsync(q + PageView::Box(r, d), args.q.data + token * args.q.token_stride + head * args.q.head_stride + d,
                present);
      if (d < 512)
        CopyAsync(dout + PageView::Box(r, d),
                  args.dout.data + token * args.dout.token_stride + head * args.dout.head_stride + d, present);
    }
    if (threadIdx.x < 64) {
      const int r = row0 + static_cast<int>(threadIdx.x);
      const bool present = r < rows;
      const int64_t place = StatisticOf(args, s, 0, min(r, rows - 1));
      lse[threadIdx.x] = present ? args.lse[place] * kLog2E : INFINITY;
      row_dot[threadIdx.x] = present ? args.row_dot[place] : 0.0f;
      tokens[threadIdx.x] = r / args.group;
    }
    CopyAsyncCommit();
    CopyAsyncWait<0>();
    FenceAsyncShared();
    __syncthreads();
    float p[16], ds[16];
    Scores(p, keys, q + warpgroup * 4096, ds, keys, dout + warpgroup * 4096);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int r = i / 4 * 8 + column + i % 2;
      float x = Exp2(__fmaf_rn(p[i], args.scale_log2, -lse[r]));
      if (start + row + 8 * (i / 2 % 2) > tokens[r]) x = 0;
      p[i] = x;
      ds[i] = x * (ds[i] - row_dot[r]) * args.scale;
    }
    StoreWeights(p, box_p, row, column);
    StoreWeights(ds, box_ds, row, column);
    FenceAsyncShared();
    __syncthreads();
    WgmmaTouch(dk.wide);
    WgmmaTouch(dk.narrow);
    WgmmaFence();
    AddWide(dk.wide, box_ds, q, warpgroup);
    AddNarrow(dk.narrow, box_ds, q, warpgroup);
    AddWide(dk.wide, box_p, dout, warpgroup);
    WgmmaCommit();
    WgmmaWait<0>();
    WgmmaTouch(dk.wide);
    WgmmaTouch(dk.narrow);
    __syncthreads();
  }
  const auto row_of = [&](int column0) {
    return [=](int m) -> __nv_bfloat16* {
      return m < valid ? args.dk + (s.q_begin + start + m) * args.dk_token + column0 : nullptr;
    };
  };
  StoreFragment<256>(dk.wide, 1.0f, thread, row_of(warpgroup * 256));
  StoreFragment<32>(dk.narrow, 1.0f, thread, row_of(512 + warpgroup * 32));
}

__global__ void __launch_bounds__(kThreads, 1) QueryKernel(const __grid_constant__ BackwardArguments args) {
  extern __shared__ char shared_raw[];
  const DeviceSequence s = args.batch.sequences[blockIdx.x];
  const int rows = s.q_len * args.group,
            first_row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * 64;  // the longest first
  if (first_row >= rows) return;
  char* keys = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* q = keys + kKeyBytes;
  char* dout = q + kKeyBytes;
  char* box_ds = dout + kValueBytes;
  uint64_t* full = reinterpret_cast<uint64_t*>(box_ds + kBox);
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, count = min(64, rows - first_row);
  const int32_t* table = args.batch.pages + s.first_page;
  const auto fetch = [&](int page) {
    BarrierExpect(full, kKeyBytes);
    CopyBulk(keys, args.pages.Head(table[page], 0), kKeyBytes, full);
  };
  if (threadIdx.x == 0) {
    BarrierInit(full, 1);
    BarrierInitFence();
    fetch(0);
  }
  LoadRows(args.q, s, 0, args.group, first_row, count, 576, q, threadIdx.x, kThreads);
  LoadRows(args.dout, s, 0, args.group, first_row, count, 512, dout, threadIdx.x, kThreads);
  FenceAsyncShared();
  __syncthreads();
  const int row = thread / 32 * 16 + thread % 32 / 4, column = warpgroup * 32 + 2 * (thread % 4);
  int own[2];
  float lse[2], row_dot[2];
  for (int h = 0; h < 2; ++h) {
    const bool present = row + 8 * h < count;
    const int r = first_row + row + 8 * h;
    own[h] = present ? r / args.group : -1;
    lse[h] = present ? args.lse[StatisticOf(args, s, 0, r)] * kLog2E : 0.0f;
    row_dot[h] = present ? args.row_dot[StatisticOf(args, s, 0, r)] : 0.0f;
  }
  Columns dq;
#pragma unroll
  for (int i = 0; i < 128; ++i) dq.wide[i] = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) dq.narrow[i] = 0;
  const int page_end = (first_row + count - 1) / args.group / 64 + 1;
  for (int page = 0; page < page_end; ++page) {
    BarrierWait(full, page & 1);
    const int valid = s.q_len - page * 64;
    if (valid < 64) {
      ZeroTokens(keys, kKeyBoxes, valid, threadIdx.x, kThreads);
      FenceAsyncShared();
      __syncthreads();
    }
    float score[16], ds[16];
    Scores(score, q, keys + warpgroup * 4096, ds, dout, keys + warpgroup * 4096);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int h = i / 2 % 2;
      float p = Exp2(__fmaf_rn(score[i], args.scale_log2, -lse[h]));
      if (page * 64 + i / 4 * 8 + column + i % 2 > own[h]) p = 0;
      ds[i] = p * (ds[i] - row_dot[h]) * args.scale;
    }
    StoreWeights(ds, box_ds, row, column);
    FenceAsyncShared();
    __syncthreads();
    WgmmaTouch(dq.wide);
    WgmmaTouch(dq.narrow);
    WgmmaFence();
    AddWide(dq.wide, box_ds, keys, warpgroup);
    AddNarrow(dq.narrow, box_ds, keys, warpgroup);
    WgmmaCommit();
    WgmmaWait<0>();
    WgmmaTouch(dq.wide);
    WgmmaTouch(dq.narrow);
    __syncthreads();
    if (threadIdx.x == 0 && page + 1 < page_end) fetch(page + 1);
  }
  const auto row_of = [&](int column0) {
    return [=](int m) -> __nv_bfloat16* {
      if (m >= count) return nullptr;
      const int r = first_row + m;
      return args.dq + (s.q_begin + r / args.group) * args.dq_token + r % args.group * args.dq_head + column0;
    };
  };
  StoreFragment<256>(dq.wide, 1.0f, thread, row_of(warpgroup * 256));
  StoreFragment<32>(dq.narrow, 1.0f, thread, row_of(512 + warpgroup * 32));
}

}  // namespace

void MlaBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                 const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk) {
  const Arena::Mark mark = stream.scratch.mark();
  const BackwardArguments args = MakeBackwardArguments(stream, kv, prepared, q, scale, out, lse, dout, dq, dk, {});
  static uint64_t allowed_keys = 0, allowed_queries = 0;
  AllowSharedMemory(KeyKernel, kKeyKernelBytes, allowed_keys);
  AllowSharedMemory(QueryKernel, kQueryKernelBytes, allowed_queries);
  const unsigned sequences = static_cast<unsigned>(args.batch.num_sequences);
  const int64_t rows = int64_t{args.batch.max_q_len} * args.group;
  const dim3 key_grid(sequences, static_cast<unsigned>((args.batch.max_q_len + 63) / 64));
  KeyKernel<<<key_grid, kThreads, kKeyKernelBytes, HandleOf(stream)>>>(args);
  GROUPER_CUDA_CHECK(cudaGetLastError());
  const dim3 query_grid(sequences, static_cast<unsigned>((rows + 63) / 64));
  QueryKernel<<<query_grid, kThreads, kQueryKernelBytes, HandleOf(stream)>>>(args);
  GROUPER_CUDA_CHECK(cudaGetLastError());
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
