#include "common/model/kv_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <functional>

#include "common/base/check.h"
#include "common/tensor/cuda.h"

namespace grouper {
namespace {

kernels::KvLayout LayoutOf(const ModelConfig& config, DType dtype) {
  kernels::KvLayout layout;
  layout.dtype = dtype;
  if (config.mla) {
    layout.num_kv_heads = 1;
    layout.key_dim = static_cast<int>(config.mla->kv_lora_rank + config.mla->qk_rope_head_dim);
    layout.value_dim = static_cast<int>(config.mla->kv_lora_rank);
    layout.values_in_keys = true;
  } else {
    layout.num_kv_heads = static_cast<int>(config.num_key_value_heads);
    layout.key_dim = layout.value_dim = static_cast<int>(config.head_dim);
  }
  return layout;
}

}  // namespace

size_t KvPool::BytesPerPage(const ModelConfig& config, DType dtype) {
  return LayoutOf(config, dtype).PageBytes() * static_cast<size_t>(config.num_hidden_layers);
}

KvPool::KvPool(const ModelConfig& config, DType dtype, int32_t num_pages, Device device, void* memory)
    : device_(device),
      layout_(LayoutOf(config, dtype)),
      num_layers_(config.num_hidden_layers),
      num_pages_(num_pages),
      page_bytes_(layout_.PageBytes()),
      memory_(static_cast<char*>(memory)),
      owned_(memory == nullptr),
      references_(static_cast<size_t>(num_pages), 0) {
  CHECK_GT(num_pages, 0);
  const size_t bytes = page_bytes_ * static_cast<size_t>(num_pages) * static_cast<size_t>(num_layers_);
  free_.reserve(static_cast<size_t>(num_pages));
  for (int32_t page = 0; page < num_pages; ++page) free_.push_back(page);  // ascending: a min-heap
  if (!owned_) return;
  if (device.is_cuda()) {
    memory_ = static_cast<char*>(cuda::Allocate(device.index, bytes));
    return;
  }
  // Anonymous memory: pages that are never used cost nothing.
  void* fresh = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(fresh != MAP_FAILED) << "out of memory: " << bytes << " bytes of key-value cache";
  memory_ = static_cast<char*>(fresh);
}

KvPool::~KvPool() {
  if (!owned_) return;
  if (device_.is_cuda()) {
    cuda::Free(device_.index, memory_);
  } else {
    munmap(memory_, page_bytes_ * static_cast<size_t>(num_pages_) * static_cast<size_t>(num_layers_));
  }
}

kernels::PagedKv KvPool::layer(int64_t i) const {
  CHECK(i >= 0 && i < num_layers_);
  return {memory_ + static_cast<size_t>(i) * static_cast<size_t>(num_pages_) * page_bytes_, page_bytes_, layout_};
}

void KvPool::CopyPage(Stream& stream, int32_t from, int32_t to, int tokens) const {
  kernels::CopyPage(stream, layer(0), num_layers_, static_cast<size_t>(num_pages_) * page_bytes_, from, to, tokens);
}

int32_t KvPool::Allocate() {
  if (free_.empty()) return -1;
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  const int32_t page = free_.back();
  free_.pop_back();
  references_[page] = 1;
  return page;
}

void KvPool::Retain(int32_t page) {
  CHECK_GT(references_[page], 0);
  ++references_[page];
}

void KvPool::Release(int32_t page) {
  CHECK_GT(references_[page], 0);
  if (--references_[page] > 0) return;
  free_.push_back(page);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

void KvPool::ReleaseAll() {
  free_.clear();
  for (int32_t page = 0; page < num_pages_; ++page) free_.push_back(page);
  std::fill(references_.begin(), references_.end(), 0);
}

}  // namespace grouper
