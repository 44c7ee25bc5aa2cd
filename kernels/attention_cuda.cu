#include "kernels/attention_cuda.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>

#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_rows.cuh"
#include "kernels/cuda_launch.h"

namespace grouper::kernels::cuda {
namespace {

// Source rows of keys or values, [tokens, kv heads, width].
template <typename S>
struct SourceRows {
  const S* data;
  int64_t token_stride, head_stride;
};

// kUnit elements at a time, of one token and head: 8 that lie together in a tiled page, or 1.
template <typename S, int kUnit>
__global__ void WriteKvKernel(const PageView pages, const int32_t* slots, int64_t tokens, const SourceRows<S> k,
                              const SourceRows<S> v) {
  KernelBegin();
  struct alignas(kUnit * sizeof(S)) Unit {
    S x[kUnit];
  };
  const int width = pages.key_dim + (pages.values_in_keys ? 0 : pages.value_dim), units = width / kUnit;
  const int64_t total = tokens * pages.num_kv_heads * units, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
    const int d = static_cast<int>(i % units) * kUnit, head = static_cast<int>(i / units % pages.num_kv_heads);
    const int64_t token = i / units / pages.num_kv_heads;
    const int slot = slots[token];
    char* to = pages.Head(slot / 64, head);
    if (d < pages.key_dim) {
      *reinterpret_cast<Unit*>(to + pages.KeyOffset(slot % 64, d)) =
          *reinterpret_cast<const Unit*>(k.data + token * k.token_stride + head * k.head_stride + d);
    } else {
      *reinterpret_cast<Unit*>(to + pages.ValueOffset(slot % 64, d - pages.key_dim)) =
          *reinterpret_cast<const Unit*>(v.data + token * v.token_stride + head * v.head_stride + d - pages.key_dim);
    }
  }
}

template <typename S, int kUnit>
void LaunchWriteKv(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& k, const Tensor& v) {
  const auto rows = [](const Tensor& t) {
    return t.empty() ? SourceRows<S>{nullptr, 0, 0}
                     : SourceRows<S>{static_cast<const S*>(t.raw()), t.stride(0), t.stride(1)};
  };
  const int64_t units = k.dim(0) * k.dim(1) * (k.dim(2) + (v.empty() ? 0 : v.dim(2))) / kUnit;
  const unsigned blocks = static_cast<unsigned>(std::clamp<int64_t>((units + 255) / 256, 1, 8 * NumMultiprocessors()));
  LaunchKernel(stream, blocks, 256, 0, WriteKvKernel<S, kUnit>, PageView(kv), prepared.slots, k.dim(0), rows(k), rows(v));
}

// Grid (part of the page, layer).
__global__ void CopyPageKernel(const uint4* from, uint4* to, size_t words, size_t layer_words) {
  KernelBegin();
  const size_t layer = blockIdx.y * layer_words, step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < words; i += step) to[layer + i] = from[layer + i];
}

// Joins the splits of the sequences whose splits ran apart. Block (sequence, row of all kv heads): two columns a
// thread.
__global__ void CombineKernel(const __grid_constant__ AttentionArguments args) {
  KernelBegin();
  const int begin = args.prepared.partial_begin[blockIdx.x];
  if (begin < 0) return;
  const DeviceSequence s = args.prepared.batch.sequences[blockIdx.x];
  const int rows = s.q_len * args.group, width = args.pages.value_dim;
  const int splits = SplitsOf(s.context + s.q_len, args.prepared.split_pages);
  const int head = blockIdx.y / args.max_rows_apart, row = blockIdx.y % args.max_rows_apart, column = 2 * threadIdx.x;
  if (row >= rows) return;
  RowState joined;
  float2 values;
  for (int split = 0; split < splits; ++split) {
    const int64_t place = begin + (static_cast<int64_t>(head) * splits + split) * rows + row;
    const float2 stats = args.partial_stats[place];
    const float2 next = *reinterpret_cast<const float2*>(args.partial_values + place * width + column);
    if (split == 0) {
      joined = {stats.x, stats.y};
      values = next;
      continue;
    }
    const JoinWeights w = Join(joined, {stats.x, stats.y}, args.scale_log2);
    values = make_float2(JoinValue(values.x, next.x, w), JoinValue(values.y, next.y, w));
  }
  const int64_t token = s.q_begin + row / args.group, query_head = head * args.group + row % args.group;
  const float inverse = __frcp_rn(joined.sum);
  __nv_bfloat16* out = args.out + token * args.out_token + query_head * args.out_head + column;
  out[0] = __float2bfloat16_rn(__fmul_rn(values.x, inverse));
  out[1] = __float2bfloat16_rn(__fmul_rn(values.y, inverse));
  if (threadIdx.x == 0 && args.lse != nullptr)
    args.lse[token * (args.pages.num_kv_heads * args.group) + query_head] = LogSumExp(joined, args.scale);
}

DeviceBatch Upload(Stream& stream, const std::vector<AttentionSequence>& sequences, Arena& memory) {
  DeviceBatch batch;
  batch.num_sequences = static_cast<int32_t>(sequences.size());
  // Sequences, then page tables: one copy.
  size_t num_pages = 0;
  const auto pages_of = [](const AttentionSequence& s) { return static_cast<size_t>(PagesOf(s.context + s.q_len)); };
  for (const AttentionSequence& s : sequences) num_pages += pages_of(s);
  std::vector<int32_t> host(sequences.size() * 4 + num_pages);
  int32_t* item = host.data();
  size_t first_page = 0;
  for (const AttentionSequence& s : sequences) {
    const DeviceSequence copy = {s.q_begin, s.q_len, s.context, static_cast<int32_t>(first_page)};
    std::memcpy(item, &copy, sizeof copy);
    item += 4;
    std::copy_n(s.pages, pages_of(s), host.data() + sequences.size() * 4 + first_page);
    first_page += pages_of(s);
    batch.tokens += s.q_len;
    batch.max_q_len = std::max(batch.max_q_len, s.q_len);
    batch.max_context = std::max(batch.max_context, s.context + s.q_len);
  }
  int32_t* const device = static_cast<int32_t*>(memory.Allocate(host.size() * 4));
  // Pageable memory: staged by the driver before the call returns.
  GROUPER_CUDA_CHECK(cudaMemcpyAsync(device, host.data(), host.size() * 4, cudaMemcpyHostToDevice, HandleOf(stream)));
  batch.sequences = reinterpret_cast<const DeviceSequence*>(device);
  batch.pages = device + sequences.size() * 4;
  return batch;
}

}  // namespace

PreparedBatch PrepareAttention(Stream& stream, const std::vector<AttentionSequence>& sequences, const KvLayout& layout,
                               int query_heads, Arena& memory, int split_pages) {
  int64_t partial_rows = 0;
  for (const AttentionSequence& s : sequences) partial_rows += PartialRows(s, layout, query_heads, split_pages);
  return PrepareAttention(stream, Upload(stream, sequences, memory), layout, query_heads, memory, split_pages, partial_rows);
}

PreparedBatch PrepareGradients(Stream& stream, const std::vector<AttentionSequence>& sequences, Arena& memory) {
  PreparedBatch prepared;
  prepared.batch = Upload(stream, sequences, memory);
  prepared.slots = SlotsOf(stream, prepared.batch, memory);
  return prepared;
}

void WriteKv(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& k, const Tensor& v) {
  if (k.dim(0) == 0) return;
  if (kv.layout.dtype == DType::kF32) return LaunchWriteKv<float, 1>(stream, kv, prepared, k, v);
  CHECK(kv.layout.dtype == DType::kBF16) << "CUDA has no kernel for " << Name(kv.layout.dtype);
  if (TiledPages(kv.layout) && Vectors(k) && Vectors(v))
    return LaunchWriteKv<__nv_bfloat16, 8>(stream, kv, prepared, k, v);
  LaunchWriteKv<__nv_bfloat16, 1>(stream, kv, prepared, k, v);
}

void CopyPage(Stream& stream, const PagedKv& kv, int64_t layers, size_t layer_stride, int32_t from, int32_t to) {
  const size_t page = kv.layout.PageBytes(), words = page / sizeof(uint4);
  CHECK(kv.page_stride % sizeof(uint4) == 0 && layer_stride % sizeof(uint4) == 0);
  char* const base = static_cast<char*>(kv.base);
  const dim3 grid(static_cast<unsigned>(std::min<size_t>((words + 255) / 256, 16)), static_cast<unsigned>(layers));
  LaunchKernel(stream, grid, 256, 0, CopyPageKernel, reinterpret_cast<const uint4*>(base + static_cast<size_t>(from) * kv.page_stride),
               reinterpret_cast<uint4*>(base + static_cast<size_t>(to) * kv.page_stride), words, layer_stride / sizeof(uint4));
}

void Attention(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
               const Tensor& out, const Tensor& lse) {
  if (prepared.batch.num_sequences == 0 || q.dim(0) == 0) return;
  CHECK(prepared.items != nullptr) << "the batch was made for gradients only";
  if (!TiledPages(kv.layout)) return ChainAttention(stream, kv, prepared, q, scale, out, lse);
  const Arena::Mark mark = stream.scratch.mark();
  AttentionArguments args = {prepared, PageView(kv)};
  args.group = static_cast<int>(q.dim(1)) / kv.layout.num_kv_heads;
  args.q = {static_cast<const __nv_bfloat16*>(q.raw()), q.stride(0), q.stride(1), Vectors(q)};
  args.out = static_cast<__nv_bfloat16*>(out.raw());
  args.out_token = out.stride(0);
  args.out_head = out.stride(1);
  args.out_vector = Vectors(out);
  args.lse = static_cast<float*>(lse.raw());
  args.scale = static_cast<float>(scale);
  args.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  args.max_rows_apart =
      static_cast<int>(std::min<int64_t>(int64_t{prepared.batch.max_q_len} * args.group, kMaxRowsApart));
  if (prepared.max_partial_rows > 0) {
    const size_t rows = static_cast<size_t>(prepared.max_partial_rows);
    args.partial_values =
        static_cast<float*>(stream.scratch.Allocate(rows * static_cast<size_t>(kv.layout.value_dim) * 4));
    args.partial_stats = static_cast<float2*>(stream.scratch.Allocate(rows * sizeof(float2)));
  }
  kv.layout.values_in_keys ? MlaForward(stream, args) : GqaForward(stream, args);
  if (prepared.max_partial_rows > 0) {
    const dim3 grid(static_cast<unsigned>(prepared.batch.num_sequences),
                    static_cast<unsigned>(args.max_rows_apart * kv.layout.num_kv_heads));
    LaunchKernel(stream, grid, static_cast<unsigned>(kv.layout.value_dim / 2), 0, CombineKernel, args);
  }
  stream.scratch.Release(mark);
}

void AttentionBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                       const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                       const Tensor& dv) {
  if (prepared.batch.num_sequences == 0 || q.dim(0) == 0) return;
  if (!TiledPages(kv.layout)) {
    return ChainAttentionBackward(stream, kv, prepared, q, scale, out, lse, dout, dq, dk, dv);
  }
  GqaBackward(stream, kv, prepared, q, scale, out, lse, dout, dq, dk, dv);
}

}  // namespace grouper::kernels::cuda
