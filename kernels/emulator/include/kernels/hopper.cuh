// kernels/hopper.cuh in an emulated build: the same functions.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/emulator/language.h"

namespace grouper::kernels::cuda {

inline uint32_t SharedAddress(const void* p) { return emulator::SharedAddress(p); }

inline void BarrierInit(uint64_t* barrier, uint32_t arrivals) { emulator::BarrierInit(barrier, arrivals); }
inline void BarrierInitFence() {}
inline void BarrierArrive(uint64_t* barrier) { emulator::BarrierArrive(barrier); }
inline void BarrierArrive(uint64_t* barrier, uint32_t arrivals) {
  for (uint32_t i = 0; i < arrivals; ++i) emulator::BarrierArrive(barrier);
}
inline void BarrierArriveAt(uint64_t* barrier, uint32_t block) { emulator::BarrierArriveAt(barrier, block); }
inline void BarrierExpect(uint64_t* barrier, uint32_t bytes) { emulator::BarrierExpect(barrier, bytes); }
inline void BarrierWait(uint64_t* barrier, uint32_t parity) { emulator::BarrierWait(barrier, parity); }

inline void CopyBulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier) { emulator::CopyBulk(to, from, bytes, barrier); }
inline void CopyBox(void* to, const CUtensorMap* map, int inner, int outer, int batch, uint64_t* barrier) {
  const int at[3] = {inner, outer, batch};
  emulator::CopyBox(to, map, at, barrier, 0);
}
inline void CopyBoxToCluster(void* to, const CUtensorMap* map, int inner, int outer, int batch, uint64_t* barrier, uint16_t blocks) {
  const int at[3] = {inner, outer, batch};
  emulator::CopyBox(to, map, at, barrier, blocks);
}
inline void CopyGatedBox(void* to, const CUtensorMap* map, int inner, int pair, int batch, uint64_t* barrier) {
  const int at[5] = {inner, 0, 0, pair, batch};
  emulator::CopyBox(to, map, at, barrier, 0);
}
inline void StoreBox(const void* from, const CUtensorMap* map, int inner, int outer, int batch) {
  const int at[3] = {inner, outer, batch};
  emulator::StoreBox(from, map, at);
}
inline void StoreBoxCommit() { emulator::StoreBoxCommit(); }
inline void StoreBoxWaitRead() { emulator::StoreBoxWaitRead(); }
inline void PrefetchMap(const CUtensorMap*) {}
inline void FenceAsyncShared() {}

inline void CopyAsync(void* to, const void* from, bool present) { emulator::CopyAsync(to, from, present); }
inline void CopyAsyncCommit() { emulator::CopyAsyncCommit(); }
template <int kPending>
void CopyAsyncWait() {
  emulator::CopyAsyncWait(kPending);
}

inline void WgmmaFence() {}
inline void WgmmaCommit() { emulator::ProductCommit(); }
template <int kPending>
void WgmmaWait() {
  emulator::ProductWait(kPending);
}
template <int kN>
void WgmmaTouch(float (&)[kN]) {}

inline uint32_t SwizzledOffset(uint32_t row, uint32_t byte) { return row * 128 + (byte ^ ((row & 7) << 4)); }
inline uint64_t DescriptorKMajor(const void* box) {
  return (uint64_t{SharedAddress(box)} >> 4 & 0x3fff) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
inline uint64_t DescriptorMnMajor(const void* box, uint32_t box_bytes) {
  return (uint64_t{SharedAddress(box)} >> 4 & 0x3fff) | uint64_t{box_bytes >> 4} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
inline uint64_t Advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

inline uint32_t RankInCluster() { return emulator::BlockInCluster(); }
inline void ClusterBarrier() { emulator::ClusterBarrier(); }

template <int kRegisters>
void TakeRegisters() {}
template <int kRegisters>
void GiveRegisters() {}

inline void NamedBarrier(int id, int threads) { emulator::NamedBarrier(id, threads); }

inline uint32_t PackBF16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  std::memcpy(&bits, &pair, 4);
  return bits;
}

inline float Exp2(float x) { return std::exp2(x); }
inline float NearReciprocal(float x) { return 1.0f / x; }

inline uint32_t Transpose8x8(uint32_t r) {
  const uint64_t* const all = emulator::Exchange(r);
  const int row = emulator::Lane() / 4, pair = emulator::Lane() % 4 * 2;  // this thread gets (row, pair) and (row, pair + 1)
  uint32_t result = 0;
  for (int e = 0; e < 2; ++e) {
    const auto from = static_cast<uint32_t>(all[(pair + e) * 4 + row / 2]);
    result |= (from >> (row % 2 * 16) & 0xffff) << (16 * e);
  }
  return result;
}

// Where this thread's two neighbours of matrix i are, of the rows that all lanes have given.
inline char* InMatrix(const uint64_t* rows, int i) {
  const int lane = emulator::Lane();
  return reinterpret_cast<char*>(rows[8 * i + lane / 4]) + lane % 4 * 4;
}
inline void LoadMatrices(uint32_t (&r)[4], const void* row) {
  const uint64_t* const rows = emulator::Exchange(reinterpret_cast<uint64_t>(row));
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], InMatrix(rows, i), 4);
}
inline void StoreMatrices(const uint32_t (&r)[4], void* row) {
  const uint64_t* const rows = emulator::Exchange(reinterpret_cast<uint64_t>(row));
  for (int i = 0; i < 4; ++i) std::memcpy(InMatrix(rows, i), &r[i], 4);
}

inline int Multiprocessor() { return emulator::Multiprocessor(); }

}  // namespace grouper::kernels::cuda
