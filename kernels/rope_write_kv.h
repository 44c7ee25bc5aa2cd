// The step between grouped-query attention's projection and attention itself: queries and keys are turned (rope.h), keys and values go to
// their pages (attention.h).
#pragma once

#include "kernels/attention.h"
#include "kernels/rope.h"

namespace grouper::kernels {

// Rope(q), Rope(k), WriteKv(k, v): the same bits, in one pass where the device has a kernel for the widths. q [T, Hq, D] in place; the pages
// get turned k [T, Hkv, D] and v [T, Hkv, D]; k itself is left turned or as it was. positions [T] int32 on the stream's device.
void RopeWriteKv(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& q, const Tensor& k, const Tensor& v,
                 const Tensor& positions, const RopeTable& table);

namespace cuda {
// Whether there is one: bf16, tiled pages, halves of whole eights, rows of 16 bytes.
bool HasRopeWriteKv(const PagedKv& kv, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable& table);
void RopeWriteKv(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& q, const Tensor& k, const Tensor& v,
                 const Tensor& positions, const RopeTable& table);
}  // namespace cuda

}  // namespace grouper::kernels
