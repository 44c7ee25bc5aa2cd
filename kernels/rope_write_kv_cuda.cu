// A thread takes eight numbers of each half of a query's or a key's head, or eight of a value's; all are read and written 16 bytes at a
// time. Bound by memory, and by its launch where tokens are few: it is there so that three launches are one.
#include "kernels/attention_cuda.h"
#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_pages.cuh"
#include "kernels/rope.cuh"
#include "kernels/rope_write_kv.h"

namespace grouper::kernels::cuda {
namespace {

using S = __nv_bfloat16;

struct Heads {
  S* data;
  int64_t token_stride, head_stride;
  __device__ S* At(int64_t token, int head) const { return data + token * token_stride + head * head_stride; }
};
Heads HeadsOf(const Tensor& t) { return {static_cast<S*>(t.raw()), t.stride(0), t.stride(1)}; }

__global__ void __launch_bounds__(kBlockThreads)
    RopeWriteKvKernel(const PageView pages, const int32_t* slots, const int32_t* positions, const float* cos, const float* sin,
                      int64_t cos_stride, int64_t sin_stride, Heads q, Heads k, Heads v, int q_heads, int width, int64_t total) {
  KernelBegin();
  const int64_t index = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (index >= total) return;
  const int half = width / 2, halves = half / 8, eights = width / 8, kv_heads = pages.num_kv_heads;
  const int units = (q_heads + kv_heads) * halves + kv_heads * eights;
  const int64_t token = index / units;
  int unit = static_cast<int>(index - token * units);
  const int turned = (q_heads + kv_heads) * halves;
  if (unit >= turned) {
    unit -= turned;
    const int head = unit / eights, d = unit % eights * 8, slot = slots[token];
    *reinterpret_cast<uint4*>(pages.Head(slot / 64, head) + pages.ValueOffset(slot % 64, d)) =
        *reinterpret_cast<const uint4*>(v.At(token, head) + d);
    return;
  }
  const int head = unit / halves, i = unit % halves * 8;
  const int64_t position = positions[token];
  const float *const c = cos + position * cos_stride + i, *const s = sin + position * sin_stride + i;
  if (head < q_heads) {
    S* const x = q.At(token, head) + i;
    TurnEight(x, x + half, c, s, false, x, x + half);
    return;
  }
  const S* const x = k.At(token, head - q_heads) + i;
  const int slot = slots[token];
  char* const page = pages.Head(slot / 64, head - q_heads);
  TurnEight(x, x + half, c, s, false, reinterpret_cast<S*>(page + pages.KeyOffset(slot % 64, i)),
            reinterpret_cast<S*>(page + pages.KeyOffset(slot % 64, i + half)));
}

bool Fours(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 && t.stride(0) % 4 == 0; }

}  // namespace

bool HasRopeWriteKv(const PagedKv& kv, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable& table) {
  return TiledPages(kv.layout) && !kv.layout.values_in_keys && table.pairing == RopePairing::kHalfSplit && Vectors(q) && Vectors(k) &&
         Vectors(v) && q.dim(2) % 16 == 0 && Fours(table.cos) && Fours(table.sin);
}

void RopeWriteKv(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& q, const Tensor& k, const Tensor& v,
                 const Tensor& positions, const RopeTable& table) {
  const int64_t width = q.dim(2);
  const int64_t total = q.dim(0) * ((q.dim(1) + k.dim(1)) * (width / 16) + k.dim(1) * (width / 8));
  if (total == 0) return;
  LaunchKernel(stream, BlocksFor(total), kBlockThreads, 0, RopeWriteKvKernel, PageView(kv), batch.prepared()->slots,
               positions.data<int32_t>(), table.cos.data<float>(), table.sin.data<float>(), table.cos.stride(0), table.sin.stride(0),
               HeadsOf(q), HeadsOf(k), HeadsOf(v), static_cast<int>(q.dim(1)), static_cast<int>(width), total);
}

}  // namespace grouper::kernels::cuda
