// In what order a product's tiles are computed, without a division on the device: a division takes a warp as long as a step of a product.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace grouper::kernels::cuda {

// n / divisor by a multiplication, for 0 <= n < 2^31 and divisor >= 1 (Granlund and Montgomery, "Division by Invariant Integers using
// Multiplication", 1994).
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int divisor) : divisor_(divisor) {
    if (divisor == 1) return;
    int log = 0;
    while (int64_t{1} << log < divisor) ++log;
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << (31 + log)) + static_cast<uint64_t>(divisor) - 1) / static_cast<uint64_t>(divisor));
    shift_ = log - 1;
  }
  __device__ int Quotient(int n) const {
    return divisor_ == 1 ? n : static_cast<int>(__umulhi(static_cast<uint32_t>(n), multiplier_) >> shift_);
  }
  __host__ __device__ int value() const { return divisor_; }

 private:
  int divisor_ = 1;
  uint32_t multiplier_ = 0;
  int shift_ = 0;
};

// A matrix's tiles: 16 tiles of tokens (of M unless they are on N), all tiles of the other side, the next 16, so that what runs together shares
// rows and columns in L2. Of several matrices one after another.
class TileOrder {
 public:
  TileOrder() = default;
  // Counts of tiles, >= 1.
  TileOrder(int tokens, int others)
      : tokens_(tokens), others_(others), matrix_(tokens * others), group_(16 * others), last_group_(tokens % 16 == 0 ? 16 : tokens % 16) {}
  // For matrices whose tokens only the device counts: LocateAmong and others().
  static TileOrder WithoutTokens(int others) { return TileOrder(1, others); }

  // Tile `index`: its matrix, and its place there on both sides.
  __device__ void Locate(int index, int* matrix, int* token, int* other) const {
    *matrix = matrix_.Quotient(index);
    const int rest = index - *matrix * matrix_.value();
    Place(rest, tokens_, token, other, [&](int in_group, int) { return last_group_.Quotient(in_group); });
  }
  // Tile `index` of one matrix with so many tiles of tokens.
  __device__ void LocateAmong(int tokens, int index, int* token, int* other) const {
    Place(index, tokens, token, other, [](int in_group, int size) { return in_group / size; });
  }

  __host__ __device__ int matrix_tiles() const { return matrix_.value(); }
  __device__ int others() const { return others_; }

 private:
  template <typename Divide>
  __device__ void Place(int index, int tokens, int* token, int* other, Divide divide) const {
    const int group = group_.Quotient(index), size = min(16, tokens - 16 * group);
    const int in_group = index - group * group_.value();
    *other = size == 16 ? in_group / 16 : divide(in_group, size);
    *token = 16 * group + in_group - *other * size;
  }

  int tokens_ = 0, others_ = 0;
  Divisor matrix_, group_, last_group_;  // tiles of a matrix; of 16 tiles of tokens; tiles of tokens in the last such group
};

}  // namespace grouper::kernels::cuda
