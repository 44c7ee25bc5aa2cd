// Bytes between the host and a tensor wherever it lies: for loading, saving and digests. These copies wait, and are not ordered with any
// Stream: whoever wrote the tensor must have been waited for (Stream::Synchronize, Model::WeightsChanged).
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "common/tensor/tensor.h"

namespace grouper {

size_t NumBytes(const Tensor& tensor);

// REQUIRES: contiguous tensors; `bytes` at `offset` lie within.
void WriteBytes(const Tensor& to, size_t offset, absl::string_view bytes);
void ReadBytes(const Tensor& from, size_t offset, size_t size, char* to);
// Between tensors of one shape and type, each on the host or on a device.
void CopyTensor(const Tensor& from, const Tensor& to);

// A contiguous tensor's bytes on the host: its own, or a copy of them that lives as long as this.
class HostBytes {
 public:
  explicit HostBytes(const Tensor& tensor);
  absl::string_view view() const { return view_; }
  const char* data() const { return view_.data(); }
  // The same as a tensor of the host.
  Tensor tensor() const;

 private:
  Tensor tensor_;
  std::string copy_;
  absl::string_view view_;
};

}  // namespace grouper
