// Paged attention for every width, in float and bf16, in the CPU's order of sums (attention_tile.h), so that the bits
// equal the CPU's. One warp a row (forward, dq), one block a page and kv head (dk, dv). For small models and unusual
// widths: it computes with plain fma, bound by shared and L1 memory.
//
//   sums over 64 tokens in lanes: token j goes to lane j mod 8, ascending; lanes join as ((0+4)+(2+6)) + ((1+5)+(3+7))
#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_pages.cuh"
#include "kernels/cuda_launch.h"
#include "kernels/math.cuh"

namespace grouper::kernels::cuda {
namespace {

constexpr int kWarps = 4, kBlockRows = 8;

__device__ __forceinline__ float Wide(float x) { return x; }
__device__ __forceinline__ float Wide(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename S>
__device__ __forceinline__ S Narrow(float x) {
  if constexpr (sizeof(S) == 4) {
    return x;
  } else {
    return __float2bfloat16_rn(x);
  }
}

// Rows of [tokens, heads, width].
template <typename S>
struct HeadRows {
  S* data;
  int64_t token_stride, head_stride;
  __device__ S* at(int64_t token, int64_t head) const { return data + token * token_stride + head * head_stride; }
};

template <typename S>
HeadRows<S> RowsOf(const Tensor& t) {
  return t.empty() ? HeadRows<S>{nullptr, 0, 0} : HeadRows<S>{static_cast<S*>(t.raw()), t.stride(0), t.stride(1)};
}

// One kv head's part of a page, in the plain layout.
template <typename S>
struct PlainPage {
  const S *keys, *values;
  int value_dim;
  bool values_in_keys;
  __device__ PlainPage(const PageView& view, int64_t page, int head)
      : keys(reinterpret_cast<const S*>(view.Head(page, head))),
        values(keys + int64_t{64} * view.key_dim),
        value_dim(view.value_dim),
        values_in_keys(view.values_in_keys) {}
  __device__ float Key(int token, int d) const { return Wide(keys[d * 64 + token]); }
  __device__ float Value(int token, int d) const {
    return values_in_keys ? Key(token, d) : Wide(values[token * value_dim + d]);
  }
};

// The fixed tree over the lanes of each group of eight threads; all get the sum.
__device__ __forceinline__ float ReduceLanes(float x) {
  x = __fadd_rn(x, __shfl_xor_sync(0xffffffff, x, 4));
  x = __fadd_rn(x, __shfl_xor_sync(0xffffffff, x, 2));
  return __fadd_rn(x, __shfl_xor_sync(0xffffffff, x, 1));
}
__device__ __forceinline__ float Tree(const float (&a)[8]) {
  const float s0 = __fadd_rn(a[0], a[4]), s1 = __fadd_rn(a[1], a[5]), s2 = __fadd_rn(a[2], a[6]),
              s3 = __fadd_rn(a[3], a[7]);
  return __fadd_rn(__fadd_rn(s0, s2), __fadd_rn(s1, s3));
}

// sum_j weights[j] x(j), j < n, in lanes.
template <typename F>
__device__ __forceinline__ float LaneDot(const float* weights, int n, F x) {
  float a[8] = {};
  for (int j0 = 0; j0 < n; j0 += 8) {
#pragma unroll
    for (int l = 0; l < 8; ++l) {
      if (j0 + l < n) a[l] = __fmaf_rn(weights[j0 + l], x(j0 + l), a[l]);
    }
  }
  return Tree(a);
}

struct Problem {
  DeviceBatch batch;
  PageView pages;
  int query_heads, group;
  float scale;
};

template <typename S>
__global__ void ForwardKernel(const Problem p, const HeadRows<const S> q, const HeadRows<S> out, float* lse) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int key_dim = p.pages.key_dim, value_dim = p.pages.value_dim;
  float* query = shared + warp * (key_dim + value_dim + 64);
  float* value = query + key_dim;
  float* weights = value + value_dim;
  const DeviceSequence s = p.batch.sequences[blockIdx.x];
  for (int r = blockIdx.y * kWarps + warp; r < s.q_len * p.query_heads; r += gridDim.y * kWarps) {
    const int token = r / p.query_heads, head = r % p.query_heads, position = s.context + token;
    const S* from = q.at(s.q_begin + token, head);
    __syncwarp();
    for (int d = lane; d < key_dim; d += 32) query[d] = Wide(from[d]);
    float maximum = -INFINITY, sum = 0;
    for (int page = 0; page * 64 <= position; ++page) {
      const PlainPage<S> view(p.pages, p.batch.pages[s.first_page + page], head / p.group);
      const int n = min(64, position + 1 - page * 64);
      __syncwarp();
      float score[2], high = -INFINITY;
      for (int i = 0; i < 2; ++i) {
        const int j = lane + 32 * i;
        float chain = 0;
        if (j < n) {
          for (int d = 0; d < key_dim; ++d) chain = __fmaf_rn(query[d], view.Key(j, d), chain);
        }
        score[i] = j < n ? __fmul_rn(chain, p.scale) : -INFINITY;
        high = fmaxf(high, score[i]);
      }
      for (int step = 16; step > 0; step /= 2) high = fmaxf(high, __shfl_xor_sync(0xffffffff, high, step));
      for (int i = 0; i < 2; ++i) {
        const int j = lane + 32 * i;
        weights[j] = j < n ? Exp(__fsub_rn(score[i], high)) : 0.0f;
      }
      __syncwarp();
      float total = 0;
      for (int j = lane % 8; j < 64; j += 8) total = __fadd_rn(total, weights[j]);
      total = ReduceLanes(total);
      const float joint = fmaxf(maximum, high);
      const float old_scale = page == 0 ? 0 : Exp(__fsub_rn(maximum, joint)),
                  new_scale = page == 0 ? 1 : Exp(__fsub_rn(high, joint));
      for (int d = lane; d < value_dim; d += 32) {
        float x = 0;
        if (view.values_in_keys) {
          x = LaneDot(weights, n, [&](int j) { return view.Key(j, d); });
        } else {
          for (int j = 0; j < n; ++j) x = __fmaf_rn(weights[j], view.Value(j, d), x);
        }
        value[d] = page == 0 ? x : __fmaf_rn(value[d], old_scale, __fmul_rn(x, new_scale));
      }
      sum = page == 0 ? total : __fmaf_rn(sum, old_scale, __fmul_rn(total, new_scale));
      maximum = joint;
    }
    const float inverse = __frcp_rn(sum);
    S* to = out.at(s.q_begin + token, head);
    for (int d = lane; d < value_dim; d += 32) to[d] = Narrow<S>(__fmul_rn(value[d], inverse));
    if (lane == 0 && lse != nullptr)
      lse[static_cast<int64_t>(s.q_begin + token) * p.query_heads + head] = __fadd_rn(maximum, Log(sum));
  }
}

// row_dot[t, h] = <dout, out>, in lanes.
template <typename S>
__global__ void RowDotKernel(int64_t rows, int heads, int width, const HeadRows<const S> dout,
                             const HeadRows<const S> out, float* row_dot) {
  KernelBegin();
  const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.x / 8 + threadIdx.x / 8;
  const int lane = threadIdx.x % 8;
  float sum = 0;
  if (r < rows) {
    const S *a = dout.at(r / heads, r % heads), *b = out.at(r / heads, r % heads);
    for (int d = lane; d < width; d += 8) sum = __fmaf_rn(Wide(a[d]), Wide(b[d]), sum);
  }
  sum = ReduceLanes(sum);
  if (r < rows && lane == 0) row_dot[r] = sum;
}

// p = exp(score scale - lse) and ds = p (dp - row_dot) scale, of one (row, token).
struct Weights {
  float p, ds;
};
__device__ __forceinline__ Weights BackwardWeights(float score, float dp, float scale, float lse, float row_dot) {
  const float p = Exp(__fsub_rn(__fmul_rn(score, scale), lse));
  return {p, __fmul_rn(__fmul_rn(p, __fsub_rn(dp, row_dot)), scale)};
}

template <typename S>
__global__ void QueryGradientKernel(const Problem p, const HeadRows<const S> q, const HeadRows<const S> dout,
                                    const float* lse, const float* row_dot, const HeadRows<S> dq) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int key_dim = p.pages.key_dim, value_dim = p.pages.value_dim;
  float* query = shared + warp * (2 * key_dim + value_dim + 64);
  float* gradient = query + key_dim;
  float* upstream = gradient + key_dim;
  float* weights = upstream + value_dim;
  const DeviceSequence s = p.batch.sequences[blockIdx.x];
  for (int r = blockIdx.y * kWarps + warp; r < s.q_len * p.query_heads; r += gridDim.y * kWarps) {
    const int token = r / p.query_heads, head = r % p.query_heads;
    const int64_t row = static_cast<int64_t>(s.q_begin + token) * p.query_heads + head;
    const S *from = q.at(s.q_begin + token, head), *up = dout.at(s.q_begin + token, head);
    __syncwarp();
    for (int d = lane; d < key_dim; d += 32) query[d] = Wide(from[d]), gradient[d] = 0;
    for (int d = lane; d < value_dim; d += 32) upstream[d] = Wide(up[d]);
    for (int page = 0; page * 64 <= token; ++page) {
      const PlainPage<S> view(p.pages, p.batch.pages[s.first_page + page], head / p.group);
      const int n = min(64, token + 1 - page * 64);
      __syncwarp();
      for (int j = lane; j < n; j += 32) {
        float score = 0, dp = 0;
        for (int d = 0; d < key_dim; ++d) score = __fmaf_rn(query[d], view.Key(j, d), score);
        for (int d = 0; d < value_dim; ++d) dp = __fmaf_rn(upstream[d], view.Value(j, d), dp);
        weights[j] = BackwardWeights(score, dp, p.scale, lse[row], row_dot[row]).ds;
      }
      __syncwarp();
      for (int d = lane; d < key_dim; d += 32)
        gradient[d] = __fadd_rn(gradient[d], LaneDot(weights, n, [&](int j) { return view.Key(j, d); }));
    }
    S* to = dq.at(s.q_begin + token, head);
    for (int d = lane; d < key_dim; d += 32) to[d] = Narrow<S>(gradient[d]);
  }
}

// A block: a page of one sequence and kv head. Rows that see it, ascending, in blocks of eight: keys' then values'
// sums.
template <typename S>
__global__ void KeyGradientKernel(const Problem p, const HeadRows<const S> q, const HeadRows<const S> dout,
                                  const float* lse, const float* row_dot, const HeadRows<S> dk, const HeadRows<S> dv) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(float, shared);
  const DeviceSequence s = p.batch.sequences[blockIdx.x];
  const int page = blockIdx.y, head = blockIdx.z, start = page * 64;
  if (start >= s.q_len) return;
  const int key_dim = p.pages.key_dim, value_dim = p.pages.value_dim, page_tokens = min(64, s.q_len - start);
  float* keys = shared;                                  // [key_dim][64]
  float* values = keys + key_dim * 64;                   // [value_dim][64]
  float* queries = values + value_dim * 64;              // [8][key_dim]
  float* upstream = queries + kBlockRows * key_dim;      // [8][value_dim]
  float* weights_p = upstream + kBlockRows * value_dim;  // [8][64]
  float* weights_ds = weights_p + kBlockRows * 64;
  for (int i = threadIdx.x; i < (key_dim + value_dim) * 64; i += blockDim.x) keys[i] = 0;
  const PlainPage<S> view(p.pages, p.batch.pages[s.first_page + page], head);
  const int rows = s.q_len * p.group;
  for (int block = start * p.group; block < rows; block += kBlockRows) {
    const int count = min(kBlockRows, rows - block);
    __syncthreads();
    for (int i = threadIdx.x; i < count * key_dim; i += blockDim.x) {
      const int r = block + i / key_dim;
      queries[i] = Wide(q.at(s.q_begin + r / p.group, head * p.group + r % p.group)[i % key_dim]);
    }
    for (int i = threadIdx.x; i < count * value_dim; i += blockDim.x) {
      const int r = block + i / value_dim;
      upstream[i] = Wide(dout.at(s.q_begin + r / p.group, head * p.group + r % p.group)[i % value_dim]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * 64; i += blockDim.x) {
      const int r = block + i / 64, j = i % 64, n = min(page_tokens, r / p.group + 1 - start);
      Weights w = {0, 0};
      if (j < n) {
        const float *query = queries + i / 64 * key_dim, *up = upstream + i / 64 * value_dim;
        float score = 0, dp = 0;
        for (int d = 0; d < key_dim; ++d) score = __fmaf_rn(query[d], view.Key(j, d), score);
        for (int d = 0; d < value_dim; ++d) dp = __fmaf_rn(up[d], view.Value(j, d), dp);
        const int64_t row =
            static_cast<int64_t>(s.q_begin + r / p.group) * p.query_heads + head * p.group + r % p.group;
        w = BackwardWeights(score, dp, p.scale, lse[row], row_dot[row]);
      }
      weights_p[i] = w.p;
      weights_ds[i] = w.ds;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < key_dim * 64; i += blockDim.x) {
      float sum = keys[i];
      for (int r = 0; r < count; ++r) sum = __fmaf_rn(weights_ds[r * 64 + i % 64], queries[r * key_dim + i / 64], sum);
      keys[i] = sum;
    }
    for (int i = threadIdx.x; i < value_dim * 64; i += blockDim.x) {
      float sum = values[i];
      for (int r = 0; r < count; ++r)
        sum = __fmaf_rn(weights_p[r * 64 + i % 64], upstream[r * value_dim + i / 64], sum);
      values[i] = sum;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < page_tokens * key_dim; i += blockDim.x)
    dk.at(s.q_begin + start + i / key_dim, head)[i % key_dim] = Narrow<S>(keys[i % key_dim * 64 + i / key_dim]);
  for (int i = threadIdx.x; i < page_tokens * value_dim; i += blockDim.x)
    dv.at(s.q_begin + start + i / value_dim, head)[i % value_dim] = Narrow<S>(values[i % value_dim * 64 + i / value_dim]);
}

Problem ProblemOf(const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale) {
  const int heads = static_cast<int>(q.dim(1));
  return {prepared.batch, PageView(kv), heads, heads / kv.layout.num_kv_heads, static_cast<float>(scale)};
}

dim3 RowGrid(const DeviceBatch& batch, int heads) {
  const int64_t rows = int64_t{batch.max_q_len} * heads;
  return dim3(static_cast<unsigned>(batch.num_sequences),
              static_cast<unsigned>(std::clamp<int64_t>((rows + kWarps - 1) / kWarps, 1, 16384)));
}

template <typename Kernel>
int SharedBytes(Kernel* kernel, int64_t floats) {
  const int bytes = static_cast<int>(floats * 4);
  CHECK(bytes <= 227 * 1024) << "attention heads of this width need " << bytes << " bytes of shared memory";
  GROUPER_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  return bytes;
}

template <typename S>
void Forward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
             const Tensor& out, const Tensor& lse) {
  const Problem p = ProblemOf(kv, prepared, q, scale);
  const int bytes = SharedBytes(ForwardKernel<S>, kWarps * (p.pages.key_dim + p.pages.value_dim + 64));
  LaunchKernel(stream, RowGrid(p.batch, p.query_heads), 32 * kWarps, bytes, ForwardKernel<S>, p, RowsOf<const S>(q), RowsOf<S>(out),
               static_cast<float*>(lse.raw()));
}

template <typename S>
void Backward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
              const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
              const Tensor& dv) {
  const Problem p = ProblemOf(kv, prepared, q, scale);
  const int key_dim = p.pages.key_dim, value_dim = p.pages.value_dim;
  const Arena::Mark mark = stream.scratch.mark();
  const float* row_dot = RowDots(stream, dout, out);
  int bytes = SharedBytes(QueryGradientKernel<S>, kWarps * (2 * key_dim + value_dim + 64));
  LaunchKernel(stream, RowGrid(p.batch, p.query_heads), 32 * kWarps, bytes, QueryGradientKernel<S>, p, RowsOf<const S>(q),
               RowsOf<const S>(dout), lse.data<float>(), row_dot, RowsOf<S>(dq));
  const int64_t floats = 64 * (key_dim + value_dim) + kBlockRows * (key_dim + value_dim + 128);
  bytes = SharedBytes(KeyGradientKernel<S>, floats);
  const dim3 grid(static_cast<unsigned>(p.batch.num_sequences), static_cast<unsigned>((p.batch.max_q_len + 63) / 64),
                  static_cast<unsigned>(p.pages.num_kv_heads));
  LaunchKernel(stream, grid, 256, bytes, KeyGradientKernel<S>, p, RowsOf<const S>(q), RowsOf<const S>(dout), lse.data<float>(), row_dot,
               RowsOf<S>(dk), RowsOf<S>(dv));
  stream.scratch.Release(mark);
}

template <typename S>
void LaunchRowDots(Stream& stream, const Tensor& dout, const Tensor& out, float* row_dot) {
  const int64_t rows = dout.dim(0) * dout.dim(1);
  LaunchKernel(stream, static_cast<unsigned>((rows + 31) / 32), 256, 0, RowDotKernel<S>, rows, static_cast<int>(dout.dim(1)),
               static_cast<int>(dout.dim(2)), RowsOf<const S>(dout), RowsOf<const S>(out), row_dot);
}

}  // namespace

const float* RowDots(Stream& stream, const Tensor& dout, const Tensor& out) {
  auto* row_dot = static_cast<float*>(stream.scratch.Allocate(static_cast<size_t>(dout.dim(0) * dout.dim(1)) * 4));
  dout.dtype() == DType::kF32 ? LaunchRowDots<float>(stream, dout, out, row_dot)
                              : LaunchRowDots<__nv_bfloat16>(stream, dout, out, row_dot);
  return row_dot;
}

void ChainAttention(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                    const Tensor& out, const Tensor& lse) {
  if (q.dtype() == DType::kF32) return Forward<float>(stream, kv, prepared, q, scale, out, lse);
  Forward<__nv_bfloat16>(stream, kv, prepared, q, scale, out, lse);
}

void ChainAttentionBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q,
                            double scale, const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq,
                            const Tensor& dk, const Tensor& dv) {
  if (q.dtype() == DType::kF32) return Backward<float>(stream, kv, prepared, q, scale, out, lse, dout, dq, dk, dv);
  Backward<__nv_bfloat16>(stream, kv, prepared, q, scale, out, lse, dout, dq, dk, dv);
}

}  // namespace grouper::kernels::cuda
