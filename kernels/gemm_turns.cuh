// Training's products of many tokens, forward and dx: gemm_wgmma.cuh's sums by tiles that take turns. Where k is short (576: nine steps of 64) a
// tile's stores take a fifth of its time. Here each of a block's two warpgroups has tiles of its own, 128 tokens x 192 in registers, and while one
// multiplies the other stores (CUTLASS calls such a schedule ping-pong).
#pragma once

#include "kernels/gemm_launch.cuh"

namespace grouper::kernels::cuda {

struct TurnsArguments {
  GemmArguments gemm;
  CUtensorMap stores;  // of C: boxes of 64 columns times 16 rows
};

template <bool kMnB_, Grouping kGrouping_>
struct TurnsTile {
  static constexpr bool kMnB = kMnB_;
  static constexpr Grouping kGrouping = kGrouping_;
  static constexpr int kTileM = 128, kTileN = 192;
  static constexpr int kThreads = 384, kStages = 5, kBlocks = 1;
  static constexpr int kBytesA = kTileM * 128, kBytesB = kTileN * 128, kStoreBytes = 2048;
  static constexpr int kSharedBytes = 1024 + kStages * (kBytesA + kBytesB) + 8 * kStoreBytes + 8 * (2 * kStages + 2);
  static_assert(kSharedBytes + 4 * (kMaxGroups + 1) <= 227 * 1024);
};

// One block: what its warps do, and the shared memory by which they do it.
template <typename Tile>
class TurnsBlock {
  using Out = __nv_bfloat16;
  using Acc = Fragment<Tile::kTileN, false, Out>;
  using Schedule = TileSchedule<Tile, Tile::kGrouping, false>;
  using Ring = StageRing<Tile::kStages>;

 public:
  __device__ __forceinline__ TurnsBlock(const TurnsArguments& arguments, char* shared)
      : arguments_(arguments),
        args_(arguments.gemm),
        stages_(shared),
        stores_(stages_ + Tile::kStages * (Tile::kBytesA + Tile::kBytesB)),
        full_(reinterpret_cast<uint64_t*>(stores_ + 8 * Tile::kStoreBytes)),
        empty_(full_ + Tile::kStages),
        over_(empty_ + Tile::kStages),
        lane_(threadIdx.x % 32) {}

  // One thread, before all others.
  __device__ __forceinline__ void Init() {
    for (int s = 0; s < Tile::kStages; ++s) {
      BarrierInit(&full_[s], 1);
      BarrierInit(&empty_[s], 4);  // the warps whose tile it is
    }
    for (int w = 0; w < 2; ++w) BarrierInit(&over_[w], 4);
    BarrierInitFence();
    PrefetchMap(&args_.a);
    PrefetchMap(&args_.b);
    PrefetchMap(&arguments_.stores);
  }

  // One thread.
  __device__ __forceinline__ void Fetch(Schedule schedule) {
    Ring ring;
    for (int index = static_cast<int>(blockIdx.x); index < schedule.total(); index += gridDim.x) {
      const TileSpot spot = schedule.Locate(index);
      for (int k = 0; k < args_.k; k += 64) {
        BarrierWait(&empty_[ring.stage], ring.phase ^ 1);
        uint64_t* const barrier = &full_[ring.stage];
        BarrierExpect(barrier, Tile::kBytesA + Tile::kBytesB);
        CopyBox(StageA(ring.stage), &args_.a, k, spot.m0, spot.batch_a, barrier);
        if constexpr (Tile::kMnB) {
#pragma unroll
          for (int i = 0; i < Tile::kTileN / 64; ++i) CopyBox(StageB(ring.stage) + i * 8192, &args_.b, spot.n0 + i * 64, k, spot.batch_b, barrier);
        } else {
          CopyBox(StageB(ring.stage), &args_.b, k, spot.n0, spot.batch_b, barrier);
        }
        ring.Advance(1);
      }
    }
  }

  // A warpgroup: every second tile.
  __device__ __forceinline__ void Compute(Schedule schedule, int warpgroup) {
    float upper[Acc::kCount], lower[Acc::kCount];  // rows 0 to 63 and 64 to 127
    Ring ring;
    const int steps = (args_.k + 63) / 64;
    int turn = 0;
    for (int index = static_cast<int>(blockIdx.x); index < schedule.total(); index += gridDim.x, ++turn) {
      if (turn % 2 != warpgroup) {
        ring.Advance(steps);
        continue;
      }
      const TileSpot spot = schedule.Locate(index);
#pragma unroll
      for (int i = 0; i < Acc::kCount; ++i) upper[i] = lower[i] = 0;
      if (turn > 0) BarrierWait(&over_[1 - warpgroup], (turn - 1) / 2 & 1);
      // The last tile of a row of tiles is as wide as its columns, in boxes.
      const int columns = spot.n_end - spot.n0;
      if (columns <= 64) {
        Multiply<64>(upper, lower, steps, ring, warpgroup);
      } else if (columns <= 128) {
        Multiply<128>(upper, lower, steps, ring, warpgroup);
      } else {
        Multiply<192>(upper, lower, steps, ring, warpgroup);
      }
      Store(upper, spot, spot.m0);
      Store(lower, spot, spot.m0 + 64);
    }
    if (lane_ == 0) StoreBoxWaitRead();  // the block's memory goes with it
  }

 private:
  __device__ __forceinline__ char* StageA(int s) const { return stages_ + s * (Tile::kBytesA + Tile::kBytesB); }
  __device__ __forceinline__ char* StageB(int s) const { return StageA(s) + Tile::kBytesA; }

  // All of a tile, kWidth columns of it; ends this warpgroup's turn when it has seen the tile's last stage.
  template <int kWidth>
  __device__ __forceinline__ void Multiply(float (&upper)[Acc::kCount], float (&lower)[Acc::kCount], int steps, Ring& ring, int warpgroup) {
    WgmmaTouch(upper);
    WgmmaTouch(lower);
    // 64 of k, left in flight; returns their stage.
    const auto step = [&] {
      BarrierWait(&full_[ring.stage], ring.phase);
      const uint64_t desc_a = DescriptorKMajor(StageA(ring.stage));
      const uint64_t desc_b = Tile::kMnB ? DescriptorMnMajor(StageB(ring.stage), 8192) : DescriptorKMajor(StageB(ring.stage));
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint64_t b = Advance(desc_b, i * (Tile::kMnB ? 2048 : 32));
        WgmmaBF16<kWidth>::template Mma<0, Tile::kMnB>(First<kWidth / 2>(upper), Advance(desc_a, i * 32), b);
        WgmmaBF16<kWidth>::template Mma<0, Tile::kMnB>(First<kWidth / 2>(lower), Advance(desc_a, 8192 + i * 32), b);
      }
      WgmmaCommit();
      const int used = ring.stage;
      ring.Advance(1);
      return used;
    };
    int previous = step();
    for (int i = 1; i < steps; ++i) {
      const int current = step();
      WgmmaWait<1>();
      Release(previous);
      previous = current;
    }
    if (lane_ == 0) BarrierArrive(&over_[warpgroup]);
    WgmmaWait<0>();
    WgmmaTouch(upper);
    WgmmaTouch(lower);
    Release(previous);
  }

  __device__ __forceinline__ void Release(int stage) {
    if (lane_ == 0) BarrierArrive(&empty_[stage]);
  }

  // 64 rows, 64 columns at a time by way of 2 KB of each warp's own. The copy engine takes 16 rows of C away; of those that are another expert's
  // the warp stores what is the tile's.
  __device__ __forceinline__ void Store(const float (&acc)[Acc::kCount], const TileSpot& spot, int m0) {
    char* const own = stores_ + threadIdx.x / 32 * Tile::kStoreBytes;
    const int m = m0 + threadIdx.x % 128 / 32 * 16;
    if (m >= spot.m_end) return;
    const bool whole = Tile::kGrouping == Grouping::kNone || m + 16 <= spot.m_end;
#pragma unroll
    for (int box = 0; box < Tile::kTileN / 64; ++box) {
      const int n = spot.n0 + 64 * box;
      if (n >= spot.n_end) break;
      if (lane_ == 0) StoreBoxWaitRead();
      __syncwarp();
      Acc::StoreWarpBox(acc, box, own, threadIdx.x % 128);
      if (whole) {
        FenceAsyncShared();
        __syncwarp();
        if (lane_ == 0) {
          StoreBox(own, &arguments_.stores, n, m, spot.batch_c);
          StoreBoxCommit();
        }
      } else {
        __syncwarp();
        const int column = n + lane_ % 8 * 8;
        for (int row = lane_ / 8; row < spot.m_end - m; row += 4) {
          if (column < spot.n_end)
            *reinterpret_cast<uint4*>(static_cast<Out*>(args_.c) + (m + row) * args_.c_stride + column) =
                *reinterpret_cast<const uint4*>(own + SwizzledOffset(static_cast<uint32_t>(row), static_cast<uint32_t>(lane_ % 8 * 16)));
        }
        __syncwarp();
      }
    }
  }

  const TurnsArguments& arguments_;
  const GemmArguments& args_;
  char *const stages_, *const stores_;
  uint64_t *const full_, *const empty_;
  uint64_t* const over_;  // a warpgroup's turn
  const int lane_;
};

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) TurnsKernel(const __grid_constant__ TurnsArguments arguments) {
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  using Schedule = TileSchedule<Tile, Tile::kGrouping, false>;
  __shared__ int prefix[Tile::kGrouping == Grouping::kRows ? kMaxGroups + 1 : 1];
  TurnsBlock<Tile> block(arguments, shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024);
  if (threadIdx.x == 0) block.Init();
  KernelBegin();
  if constexpr (Tile::kGrouping == Grouping::kRows) {
    if (threadIdx.x >= 32 && threadIdx.x < 64) Schedule::FillPrefix(arguments.gemm, prefix);
  }
  __syncthreads();
  const Schedule schedule(arguments.gemm, prefix);
  const int warpgroup = threadIdx.x / 128;
  if (warpgroup < 2) {
    TakeRegisters<232>();
    block.Compute(schedule, warpgroup);
  } else {
    GiveRegisters<40>();
    if (threadIdx.x == 256) block.Fetch(schedule);
  }
}

// y[t, n] = sum_k x[t, k] w[n, k] in bf16 (GemmProblem); of w its rows are contiguous where kMnW, else k. REQUIRES: CanTakeTurns(p).
template <bool kMnW, Grouping kGrouping>
void LaunchTurns(Stream& stream, const GemmProblem& p) {
  using Tile = TurnsTile<kMnW, kGrouping>;
  CHECK(CanTakeTurns(p));
  TurnsArguments args;
  args.gemm = ArgumentsOf<Tile, false, kMnW, kGrouping, false, __nv_bfloat16>(p);
  args.stores = MakeTensorMap(p.y, p.w.rows, p.x.rows, kGrouping == Grouping::kNone ? p.batch : 1, p.y_stride, p.y_batch_stride, 16);
  static std::atomic<uint64_t> allowed = 0;
  LaunchPersistent<Tile>(stream, TurnsKernel<Tile>, args, MostTiles<kGrouping>(args.gemm), allowed);
}

}  // namespace grouper::kernels::cuda
