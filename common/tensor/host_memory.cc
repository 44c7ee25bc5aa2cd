#include "common/tensor/host_memory.h"

#include <cstring>

#include "common/tensor/cuda.h"

namespace grouper {

size_t NumBytes(const Tensor& tensor) { return static_cast<size_t>(tensor.size()) * SizeOf(tensor.dtype()); }

void WriteBytes(const Tensor& to, size_t offset, absl::string_view bytes) {
  CHECK(to.contiguous() && offset <= NumBytes(to) && bytes.size() <= NumBytes(to) - offset) << to.ShapeString();
  if (bytes.empty()) return;
  char* const data = static_cast<char*>(to.raw()) + offset;
  if (!to.device().is_cuda()) {
    std::memcpy(data, bytes.data(), bytes.size());
    return;
  }
  cuda::CopyToDevice(to.device().index, data, bytes.data(), bytes.size(), nullptr);
  cuda::Synchronize(to.device().index, nullptr);
}

void ReadBytes(const Tensor& from, size_t offset, size_t size, char* to) {
  CHECK(from.contiguous() && offset <= NumBytes(from) && size <= NumBytes(from) - offset) << from.ShapeString();
  if (size == 0) return;
  const char* const data = static_cast<const char*>(from.raw()) + offset;
  if (!from.device().is_cuda()) {
    std::memcpy(to, data, size);
    return;
  }
  cuda::CopyToHost(from.device().index, to, data, size, nullptr);
  cuda::Synchronize(from.device().index, nullptr);
}

void CopyTensor(const Tensor& from, const Tensor& to) {
  CHECK(from.ShapeString() == to.ShapeString()) << from.ShapeString() << " " << to.ShapeString();
  WriteBytes(to, 0, HostBytes(from).view());
}

HostBytes::HostBytes(const Tensor& tensor) : tensor_(tensor) {
  CHECK(tensor.contiguous()) << tensor.ShapeString();
  if (!tensor.device().is_cuda()) {
    view_ = {static_cast<const char*>(tensor.raw()), NumBytes(tensor)};
    return;
  }
  copy_.resize(NumBytes(tensor));
  ReadBytes(tensor, 0, copy_.size(), copy_.data());
  view_ = copy_;
}

Tensor HostBytes::tensor() const { return tensor_.At(const_cast<char*>(view_.data()), {}); }

}  // namespace grouper
