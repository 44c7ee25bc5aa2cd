// Gradients of weights, dW += dy^T x (or =) in float or bf16, an expert's or a layer's: the sum runs over tokens, so both operands are read
// MN-major.
//
// With few tokens an expert (512, say) such a product moves as many bytes of sums as it multiplies: 8 m n bytes of float read and written
// against 2 m n k operations. So tiles take turns: each of a block's two warpgroups has tiles of its own, 128 rows of them in registers, and while
// one multiplies the other stores its last sums and reads its next ones. The copy engine brings those, in boxes of 8 KB, and takes bf16 sums
// away, in boxes of 2 KB that belong to a warp; of bf16 a tile's upper half is read before the last one's lower half is stored, so that the lower
// half can come meanwhile. Tiles follow one another in one ring of stages; a warpgroup starts on it when the other has seen all of its own tile's
// stages full (a barrier's parity does not tell which of two rounds is over). Two blocks, one below the other in dW, may form a cluster: each
// fetches half of what both read of x.
//
// An expert's tokens seldom end with a stage's 64. A warp of its own zeroes what lies between its last token and the next 16 of k before the
// warpgroups are told that the stage is full; beyond them nothing is multiplied. (The first stage is multiplied whole, even with
// fewer tokens: a product that may or may not happen there would be serialised.) An element's sum has the same order as everywhere (gemm_wgmma.cuh).
#include <atomic>

#include "kernels/gemm_launch.cuh"

namespace grouper::kernels::cuda {
namespace {

struct WeightArguments {
  GemmArguments gemm;
  int total;                 // tiles
  CUtensorMap sums, stores;  // of C: boxes of 128 bytes times 64 rows to read, times 16 to store
  bool two_fetch;            // a warp for A, one for B
};

template <int kBlockN_, int kCluster_, typename Out_, bool kAccumulate_>
struct WeightTile {
  using Out = Out_;
  static constexpr bool kAccumulate = kAccumulate_;
  static constexpr int kBlockM = 128, kBlockN = kBlockN_, kCluster = kCluster_;
  static constexpr int kTileM = kCluster * kBlockM, kTileN = kBlockN;  // the cluster's
  static constexpr int kThreads = 384;
  static constexpr int kBytesA = kBlockM * 128, kBytesB = kBlockN * 128;
  static constexpr bool kNarrow = std::is_same_v<Out, __nv_bfloat16>;
  // Shared memory: for each multiplying warp a box to store from (bf16); places for boxes of sums, at least so many as kLeastPlaces; stages; and
  // more places in what is left.
  static constexpr int kStoreBytes = kNarrow ? 2048 : 0, kPlaceBytes = 8192, kLeastPlaces = kNarrow ? 2 : 6;
  static constexpr int kFree = 227 * 1024 - 2048 - 8 * kStoreBytes;
  static constexpr int kHalfBoxes = kBlockN * sizeof(Out) / 128;  // of sums, in 64 rows of the tile
  static constexpr int kStages = (kFree - (kAccumulate ? kLeastPlaces * kPlaceBytes : 0)) / (kBytesA + kBytesB);
  static constexpr int kLeft = (kFree - kStages * (kBytesA + kBytesB)) / kPlaceBytes;
  static constexpr int kPlaces = !kAccumulate ? 0 : kLeft < 2 * kHalfBoxes ? kLeft : 2 * kHalfBoxes;
  static constexpr int kPart = 64 / kCluster;  // of a stage's 64 tokens of x, what a block fetches
  static constexpr bool kClips = !kNarrow || kBlockN != 128;  // a last tile is as wide as its columns (bf16 tiles of 128 lose more than they gain)
  // Tiles follow one another along C's rows, not its columns: where bf16 sums are added to (4% faster at 2816 x 2048; elsewhere slower).
  static constexpr bool kAlongRows = kNarrow && kAccumulate && kBlockN == 128;
  static constexpr int kBarriers = 3 * kStages + 2 + 3 * kPlaces;
  static constexpr int kSharedBytes = 1024 + kStages * (kBytesA + kBytesB) + kPlaces * kPlaceBytes + 8 * kStoreBytes + 8 * kBarriers;
  static_assert(kStages >= 3 && kStages <= 32 && kSharedBytes <= 227 * 1024);
};

// A tile as one block sees it. The last tile of a row of tiles may be narrower: of its columns whole boxes are read and multiplied, 64 wide.
struct WeightSpot : TileSpot {
  int tokens, boxes;  // boxes: of x, in a stage
};

// One block: what its warps do, and the shared memory by which they do it.
template <typename Tile>
class WeightBlock {
  using Out = typename Tile::Out;
  using Acc = Fragment<Tile::kBlockN, false, Out>;
  using Ring = StageRing<Tile::kStages>;
  static constexpr int kSumColumns = Acc::kBoxColumns;

 public:
  __device__ __forceinline__ WeightBlock(const WeightArguments& arguments, char* shared)
      : arguments_(arguments),
        args_(arguments.gemm),
        stages_(shared),
        sums_(stages_ + Tile::kStages * (Tile::kBytesA + Tile::kBytesB)),
        stores_(sums_ + Tile::kPlaces * Tile::kPlaceBytes),
        full_(reinterpret_cast<uint64_t*>(stores_ + 8 * Tile::kStoreBytes)),
        empty_(full_ + Tile::kStages),
        arrived_(empty_ + Tile::kStages),
        over_(arrived_ + Tile::kStages),
        sums_full_(over_ + 2),
        sums_empty_(sums_full_ + 2 * Tile::kPlaces),
        rank_(Tile::kCluster == 1 ? 0 : static_cast<int>(RankInCluster())),
        first_(blockIdx.x / Tile::kCluster),
        stride_(gridDim.x / Tile::kCluster),
        lane_(threadIdx.x % 32) {}

  // One thread, before all others.
  __device__ __forceinline__ void Init() {
    for (int s = 0; s < Tile::kStages; ++s) {
      BarrierInit(&full_[s], 1);
      BarrierInit(&empty_[s], 4 * Tile::kCluster);
      BarrierInit(&arrived_[s], 1);
    }
    for (int w = 0; w < 2; ++w) BarrierInit(&over_[w], 4);
    for (int i = 0; i < 2 * Tile::kPlaces; ++i) BarrierInit(&sums_full_[i], 1);
    for (int place = 0; place < Tile::kPlaces; ++place) BarrierInit(&sums_empty_[place], 4);
    BarrierInitFence();
    PrefetchMap(&args_.a);
    PrefetchMap(&args_.b);
    if (Tile::kAccumulate) PrefetchMap(&arguments_.sums);
    if (Tile::kNarrow) PrefetchMap(&arguments_.stores);
  }

  // One thread: A, B or both of all stages.
  __device__ __forceinline__ void FetchTokens(bool a, bool b) {
    Ring ring;
    for (int index = first_; index < arguments_.total; index += stride_) {
      const WeightSpot spot = Locate(index);
      for (int k = spot.k_begin; k < spot.k_end; k += 64) {
        BarrierWait(&empty_[ring.stage], ring.phase ^ 1);
        uint64_t* const barrier = spot.k_end - k < 64 ? &arrived_[ring.stage] : &full_[ring.stage];
        if (a) {
          BarrierExpect(barrier, Tile::kBytesA + spot.boxes * 8192);
#pragma unroll
          for (int i = 0; i < Tile::kBlockM / 64; ++i) CopyBox(StageA(ring.stage) + i * 8192, &args_.a, spot.m0 + i * 64, k, 0, barrier);
        }
        if (b) {
#pragma unroll
          for (int i = 0; i < Tile::kBlockN / 64; ++i) {
            if (i >= spot.boxes) break;
            if constexpr (Tile::kCluster == 1) {
              CopyBox(StageB(ring.stage) + i * 8192, &args_.b, spot.n0 + i * 64, k, 0, barrier);
            } else {
              const int part = rank_ * Tile::kPart;
              CopyBoxToCluster(StageB(ring.stage) + i * 8192 + part * 128, &args_.b, spot.n0 + i * 64, k + part, 0, barrier,
                               (1 << Tile::kCluster) - 1);
            }
          }
        }
        ring.Advance(1);
      }
    }
  }

  // One thread: both warpgroups' sums, each warpgroup's own barrier for each place.
  __device__ __forceinline__ void FetchSums() {
    int place = 0;
    uint32_t round = 0;
    for (int index = first_, turn = 0; index < arguments_.total; index += stride_, turn ^= 1) {
      const WeightSpot spot = Locate(index);
      if (spot.tokens == 0) continue;
      for (int half = 0; half < 2; ++half) {
        for (int box = 0; box < Tile::kHalfBoxes; ++box) {
          uint64_t* const barrier = &sums_full_[2 * place + turn];
          BarrierWait(&sums_empty_[place], round ^ 1);
          BarrierExpect(barrier, Tile::kPlaceBytes);
          CopyBox(sums_ + place * Tile::kPlaceBytes, &arguments_.sums, spot.n0 + box * kSumColumns, spot.m0 + 64 * half, spot.batch_c, barrier);
          if (++place == Tile::kPlaces) {
            place = 0;
            round ^= 1;
          }
        }
      }
    }
  }

  // A warp.
  __device__ __forceinline__ void ZeroEnds() {
    Ring ring;
    uint32_t parities = 0;  // a stage's next round of `arrived`
    for (int index = first_; index < arguments_.total; index += stride_) {
      const WeightSpot spot = Locate(index);
      const int valid = spot.tokens % 64;
      ring.Advance(spot.tokens / 64);
      if (valid == 0) continue;
      BarrierWait(&arrived_[ring.stage], parities >> ring.stage & 1);
      parities ^= 1u << ring.stage;
      // Rows [valid, the next 16 of k) of all boxes, which follow one another; up to the end where there is no other stage (see `whole`).
      const int rows = spot.tokens < 64 ? 64 - valid : (16 - valid % 16) % 16;
      for (int i = lane_; i < (Tile::kBlockM / 64 + spot.boxes) * rows * 8; i += 32) {
        const int row = i / 8;
        *reinterpret_cast<uint4*>(StageA(ring.stage) + row / rows * 8192 + (valid + row % rows) * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
      }
      FenceAsyncShared();
      __syncwarp();
      if (lane_ == 0) BarrierArrive(&full_[ring.stage]);
      ring.Advance(1);
    }
  }

  // A warpgroup: every second tile.
  __device__ __forceinline__ void Compute(int warpgroup) {
    float upper[Acc::kCount], lower[Acc::kCount];  // rows 0 to 63 and 64 to 127
    Ring ring;
    SumsTaken taken;
    bool upper_is_there = false;
    int turn = 0;
    for (int index = first_; index < arguments_.total; index += stride_, ++turn) {
      const WeightSpot spot = Locate(index);
      if (turn % 2 != warpgroup) {
        ring.Advance((spot.tokens + 63) / 64);
        if (!upper_is_there) taken.Skip(spot);
        continue;
      }
      const bool unchanged = Tile::kAccumulate && spot.tokens == 0;
      if constexpr (!Tile::kAccumulate) {
#pragma unroll
        for (int i = 0; i < Acc::kCount; ++i) upper[i] = lower[i] = 0;
      } else if (!unchanged) {
        if (!upper_is_there) Take(upper, taken, warpgroup);
        upper_is_there = false;
        Take(lower, taken, warpgroup);
      }
      if (turn > 0) BarrierWait(&over_[1 - warpgroup], (turn - 1) / 2 & 1);
      if (spot.tokens == 0) {
        __syncwarp();  // a lane that has not yet seen the other's turn end would miss it when two more have ended
        if (lane_ == 0) BarrierArrive(&over_[warpgroup]);
      } else if (Tile::kBlockN > 64 && spot.boxes == 1) {
        Multiply<64>(upper, lower, spot.tokens, ring, warpgroup);
      } else if (Tile::kBlockN > 128 && spot.boxes == 2) {
        Multiply<128>(upper, lower, spot.tokens, ring, warpgroup);
      } else {
        Multiply<Tile::kBlockN>(upper, lower, spot.tokens, ring, warpgroup);
      }
      if (unchanged) continue;
      Store(upper, spot, spot.m0);
      // Of this warpgroup's next tile, so that its lower half can come while this one's is stored. (Float is stored too slowly to gain by it.)
      if constexpr (Tile::kAccumulate && Tile::kNarrow) {
        if (index + 2 * stride_ < arguments_.total) {
          const WeightSpot next = Locate(index + 2 * stride_);
          if (next.tokens > 0) {
            taken.Skip(Locate(index + stride_));
            Take(upper, taken, warpgroup);
            upper_is_there = true;
          }
        }
      }
      Store(lower, spot, spot.m0 + 64);
    }
    if (Tile::kNarrow && lane_ == 0) StoreBoxWaitRead();  // the block's memory goes with it
  }

 private:
  // How far a warpgroup is with the sums that the engine brings. Both warpgroups' boxes go through the same places in turn.
  struct SumsTaken {
    int place = 0;          // of the next box
    uint32_t parities = 0;  // of each place's next round for this warpgroup
    // A tile of the other warpgroup's.
    __device__ __forceinline__ void Skip(const WeightSpot& spot) {
      if constexpr (Tile::kPlaces > 0) {
        if (spot.tokens > 0) place = (place + 2 * Tile::kHalfBoxes) % Tile::kPlaces;
      }
    }
  };

  __device__ __forceinline__ char* StageA(int s) const { return stages_ + s * (Tile::kBytesA + Tile::kBytesB); }
  __device__ __forceinline__ char* StageB(int s) const { return StageA(s) + Tile::kBytesA; }

  __device__ __forceinline__ WeightSpot Locate(int index) const {
    WeightSpot spot;
    spot.m_end = args_.m;
    spot.n_end = args_.n;
    int row, column;
    args_.order.Locate(index, &spot.batch_c, Tile::kAlongRows ? &column : &row, Tile::kAlongRows ? &row : &column);
    spot.m0 = row * Tile::kTileM + rank_ * Tile::kBlockM;
    spot.n0 = column * Tile::kTileN;
    spot.k_begin = args_.offsets != nullptr ? args_.offsets[spot.batch_c] : spot.batch_c * args_.chunk;
    spot.k_end = args_.offsets != nullptr ? args_.offsets[spot.batch_c + 1] : min(args_.k, (spot.batch_c + 1) * args_.chunk);
    spot.tokens = max(spot.k_end - spot.k_begin, 0);
    spot.boxes = Tile::kClips ? (min(Tile::kBlockN, args_.n - spot.n0) + 63) / 64 : Tile::kBlockN / 64;
    return spot;
  }

  // The next 64 rows of sums.
  __device__ __forceinline__ void Take(float (&acc)[Acc::kCount], SumsTaken& taken, int warpgroup) {
#pragma unroll
    for (int box = 0; box < Tile::kHalfBoxes; ++box) {
      BarrierWait(&sums_full_[2 * taken.place + warpgroup], taken.parities >> taken.place & 1);
      taken.parities ^= 1u << taken.place;
      Acc::LoadBox(acc, box, sums_ + taken.place * Tile::kPlaceBytes, threadIdx.x % 128);
      // An arrival does not wait for loads in flight, and the copy engine would overwrite what they are to read.
      FenceAsyncShared();
      __syncwarp();
      if (lane_ == 0) BarrierArrive(&sums_empty_[taken.place]);
      if (++taken.place == Tile::kPlaces) taken.place = 0;
    }
  }

  // All of a tile, kWidth columns of it; ends this warpgroup's turn when it has seen the tile's last stage.
  template <int kWidth>
  __device__ __forceinline__ void Multiply(float (&upper)[Acc::kCount], float (&lower)[Acc::kCount], int tokens, Ring& ring, int warpgroup) {
    const int steps = (tokens + 63) / 64, whole = max(tokens / 64, 1);
    WgmmaTouch(upper);
    WgmmaTouch(lower);
    // 16 of a stage's k.
    const auto multiply = [&](uint64_t desc_a, uint64_t desc_b, int i) {
      WgmmaBF16<kWidth>::template Mma<1, 1>(First<kWidth / 2>(upper), Advance(desc_a, i * 2048), Advance(desc_b, i * 2048));
      WgmmaBF16<kWidth>::template Mma<1, 1>(First<kWidth / 2>(lower), Advance(desc_a, 8192 + i * 2048), Advance(desc_b, i * 2048));
    };
    // All of a stage, left in flight; returns it.
    const auto step = [&] {
      BarrierWait(&full_[ring.stage], ring.phase);
      const uint64_t desc_a = DescriptorMnMajor(StageA(ring.stage), 8192), desc_b = DescriptorMnMajor(StageB(ring.stage), 8192);
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply(desc_a, desc_b, i);
      WgmmaCommit();
      const int used = ring.stage;
      ring.Advance(1);
      return used;
    };
    int previous = step(), last = -1;
    for (int i = 1; i < whole; ++i) {
      const int current = step();
      WgmmaWait<1>();
      Release(previous);
      previous = current;
    }
    if (whole < steps) {
      BarrierWait(&full_[ring.stage], ring.phase);
      const uint64_t desc_a = DescriptorMnMajor(StageA(ring.stage), 8192), desc_b = DescriptorMnMajor(StageB(ring.stage), 8192);
      for (int i = 0; i * 16 < tokens % 64; ++i) {
        WgmmaFence();
        multiply(desc_a, desc_b, i);
        WgmmaCommit();
      }
      last = ring.stage;
      ring.Advance(1);
    }
    if (lane_ == 0) BarrierArrive(&over_[warpgroup]);
    WgmmaWait<0>();
    WgmmaTouch(upper);
    WgmmaTouch(lower);
    Release(previous);
    if (last >= 0) Release(last);
  }

  // Tells all that write to it that a stage has been read.
  __device__ __forceinline__ void Release(int stage) {
    if constexpr (Tile::kCluster == 1) {
      if (lane_ == 0) BarrierArrive(&empty_[stage]);
    } else {
      if (lane_ < Tile::kCluster) BarrierArriveAt(&empty_[stage], static_cast<uint32_t>(lane_));
    }
  }

  __device__ __forceinline__ void Store(const float (&acc)[Acc::kCount], const WeightSpot& spot, int m0) {
    if constexpr (Tile::kNarrow) {
      char* const own = stores_ + threadIdx.x / 32 * Tile::kStoreBytes;
#pragma unroll
      for (int box = 0; box < Tile::kHalfBoxes; ++box) {
        if (lane_ == 0) StoreBoxWaitRead();
        __syncwarp();
        Acc::StoreWarpBox(acc, box, own, threadIdx.x % 128);
        FenceAsyncShared();
        __syncwarp();
        if (lane_ == 0) {
          StoreBox(own, &arguments_.stores, spot.n0 + kSumColumns * box, m0 + threadIdx.x % 128 / 32 * 16, spot.batch_c);
          StoreBoxCommit();
        }
      }
    } else {
      Acc::StoreAligned(acc, static_cast<Out*>(args_.c) + spot.batch_c * args_.c_batch_stride, args_.c_stride, spot, m0, threadIdx.x % 128);
    }
  }

  const WeightArguments& arguments_;
  const GemmArguments& args_;
  char *const stages_, *const sums_, *const stores_;
  uint64_t *const full_, *const empty_;
  uint64_t* const arrived_;  // a stage whose end is yet to be zeroed
  uint64_t* const over_;     // a warpgroup's turn
  uint64_t *const sums_full_, *const sums_empty_;  // full: by place and warpgroup; empty: by place
  const int rank_, first_, stride_, lane_;
};

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) WeightKernel(const __grid_constant__ WeightArguments arguments) {
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  WeightBlock<Tile> block(arguments, shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024);
  if (threadIdx.x == 0) block.Init();
  KernelBegin();
  ClusterBarrier();
  const int warpgroup = threadIdx.x / 128;
  if (warpgroup < 2) {
    TakeRegisters<232>();
    block.Compute(warpgroup);
  } else {
    GiveRegisters<40>();
    const int warp = threadIdx.x % 128 / 32;
    const bool one = threadIdx.x % 32 == 0;
    if (warp == 0) {
      if (one) block.FetchTokens(true, !arguments.two_fetch);
    } else if (warp == 1) {
      if (one && Tile::kAccumulate) block.FetchSums();
    } else if (warp == 2) {
      block.ZeroEnds();
    } else {
      if (one && arguments.two_fetch) block.FetchTokens(false, true);
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
  const int rows = (args.gemm.m + Tile::kTileM - 1) / Tile::kTileM, columns = (args.gemm.n + Tile::kTileN - 1) / Tile::kTileN;
  args.gemm.order = Tile::kAlongRows ? TileOrder(columns, rows) : TileOrder(rows, columns);
  args.total = rows * columns * args.gemm.groups;
  const auto map = [&](int rows) { return MakeTensorMap(p.y, p.w.rows, p.x.rows, p.batch, p.y_stride, p.y_batch_stride, rows, !Tile::kNarrow); };
  args.sums = map(64);
  args.stores = map(16);
  // Two are faster, 5% where nothing is added to, but for wide float tiles and where few tokens are added to sums (kernels/README.md).
  args.two_fetch = Tile::kBlockN == 192 ? Tile::kNarrow : !Tile::kAccumulate || p.k / p.batch > 1024;
  static std::atomic<uint64_t> allowed = 0;
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
  const auto blocks = static_cast<unsigned>(std::min(args.total, slots) * Tile::kCluster);
  LaunchClusters(stream, Tile::kCluster, blocks, Tile::kThreads, Tile::kSharedBytes, WeightKernel<Tile>, args);
}

template <int kTileN, int kCluster, typename Out>
void LaunchCluster(Stream& stream, const GemmProblem& p) {
  p.accumulate ? LaunchWeight<WeightTile<kTileN, kCluster, Out, true>>(stream, p) : LaunchWeight<WeightTile<kTileN, kCluster, Out, false>>(stream, p);
}

template <typename Out>
void LaunchSums(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  if (v.tile_n == 128) return v.pairs ? LaunchCluster<128, 2, Out>(stream, p) : LaunchCluster<128, 1, Out>(stream, p);
  CHECK_EQ(v.tile_n, 192);
  v.pairs ? LaunchCluster<192, 2, Out>(stream, p) : LaunchCluster<192, 1, Out>(stream, p);
}

}  // namespace

void LaunchWeightGemm(Stream& stream, const GemmVariant& v, const GemmProblem& p) {
  CHECK(v.mn_x && v.mn_w && v.groups == GemmGroups::kReduction && p.bias == nullptr);
  v.y_float ? LaunchSums<float>(stream, v, p) : LaunchSums<__nv_bfloat16>(stream, v, p);
}

}  // namespace grouper::kernels::cuda
