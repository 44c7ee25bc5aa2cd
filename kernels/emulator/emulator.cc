#include "kernels/emulator/emulator.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "common/base/check.h"
#include "common/base/log.h"
#include "kernels/emulator/fiber.h"
#include "kernels/emulator/race.h"
#include "kernels/emulator/runtime.h"
#include "kernels/emulator/tensor_map.h"

#ifdef GROUPER_FINDS_RACES
// What the emulator itself allocates and moves, which ThreadSanitizer sees by its own malloc and memmove; and a product's threads beyond the edge,
// which read some of C and store nothing.
extern "C" const char* __tsan_default_suppressions() {
  return "race:operator new\n"
         "race:operator delete\n"
         "race:stl_vector.h\n"
         "race:vector.tcc\n"
         "race:stl_deque.h\n"
         "race:deque.tcc\n"
         "race:hashtable\n"
         "race:stl_algobase.h\n"
         "race:emulator::(anonymous namespace)::Wake\n"
         "race:emulator::(anonymous namespace)::WaitIn\n"
         "race:kernels::cuda::Fragment*::Load<false>\n";
}
#endif

namespace grouper::emulator {

const Place* place = nullptr;

namespace {

constexpr int kWarp = 32;

struct Block;
struct Warp;

struct Thread {
  Fiber fiber;
  Place place;
  Block* block = nullptr;
  Warp* warp = nullptr;
  struct Copy {
    char* to;
    const char* from;  // null: zeros
  };
  std::vector<Copy> open_copies;
  std::deque<std::vector<Copy>> copies;  // groups; empty when done at once
  struct BoxStore {
    const char* from;
    TensorMap map;
    int at[TensorMap::kMaxRank];
  };
  std::vector<BoxStore> open_stores, stores;  // committed: read from shared memory at the latest when that is waited for
};

using Waiting = std::vector<Thread*>;

// A product of a warp's 16 rows of 64 x n x 16.
struct WarpProduct {
  int n, first_row;
  uint64_t desc_a, desc_b;
  bool a_in_registers, mn_major_a, mn_major_b;
  float* acc[kWarp];
  uint32_t a[kWarp][4];
};

struct Warp {
  Waiting meeting;
  int live = 0;
  uint64_t exchange[2][kWarp] = {};
  int turn[kWarp] = {};  // of exchange
  WarpProduct next;      // what the lanes have brought of it
  std::vector<WarpProduct> open_products;
  std::deque<std::vector<WarpProduct>> products;  // groups; empty when done at once
};

struct Block {
  char* shared = nullptr;
  unsigned rank = 0;
  int live = 0, multiprocessor = 0;
  Waiting all;
  std::unordered_map<int, Waiting> named;
  std::vector<Warp> warps;
};

struct Barrier {
  const uint64_t* place;
  uint32_t arrivals, pending, phase = 0;
  int64_t bytes = 0;
  Waiting waiting = {};
};
constexpr uint64_t kBarrierMark = uint64_t{0xba881e5} << 36;

// One box or run of bytes on its way. For races: what its sender has seen is before it, and it is before what those see who wait for its barrier.
struct EngineCopy {
  std::vector<char> data;
  char* to;
  bool swizzled;
  uint64_t* barrier;
  int block;
};

// The cluster that runs.
struct Machine {
  LaunchShape shape;
  const std::function<void()>* kernel = nullptr;
  std::vector<std::unique_ptr<Thread>> threads;  // kept from launch to launch
  std::vector<Block> blocks;
  std::vector<Barrier> barriers;
  std::vector<EngineCopy> engine;
  Waiting ready;
  Waiting cluster;
  int live = 0;
  Thread* running = nullptr;
  Course of_engine;
  uint64_t seed = [] {
    const char* const given = std::getenv("GROUPER_EMULATOR_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : 1;
  }();

  // SplitMix64 (Steele, Lea, Flood 2014): below n.
  size_t Random(size_t n) {
    uint64_t x = seed += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return static_cast<size_t>(((x ^ x >> 31) >> 32) * n >> 32);
  }
  bool Chance(unsigned one_in) { return Random(one_in) == 0; }
};

Machine& machine = *new Machine;
std::mutex& mutex = *new std::mutex;

Thread& Self() { return *machine.running; }
Block& OwnBlock() { return *Self().block; }
int OwnLane() { return static_cast<int>(Self().place.thread.x % kWarp); }

void Wake(Waiting& waiting) {
  machine.ready.insert(machine.ready.end(), waiting.begin(), waiting.end());
  waiting.clear();
}

void WaitIn(Waiting& waiting) {
  Thread& self = Self();
  waiting.push_back(&self);
  self.fiber.SwitchBack();
}

// The last of `expected` goes on at once, having done `last` for all.
template <typename F>
void Gather(Waiting& meeting, int expected, F last) {
  if (static_cast<int>(meeting.size()) + 1 < expected) return WaitIn(meeting);
  last();
  Wake(meeting);
}

// The same, and each sees what the others have written.
template <typename F>
void Meet(Waiting& meeting, int expected, F last) {
  Release(&meeting);
  Gather(meeting, expected, [&] {
    Acquire(&meeting);
    last();
    Release(&meeting);
  });
  Acquire(&meeting);
}
void Meet(Waiting& meeting, int expected) {
  Meet(meeting, expected, [] {});
}

// Whoever waits for all no longer waits for this thread.
void Leave(Thread& thread) {
  Warp& warp = *thread.warp;
  Block& block = *thread.block;
  --machine.live;
  --block.live;
  --warp.live;
  CHECK(thread.open_copies.empty()) << "copies that were never committed";
  CHECK(thread.open_stores.empty() && thread.stores.empty()) << "shared memory that ended before the boxes stored from it";
  if (warp.live > 0 && static_cast<int>(warp.meeting.size()) == warp.live) Wake(warp.meeting);
  if (block.live > 0 && static_cast<int>(block.all.size()) == block.live) Wake(block.all);
  if (machine.live > 0 && static_cast<int>(machine.cluster.size()) == machine.live) Wake(machine.cluster);
}

void ThreadMain() {
  Acquire(&machine.shape);  // what was before the block
  (*machine.kernel)();
  Release(&machine.shape);
  Thread& self = Self();
  Leave(self);
  self.fiber.SwitchBack();
}

// --- shared memory ----------------------------------------------------------------------------

char* InShared(const Block& block, uint32_t address, size_t bytes) {
  CHECK_LE(address + bytes, machine.shape.shared_bytes) << "shared memory: " << bytes << " bytes at " << address;
  return block.shared + address;
}

uint32_t AddressIn(const Block& block, const void* p, size_t bytes) {
  const auto* const c = static_cast<const char*>(p);
  CHECK(c >= block.shared && c + bytes <= block.shared + machine.shape.shared_bytes)
      << "not " << bytes << " bytes of the block's dynamic shared memory: offset " << c - block.shared << " of " << machine.shape.shared_bytes;
  return static_cast<uint32_t>(c - block.shared);
}

// 128-byte swizzle is of the address.
uint32_t Swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// --- barriers ------------------------------------------------------------------------------------

Barrier& Find(const uint64_t* word) {
  CHECK(*word >> 36 == kBarrierMark >> 36) << "no barrier here, or it was written over";
  Barrier& barrier = machine.barriers[*word & 0xfffffffff];
  CHECK(barrier.place == word) << "a barrier that was copied";
  return barrier;
}

void EndPhase(Barrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1;
  barrier.pending = barrier.arrivals;
  Wake(barrier.waiting);
}

void Arrive(Barrier& barrier) {
  Release(barrier.place);
  CHECK_GT(barrier.pending, 0u) << "one arrival too many";
  --barrier.pending;
  EndPhase(barrier);
}

// --- the copy engine ----------------------------------------------------------------------------------

void Finish(size_t index) {
  std::swap(machine.engine[index], machine.engine.back());
  const EngineCopy copy = std::move(machine.engine.back());
  machine.engine.pop_back();
  const Block& block = machine.blocks[static_cast<size_t>(copy.block)];
  machine.of_engine.Enter();
  Acquire(copy.data.data());
  if (copy.swizzled) {
    const uint32_t to = AddressIn(block, copy.to, copy.data.size());
    for (uint32_t i = 0; i < copy.data.size(); i += 16) std::memcpy(InShared(block, Swizzled(to + i), 16), &copy.data[i], 16);
  } else {
    std::memcpy(copy.to, copy.data.data(), copy.data.size());
  }
  Release(copy.barrier);
  machine.of_engine.Leave();
  Barrier& barrier = Find(copy.barrier);
  barrier.bytes -= static_cast<int64_t>(copy.data.size());
  EndPhase(barrier);
}

// What it reads is read now: sources are constant while a kernel runs. What it writes may come at any time until it is waited for.
void Send(EngineCopy copy) {
  Find(copy.barrier);
  AddressIn(machine.blocks[static_cast<size_t>(copy.block)], copy.to, copy.data.size());
  Release(copy.data.data());
  machine.engine.push_back(std::move(copy));
  if (machine.Chance(3)) Finish(machine.engine.size() - 1);
}

TensorMap MapAt(const CUtensorMap* map) {
  TensorMap m;
  std::memcpy(&m, map, sizeof m);
  return m;
}

size_t Elements(const TensorMap& m) {
  size_t elements = 1;
  for (int d = 0; d < m.rank; ++d) elements *= m.box[d];
  return elements;
}

// f(number in the box, its place in memory) for each element of the box at these coordinates that lies inside the tensor.
template <typename F>
void ForEachInside(const TensorMap& m, const int* coordinates, F f) {
  int at[TensorMap::kMaxRank] = {};
  const size_t elements = Elements(m);
  for (size_t i = 0; i < elements; ++i) {
    char* element = m.data;
    bool inside = true;
    for (int d = 0; d < m.rank; ++d) {
      const int64_t place = int64_t{coordinates[d]} + at[d];
      inside &= place >= 0 && place < static_cast<int64_t>(m.sizes[d]);
      element += place * static_cast<int64_t>(d == 0 ? m.element_bytes : m.strides[d - 1]);
    }
    if (inside) f(i, element);
    for (int d = 0; d < m.rank && ++at[d] == m.box[d]; ++d) at[d] = 0;
  }
}

void Do(const Thread::Copy& copy) {
  if (copy.from == nullptr) {
    std::memset(copy.to, 0, 16);
  } else {
    std::memcpy(copy.to, copy.from, 16);
  }
}

// --- wgmma -------------------------------------------------------------------------------------------------

float FromBF16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Eight neighbours of an operand in shared memory: along k from (i, k), or along i when it is MN-major.
void LoadEight(const Block& block, uint64_t desc, bool mn_major, int i, int k, float (&x)[8]) {
  const auto start = static_cast<uint32_t>(desc & 0x3fff) << 4, leading = static_cast<uint32_t>(desc >> 16 & 0x3fff) << 4,
             stride = static_cast<uint32_t>(desc >> 32 & 0x3fff) << 4;
  const auto ui = static_cast<uint32_t>(i), uk = static_cast<uint32_t>(k);
  const uint32_t address = mn_major ? start + ui / 64 * leading + uk / 8 * stride + uk % 8 * 128 + ui % 64 * 2
                                    : start + ui / 8 * stride + ui % 8 * 128 + uk * 2;
  uint16_t bits[8];
  const char* const place = InShared(block, Swizzled(address), 16);
  ReadSixteen(place);
  std::memcpy(bits, place, 16);
  for (int e = 0; e < 8; ++e) x[e] = FromBF16(bits[e]);
}

constexpr int kDepth = 16, kMaxN = 256;

// x[k][i] = element (first + i, k) of an operand, i < count. Returns whether all are finite.
bool LoadOperand(const Block& block, uint64_t desc, bool mn_major, int first, int count, float (&x)[kDepth][kMaxN]) {
  bool finite = true;
  float eight[8];
  for (int i = 0; i < count; i += mn_major ? 8 : 1) {
    for (int k = 0; k < kDepth; k += mn_major ? 1 : 8) {
      LoadEight(block, desc, mn_major, first + i, k, eight);
      for (int e = 0; e < 8; ++e) {
        finite &= std::isfinite(eight[e]);
        (mn_major ? x[k][i + e] : x[k + e][i]) = eight[e];
      }
    }
  }
  return finite;
}

void Multiply(const Block& block, const WarpProduct& p) {
  constexpr int kRows = 16;
  static float a[kDepth][kMaxN], b[kDepth][kMaxN], c[kMaxN];
  if (p.a_in_registers) {
    for (int m = 0; m < kRows; ++m) {
      for (int k = 0; k < kDepth; ++k)
        a[k][m] = FromBF16(static_cast<uint16_t>(p.a[m % 8 * 4 + k % 8 / 2][m / 8 + k / 8 * 2] >> (k % 2 * 16)));
    }
  } else {
    LoadOperand(block, p.desc_a, p.mn_major_a, p.first_row, kRows, a);
  }
  const bool finite = LoadOperand(block, p.desc_b, p.mn_major_b, 0, p.n, b);
  const auto element = [&](int m, int n) -> float& { return p.acc[m % 8 * 4 + n % 8 / 2][n / 8 * 4 + m / 8 * 2 + n % 2]; };
  for (int m = 0; m < kRows; ++m) {
    bool zero = finite;  // rows of padding
    for (int k = 0; k < kDepth; ++k) zero &= a[k][m] == 0;
    if (zero) continue;
    for (int n = 0; n < p.n; ++n) c[n] = element(m, n);
    for (int k = 0; k < kDepth; ++k) {
      const float factor = a[k][m];
      for (int n = 0; n < p.n; ++n) c[n] += factor * b[k][n];
    }
    for (int n = 0; n < p.n; ++n) element(m, n) = c[n];
  }
}

void MultiplyAll(const Block& block, std::vector<WarpProduct>& group) {
  for (const WarpProduct& product : group) Multiply(block, product);
  group.clear();
}

// --- running -------------------------------------------------------------------------------------------------

void Stuck() {
  for (const Barrier& barrier : machine.barriers) {
    if (barrier.waiting.empty()) continue;
    const Block& block = *barrier.waiting[0]->block;
    LOG(ERROR) << barrier.waiting.size() << " threads, thread " << barrier.waiting[0]->place.thread.x << " among them, wait for the barrier at "
               << reinterpret_cast<const char*>(barrier.place) - block.shared << ": " << barrier.pending << " of " << barrier.arrivals
               << " arrivals and " << barrier.bytes << " bytes are missing";
  }
  for (const Block& block : machine.blocks) {
    if (!block.all.empty()) LOG(ERROR) << block.all.size() << " of " << block.live << " threads wait in __syncthreads";
    for (const auto& [id, meeting] : block.named) {
      if (!meeting.empty()) LOG(ERROR) << meeting.size() << " threads wait at barrier " << id;
    }
    for (const Warp& warp : block.warps) {
      if (!warp.meeting.empty()) LOG(ERROR) << warp.meeting.size() << " of " << warp.live << " lanes wait for their warp";
    }
  }
  CHECK(false) << "the kernel waits for what never comes";
}

void RunCluster() {
  while (machine.live > 0) {
    if (!machine.engine.empty() && (machine.ready.empty() || machine.Chance(64))) {
      Finish(machine.Random(machine.engine.size()));
      continue;
    }
    if (machine.ready.empty()) Stuck();
    std::swap(machine.ready[machine.Random(machine.ready.size())], machine.ready.back());
    Thread* const thread = machine.ready.back();
    machine.ready.pop_back();
    machine.running = thread;
    place = &thread->place;
    thread->fiber.SwitchTo();
  }
  CHECK(machine.engine.empty()) << "a kernel ended before its copies";
  machine.running = nullptr;
  place = nullptr;
}

void Run(const LaunchShape& shape, const std::function<void()>& kernel) {
  std::lock_guard<std::mutex> lock(mutex);
  const unsigned threads = shape.block.x;
  CHECK(shape.block.y == 1 && shape.block.z == 1 && threads > 0 && threads <= 1024) << "a block of " << threads << " threads";
  CHECK(shape.grid.x > 0 && shape.grid.y > 0 && shape.grid.z > 0 && shape.grid.y <= 65535 && shape.grid.z <= 65535) << "an empty grid, or too large";
  CHECK(shape.cluster > 0 && shape.grid.x % shape.cluster == 0) << "a grid of no whole clusters";
  CHECK_LE(shape.shared_bytes, size_t{227 * 1024}) << "shared memory";
  machine.shape = shape;
  machine.kernel = &kernel;
  const size_t padded = (shape.shared_bytes + 1023) / 1024 * 1024;
  std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char*>(std::aligned_alloc(1024, std::max<size_t>(padded, 1024) * shape.cluster)),
                                                     &std::free);
  while (machine.threads.size() < size_t{threads} * shape.cluster) machine.threads.push_back(std::make_unique<Thread>());
  for (unsigned z = 0; z < shape.grid.z; ++z) {
    for (unsigned y = 0; y < shape.grid.y; ++y) {
      for (unsigned x = 0; x < shape.grid.x; x += shape.cluster) {
        machine.blocks.clear();
        machine.blocks.resize(shape.cluster);
        machine.barriers.clear();
        machine.ready.clear();
        machine.live = static_cast<int>(threads * shape.cluster);
        std::memset(memory.get(), 0xff, padded * shape.cluster);
        for (unsigned b = 0; b < shape.cluster; ++b) {
          Block& block = machine.blocks[b];
          block.shared = memory.get() + b * padded;
          block.rank = b;
          block.live = static_cast<int>(threads);
          block.multiprocessor = static_cast<int>(machine.Random(kMultiprocessors));
          block.warps.resize((threads + kWarp - 1) / kWarp);
          for (unsigned t = 0; t < threads; ++t) {
            Thread& thread = *machine.threads[b * threads + t];
            Warp& warp = block.warps[t / kWarp];
            thread.place = {{t, 0, 0}, {x + b, y, z}, shape.block, shape.grid};
            thread.block = &block;
            thread.warp = &warp;
            thread.copies.clear();
            ++warp.live;
            thread.fiber.Start(ThreadMain);
            machine.ready.push_back(&thread);
          }
        }
        Release(&machine.shape);
        RunCluster();
        Acquire(&machine.shape);
      }
    }
  }
}

}  // namespace

void Launch(cudaStream_t stream, const LaunchShape& shape, std::function<void()> thread) {
  CheckCurrentDevice(stream);
  Submit(stream, [shape, thread = std::move(thread)] { Run(shape, thread); });
}

char* SharedMemory() { return OwnBlock().shared; }
unsigned BlockInCluster() { return OwnBlock().rank; }
unsigned BlocksInCluster() { return machine.shape.cluster; }
int Multiprocessor() { return OwnBlock().multiprocessor; }

void* InBlock(void* own, unsigned block) {
  CHECK_LT(block, machine.shape.cluster) << "a block of another cluster";
  CHECK_GT(machine.blocks[block].live, 0) << "memory of a block that has ended";
  return machine.blocks[block].shared + AddressIn(OwnBlock(), own, 1);
}

uint32_t SharedAddress(const void* p) { return AddressIn(OwnBlock(), p, 0); }

void BlockBarrier() {
  Block& block = OwnBlock();
  Meet(block.all, block.live);
}

void NamedBarrier(int id, int threads) {
  CHECK(id > 0 && id < 16 && threads > 0 && threads % kWarp == 0) << "barrier " << id << " of " << threads << " threads";
  Meet(OwnBlock().named[id], threads);
}

void ClusterBarrier() { Meet(machine.cluster, machine.live); }

void WarpBarrier(uint32_t mask) {
  CHECK_EQ(mask, ~0u) << "a part of a warp";
  Warp& warp = *Self().warp;
  Meet(warp.meeting, warp.live);
}

const uint64_t* Exchange(uint64_t own, uint32_t mask) {
  CHECK_EQ(mask, ~0u) << "a part of a warp";
  Thread& self = Self();
  Warp& warp = *self.warp;
  const int lane = OwnLane(), turn = warp.turn[lane];
  warp.turn[lane] ^= 1;  // two in turn: nobody comes to the next but one before all have read this
  warp.exchange[turn][lane] = own;
  Gather(warp.meeting, warp.live, [] {});  // a shuffle orders no accesses to memory
  return warp.exchange[turn];
}

void BarrierInit(uint64_t* barrier, uint32_t arrivals) {
  AddressIn(OwnBlock(), barrier, 8);
  CHECK(reinterpret_cast<uintptr_t>(barrier) % 8 == 0 && arrivals > 0) << "a barrier of " << arrivals << " arrivals";
  *barrier = kBarrierMark | machine.barriers.size();
  machine.barriers.push_back({barrier, arrivals, arrivals});
}
void BarrierArrive(uint64_t* barrier) { Arrive(Find(barrier)); }
void BarrierArriveAt(uint64_t* barrier, unsigned block) { Arrive(Find(static_cast<uint64_t*>(InBlock(barrier, block)))); }
void BarrierExpect(uint64_t* barrier, uint32_t bytes) {
  Barrier& b = Find(barrier);
  b.bytes += bytes;
  Arrive(b);
}
void BarrierWait(uint64_t* barrier, uint32_t parity) {
  CHECK_LE(parity, 1u);
  const uint64_t index = *barrier;
  Find(barrier);
  // A barrier may be initialised meanwhile, and move.
  while (machine.barriers[index & 0xfffffffff].phase == parity) WaitIn(machine.barriers[index & 0xfffffffff].waiting);
  Acquire(barrier);
}

void CopyBulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  CHECK(bytes > 0 && bytes % 16 == 0 && reinterpret_cast<uintptr_t>(to) % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0)
      << "a bulk copy of " << bytes << " bytes, or not at a multiple of 16";
  const auto* const source = static_cast<const char*>(from);
  Send({std::vector<char>(source, source + bytes), static_cast<char*>(to), false, barrier, static_cast<int>(OwnBlock().rank)});
}

void CopyBox(void* to, const CUtensorMap* map, const int* coordinates, uint64_t* barrier, uint32_t blocks) {
  const TensorMap m = MapAt(map);
  const Block& own = OwnBlock();
  CHECK_EQ(AddressIn(own, to, 0) % 128, 0u) << "a box that is not at a multiple of 128 bytes";
  std::vector<char> data(Elements(m) * m.element_bytes);
  ForEachInside(m, coordinates, [&](size_t i, const char* element) { std::memcpy(&data[i * m.element_bytes], element, m.element_bytes); });
  if (blocks == 0) return Send({std::move(data), static_cast<char*>(to), true, barrier, static_cast<int>(own.rank)});
  CHECK_EQ(blocks >> machine.shape.cluster, 0u) << "a block of another cluster";
  for (unsigned b = 0; b < machine.shape.cluster; ++b) {
    if ((blocks >> b & 1) == 0) continue;
    Send({data, static_cast<char*>(InBlock(to, b)), true, static_cast<uint64_t*>(InBlock(barrier, b)), static_cast<int>(b)});
  }
}

void StoreBox(const void* from, const CUtensorMap* map, const int* coordinates) {
  Thread::BoxStore store = {static_cast<const char*>(from), MapAt(map), {}};
  std::copy_n(coordinates, store.map.rank, store.at);
  CHECK_EQ(AddressIn(OwnBlock(), from, Elements(store.map) * store.map.element_bytes) % 128, 0u) << "a box that is not at a multiple of 128 bytes";
  Self().open_stores.push_back(store);
}
void StoreBoxCommit() {
  Thread& self = Self();
  self.stores.insert(self.stores.end(), self.open_stores.begin(), self.open_stores.end());
  self.open_stores.clear();
  if (machine.Chance(2)) StoreBoxWaitRead();
}
void StoreBoxWaitRead() {
  for (const Thread::BoxStore& store : Self().stores) {
    const Block& own = OwnBlock();
    const uint32_t from = AddressIn(own, store.from, 0);
    ForEachInside(store.map, store.at, [&](size_t i, char* element) {
      const auto offset = static_cast<uint32_t>(i * store.map.element_bytes);
      std::memcpy(element, InShared(own, Swizzled(from + offset), store.map.element_bytes), store.map.element_bytes);
    });
  }
  Self().stores.clear();
}

void CopyAsync(void* to, const void* from, bool present) {
  AddressIn(OwnBlock(), to, 16);
  CHECK(reinterpret_cast<uintptr_t>(to) % 16 == 0 && (!present || reinterpret_cast<uintptr_t>(from) % 16 == 0)) << "a copy that is not aligned";
  Self().open_copies.push_back({static_cast<char*>(to), present ? static_cast<const char*>(from) : nullptr});
}
void CopyAsyncCommit() {
  Thread& self = Self();
  self.copies.push_back(std::move(self.open_copies));
  self.open_copies.clear();
  if (!machine.Chance(2)) return;
  for (const Thread::Copy& copy : self.copies.back()) Do(copy);
  self.copies.back().clear();
}
void CopyAsyncWait(int pending) {
  Thread& self = Self();
  while (static_cast<int>(self.copies.size()) > pending) {
    for (const Thread::Copy& copy : self.copies.front()) Do(copy);
    self.copies.pop_front();
  }
}

void Product(int n, float* acc, const uint32_t* a, uint64_t desc_a, bool mn_major_a, uint64_t desc_b, bool mn_major_b) {
  const Thread& self = Self();
  Warp& warp = *self.warp;
  const int lane = OwnLane(), first_row = static_cast<int>(self.place.thread.x % 128) / kWarp * 16;
  warp.next.acc[lane] = acc;
  if (a != nullptr) std::copy_n(a, 4, warp.next.a[lane]);
  Meet(warp.meeting, warp.live, [&] {
    CHECK_EQ(warp.live, kWarp) << "wgmma without a whole warp";
    warp.next.n = n;
    warp.next.first_row = first_row;
    warp.next.desc_a = desc_a;
    warp.next.desc_b = desc_b;
    warp.next.a_in_registers = a != nullptr;
    warp.next.mn_major_a = mn_major_a;
    warp.next.mn_major_b = mn_major_b;
    warp.open_products.push_back(warp.next);
  });
}
void ProductCommit() {
  Warp& warp = *Self().warp;
  Meet(warp.meeting, warp.live, [&] {
    warp.products.push_back(std::move(warp.open_products));
    warp.open_products.clear();
    if (!machine.Chance(2)) return;
    for (std::vector<WarpProduct>& group : warp.products) MultiplyAll(OwnBlock(), group);  // in order
  });
}
void ProductWait(int pending) {
  Warp& warp = *Self().warp;
  Meet(warp.meeting, warp.live, [&] {
    CHECK(warp.open_products.empty()) << "products that were never committed";
    while (static_cast<int>(warp.products.size()) > pending) {
      MultiplyAll(OwnBlock(), warp.products.front());
      warp.products.pop_front();
    }
  });
}

}  // namespace grouper::emulator
