#include "kernels/rope_write_kv.h"

#include "kernels/dispatch.h"

namespace grouper::kernels {

void RopeWriteKv(Stream& stream, const PagedKv& kv, const AttentionBatch& batch, const Tensor& q, const Tensor& k, const Tensor& v,
                 const Tensor& positions, const RopeTable& table) {
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda() && cuda::HasRopeWriteKv(kv, q, k, v, table)) {
      CHECK(q.dim(0) == k.dim(0) && v.dim(0) == k.dim(0) && q.dim(2) == k.dim(2) && k.dim(1) == kv.layout.num_kv_heads &&
            positions.dim(0) == q.dim(0));
      return cuda::RopeWriteKv(stream, kv, batch, q, k, v, positions, table);
    }
  }
  Rope(stream, q, positions, table, false);
  Rope(stream, k, positions, table, false);
  WriteKv(stream, kv, batch, k, v);
}

}  // namespace grouper::kernels
