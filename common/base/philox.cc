#include "common/base/philox.h"

#include <cmath>
#include <numbers>

#include "common/base/check.h"

namespace grouper {

PhiloxKey MakePhiloxKey(uint64_t seed, const char* label) {
  // FNV-1a of the label, mixed with the seed by SplitMix64's finaliser.
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char* p = label; *p; ++p) hash = (hash ^ static_cast<unsigned char>(*p)) * 0x100000001b3ull;
  uint64_t z = seed + 0x9e3779b97f4a7c15ull + hash;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return {static_cast<uint32_t>(z), static_cast<uint32_t>(z >> 32)};
}

uint32_t PhiloxStream::NextUint32() {
  if (left_ == 0) {
    block_ = Philox(key_, {static_cast<uint32_t>(position_), static_cast<uint32_t>(position_ >> 32),
                           static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)});
    ++position_;
    left_ = 4;
  }
  return block_[4 - left_--];
}

uint64_t PhiloxStream::NextBelow(uint64_t n) {
  CHECK_GT(n, 0u);
  const uint64_t limit = n * (~uint64_t{0} / n);  // the largest multiple of n that fits
  while (true) {
    uint64_t value = NextUint32();
    value = value << 32 | NextUint32();
    if (value < limit) return value % n;
  }
}

double PhiloxStream::NextDouble() {
  uint64_t value = NextUint32();
  value = value << 32 | NextUint32();
  return static_cast<double>(value >> 11) * 0x1p-53;
}

double PhiloxStream::NextNormal() {
  const double u = 1.0 - NextDouble();  // (0, 1]
  const double v = NextDouble();
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace grouper
