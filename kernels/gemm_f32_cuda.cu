// Float products in the CPU's order: every element one ascending chain of fused multiply-adds, so that the bits equal
// gemm_cpu.cc's. For routers and for small models in float. A block of 256 threads owns 64 x 64 of C, 4 x 4 a thread;
// bound by the fma units at best.
#include <algorithm>

#include "kernels/cuda_launch.h"
#include "kernels/gemm_cuda.h"

namespace grouper::kernels::cuda {
namespace {

constexpr int kTile = 64, kStep = 16, kThreads = 256;

__global__ void __launch_bounds__(kThreads) ChainKernel(const GemmF32Problem p) {
  __shared__ float a[kStep][kTile + 4], b[kStep][kTile + 4];
  int64_t batch = blockIdx.z, m_begin = static_cast<int64_t>(blockIdx.x) * kTile, m_end = p.m, k_begin = 0, k_end = p.k;
  int64_t batch_a = batch, batch_b = batch, batch_c = batch;
  if (p.groups == GemmGroups::kRows) {
    // Block x of all groups' tiles, group after group.
    int64_t tile = blockIdx.x;
    int group = 0;
    for (; group < p.batch; ++group) {
      const int64_t tiles = (p.offsets[group + 1] - p.offsets[group] + kTile - 1) / kTile;
      if (tile < tiles) break;
      tile -= tiles;
    }
    if (group == p.batch) return;
    m_begin = p.offsets[group] + tile * kTile;
    m_end = p.offsets[group + 1];
    batch_a = batch_c = 0;
    batch_b = group;
  } else if (p.groups == GemmGroups::kReduction) {
    k_begin = p.offsets[batch];
    k_end = p.offsets[batch + 1];
    batch_a = batch_b = 0;
  }
  const int64_t n_begin = static_cast<int64_t>(blockIdx.y) * kTile;
  const float* from_a = p.a + batch_a * p.a_batch;
  const float* from_b = p.b + batch_b * p.b_batch;
  float* c = p.c + batch_c * p.c_batch;
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  float acc[4][4];
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      const int64_t m = m_begin + row + i, n = n_begin + column + j;
      acc[i][j] = p.accumulate && m < m_end && n < p.n ? c[m * p.c_m + n] : 0.0f;
    }
  }
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kStep) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kStep), k_end - k0));
    for (int i = threadIdx.x; i < kTile * kStep; i += kThreads) {
      // Neighbouring threads read neighbouring memory, whichever way it runs.
      const int ra = p.a_k == 1 ? i / kStep : i % kTile, ka = p.a_k == 1 ? i % kStep : i / kTile;
      const int64_t m = m_begin + ra;
      float value = 0;
      if (m < m_end && ka < count) {
        const int64_t source = p.groups == GemmGroups::kRows && p.gather != nullptr ? p.gather[m] : m;
        value = from_a[source * p.a_m + (k0 + ka) * p.a_k];
      }
      a[ka][ra] = value;
      const int rb = p.b_k == 1 ? i / kStep : i % kTile, kb = p.b_k == 1 ? i % kStep : i / kTile;
      const int64_t n = n_begin + rb;
      value = 0;
      if (n < p.n && kb < count) {
        const int64_t k = p.groups == GemmGroups::kReduction && p.gather != nullptr ? p.gather[k0 + kb] : k0 + kb;
        value = from_b[n * p.b_n + k * p.b_k];
      }
      b[kb][rb] = value;
    }
    __syncthreads();
    for (int k = 0; k < count; ++k) {
      const float4 x = *reinterpret_cast<const float4*>(&a[k][row]),
                   y = *reinterpret_cast<const float4*>(&b[k][column]);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[i][j] = __fmaf_rn(xs[i], ys[j], acc[i][j]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      const int64_t m = m_begin + row + i, n = n_begin + column + j;
      if (m < m_end && n < p.n) c[m * p.c_m + n] = p.bias != nullptr ? __fadd_rn(acc[i][j], p.bias[n]) : acc[i][j];
    }
  }
}

}  // namespace

void GemmF32(Stream& stream, const GemmF32Problem& p) {
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  int64_t tiles = (p.m + kTile - 1) / kTile;
  if (p.groups == GemmGroups::kRows) tiles += p.batch;  // at most one part-filled tile a group
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>((p.n + kTile - 1) / kTile),
                  p.groups == GemmGroups::kRows ? 1 : static_cast<unsigned>(p.batch));
  ChainKernel<<<grid, kThreads, 0, HandleOf(stream)>>>(p);
  GROUPER_CUDA_CHECK(cudaGetLastError());
}

}  // namespace grouper::kernels::cuda
