// KvPool: the memory of a cache of keys and values in 64-token pages, for all layers of one model.
//
// A page id stands for the same 64 positions in every layer. Reference-counted, so that a group's samples share the
// prompt's full pages. Not thread-safe (one engine thread, or one training pass, owns a pool).
#pragma once

#include <cstdint>
#include <vector>

#include "common/model/config.h"
#include "kernels/attention.h"

namespace grouper {

class KvPool {
 public:
  // memory: where the pages lie, BytesPerPage each, if not in memory of the pool's own; it must outlive the pool.
  KvPool(const ModelConfig& config, DType dtype, int32_t num_pages, Device device = {}, void* memory = nullptr);
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  kernels::PagedKv layer(int64_t i) const;
  const kernels::KvLayout& layout() const { return layout_; }
  int32_t num_pages() const { return num_pages_; }
  int32_t free_pages() const { return static_cast<int32_t>(free_.size()); }

  // A page with one reference, or -1 when none is free. Lowest free id first.
  int32_t Allocate();
  void Retain(int32_t page);
  void Release(int32_t page);  // back to the free list with the last reference
  void ReleaseAll();

  // kernels::CopyPage, in all layers.
  void CopyPage(Stream& stream, int32_t from, int32_t to, int tokens) const;

  static size_t BytesPerPage(const ModelConfig& config, DType dtype);  // over all layers

 private:
  Device device_;
  kernels::KvLayout layout_;
  int64_t num_layers_;
  int32_t num_pages_;
  size_t page_bytes_;          // of one layer
  char* memory_;               // [layer][page]
  bool owned_;
  std::vector<int32_t> free_;  // a heap, lowest id on top
  std::vector<int32_t> references_;
};

}  // namespace grouper
