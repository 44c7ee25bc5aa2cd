// The attention kernels behind attention_cuda.cu, one file each.
#pragma once

#include "kernels/attention_cuda.h"

namespace grouper::kernels::cuda {

struct AttentionArguments;  // attention_rows.cuh

// Whether a tensor [tokens, heads, width] may be read 16 bytes at a time.
inline bool Vectors(const Tensor& t) {
  if (t.empty()) return true;
  return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 && t.stride(0) % 8 == 0 && t.stride(1) % 8 == 0;
}

// Blocks a multiprocessor of GQA's kernel with up to 64 rows an item.
constexpr int DecodeBlocks(int key_dim) { return key_dim == 64 ? 3 : 2; }

// [tokens]: page * 64 + place of each token. (attention_plan_cuda.cu)
int32_t* SlotsOf(Stream& stream, const DeviceBatch& batch, Arena& memory);

void GqaForward(Stream& stream, const AttentionArguments& args);  // attention_gqa_cuda.cu
void MlaForward(Stream& stream, const AttentionArguments& args);  // attention_mla_cuda.cu

// dk, dv and dq of the tiled layouts with values of their own: attention_gqa_backward_cuda.cu.
void GqaBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                 const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                 const Tensor& dv);

// [tokens, heads] float: <dout, out> of each row, in the CPU's lane order. From stream.scratch.
// (attention_chain_cuda.cu)
const float* RowDots(Stream& stream, const Tensor& dout, const Tensor& out);

// attention_chain_cuda.cu: every width, float and bf16, the CPU's order.
void ChainAttention(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q, double scale,
                    const Tensor& out, const Tensor& lse);
void ChainAttentionBackward(Stream& stream, const PagedKv& kv, const PreparedBatch& prepared, const Tensor& q,
                            double scale, const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq,
                            const Tensor& dk, const Tensor& dv);

}  // namespace grouper::kernels::cuda
