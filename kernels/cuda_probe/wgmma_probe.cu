// Which tiles give bit-equal dot products? Y[T, N] = X[T, K] W[N, K]^T in bf16 with float sums, by every way of using
// the tensor cores that a kernel here might choose, compared bit for bit with one of them. kernels/README.md has the
// answer; this program asks again on another chip or compiler:
//
//   nvcc -std=c++20 -O3 -DNDEBUG -gencode=arch=compute_90a,code=sm_90a -I. kernels/cuda_probe/wgmma_probe.cu -o
//   wgmma_probe
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/hopper.cuh"
#include "kernels/wgmma.cuh"

namespace grouper::kernels::cuda {
namespace {

constexpr int kT = 256, kN = 256, kK = 576;

void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Loads rows [first, first + rows) x k [k0, k0 + 64) of a row-major [.., kK] matrix as one K-major box, or as MN-major
// boxes of 64 rows.
__device__ void LoadTile(const __nv_bfloat16* source, int first, int rows, int k0, bool mn_major, char* box) {
  for (int i = threadIdx.x; i < rows * 64; i += blockDim.x) {
    const int row = i / 64, k = i % 64;
    const __nv_bfloat16 value = source[(first + row) * kK + k0 + k];
    const uint32_t offset = mn_major ? row / 64 * 8192 + SwizzledOffset(k, row % 64 * 2)
                                     : SwizzledOffset(row, static_cast<uint32_t>(k) * 2);
    *reinterpret_cast<__nv_bfloat16*>(box + offset) = value;
  }
}

enum class AFrom { kShared, kRegisters };

// One warpgroup: a 64 x n tile at (m0, n0) of A[., K] B[., K]^T; swapped: A is W and B is X. `chain` groups of 16 of k
// are in flight together.
template <int kTileN, AFrom kFrom, int kMnA, int kMnB>
__global__ void TileKernel(const __nv_bfloat16* a, const __nv_bfloat16* b, float* y, bool swapped, int chain) {
  extern __shared__ __align__(1024) char shared[];
  char* box_a = shared;
  char* box_b = shared + 8192;
  const int m0 = blockIdx.x * 64, n0 = blockIdx.y * kTileN;
  const int t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4, column = 2 * (t % 4);
  float acc[WgmmaBF16<kTileN>::kRegisters];
#pragma unroll
  for (int i = 0; i < WgmmaBF16<kTileN>::kRegisters; ++i) acc[i] = 0;
  for (int k0 = 0; k0 < kK; k0 += 64) {
    __syncthreads();
    LoadTile(a, m0, 64, k0, kMnA, box_a);
    LoadTile(b, n0, kTileN, k0, kMnB, box_b);
    FenceAsyncShared();
    __syncthreads();
    const uint64_t desc_a = kMnA ? DescriptorMnMajor(box_a, 8192) : DescriptorKMajor(box_a);
    const uint64_t desc_b = kMnB ? DescriptorMnMajor(box_b, 8192) : DescriptorKMajor(box_b);
    WgmmaTouch(acc);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint64_t step_b = Advance(desc_b, k * (kMnB ? 2048 : 32));
      if constexpr (kFrom == AFrom::kShared) {
        WgmmaBF16<kTileN>::template Mma<kMnA, kMnB>(acc, Advance(desc_a, k * (kMnA ? 2048 : 32)), step_b);
      } else {
        uint32_t r[4];
        for (int c = 0; c < 2; ++c) {
          for (int h = 0; h < 2; ++h) {
            std::memcpy(&r[h + 2 * c], a + (m0 + row + 8 * h) * kK + k0 + k * 16 + 8 * c + column, 4);
          }
        }
        WgmmaBF16<kTileN>::template MmaA<kMnB>(acc, r[0], r[1], r[2], r[3], step_b);
      }
      if (chain == 1) {
        WgmmaCommit();
        WgmmaWait<0>();
        WgmmaTouch(acc);
        WgmmaFence();
      }
    }
    WgmmaCommit();
    WgmmaWait<0>();
    WgmmaTouch(acc);
  }
#pragma unroll
  for (int i = 0; i < WgmmaBF16<kTileN>::kRegisters; ++i) {
    const int m = m0 + row + 8 * (i / 2 % 2), n = n0 + i / 4 * 8 + column + i % 2;
    y[swapped ? n * kN + m : m * kN + n] = acc[i];
  }
}

// The older warp instruction mma.sync m16n8k16, one warp a 16 x 8 tile.
__global__ void WarpMmaKernel(const __nv_bfloat16* x, const __nv_bfloat16* w, float* y) {
  const int t0 = blockIdx.x * 16, n0 = blockIdx.y * 8, lane = threadIdx.x;
  float d[4] = {0, 0, 0, 0};
  for (int k = 0; k < kK; k += 16) {
    uint32_t a[4], b[2];
    for (int c = 0; c < 2; ++c) {
      for (int h = 0; h < 2; ++h)
        std::memcpy(&a[h + 2 * c], x + (t0 + lane / 4 + 8 * h) * kK + k + 8 * c + lane % 4 * 2, 4);
      std::memcpy(&b[c], w + (n0 + lane / 4) * kK + k + 8 * c + lane % 4 * 2, 4);
    }
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  for (int i = 0; i < 4; ++i) y[(t0 + lane / 4 + 8 * (i / 2)) * kN + n0 + lane % 4 * 2 + i % 2] = d[i];
}

// One ascending chain of fused multiply-adds: the CPU's order.
__global__ void ChainKernel(const __nv_bfloat16* x, const __nv_bfloat16* w, float* y) {
  const int t = blockIdx.x, n = threadIdx.x;
  float sum = 0;
  for (int k = 0; k < kK; ++k) sum = __fmaf_rn(__bfloat162float(x[t * kK + k]), __bfloat162float(w[n * kK + k]), sum);
  y[t * kN + n] = sum;
}

class Probe {
 public:
  Probe() : x_(kT * kK), w_(kN * kK), reference_(kT * kN) {
    // Magnitudes over 2^-8..2^8 and cancelling signs, so that another order or another rounding shows.
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> exponent(-8, 8);
    for (auto* v : {&x_, &w_}) {
      for (__nv_bfloat16& e : *v) e = __float2bfloat16(normal(random) * std::exp2(exponent(random)));
    }
    Require(cudaMalloc(&device_x_, x_.size() * 2), "malloc");
    Require(cudaMalloc(&device_w_, w_.size() * 2), "malloc");
    Require(cudaMalloc(&device_y_, kT * kN * 4), "malloc");
    Upload();
  }

  void Upload() {
    Require(cudaMemcpy(device_x_, x_.data(), x_.size() * 2, cudaMemcpyHostToDevice), "copy");
    Require(cudaMemcpy(device_w_, w_.data(), w_.size() * 2, cudaMemcpyHostToDevice), "copy");
  }

  template <int kTileN, AFrom kFrom, int kMnA, int kMnB>
  void Tile(bool swapped, int chain = 4) {
    auto kernel = TileKernel<kTileN, kFrom, kMnA, kMnB>;
    const int bytes = 8192 + (kTileN < 64 ? 8192 : kTileN * 128);
    Require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attribute");
    kernel<<<dim3(256 / 64, 256 / kTileN), 128, bytes>>>(swapped ? device_w_ : device_x_,
                                                         swapped ? device_x_ : device_w_, device_y_, swapped, chain);
    char name[120];
    std::snprintf(name, sizeof name, "wgmma m64n%d, tokens on %s, A %s%s, B %s-major%s", kTileN, swapped ? "N" : "M",
                  kFrom == AFrom::kRegisters ? "in registers"
                  : kMnA                     ? "MN-major"
                                             : "K-major",
                  "", kMnB ? "MN" : "K", chain == 1 ? ", one instruction at a time" : "");
    Compare(name);
  }

  void Compare(const char* name) {
    std::vector<float> y(kT * kN);
    Require(cudaDeviceSynchronize(), name);
    Require(cudaMemcpy(y.data(), device_y_, y.size() * 4, cudaMemcpyDeviceToHost), name);
    Require(cudaMemset(device_y_, 0xff, kT * kN * 4), name);
    if (!have_reference_) {
      reference_ = y;
      have_reference_ = true;
    }
    int different = 0, rows = 0;
    double worst = 0;
    for (int t = 0; t < compared_rows_; ++t) {
      bool row_differs = false;
      for (int n = 0; n < kN; ++n) {
        const float a = y[t * kN + n], b = reference_[t * kN + n];
        if (std::memcmp(&a, &b, 4) == 0) continue;
        ++different;
        row_differs = true;
        worst = std::fmax(worst,
                          std::isfinite(a) ? std::fabs(static_cast<double>(a) - b) / (std::fabs(b) + 1e-30) : INFINITY);
      }
      rows += row_differs;
    }
    std::printf("%-70s %6d of %d differ (rows %d, worst relative %.1e)\n", name, different, compared_rows_ * kN, rows,
                worst);
  }

  void Warp() {
    WarpMmaKernel<<<dim3(kT / 16, kN / 8), 32>>>(device_x_, device_w_, device_y_);
    Compare("mma.sync m16n8k16");
  }
  void Chain() {
    ChainKernel<<<kT, kN>>>(device_x_, device_w_, device_y_);
    Compare("one fma chain (CPU order)");
  }
  // The tokens from `first` on become NaN, infinite or huge: the others may not notice.
  void SpoilNeighbours(int first) {
    for (int t = first; t < kT; ++t) {
      for (int k = 0; k < kK; ++k) x_[t * kK + k] = __float2bfloat16(t % 3 == 0 ? NAN : t % 3 == 1 ? INFINITY : 3e38f);
    }
    Upload();
    compared_rows_ = first;
  }

 private:
  std::vector<__nv_bfloat16> x_, w_;
  std::vector<float> reference_;
  __nv_bfloat16 *device_x_ = nullptr, *device_w_ = nullptr;
  float* device_y_ = nullptr;
  bool have_reference_ = false;
  int compared_rows_ = kT;
};

void Run() {
  Probe probe;
  constexpr AFrom kS = AFrom::kShared, kR = AFrom::kRegisters;
  auto all = [&] {
    probe.Tile<128, kS, 0, 0>(false);
    probe.Tile<8, kS, 0, 0>(false);
    probe.Tile<16, kS, 0, 0>(false);
    probe.Tile<32, kS, 0, 0>(false);
    probe.Tile<64, kS, 0, 0>(false);
    probe.Tile<256, kS, 0, 0>(false);
    probe.Tile<128, kS, 0, 0>(false, 1);
    probe.Tile<8, kS, 0, 0>(true);
    probe.Tile<16, kS, 0, 0>(true);
    probe.Tile<32, kS, 0, 0>(true);
    probe.Tile<64, kS, 0, 0>(true);
    probe.Tile<128, kS, 0, 0>(true);
    probe.Tile<256, kS, 0, 0>(true);
    probe.Tile<64, kR, 0, 0>(false);
    probe.Tile<128, kR, 0, 0>(true);
    probe.Tile<64, kS, 0, 1>(false);
    probe.Tile<256, kS, 0, 1>(false);
    probe.Tile<128, kS, 1, 0>(false);
    probe.Tile<128, kS, 1, 1>(true);
    probe.Tile<256, kR, 0, 1>(false);
  };
  all();
  probe.Warp();
  probe.Chain();
  std::printf("\nneighbours from token 101 on are NaN, infinite and huge; tokens 0..100 compared\n");
  probe.SpoilNeighbours(101);
  all();
}

}  // namespace
}  // namespace grouper::kernels::cuda

int main() {
  grouper::kernels::cuda::Run();
  return 0;
}
