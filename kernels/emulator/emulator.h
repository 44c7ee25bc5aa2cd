// CUDA kernels on a CPU. With -DGROUPER_CUDA=EMULATED every .cu file is compiled as C++ (language.h says what its words mean), each thread
// of a block is a fiber, and the tests of the CUDA backend run where there is no GPU.
//
// It is made to find errors, not to be fast. What the hardware leaves open is drawn by chance (GROUPER_EMULATOR_SEED): which thread goes on;
// whether an asynchronous copy or product happens at once or only when it is waited for. What nobody may rely on is spoilt: shared memory begins
// as NaN. Blocks (a cluster's together) follow one another. Whoever waits for what never comes ends the process with the barrier that was
// waited for; so does whoever leaves the block's shared memory, misaligns a copy, or arrives once too often.
//
// Races between threads, or with the copy engine, are ThreadSanitizer's affair (race.h). Not seen here: loads that are still in flight, speed, and
// how the tensor cores round (here products are exact, and sums are in float, ascending in k).
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <functional>

namespace grouper::emulator {

// --- launching ----------------------------------------------------------------------

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // blocks of x that run together
};

// Runs the kernel, or records it in the graph that the stream captures.
void Launch(cudaStream_t stream, const LaunchShape& shape, std::function<void()> thread);

// Multiprocessors of a device.
inline constexpr int kMultiprocessors = 6;

// --- of the thread that runs -----------------------------------------------------------

struct Place {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
};
extern const Place* place;

char* SharedMemory();
unsigned BlockInCluster();
unsigned BlocksInCluster();
void* InBlock(void* own, unsigned block);  // where another block of the cluster has what this one has at `own`
int Multiprocessor();

// Offset of shared memory, as the hardware's addresses: multiples of 1024 are multiples of 1024. CHECKs that it is the block's.
uint32_t SharedAddress(const void* p);

// --- meeting others ------------------------------------------------------------------------

void BlockBarrier();                         // __syncthreads: all threads that have not returned
void NamedBarrier(int id, int threads);      // bar.sync
void ClusterBarrier();
void WarpBarrier(uint32_t mask = ~0u);       // __syncwarp: the mask's lanes that have not returned

// Every lane of the mask gives 64 bits and gets those of all: *all has 32.
const uint64_t* Exchange(uint64_t own, uint32_t mask = ~0u);

// --- barriers in shared memory ---------------------------------------------------------------

void BarrierInit(uint64_t* barrier, uint32_t arrivals);
void BarrierArrive(uint64_t* barrier);
void BarrierArriveAt(uint64_t* barrier, unsigned block);
void BarrierExpect(uint64_t* barrier, uint32_t bytes);
void BarrierWait(uint64_t* barrier, uint32_t parity);

// --- asynchronous copies -------------------------------------------------------------------------

void CopyBulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier);
// A box of a tensor map at these coordinates, to this place of every block of the cluster that `blocks` has a bit for (0: this one).
void CopyBox(void* to, const CUtensorMap* map, const int* coordinates, uint64_t* barrier, uint32_t blocks);

// A box from here to where it lies in the tensor, in a group that ends with the commit.
void StoreBox(const void* from, const CUtensorMap* map, const int* coordinates);
void StoreBoxCommit();
void StoreBoxWaitRead();

void CopyAsync(void* to, const void* from, bool present);  // 16 bytes, or zeros
void CopyAsyncCommit();
void CopyAsyncWait(int pending);

// --- wgmma, of a warp ---------------------------------------------------------------------------------

// One product of 64 x n x 16: acc has n / 2 numbers a thread; a has four registers, or is null and desc_a counts.
void Product(int n, float* acc, const uint32_t* a, uint64_t desc_a, bool mn_major_a, uint64_t desc_b, bool mn_major_b);
void ProductCommit();
void ProductWait(int pending);

}  // namespace grouper::emulator
