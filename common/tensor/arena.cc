#include "common/tensor/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/tensor/cuda.h"

namespace grouper {
namespace {
constexpr size_t kBlock = size_t{8} << 20;
constexpr size_t kHuge = size_t{2} << 20;
constexpr size_t kCudaAlign = 256;
constexpr size_t kCudaBlock = size_t{64} << 20;

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }
}  // namespace

Arena::Arena(Device device, void* stream, void* memory, size_t size) : device_(device), stream_(stream) {
  blocks_.push_back({static_cast<char*>(memory), size, /*owned=*/false});
}

Arena::~Arena() {
  for (const Block& block : blocks_) Free(block);
}

void Arena::Free(const Block& block) {
  if (!block.owned) return;
  if (device_.is_cuda()) {
    cuda::Free(device_.index, block.data);
  } else {
    std::free(block.data);
  }
}

void Arena::Renew(size_t bytes) {
  CHECK(block_ == 0 && used_ == 0) << "memory of this arena is in use";
  if (blocks_.size() == 1 && blocks_[0].size >= bytes) return;
  for (const Block& block : blocks_) Free(block);
  blocks_.clear();
  Reserve(device_.is_cuda() ? std::max(bytes, kCudaBlock) : bytes);
}

void Arena::Reserve(size_t bytes) {
  const bool on_cuda = device_.is_cuda();
  const size_t size = RoundUp(on_cuda ? bytes : std::max(bytes, kBlock), kHuge);
  char* data;
  if (on_cuda) {
    data = static_cast<char*>(cuda::Allocate(device_.index, size));
  } else {
    data = static_cast<char*>(std::aligned_alloc(kHuge, size));
    CHECK(data != nullptr) << "out of memory: " << size << " bytes";
    const size_t end = bytes > kBlock ? bytes / kHuge * kHuge : size;
    madvise(data + kHuge, end - kHuge, MADV_HUGEPAGE);
  }
  blocks_.push_back({data, size});
}

void* Arena::Allocate(size_t bytes) {
  const bool on_cuda = device_.is_cuda();
  const size_t align = on_cuda ? kCudaAlign : kLine;
  bytes = std::max(RoundUp(bytes, align), align);
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    Reserve(on_cuda ? std::max(bytes, kCudaBlock) : bytes);
    used_ = 0;
  }
  void* result = blocks_[block_].data + used_;
  used_ += bytes;
  size_t in_use = used_;
  for (size_t i = 0; i < block_; ++i) in_use += blocks_[i].size;
  peak_ = std::max(peak_, in_use);
  return result;
}

Tensor Arena::New(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t(nullptr, dtype, shape, device_);
  return Tensor(Allocate(static_cast<size_t>(t.size()) * SizeOf(dtype)), dtype, shape, device_);
}

Tensor Arena::NewZero(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t = New(dtype, shape);
  const size_t bytes = static_cast<size_t>(t.size()) * SizeOf(dtype);
  if (device_.is_cuda()) {
    cuda::Zero(device_.index, t.raw(), bytes, stream_);
    if (stream_ == nullptr) cuda::Synchronize(device_.index, nullptr);
  } else {
    std::memset(t.raw(), 0, bytes);
  }
  return t;
}

size_t Arena::reserved_bytes() const {
  size_t total = 0;
  for (const Block& block : blocks_) total += block.owned ? block.size : 0;
  return total;
}

}  // namespace grouper
