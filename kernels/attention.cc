#include "kernels/attention.h"

#include "kernels/attention_cuda.h"
#include "kernels/dispatch.h"

namespace grouper::kernels {

namespace cpu {  // attention_cpu.cc, attention_backward_cpu.cc
template <typename S>
void WriteKv(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences, const Tensor& k,
             const Tensor& v);
template <typename S>
void CopyPage(const PagedKv& kv, int32_t from, int32_t to, int tokens);
template <typename S>
void Attention(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences, const Tensor& q,
               double scale, const Tensor& out, const Tensor& lse);
template <typename S>
void AttentionBackward(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences,
                       const Tensor& q, double scale, const Tensor& out, const Tensor& lse, const Tensor& dout,
                       const Tensor& dq, const Tensor& dk, const Tensor& dv);
}  // namespace cpu

namespace {

void CheckHeads(const Tensor& t, const KvLayout& layout, int64_t tokens, int64_t heads, int64_t width,
                const char* name) {
  CHECK(t.rank() == 3 && t.dtype() == layout.dtype && t.dim(0) == tokens && t.dim(1) == heads && t.dim(2) == width)
      << name << " is " << t.ShapeString() << ", expected " << Name(layout.dtype) << "[" << tokens << ", " << heads
      << ", " << width << "]";
}

void CheckLse(const Tensor& lse, const KvLayout& layout, int64_t tokens, int64_t heads) {
  CHECK(lse.rank() == 2 && lse.dtype() == AccumulatorOf(layout.dtype) && lse.dim(0) == tokens && lse.dim(1) == heads &&
        lse.contiguous())
      << "lse is " << lse.ShapeString();
}

}  // namespace

size_t KvLayout::PageBytes() const {
  const size_t width = static_cast<size_t>(key_dim) + (values_in_keys ? 0 : static_cast<size_t>(value_dim));
  const size_t bytes = static_cast<size_t>(num_kv_heads) * width * kPageTokens * SizeOf(dtype);
  return (bytes + 63) / 64 * 64;
}

AttentionBatch::AttentionBatch(Stream& stream, const std::vector<AttentionSequence>& sequences, const KvLayout& layout,
                               int64_t query_heads, Arena& memory, AttentionUse use)
    : sequences_(&sequences) {
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) {
      prepared_ = std::make_shared<const cuda::PreparedBatch>(
          use == AttentionUse::kAll ? cuda::PrepareAttention(stream, sequences, layout, static_cast<int>(query_heads), memory)
                                    : cuda::PrepareGradients(stream, sequences, memory));
    }
  }
}

AttentionBatch::AttentionBatch(Stream& stream, const AttentionTables& tables, const KvLayout& layout, int64_t query_heads,
                               Arena& memory) {
  CHECK(stream.device.is_cuda() && tables.sequences.rank() == 2 && tables.sequences.dim(1) == 4 && tables.sequences.contiguous() &&
        tables.sequences.device() == stream.device && tables.pages.device() == stream.device);
  if constexpr (kWithCuda) {
    const cuda::DeviceBatch batch = {reinterpret_cast<const cuda::DeviceSequence*>(tables.sequences.data<int32_t>()),
                                     tables.pages.data<int32_t>(),
                                     static_cast<int32_t>(tables.sequences.dim(0)),
                                     tables.tokens,
                                     tables.max_q_len,
                                     tables.max_context};
    prepared_ = std::make_shared<const cuda::PreparedBatch>(cuda::PrepareAttention(
        stream, batch, layout, static_cast<int>(query_heads), memory, cuda::kSplitPages, tables.partial_rows));
  }
}

void WriteKv(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& k, const Tensor& v) {
  const KvLayout& layout = kv.layout;
  CheckHeads(k, layout, k.dim(0), layout.num_kv_heads, layout.key_dim, "k");
  CHECK_EQ(v.empty(), layout.values_in_keys);
  if (!v.empty()) CheckHeads(v, layout, k.dim(0), layout.num_kv_heads, layout.value_dim, "v");
  ByStorage(
      k, [&](auto s) { cpu::WriteKv<decltype(s)>(stream, kv, batch.sequences(), k, v); },
      [&](auto) { cuda::WriteKv(stream, kv, *batch.prepared(), k, v); });
}

void CopyPage(Stream& stream, const PagedKv& kv, int64_t layers, size_t layer_stride, int32_t from, int32_t to, int tokens) {
  CHECK(tokens >= 0 && tokens <= kPageTokens);
  if (tokens == 0) return;
  ByStorage(
      kv.layout.dtype, stream.device,
      [&](auto s) {
        PagedKv layer = kv;
        for (int64_t i = 0; i < layers; ++i, layer.base = static_cast<char*>(layer.base) + layer_stride)
          cpu::CopyPage<decltype(s)>(layer, from, to, tokens);
      },
      [&](auto) { cuda::CopyPage(stream, kv, layers, layer_stride, from, to); });
}

void Attention(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& q, double scale, const Tensor& out,
               const Tensor& lse) {
  const KvLayout& layout = kv.layout;
  CHECK(q.rank() == 3 && q.dim(1) % layout.num_kv_heads == 0) << q.ShapeString();
  CheckHeads(q, layout, q.dim(0), q.dim(1), layout.key_dim, "q");
  CheckHeads(out, layout, q.dim(0), q.dim(1), layout.value_dim, "out");
  if (!lse.empty()) CheckLse(lse, layout, q.dim(0), q.dim(1));
  ByStorage(
      q, [&](auto s) { cpu::Attention<decltype(s)>(stream, kv, batch.sequences(), q, scale, out, lse); },
      [&](auto) { cuda::Attention(stream, kv, *batch.prepared(), q, scale, out, lse); });
}

void AttentionBackward(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& q, double scale,
                       const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                       const Tensor& dv) {
  const KvLayout& layout = kv.layout;
  CHECK(q.rank() == 3 && q.dim(1) % layout.num_kv_heads == 0) << q.ShapeString();
  CHECK(!layout.values_in_keys) << "values_in_keys is set, expected a layout whose values are its own";
  const int64_t tokens = q.dim(0), heads = q.dim(1);
  CheckHeads(q, layout, tokens, heads, layout.key_dim, "q");
  CheckHeads(out, layout, tokens, heads, layout.value_dim, "out");
  CheckHeads(dout, layout, tokens, heads, layout.value_dim, "dout");
  CheckHeads(dq, layout, tokens, heads, layout.key_dim, "dq");
  CheckHeads(dk, layout, tokens, layout.num_kv_heads, layout.key_dim, "dk");
  CheckHeads(dv, layout, tokens, layout.num_kv_heads, layout.value_dim, "dv");
  CheckLse(lse, layout, tokens, heads);
  for (const AttentionSequence& s : batch.sequences()) CHECK_EQ(s.context, 0);
  ByStorage(
      q,
      [&](auto s) {
        cpu::AttentionBackward<decltype(s)>(stream, kv, batch.sequences(), q, scale, out, lse, dout, dq, dk, dv);
      },
      [&](auto) { cuda::AttentionBackward(stream, kv, *batch.prepared(), q, scale, out, lse, dout, dq, dk, dv); });
}

void WriteKv(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences, const Tensor& k,
             const Tensor& v) {
  const Arena::Mark mark = stream.scratch.mark();
  // Which queries follow is not known here; where keys go does not depend on them.
  WriteKv(stream, kv, AttentionBatch(stream, sequences, kv.layout, kv.layout.num_kv_heads, stream.scratch), k, v);
  stream.scratch.Release(mark);
}

void Attention(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences, const Tensor& q,
               double scale, const Tensor& out, const Tensor& lse) {
  const Arena::Mark mark = stream.scratch.mark();
  Attention(stream, kv, AttentionBatch(stream, sequences, kv.layout, q.dim(1), stream.scratch), q, scale, out, lse);
  stream.scratch.Release(mark);
}

void AttentionBackward(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences,
                       const Tensor& q, double scale, const Tensor& out, const Tensor& lse, const Tensor& dout,
                       const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const Arena::Mark mark = stream.scratch.mark();
  const AttentionBatch batch(stream, sequences, kv.layout, q.dim(1), stream.scratch);
  AttentionBackward(stream, kv, batch, q, scale, out, lse, dout, dq, dk, dv);
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels
