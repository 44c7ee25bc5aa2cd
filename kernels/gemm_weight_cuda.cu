// Gradients of weights, dW += dy^T x (or =) in float or bf16, an expert's or a layer's: the sum runs over tokens, so both operands are read
// MN-major.
//
// With few tokens an expert (512, say) such a product moves as many bytes of sums as it multiplies: 8 m n bytes of float read and written
// against 2 m n k operations. So tiles take turns: each of a block's two warpgroups has tiles of its own, 128 rows of them in registers, and while
// one multiplies the other stores its last sums and reads its next ones. The copy engine brings those, in boxes of 8 KB, and takes bf16 sums
// away, in boxes of 2 KB that belong to a warp; a tile's upper half is read before the last one's lower half is stored. Tiles follow one another in one ring
// of stages; a warpgroup starts on it when the other has seen all of its own tile's stages full (a barrier's parity does not tell which of two
// rounds is over). Two blocks, one below the other in dW, may form a cluster: each fetches half of what both read of x.
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
  bool sums_by_engine;       // the copy engine can read and write C
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
  static constexpr int kBarriers = 3 * kStages + 2 + 3 * kPlaces;
  static constexpr int kSharedBytes = 1024 + kStages * (kBytesA + kBytesB) + kPlaces * kPlaceBytes + 8 * kStoreBytes + 8 * kBarriers;
  static_assert(kStages >= 3 && kStages <= 32 && kSharedBytes <= 227 * 1024);
};

// What one warpgroup takes of the sums that the copy engine brings. Both warpgroups' boxes go through the same places in turn.
template <typename Tile>
struct SumsReader {
  char* sums;
  uint64_t *full, *empty;
  int warpgroup, thread;
  int place = 0;         // of the next box
  uint32_t parities = 0;  // of each place's next round for this warpgroup

  // The next 64 rows.
  template <typename Acc>
  __device__ __forceinline__ void Take(float (&acc)[Acc::kCount]) {
#pragma unroll
    for (int box = 0; box < Tile::kHalfBoxes; ++box) {
      BarrierWait(&full[2 * place + warpgroup], parities >> place & 1);
      parities ^= 1u << place;
      Acc::LoadBox(acc, box, sums + place * Tile::kPlaceBytes, thread);
      // An arrival does not wait for loads in flight, and the copy engine would overwrite what they are to read.
      FenceAsyncShared();
      __syncwarp();
      if (thread % 32 == 0) BarrierArrive(&empty[place]);
      if (++place == Tile::kPlaces) place = 0;
    }
  }
  // A tile of the other warpgroup's.
  __device__ void Skip() {
    if constexpr (Tile::kPlaces > 0) place = (place + 2 * Tile::kHalfBoxes) % Tile::kPlaces;
  }
};

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) WeightKernel(const __grid_constant__ WeightArguments arguments) {
  const GemmArguments& args = arguments.gemm;
  GROUPER_DYNAMIC_SHARED(char, shared_raw);
  char* shared = shared_raw + (1024 - SharedAddress(shared_raw) % 1024) % 1024;
  char* const sums = shared + Tile::kStages * (Tile::kBytesA + Tile::kBytesB);
  char* const stores = sums + Tile::kPlaces * Tile::kPlaceBytes;
  uint64_t* full = reinterpret_cast<uint64_t*>(stores + 8 * Tile::kStoreBytes);
  uint64_t* empty = full + Tile::kStages;
  uint64_t* arrived = empty + Tile::kStages;  // a stage whose end is yet to be zeroed
  uint64_t* over = arrived + Tile::kStages;   // a warpgroup's turn
  uint64_t *sums_full = over + 2, *sums_empty = sums_full + 2 * Tile::kPlaces;  // full: by place and warpgroup; empty: by place
  const auto stage_a = [&](int s) { return shared + s * (Tile::kBytesA + Tile::kBytesB); };
  const auto stage_b = [&](int s) { return shared + s * (Tile::kBytesA + Tile::kBytesB) + Tile::kBytesA; };
  if (threadIdx.x == 0) {
    for (int s = 0; s < Tile::kStages; ++s) {
      BarrierInit(&full[s], 1);
      BarrierInit(&empty[s], 4 * Tile::kCluster);
      BarrierInit(&arrived[s], 1);
    }
    for (int w = 0; w < 2; ++w) BarrierInit(&over[w], 4);
    for (int i = 0; i < 2 * Tile::kPlaces; ++i) BarrierInit(&sums_full[i], 1);
    for (int place = 0; place < Tile::kPlaces; ++place) BarrierInit(&sums_empty[place], 4);
    BarrierInitFence();
    PrefetchMap(&args.a);
    PrefetchMap(&args.b);
    if (arguments.sums_by_engine && Tile::kAccumulate) PrefetchMap(&arguments.sums);
    if (arguments.sums_by_engine && Tile::kNarrow) PrefetchMap(&arguments.stores);
  }
  ClusterBarrier();
  const int rank = Tile::kCluster == 1 ? 0 : static_cast<int>(RankInCluster());
  const int first = blockIdx.x / Tile::kCluster, stride = gridDim.x / Tile::kCluster;
  const int warpgroup = threadIdx.x / 128, lane = threadIdx.x % 32;
  int stage = 0;
  uint32_t phase = 0;
  const auto advance = [&](int steps) {
    stage += steps;
    phase ^= stage / Tile::kStages & 1;
    stage %= Tile::kStages;
  };
  const auto locate = [&](int index) {
    TileSpot spot;
    spot.m_end = args.m;
    spot.n_end = args.n;
    int row, column;
    args.order.Locate(index, &spot.batch_c, &row, &column);
    spot.m0 = row * Tile::kTileM + rank * Tile::kBlockM;
    spot.n0 = column * Tile::kTileN;
    spot.k_begin = args.offsets != nullptr ? args.offsets[spot.batch_c] : spot.batch_c * args.chunk;
    spot.k_end = args.offsets != nullptr ? args.offsets[spot.batch_c + 1] : min(args.k, (spot.batch_c + 1) * args.chunk);
    return spot;
  };

  if (warpgroup == 2) {
    GiveRegisters<40>();
    const int warp = threadIdx.x % 128 / 32;
    if (warp == 0 && lane == 0) {
      for (int index = first; index < arguments.total; index += stride) {
        const TileSpot spot = locate(index);
        for (int k = spot.k_begin; k < spot.k_end; k += 64) {
          BarrierWait(&empty[stage], phase ^ 1);
          uint64_t* const barrier = spot.k_end - k < 64 ? &arrived[stage] : &full[stage];
          BarrierExpect(barrier, Tile::kBytesA + Tile::kBytesB);
          for (int i = 0; i < Tile::kBlockM / 64; ++i)
            CopyBox(stage_a(stage) + i * 8192, &args.a, spot.m0 + i * 64, k, 0, barrier);
          for (int i = 0; i < Tile::kBlockN / 64; ++i) {
            if constexpr (Tile::kCluster == 1) {
              CopyBox(stage_b(stage) + i * 8192, &args.b, spot.n0 + i * 64, k, 0, barrier);
            } else {
              const int part = rank * Tile::kPart;
              CopyBoxToCluster(stage_b(stage) + i * 8192 + part * 128, &args.b, spot.n0 + i * 64, k + part, 0, barrier,
                               (1 << Tile::kCluster) - 1);
            }
          }
          advance(1);
        }
      }
    } else if (Tile::kAccumulate && warp == 1 && lane == 0 && arguments.sums_by_engine) {
      int place = 0;
      uint32_t round = 0;
      for (int index = first, turn = 0; index < arguments.total; index += stride, turn ^= 1) {
        const TileSpot spot = locate(index);
        if (spot.k_begin >= spot.k_end) continue;
        for (int i = 0; i < 2 * Tile::kHalfBoxes; ++i) {
          const int half = i / Tile::kHalfBoxes, box = i % Tile::kHalfBoxes;
          uint64_t* const barrier = &sums_full[2 * place + turn];
          BarrierWait(&sums_empty[place], round ^ 1);
          BarrierExpect(barrier, Tile::kPlaceBytes);
          CopyBox(sums + place * Tile::kPlaceBytes, &arguments.sums, spot.n0 + box * (128 / static_cast<int>(sizeof(typename Tile::Out))),
                  spot.m0 + 64 * half, spot.batch_c, barrier);
          if (++place == Tile::kPlaces) {
            place = 0;
            round ^= 1;
          }
        }
      }
    } else if (warp == 2) {
      uint32_t parities = 0;  // a stage's next round of `arrived`
      for (int index = first; index < arguments.total; index += stride) {
        const TileSpot spot = locate(index);
        const int tokens = max(spot.k_end - spot.k_begin, 0), valid = tokens % 64;
        advance(tokens / 64);
        if (valid == 0) continue;
        BarrierWait(&arrived[stage], parities >> stage & 1);
        parities ^= 1u << stage;
        // Rows [valid, the next 16 of k) of all boxes, which follow one another; up to the end where there is no other stage (see `whole`).
        const int rows = tokens < 64 ? 64 - valid : (16 - valid % 16) % 16;
        for (int i = lane; i < (Tile::kBlockM + Tile::kBlockN) / 64 * rows * 8; i += 32) {
          const int row = i / 8;
          *reinterpret_cast<uint4*>(stage_a(stage) + row / rows * 8192 + (valid + row % rows) * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
        }
        FenceAsyncShared();
        __syncwarp();
        if (lane == 0) BarrierArrive(&full[stage]);
        advance(1);
      }
    }
  } else {
    TakeRegisters<232>();
    using Acc = Fragment<Tile::kBlockN, false, typename Tile::Out>;
    const int thread = threadIdx.x % 128;
    // Tells all that write to it that a stage has been read.
    const auto release = [&](int s) {
      if constexpr (Tile::kCluster == 1) {
        if (lane == 0) BarrierArrive(&empty[s]);
      } else {
        if (lane < Tile::kCluster) BarrierArriveAt(&empty[s], static_cast<uint32_t>(lane));
      }
    };
    float upper[Acc::kCount], lower[Acc::kCount];  // rows 0 to 63 and 64 to 127
    SumsReader<Tile> reader = {sums, sums_full, sums_empty, warpgroup, thread};
    const bool sums_by_engine = Tile::kAccumulate && arguments.sums_by_engine;
    bool upper_is_there = false;
    int turn = 0;
    for (int index = first; index < arguments.total; index += stride, ++turn) {
      const TileSpot spot = locate(index);
      const int tokens = max(spot.k_end - spot.k_begin, 0), steps = (tokens + 63) / 64, whole = max(tokens / 64, 1);
      if (turn % 2 != warpgroup) {
        advance(steps);
        if (sums_by_engine && tokens > 0 && !upper_is_there) reader.Skip();
        continue;
      }
      const bool unchanged = Tile::kAccumulate && tokens == 0;
      if constexpr (!Tile::kAccumulate) {
#pragma unroll
        for (int i = 0; i < Acc::kCount; ++i) upper[i] = lower[i] = 0;
      } else if (sums_by_engine && !unchanged) {
        if (!upper_is_there) reader.template Take<Acc>(upper);
        upper_is_there = false;
        reader.template Take<Acc>(lower);
      } else if (!unchanged) {
        Acc::Start(upper, args, spot, spot.m0, thread);
        Acc::Start(lower, args, spot, spot.m0 + 64, thread);
      }
      if (turn > 0) BarrierWait(&over[1 - warpgroup], (turn - 1) / 2 & 1);
      if (tokens > 0) {
        WgmmaTouch(upper);
        WgmmaTouch(lower);
        // 16 of a stage's k.
        const auto multiply = [&](uint64_t desc_a, uint64_t desc_b, int i) {
          WgmmaBF16<Tile::kBlockN>::template Mma<1, 1>(upper, Advance(desc_a, i * 2048), Advance(desc_b, i * 2048));
          WgmmaBF16<Tile::kBlockN>::template Mma<1, 1>(lower, Advance(desc_a, 8192 + i * 2048), Advance(desc_b, i * 2048));
        };
        // All of a stage, left in flight; returns it.
        const auto step = [&] {
          BarrierWait(&full[stage], phase);
          const uint64_t desc_a = DescriptorMnMajor(stage_a(stage), 8192), desc_b = DescriptorMnMajor(stage_b(stage), 8192);
          WgmmaFence();
#pragma unroll
          for (int i = 0; i < 4; ++i) multiply(desc_a, desc_b, i);
          WgmmaCommit();
          const int used = stage;
          advance(1);
          return used;
        };
        int previous = step(), last = -1;
        for (int i = 1; i < whole; ++i) {
          const int current = step();
          WgmmaWait<1>();
          release(previous);
          previous = current;
        }
        if (whole < steps) {
          BarrierWait(&full[stage], phase);
          const uint64_t desc_a = DescriptorMnMajor(stage_a(stage), 8192), desc_b = DescriptorMnMajor(stage_b(stage), 8192);
          for (int i = 0; i * 16 < tokens % 64; ++i) {
            WgmmaFence();
            multiply(desc_a, desc_b, i);
            WgmmaCommit();
          }
          last = stage;
          advance(1);
        }
        if (lane == 0) BarrierArrive(&over[warpgroup]);
        WgmmaWait<0>();
        WgmmaTouch(upper);
        WgmmaTouch(lower);
        release(previous);
        if (last >= 0) release(last);
      } else {
        __syncwarp();  // a lane that has not yet seen the other's turn end would miss it when two more have ended
        if (lane == 0) BarrierArrive(&over[warpgroup]);
      }
      if (unchanged) continue;
      const auto store = [&](const float(&acc)[Acc::kCount], int m0) {
        if constexpr (Tile::kNarrow) {
          if (arguments.sums_by_engine) {
            char* const own = stores + threadIdx.x / 32 * Tile::kStoreBytes;
#pragma unroll
            for (int box = 0; box < Tile::kHalfBoxes; ++box) {
              if (lane == 0) StoreBoxWaitRead();
              __syncwarp();
              Acc::StoreWarpBox(acc, box, own, thread);
              FenceAsyncShared();
              __syncwarp();
              if (lane == 0) {
                StoreBox(own, &arguments.stores, spot.n0 + 64 * box, m0 + thread / 32 * 16, spot.batch_c);
                StoreBoxCommit();
              }
            }
            return;
          }
        }
        Acc::Store(acc, args, spot, m0, thread);
      };
      store(upper, spot.m0);
      // Of this warpgroup's next tile, so that its lower half can come while this one's is stored. (Float is stored too slowly to gain by it.)
      if constexpr (Tile::kAccumulate && Tile::kNarrow) {
        if (sums_by_engine && index + 2 * stride < arguments.total) {
          const TileSpot between = locate(index + stride), next = locate(index + 2 * stride);
          if (next.k_end > next.k_begin) {
            if (between.k_end > between.k_begin) reader.Skip();
            reader.template Take<Acc>(upper);
            upper_is_there = true;
          }
        }
      }
      store(lower, spot.m0 + 64);
    }
  }
  if (Tile::kNarrow && warpgroup < 2 && lane == 0) StoreBoxWaitRead();  // the block's memory goes with it
  __syncwarp();
  if constexpr (Tile::kCluster > 1) ClusterBarrier();  // none leaves while another still writes to its memory
}

template <typename Tile>
void LaunchWeight(Stream& stream, const GemmProblem& p) {
  using Out = typename Tile::Out;
  WeightArguments args = {};
  args.gemm = ArgumentsOf<Tile, true, true, Grouping::kReduction, false, Out>(p);
  args.gemm.b = MakeTensorMap(p.w.data, p.w.rows, p.k, 1, p.w.k_stride, 0, Tile::kPart);
  args.total = args.gemm.order.matrix_tiles() * args.gemm.groups;
  constexpr int64_t kElements = 16 / sizeof(Out);
  args.sums_by_engine = reinterpret_cast<uintptr_t>(p.y) % 16 == 0 && p.y_stride % kElements == 0 && p.y_batch_stride % kElements == 0;
  if (args.sums_by_engine) {
    const auto map = [&](int rows) { return MakeTensorMap(p.y, p.w.rows, p.x.rows, p.batch, p.y_stride, p.y_batch_stride, rows, !Tile::kNarrow); };
    args.sums = map(64);
    args.stores = map(16);
  }
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
