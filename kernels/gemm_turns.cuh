// Training's products of many tokens, forward and dx: gemm_wgmma.cuh's sums by tiles that take turns. Where k is short (576: nine steps of 64) a
// tile's stores take a fifth of its time. Here each of a block's two warpgroups has tiles of its own, 128 tokens x 192 in registers, and while one
// multiplies the other stores (CUTLASS calls such a schedule ping-pong).
//
// What is stored may be the SwiGLU of the sums, or their gradient through it: exponentials and traffic that a pass of its own would take go on
// beside the other warpgroup's multiplications. The bits are those of the product, rounded to bf16, and of kernels/swiglu.h after it.
#pragma once

#include "kernels/gemm_launch.cuh"

namespace grouper::kernels::cuda {

struct TurnsArguments {
  GemmArguments gemm;
  CUtensorMap stores;  // kStored, of C: boxes of 64 columns times 16 rows
  CUtensorMap gates;   // kGated, of the weights: boxes of half a tile's rows
};

// What becomes of a tile's sums.
enum class TurnsEnd {
  kStored,        // in C
  kGated,         // a tile is some features' gates, then their ups: silu(gate) * up to GemmArguments::gated; gates and ups to C unless it is null
  kGateGradient,  // they are gradients of silu(gate) * up: those of gate and up to C, two features' columns a sum
};

template <bool kMnB_, Grouping kGrouping_, TurnsEnd kEnd_ = TurnsEnd::kStored>
struct TurnsTile {
  static constexpr bool kMnB = kMnB_;
  static constexpr Grouping kGrouping = kGrouping_;
  static constexpr TurnsEnd kEnd = kEnd_;
  static constexpr int kTileM = 128, kTileN = 192;
  static constexpr int kThreads = 384, kStages = kEnd == TurnsEnd::kGateGradient ? 4 : 5, kBlocks = 1;
  static constexpr int kBytesA = kTileM * 128, kBytesB = kTileN * 128, kStoreBytes = 2048;
  static constexpr int kAhead = kEnd == TurnsEnd::kGateGradient ? 5 : 0, kAheadBytes = 1024;  // steps of gates and ups that a warp asks for ahead
  static constexpr int kGateRows = 32;  // kGated: of the weights, in a narrow tile's boxes
  static constexpr int kSharedBytes = 1024 + kStages * (kBytesA + kBytesB) + 8 * (kStoreBytes + kAhead * kAheadBytes) + 8 * (2 * kStages + 2);
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
        aheads_(stores_ + 8 * Tile::kStoreBytes),
        full_(reinterpret_cast<uint64_t*>(aheads_ + 8 * Tile::kAhead * Tile::kAheadBytes)),
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
    if (Tile::kEnd == TurnsEnd::kStored) PrefetchMap(&arguments_.stores);
    if (Tile::kEnd == TurnsEnd::kGated) PrefetchMap(&arguments_.gates);
  }

  // One thread.
  __device__ __forceinline__ void Fetch(Schedule schedule) {
    Ring ring;
    for (int index = static_cast<int>(blockIdx.x); index < schedule.total(); index += gridDim.x) {
      const TileSpot spot = schedule.Locate(index);
      for (int k = 0; k < args_.k; k += 64) {
        BarrierWait(&empty_[ring.stage], ring.phase ^ 1);
        uint64_t* const barrier = &full_[ring.stage];
        // Of a narrow tile the gates' boxes and then as many of the ups', so that its product is one of fewer columns.
        const bool narrow = Tile::kEnd == TurnsEnd::kGated && Columns(spot) <= 128;
        const int boxes = narrow ? (Columns(spot) + 2 * Tile::kGateRows - 1) / (2 * Tile::kGateRows) : 0;
        BarrierExpect(barrier, Tile::kBytesA + (narrow ? boxes * 2 * Tile::kGateRows * 128 : Tile::kBytesB));
        CopyBox(StageA(ring.stage), &args_.a, k, spot.m0, spot.batch_a, barrier);
        if constexpr (Tile::kEnd == TurnsEnd::kGated) {
          static_assert(!Tile::kMnB);
          const int gate = spot.n0 / 2, up = args_.n / 2 + gate;
          if (!narrow) {
            CopyBox(StageB(ring.stage), &arguments_.gates, k, gate, spot.batch_b, barrier);
            CopyBox(StageB(ring.stage) + Tile::kBytesB / 2, &arguments_.gates, k, up, spot.batch_b, barrier);
          }
          for (int i = 0; i < 2 * boxes; ++i) {
            const int row = i < boxes ? gate + i * Tile::kGateRows : up + (i - boxes) * Tile::kGateRows;
            CopyBox(StageB(ring.stage) + i * Tile::kGateRows * 128, &args_.b, k, row, spot.batch_b, barrier);
          }
        } else if constexpr (Tile::kMnB) {
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
      if (Columns(spot) <= 64) {
        Take<64>(upper, lower, spot, steps, ring, warpgroup);
      } else if (Columns(spot) <= 128) {
        Take<128>(upper, lower, spot, steps, ring, warpgroup);
      } else {
        Take<192>(upper, lower, spot, steps, ring, warpgroup);
      }
      if constexpr (Tile::kEnd == TurnsEnd::kStored) {
        Store(upper, spot, spot.m0);
        Store(lower, spot, spot.m0 + 64);
      }
    }
    if (Tile::kEnd == TurnsEnd::kStored && lane_ == 0) StoreBoxWaitRead();  // the block's memory goes with it
  }

 private:
  static __device__ __forceinline__ int Columns(const TileSpot& spot) { return min(Tile::kTileN, spot.n_end - spot.n0); }

  __device__ __forceinline__ char* StageA(int s) const { return stages_ + s * (Tile::kBytesA + Tile::kBytesB); }
  __device__ __forceinline__ char* StageB(int s) const { return StageA(s) + Tile::kBytesA; }

  template <int kWidth>
  __device__ __forceinline__ void Take(float (&upper)[Acc::kCount], float (&lower)[Acc::kCount], const TileSpot& spot, int steps, Ring& ring,
                                       int warpgroup) {
    if constexpr (Tile::kEnd == TurnsEnd::kGateGradient) {
#pragma unroll
      for (int step = 0; step < Tile::kAhead; ++step) AskForGates<kWidth>(spot, step);
    }
    Multiply<kWidth>(upper, lower, steps, ring, warpgroup);
    if constexpr (Tile::kEnd != TurnsEnd::kStored) {
      // Rounded at once, so that there are registers for what follows; by parts (64 columns of a half, or 32 gates and their ups), 16 pairs each.
      constexpr int kPairs = kWidth / 4, kParts = kWidth / 64;  // of a half
      uint32_t sums[2 * kPairs];
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int from = Tile::kEnd == TurnsEnd::kGateGradient ? i : i / 16 * 8 + i % 8 + i % 16 / 8 * (kPairs / 2);
        sums[i] = PackBF16(upper[2 * from], upper[2 * from + 1]);
        sums[kPairs + i] = PackBF16(lower[2 * from], lower[2 * from + 1]);
      }
#pragma unroll 1
      for (int part = 0; part < 2 * kParts; ++part) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t r[4] = {sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]};
          StoreMatrices(r, Own() + Acc::MatrixOffset(0, j, threadIdx.x % 128));
        }
        __syncwarp();
        // The next part's to the same registers.
#pragma unroll
        for (int i = 0; i + 16 < 2 * kPairs; ++i) sums[i] = sums[i + 16];
        if constexpr (Tile::kEnd == TurnsEnd::kGated) {
          StoreGated<kWidth>(spot, part);
        } else {
          StoreGateGradient<kWidth>(spot, part);
        }
      }
    }
  }

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

  // A warp's 16 rows of a part, by way of 2 KB of shared memory and in short loops, 16 bytes of each lane's a step: unrolled over the registers that
  // the sums are in, such code is longer than what a multiprocessor keeps of it, and takes ten times as long to fetch as to run.
  __device__ __forceinline__ char* Own() const { return stores_ + threadIdx.x / 32 * Tile::kStoreBytes; }
  __device__ __forceinline__ uint4 OwnUnit(int row, int unit) const {
    return *reinterpret_cast<const uint4*>(Own() + SwizzledOffset(static_cast<uint32_t>(row), static_cast<uint32_t>(16 * unit)));
  }

  // Sums of 32 gates, then of their ups.
  template <int kWidth>
  __device__ __forceinline__ void StoreGated(const TileSpot& spot, int part) const {
    constexpr int kParts = kWidth / 64;
    const bool below = part >= kParts;
    const int features = args_.n / 2, unit = lane_ % 4, feature = spot.n0 / 2 + (below ? part - kParts : part) * 32 + 8 * unit;
    const int m = spot.m0 + 64 * below + threadIdx.x % 128 / 32 * 16 + lane_ / 4;
    if (feature >= features) return;
    Out* const gated = args_.gated + m * args_.gated_stride + feature;
    Out* const c = static_cast<Out*>(args_.c) + m * args_.c_stride + feature;
#pragma unroll 1
    for (int i = 0; i < 16; i += 8) {
      const uint4 gate = OwnUnit(lane_ / 4 + i, unit), up = OwnUnit(lane_ / 4 + i, unit + 4);
      const uint4 product = make_uint4(GatedOf(gate.x, up.x), GatedOf(gate.y, up.y), GatedOf(gate.z, up.z), GatedOf(gate.w, up.w));
      if (m + i >= spot.m_end) continue;
      *reinterpret_cast<uint4*>(gated + i * args_.gated_stride) = product;
      if (args_.c == nullptr) continue;
      *reinterpret_cast<uint4*>(c + i * args_.c_stride) = gate;
      *reinterpret_cast<uint4*>(c + i * args_.c_stride + features) = up;
    }
  }

  // Steps of kGateGradient: four rows, 64 features.
  struct GateStep {
    int m, feature, row;  // row: of the warp's
  };
  template <int kWidth>
  __device__ __forceinline__ GateStep StepOf(const TileSpot& spot, int step) const {
    constexpr int kParts = kWidth / 64;
    const bool below = step >= 4 * kParts;
    const int part = step / 4 - (below ? kParts : 0), row = step % 4 * 4 + lane_ / 8;
    return {spot.m0 + 64 * below + static_cast<int>(threadIdx.x % 128 / 32 * 16) + row, spot.n0 + 64 * part + 8 * (lane_ % 8), row};
  }
  // Where this lane's gates of a step come to; 512 bytes further its ups.
  __device__ __forceinline__ char* GatesAhead(int step) const {
    return aheads_ + (threadIdx.x / 32 * Tile::kAhead + step % Tile::kAhead) * Tile::kAheadBytes + 16 * lane_;
  }
  // Each a group of copies; beyond the last step an empty one.
  template <int kWidth>
  __device__ __forceinline__ void AskForGates(const TileSpot& spot, int step) const {
    if (step < kWidth / 8) {
      const GateStep at = StepOf<kWidth>(spot, step);
      const bool inside = at.m < spot.m_end && at.feature < args_.n;
      const Out* const from = inside ? args_.gate_up + at.m * args_.gate_up_stride + at.feature : args_.gate_up;
      CopyAsync(GatesAhead(step), from, inside);
      CopyAsync(GatesAhead(step) + 512, from + (inside ? args_.n : 0), inside);
    }
    CopyAsyncCommit();
  }

  // Sums of 64 gradients of silu(gate) * up: through it.
  template <int kWidth>
  __device__ __forceinline__ void StoreGateGradient(const TileSpot& spot, int part) const {
#pragma unroll 1
    for (int step = 4 * part; step < 4 * part + 4; ++step) {
      const GateStep at = StepOf<kWidth>(spot, step);
      CopyAsyncWait<Tile::kAhead - 1>();
      const uint4 dy = OwnUnit(at.row, lane_ % 8), gate = *reinterpret_cast<const uint4*>(GatesAhead(step)),
                  up = *reinterpret_cast<const uint4*>(GatesAhead(step) + 512);
      const uint32_t d[4] = {dy.x, dy.y, dy.z, dy.w}, g[4] = {gate.x, gate.y, gate.z, gate.w}, u[4] = {up.x, up.y, up.z, up.w};
      uint32_t d_gate[4], d_up[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 of_d = UnpackBF16(d[i]), of_g = UnpackBF16(g[i]), of_u = UnpackBF16(u[i]);
        const GateGradient first = GateGradientOf(of_d.x, of_g.x, of_u.x), second = GateGradientOf(of_d.y, of_g.y, of_u.y);
        d_gate[i] = PackBF16(first.gate, second.gate);
        d_up[i] = PackBF16(first.up, second.up);
      }
      AskForGates<kWidth>(spot, step + Tile::kAhead);  // into the place that has just been read
      if (at.m >= spot.m_end || at.feature >= args_.n) continue;
      Out* const c = static_cast<Out*>(args_.c) + at.m * args_.c_stride + at.feature;
      *reinterpret_cast<uint4*>(c) = make_uint4(d_gate[0], d_gate[1], d_gate[2], d_gate[3]);
      *reinterpret_cast<uint4*>(c + args_.n) = make_uint4(d_up[0], d_up[1], d_up[2], d_up[3]);
    }
  }

  const TurnsArguments& arguments_;
  const GemmArguments& args_;
  char *const stages_, *const stores_, *const aheads_;
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

// y[t, n] = sum_k x[t, k] w[n, k] in bf16 (GemmProblem), or what kEnd makes of it; of w its rows are contiguous where kMnW, else k. REQUIRES:
// CanTakeTurns(p), or what kEnd asks for.
template <bool kMnW, Grouping kGrouping, TurnsEnd kEnd = TurnsEnd::kStored>
void LaunchTurns(Stream& stream, const GemmProblem& p) {
  using Tile = TurnsTile<kMnW, kGrouping, kEnd>;
  CHECK(kEnd == TurnsEnd::kStored ? CanTakeTurns(p) : kEnd == TurnsEnd::kGated ? CanEndGated(p) : CanEndWithGateGradient(p));
  TurnsArguments args;
  args.gemm = ArgumentsOf<Tile, false, kMnW, kGrouping, false, __nv_bfloat16>(p);
  if constexpr (kEnd == TurnsEnd::kGated) {
    args.gemm.b = OperandMap(p.w, kMnW, p.k, p.batch, Tile::kGateRows);
    args.gates = OperandMap(p.w, kMnW, p.k, p.batch, Tile::kTileN / 2);
  } else if constexpr (kEnd == TurnsEnd::kStored) {
    args.stores = MakeTensorMap(p.y, p.w.rows, p.x.rows, kGrouping == Grouping::kNone ? p.batch : 1, p.y_stride, p.y_batch_stride, 16);
  }
  static std::atomic<uint64_t> allowed = 0;
  LaunchPersistent<Tile>(stream, TurnsKernel<Tile>, args, MostTiles<kGrouping>(args.gemm), allowed);
}

}  // namespace grouper::kernels::cuda
