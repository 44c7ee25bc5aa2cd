// Hopper's instructions that CUDA C++ has no names for: barriers in shared memory, bulk copies, wgmma's fences and
// descriptors. One PTX instruction a function; device code only. The matrix instructions themselves: wgmma.cuh. There is no PTX
// beside these two files: emulator/ has the same functions for a CPU.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace grouper::kernels::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- barriers (mbarrier): a phase ends when the expected arrivals and bytes have come
// ------------------------------------
__device__ __forceinline__ void BarrierInit(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals));
}
// After the inits, before other threads or the copy engine use the barriers.
__device__ __forceinline__ void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void BarrierArrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
// So many arrivals at once.
__device__ __forceinline__ void BarrierArrive(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}
// At the same barrier of another block of the cluster.
__device__ __forceinline__ void BarrierArriveAt(uint64_t* barrier, uint32_t block) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(SharedAddress(barrier)),
      "r"(block)
      : "memory");
}
// One arrival, and `bytes` more to come by bulk copies in this phase.
__device__ __forceinline__ void BarrierExpect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}
// Waits until the phase of this parity is over (a fresh barrier is in phase 0; the phase before it, parity 1, is over).
__device__ __forceinline__ void BarrierWait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "wait_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over_%=;\n"
      "bra wait_%=;\n"
      "over_%=:\n"
      "}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// --- bulk copies to shared memory, completing on a barrier
// ---------------------------------------------------------------- Contiguous; 16-byte aligned, `bytes` a multiple
// of 16.
__device__ __forceinline__ void CopyBulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   SharedAddress(to)),
               "l"(from), "r"(bytes), "r"(SharedAddress(barrier))
               : "memory");
}
// A box of a tensor map at (inner, outer, batch), in elements; zeros come from outside the tensor.
__device__ __forceinline__ void CopyBox(void* to, const CUtensorMap* map, int inner, int outer, int batch,
                                        uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(SharedAddress(to)),
      "l"(map), "r"(inner), "r"(outer), "r"(batch), "r"(SharedAddress(barrier))
      : "memory");
}
// The same into this place of every block of the cluster that `blocks` has a bit for, completing on each one's own barrier.
__device__ __forceinline__ void CopyBoxToCluster(void* to, const CUtensorMap* map, int inner, int outer, int batch, uint64_t* barrier,
                                                 uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], "
      "[%5], %6;" ::"r"(SharedAddress(to)),
      "l"(map), "r"(inner), "r"(outer), "r"(batch), "r"(SharedAddress(barrier)), "h"(blocks)
      : "memory");
}
// The same of a map over gated weights (MakeGatedMap): rows from `pair` * 16 on, eight of the gate, eight of up, and so on.
__device__ __forceinline__ void CopyGatedBox(void* to, const CUtensorMap* map, int inner, int pair, int batch, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %3, %4, %5}], "
      "[%6];" ::"r"(SharedAddress(to)),
      "l"(map), "r"(inner), "r"(0), "r"(pair), "r"(batch), "r"(SharedAddress(barrier))
      : "memory");
}
// The other way: a box from shared memory to where it lies in the tensor; what lies outside stays as it is. A thread's boxes between two
// commits are a group.
__device__ __forceinline__ void StoreBox(const void* from, const CUtensorMap* map, int inner, int outer, int batch) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(inner), "r"(outer), "r"(batch),
               "r"(SharedAddress(from))
               : "memory");
}
__device__ __forceinline__ void StoreBoxCommit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until this thread's groups have been read from shared memory.
__device__ __forceinline__ void StoreBoxWaitRead() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void PrefetchMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// Makes this thread's ordinary writes to shared memory visible to wgmma and the copy engine (then a barrier for the
// others).
__device__ __forceinline__ void FenceAsyncShared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- copies by threads (cp.async), 16 bytes; a thread's committed copies come in order
// --------------------------------------------------------------------------------------
// Without waiting; zeros when there is no source.
__device__ __forceinline__ void CopyAsync(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- wgmma
// ----------------------------------------------------------------------------------------------------------------
__device__ __forceinline__ void WgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void WgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of an accumulator across a fence or a wait.
template <int kN>
__device__ __forceinline__ void WgmmaTouch(float (&acc)[kN]) {
#pragma unroll
  for (int i = 0; i < kN; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}

// Operands lie in shared memory as boxes of 64 bf16 (128 bytes, the contiguous direction) times some rows, 128-byte
// swizzled, 1024-byte aligned: what a tensor map of that box writes, element (row, byte) at row * 128 + (byte ^ (row %
// 8 * 16)).
__device__ __forceinline__ uint32_t SwizzledOffset(uint32_t row, uint32_t byte) {
  return row * 128 + (byte ^ ((row & 7) << 4));
}

// K-major: a box holds 64 of k in a row, rows are m or n. Step to the next 16 of k: 32 bytes.
__device__ __forceinline__ uint64_t DescriptorKMajor(const void* box) {
  return (static_cast<uint64_t>(SharedAddress(box)) >> 4 & 0x3fff) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
// MN-major: a box holds 64 of m (or n) in a row, rows are k; the next 64 of m lie `box_bytes` further. Step to the next
// 16 of k: 2048 bytes.
__device__ __forceinline__ uint64_t DescriptorMnMajor(const void* box, uint32_t box_bytes) {
  return (static_cast<uint64_t>(SharedAddress(box)) >> 4 & 0x3fff) | static_cast<uint64_t>(box_bytes >> 4) << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
__device__ __forceinline__ uint64_t Advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

// --- clusters
__device__ __forceinline__ uint32_t RankInCluster() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// All threads of all blocks of the cluster.
__device__ __forceinline__ void ClusterBarrier() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// A barrier among `threads` threads of the block; id 1..15.
__device__ __forceinline__ void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Two floats, rounded to nearest even, as one register: `low` in the lower half.
__device__ __forceinline__ uint32_t PackBF16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x within a unit in the last place; not for subnormal numbers. Newton's step after it gives what __fdiv_rn goes on with.
__device__ __forceinline__ float NearReciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A warp's 8 x 8 matrix of 16 bits, two neighbours of a row a thread, transposed.
__device__ __forceinline__ uint32_t Transpose8x8(uint32_t r) {
  uint32_t t;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(r));
  return t;
}

// Four 8 x 8 matrices of 16 bits between shared memory and a warp: row r of matrix i is the 16 bytes at the `row` that lane 8 i + r gives, and r[i]
// has this thread's two neighbours of it: row lane / 4, columns 2 (lane % 4) and the next.
__device__ __forceinline__ void LoadMatrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}
__device__ __forceinline__ void StoreMatrices(const uint32_t (&r)[4], void* row) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(SharedAddress(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

__device__ __forceinline__ int Multiprocessor() {
  int id;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
  return id;
}

}  // namespace grouper::kernels::cuda
