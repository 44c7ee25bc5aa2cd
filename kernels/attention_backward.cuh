// What attention_gqa_backward_cuda.cu is made of: its arguments, and storing its results.
#pragma once

#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_rows.cuh"
#include "kernels/cuda_launch.h"

namespace grouper::kernels::cuda {

struct BackwardArguments {
  DeviceBatch batch;
  PageView pages;
  int group = 1;
  HeadTensor q = {}, dout = {};
  const float *lse = nullptr, *row_dot = nullptr;  // [tokens, heads]; row_dot = <dout, out>
  __nv_bfloat16 *dq = nullptr, *dk = nullptr, *dv = nullptr;
  int64_t dq_token = 0, dq_head = 0, dk_token = 0, dk_head = 0, dv_token = 0, dv_head = 0;
  bool dq_vector = false, dk_vector = false, dv_vector = false;  // 16-byte stores
  float scale = 0, scale_log2 = 0;
};

constexpr float kLog2E = 1.44269504088896341f;

__device__ __forceinline__ int64_t StatisticOf(const BackwardArguments& args, const DeviceSequence& s, int head,
                                               int row) {
  return static_cast<int64_t>(s.q_begin + row / args.group) * (args.pages.num_kv_heads * args.group) +
         head * args.group + row % args.group;
}

// Rounds a 64 x kDim fragment times `factor` into rows of a tensor: row m of the fragment goes to to(m), or nowhere when that is null. `vector`:
// rows begin at multiples of 16 bytes.
template <int kDim, typename To>
__device__ __forceinline__ void StoreFragment(const float (&acc)[kDim / 2], float factor, bool vector, int thread, To to) {
  const int row = thread / 32 * 16 + thread % 32 / 4, quad = thread % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    __nv_bfloat16* const p = to(row + 8 * h);
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
      uint32_t packed[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) packed[i] = PackBF16(acc[16 * j + 4 * i + 2 * h] * factor, acc[16 * j + 4 * i + 2 * h + 1] * factor);
      TransposeQuad(packed, thread);
      if (p == nullptr) continue;
      if (vector) {
        *reinterpret_cast<uint4*>(p + 32 * j + 8 * quad) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e)
          p[32 * j + 8 * quad + e] = __ushort_as_bfloat16(static_cast<uint16_t>(packed[e / 2] >> (e % 2 * 16)));
      }
    }
  }
}

// q or dout with rows that 16-byte copies can read: itself, or a copy.
inline HeadTensor Aligned(Stream& stream, const Tensor& t) {
  HeadTensor h = {static_cast<const __nv_bfloat16*>(t.raw()), t.stride(0), t.stride(1), true};
  if (Vectors(t)) return h;
  const int64_t rows = t.dim(0), heads = t.dim(1), width = t.dim(2);
  auto* copy = static_cast<__nv_bfloat16*>(stream.scratch.Allocate(static_cast<size_t>(rows * heads * width) * 2));
  for (int64_t i = 0; i < heads; ++i) {
    GROUPER_CUDA_CHECK(cudaMemcpy2DAsync(copy + i * width, static_cast<size_t>(heads * width) * 2,
                                         h.data + i * h.head_stride, static_cast<size_t>(h.token_stride) * 2,
                                         static_cast<size_t>(width) * 2, static_cast<size_t>(rows),
                                         cudaMemcpyDeviceToDevice, HandleOf(stream)));
  }
  return {copy, heads * width, width, true};
}

// The launch's arguments; copies and row_dot come from stream.scratch.
inline BackwardArguments MakeBackwardArguments(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared,
                                               const Tensor& q, double scale, const Tensor& out, const Tensor& lse,
                                               const Tensor& dout, const Tensor& dq, const Tensor& dk,
                                               const Tensor& dv) {
  BackwardArguments args = {.batch = prepared.batch, .pages = PageView(kv)};
  args.group = static_cast<int>(q.dim(1)) / kv.layout.num_kv_heads;
  args.q = Aligned(stream, q);
  args.dout = Aligned(stream, dout);
  args.lse = lse.data<float>();
  args.row_dot = RowDots(stream, dout, out);
  args.dq = static_cast<__nv_bfloat16*>(dq.raw());
  args.dq_token = dq.stride(0);
  args.dq_head = dq.stride(1);
  args.dq_vector = Vectors(dq);
  args.dk = static_cast<__nv_bfloat16*>(dk.raw());
  args.dk_token = dk.stride(0);
  args.dk_head = dk.stride(1);
  args.dk_vector = Vectors(dk);
  args.dv = static_cast<__nv_bfloat16*>(dv.raw());
  args.dv_token = dv.stride(0);
  args.dv_head = dv.stride(1);
  args.dv_vector = Vectors(dv);
  args.scale = static_cast<float>(scale);
  args.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  return args;
}

}  // namespace grouper::kernels::cuda
