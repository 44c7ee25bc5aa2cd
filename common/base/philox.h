// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
// A pure function of (key, counter): the same number on every machine, in every order, before and after a restart.
#pragma once

#include <array>
#include <cstdint>

namespace grouper {

struct PhiloxKey {
  uint32_t lo = 0, hi = 0;
};
using PhiloxCounter = std::array<uint32_t, 4>;

// Four independent uniform 32-bit numbers.
inline std::array<uint32_t, 4> Philox(PhiloxKey key, PhiloxCounter counter) {
  constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u, kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kMul0) * counter[0];
    const uint64_t p1 = static_cast<uint64_t>(kMul1) * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key.lo, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key.hi, static_cast<uint32_t>(p0)};
    key.lo += kWeyl0;
    key.hi += kWeyl1;
  }
  return counter;
}

// A 64-bit key from a seed and a label, so that streams with different purposes never meet ("sampling", "init", "data").
PhiloxKey MakePhiloxKey(uint64_t seed, const char* label);

// A sequential stream over one key, for host-side choices (data order, initial weights, generated problems).
// Copyable; its whole state is (key, counter), which a checkpoint can hold.
class PhiloxStream {
 public:
  PhiloxStream() = default;
  explicit PhiloxStream(PhiloxKey key, uint64_t stream = 0) : key_(key), stream_(stream) {}

  uint32_t NextUint32();
  // Uniform in [0, n), unbiased (rejection). n > 0.
  uint64_t NextBelow(uint64_t n);
  // Uniform in [0, 1) with 53 bits.
  double NextDouble();
  // Standard normal (Box-Muller on two doubles; each call uses its own pair).
  double NextNormal();

 private:
  PhiloxKey key_;
  uint64_t stream_ = 0;    // counter words 2, 3
  uint64_t position_ = 0;  // counter words 0, 1: blocks used
  std::array<uint32_t, 4> block_ = {};
  int left_ = 0;
};

}  // namespace grouper
