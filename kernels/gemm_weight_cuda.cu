// Gradients of weights, dW += dy^T x in float or bf16, an expert's or a layer's: the sum runs over tokens, so both operands are read MN-major.
//
// With few tokens an expert (512, say) such a product moves as many bytes of sums as it multiplies: 8 m n bytes of float read and written
// against 2 m n k operations. So tiles take turns: each of a block's two warpgroups has tiles of its own, 128 rows of them in registers, and while
// one multiplies the other stores its last sums and reads its next ones, which the copy engine has brought, 64 rows at a time. Tiles follow one
// another in one ring of stages; a warpgroup starts on it when the other has seen all of its own tile's stages full (a barrier's parity does not
// tell which of two rounds is over). Two blocks, one below the other in dW, may form a cluster: each fetches half of what both read of x. An
// element's sum has the same order as everywhere (gemm_wgmma.cuh).
#include <atomic>

#include "kernels/gemm_launch.cuh"

namespace grouper::kernels::cuda {
namespace {

struct WeightArguments {
  GemmArguments gemm;
  CUtensorMap sums;     // boxes of 128 bytes times 64 rows of C
  bool sums_by_engine;  // the copy engine can read C
};

template <int kBlockN_, int kCluster_, typename Out_>
struct WeightTile {
  using Out = Out_;
  static constexpr int kBlockM = 128, kBlockN = kBlockN_, kCluster = kCluster_;
  static constexpr int kTileM = kCluster * kBlockM, kTileN = kBlockN;  // the cluster's
  static constexpr int kThreads = 384;
  static constexpr int kBytesA = kBlockM * 128, kBytesB = kBlockN * 128, kSumBytes = 64 * kBlockN * sizeof(Out);
  static constexpr int kStages = (227 * 1024 - 2048 - kSumBytes) / (kBytesA + kBytesB);
  static constexpr int kPart = 64 / kCluster;  // of a stage's 64 tokens of x, what a block fetches
  static constexpr int kBarriers = 2 * kStages + 5;
  static constexpr int kSharedBytes = 1024 + kStages * (kBytesA + kBytesB) + kSumBytes + 8 * kBarriers;
  static_assert(kSharedBytes <= 227 * 1024);
};

// Zeroes rows [valid, 64) of MN-major boxes.
__device__ __forceinline__ void ZeroTail(char* boxes, int count, int valid, int thread, int threads) {
  for (int i = thread; i < count * (64 - valid) * 8; i += threads) {
    const int box = i / ((64 - valid) * 8), rest = i % ((64 - valid) * 8);
    *reinterpret_cast<uint4*>(boxes + box * 8192 + valid * 128 + rest * 16) = make_uint4(0, 0, 0, 0);
  }
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) WeightKernel(const __grid_constant__ WeightArguments arguments) {
  const GemmArguments& args = arguments.gemm;
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  char* shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* const sums = shared + Tile::kStages * (Tile::kBytesA + Tile::kBytesB);  // that the next tile continues from, 64 rows at a time
  uint64_t* full = reinterpret_cast<uint64_t*>(sums + Tile::kSumBytes);
  uint64_t* empty = full + Tile::kStages;
  uint64_t* over = empty + Tile::kStages;  // a warpgroup's turn
  uint64_t *sums_full = over + 2, *sums_empty = over + 4;  // full: a warpgroup's
  const auto stage_a = [&](int s) { return shared + s * (Tile::kBytesA + Tile::kBytesB); };
  const auto stage_b = [&](int s) { return shared + s * (Tile::kBytesA + Tile::kBytesB) + Tile::kBytesA; };
  if (threadIdx.x == 0) {
    for (int s = 0; s < Tile::kStages; ++s) {
      BarrierInit(&full[s], 1);
      BarrierInit(&empty[s], 4 * Tile::kCluster);
    }
    for (int w = 0; w < 2; ++w) {
      BarrierInit(&over[w], 4);
      BarrierInit(&sums_full[w], 1);
    }
    BarrierInit(sums_empty, 4);
    BarrierInitFence();
    PrefetchMap(&args.a);
    PrefetchMap(&args.b);
    if (arguments.sums_by_engine) PrefetchMap(&arguments.sums);
  }
  ClusterBarrier();
  TileSchedule<Tile, Grouping::kReduction, false> schedule(args, nullptr);
  const int rank = Tile::kCluster == 1 ? 0 : static_cast<int>(RankInCluster());
  const int first = blockIdx.x / Tile::kCluster, stride = gridDim.x / Tile::kCluster;
  const int warpgroup = threadIdx.x / 128;
  int stage = 0;
  uint32_t phase = 0;
  const auto advance = [&](int steps) {
    stage += steps;
    phase ^= stage / Tile::kStages & 1;
    stage %= Tile::kStages;
  };
  const bool sums_by_engine = args.accumulate && arguments.sums_by_engine;
  const auto locate = [&](int index) {
    TileSpot spot = schedule.Locate(index);
    spot.m0 += rank * Tile::kBlockM;
    return spot;
  };

  if (warpgroup == 2) {
    GiveRegisters<40>();
    if (threadIdx.x == 256) {
      for (int index = first; index < schedule.total(); index += stride) {
        const TileSpot spot = locate(index);
        for (int k = spot.k_begin; k < spot.k_end; k += 64) {
          BarrierWait(&empty[stage], phase ^ 1);
          BarrierExpect(&full[stage], Tile::kBytesA + Tile::kBytesB);
          for (int i = 0; i < Tile::kBlockM / 64; ++i)
            CopyBox(stage_a(stage) + i * 8192, &args.a, spot.m0 + i * 64, k, 0, &full[stage]);
          for (int i = 0; i < Tile::kBlockN / 64; ++i) {
            if constexpr (Tile::kCluster == 1) {
              CopyBox(stage_b(stage) + i * 8192, &args.b, spot.n0 + i * 64, k, 0, &full[stage]);
            } else {
              const int part = rank * Tile::kPart;
              CopyBoxToCluster(stage_b(stage) + i * 8192 + part * 128, &args.b, spot.n0 + i * 64, k + part, 0, &full[stage],
                               (1 << Tile::kCluster) - 1);
            }
          }
          advance(1);
        }
      }
    } else if (threadIdx.x == 288 && sums_by_engine) {
      constexpr int kColumns = 128 / sizeof(typename Tile::Out);
      uint32_t round = 0;
      for (int index = first, turn = 0; index < schedule.total(); index += stride, turn ^= 1) {
        const TileSpot spot = locate(index);
        if (spot.k_begin >= spot.k_end) continue;
        for (int half = 0; half < 2; ++half) {
          BarrierWait(sums_empty, round++ & 1 ^ 1);
          BarrierExpect(&sums_full[turn], Tile::kSumBytes);
          for (int i = 0; i < Tile::kBlockN / kColumns; ++i)
            CopyBox(sums + i * 8192, &arguments.sums, spot.n0 + i * kColumns, spot.m0 + 64 * half, spot.batch_c, &sums_full[turn]);
        }
      }
    }
  } else {
    TakeRegisters<232>();
    using Acc = Fragment<Tile::kBlockN, false, typename Tile::Out>;
    const int thread = threadIdx.x % 128, lane = threadIdx.x % 32;
    // Tells all that write to it that a stage has been read.
    const auto release = [&](int s) {
      if constexpr (Tile::kCluster == 1) {
        if (lane == 0) BarrierArrive(&empty[s]);
      } else {
        if (lane < Tile::kCluster) BarrierArriveAt(&empty[s], static_cast<uint32_t>(lane));
      }
    };
    float upper[Acc::kCount], lower[Acc::kCount];  // rows 0 to 63 and 64 to 127
    int turn = 0;
    uint32_t round = 0;  // of this warpgroup's sums
    for (int index = first; index < schedule.total(); index += stride, ++turn) {
      const TileSpot spot = locate(index);
      const int steps = (max(spot.k_end - spot.k_begin, 0) + 63) / 64;
      if (turn % 2 != warpgroup) {
        advance(steps);
        continue;
      }
      const bool unchanged = args.accumulate && steps == 0;
      if (sums_by_engine && !unchanged) {
        const auto take = [&](float (&acc)[Acc::kCount]) {
          BarrierWait(&sums_full[warpgroup], round++ & 1);
          Acc::LoadShared(acc, sums, thread);
          // An arrival does not wait for loads in flight, and the copy engine would overwrite what they are to read.
          FenceAsyncShared();
          __syncwarp();
          if (lane == 0) BarrierArrive(sums_empty);
        };
        take(upper);
        take(lower);
      } else if (!unchanged) {
        Acc::Start(upper, args, spot, spot.m0, thread);
        Acc::Start(lower, args, spot, spot.m0 + 64, thread);
      }
      if (turn > 0) BarrierWait(&over[1 - warpgroup], (turn - 1) / 2 & 1);
      // One step of 64 of k, left in flight; returns its stage.
      const auto step = [&](int k) {
        BarrierWait(&full[stage], phase);
        if (spot.k_end - k < 64) {  // the rest are the next expert's tokens
          ZeroTail(stage_a(stage), Tile::kBlockM / 64 + Tile::kBlockN / 64, spot.k_end - k, thread, 128);
          FenceAsyncShared();
          NamedBarrier(1 + warpgroup, 128);
        }
        const uint64_t desc_a = DescriptorMnMajor(stage_a(stage), 8192), desc_b = DescriptorMnMajor(stage_b(stage), 8192);
        WgmmaFence();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          WgmmaBF16<Tile::kBlockN>::template Mma<1, 1>(upper, Advance(desc_a, i * 2048), Advance(desc_b, i * 2048));
          WgmmaBF16<Tile::kBlockN>::template Mma<1, 1>(lower, Advance(desc_a, 8192 + i * 2048), Advance(desc_b, i * 2048));
        }
        WgmmaCommit();
        const int used = stage;
        advance(1);
        return used;
      };
      if (steps > 0) {
        WgmmaTouch(upper);
        WgmmaTouch(lower);
        int previous = step(spot.k_begin);
        for (int k = spot.k_begin + 64; k < spot.k_end; k += 64) {
          const int current = step(k);
          WgmmaWait<1>();
          release(previous);
          previous = current;
        }
        if (lane == 0) BarrierArrive(&over[warpgroup]);
        WgmmaWait<0>();
        WgmmaTouch(upper);
        WgmmaTouch(lower);
        release(previous);
      } else {
        __syncwarp();  // a lane that has not yet seen the other's turn end would miss it when two more have ended
        if (lane == 0) BarrierArrive(&over[warpgroup]);
      }
      if (unchanged) continue;
      Acc::Store(upper, args, spot, spot.m0, thread);
      Acc::Store(lower, args, spot, spot.m0 + 64, thread);
    }
  }
  __syncwarp();
  if constexpr (Tile::kCluster > 1) ClusterBarrier();  // none leaves while another still writes to its memory
}

template <typename Tile>
void LaunchWeight(Stream& stream, const GemmProblem& p) {
  using Out = typename Tile::Out;
  WeightArguments args = {};
  args.gemm = ArgumentsOf<Tile, true, true, Grouping::kReduction, false, Out>(p);
  args.gemm.b = MakeTensorMap(p.w.data, p.w.rows, p.k, 1, p.w.k_stride, 0, Tile::kPart);
  constexpr int64_t kElements = 16 / sizeof(Out);
  args.sums_by_engine = reinterpret_cast<uintptr_t>(p.y) % 16 == 0 && p.y_stride % kElements == 0 && p.y_batch_stride % kElements == 0;
  if (args.sums_by_engine)
    args.sums = MakeTensorMap(p.y, p.w.rows, p.x.rows, p.batch, p.y_stride, p.y_batch_stride, 64, std::is_same_v<Out, float>);
  static uint64_t allowed = 0;
  AllowSharedMemory(WeightKernel<Tile>, Tile::kSharedBytes, allowed);
  static std::atomic<int> all_slots[64];
  int device = 0;
  GROUPER_CUDA_CHECK(cudaGetDevice(&device));
  int slots = all_slots[device];
  if (slots == 0) {
    slots = ActiveClusters(stream, Tile::kCluster, Tile::kThreads, Tile::kSharedBytes, WeightKernel<Tile>);
    CHECK_GT(slots, 0) << "no multiprocessor takes " << Tile::kSharedBytes << " bytes of shared memory";
    all_slots[device] = slots;
  }
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(TilesOf<Tile>(args.gemm), slots) * Tile::kCluster);
  LaunchClusters(stream, Tile::kCluster, blocks, Tile::kThreads, Tile::kSharedBytes, WeightKernel<Tile>, args);
}

template <int kTileN, typename Out>
void LaunchWidth(Stream& stream, bool pairs, const GemmProblem& p) {
  pairs ? LaunchWeight<WeightTile<kTileN, 2, Out>>(stream, p) : LaunchWeight<WeightTile<kTileN, 1, Out>>(stream, p);
}

template <typename Out>
void LaunchSums(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  if (v.tile_n == 128) return LaunchWidth<128, Out>(stream, v.pairs, p);
  CHECK_EQ(v.tile_n, 192);
  LaunchWidth<192, Out>(stream, v.pairs, p);
}

}  // namespace

void LaunchWeightGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  CHECK(v.mn_x && v.mn_w && v.groups == GemmGroups::kReduction && p.bias == nullptr);
  v.y_float ? LaunchSums<float>(stream, v, p) : LaunchSums<__nv_bfloat16>(stream, v, p);
}

}  // namespace grouper::kernels::cuda
