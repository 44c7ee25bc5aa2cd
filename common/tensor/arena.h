// Arena: bump allocation of tensors that die together (one forward/backward pass, one engine step).
//
//   Arena arena(device);
//   Tensor x = arena.New(DType::kF32, {tokens, hidden});     // uninitialised, 64-byte aligned (256 on CUDA)
//   Arena::Mark mark = arena.mark();  ...  arena.Release(mark);   // gives back everything since
//
// Memory is taken in blocks and kept for reuse, so that after the first step no allocation happens. Not thread-safe. On CUDA what is
// released may be handed out again while kernels still use it: all users must be on one stream (`stream`, which also zeroes; without
// one, NewZero waits until the memory is zero).
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <vector>

#include "common/tensor/tensor.h"

namespace grouper {

class Arena {
 public:
  explicit Arena(Device device = {}, void* stream = nullptr) : device_(device), stream_(stream) {}
  // The first block is `size` bytes at `memory` (aligned as Allocate aligns), which outlive the arena; what does not fit is taken as ever.
  Arena(Device device, void* stream, void* memory, size_t size);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Tensor New(DType dtype, std::initializer_list<int64_t> shape);
  Tensor NewZero(DType dtype, std::initializer_list<int64_t> shape);
  static constexpr size_t kLine = 64;  // what is allocated begins at multiples of it on the CPU
  void* Allocate(size_t bytes);        // never null
  // Takes a block of `bytes` now, so that what is allocated next lies in one piece. On the CPU in huge pages, except for the block's beginning
  // and the last piece of a large one: what is not used of them takes no memory.
  void Reserve(size_t bytes);

  // So that `bytes` lie in one block, and smaller ones that were outgrown are given back. REQUIRES: nothing is handed out, no kernel uses what was.
  void Renew(size_t bytes);

  struct Mark {
    size_t block = 0, used = 0;
  };
  Mark mark() const { return {block_, used_}; }
  // REQUIRES: mark came from this arena and nothing older was released since. (Inline: small products feel the call.)
  void Release(Mark mark) {
    CHECK(mark.block < block_ || (mark.block == block_ && mark.used <= used_)) << "mark is not from before";
    block_ = mark.block;
    used_ = mark.used;
  }
  void Reset() { Release({}); }

  size_t reserved_bytes() const;  // taken from the system
  size_t peak_bytes() const { return peak_; }

 private:
  struct Block {
    char* data;
    size_t size;
    bool owned = true;
  };
  void Free(const Block& block);
  Device device_;
  void* stream_;  // cudaStream_t
  std::vector<Block> blocks_;
  size_t block_ = 0, used_ = 0;  // current block and bytes used in it
  size_t peak_ = 0;
};

}  // namespace grouper
