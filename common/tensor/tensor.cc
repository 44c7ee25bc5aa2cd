#include "common/tensor/tensor.h"

#include "absl/strings/str_cat.h"

namespace grouper {
namespace {

// A tensor without memory stays without.
void* Advance(void* data, int64_t elements, DType dtype) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + elements * static_cast<int64_t>(SizeOf(dtype));
}

}  // namespace

size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 4;
    case DType::kF64: return 8;
    case DType::kBF16: return 2;
    case DType::kI32: return 4;
  }
  CHECK(false) << "dtype " << static_cast<int>(dtype);
  return 0;
}

const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "F32";
    case DType::kF64: return "F64";
    case DType::kBF16: return "BF16";
    case DType::kI32: return "I32";
  }
  return "?";
}

Tensor::Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape, Device device)
    : data_(data), dtype_(dtype), device_(device), rank_(static_cast<int>(shape.size())) {
  CHECK_LE(rank_, kMaxRank);
  int i = 0;
  for (int64_t n : shape) {
    CHECK_GE(n, 0);
    shape_[i++] = n;
  }
  int64_t stride = 1;
  for (int d = rank_ - 1; d >= 0; --d) {
    stride_[d] = stride;
    stride *= shape_[d];
  }
}

int64_t Tensor::size() const {
  int64_t n = 1;
  for (int d = 0; d < rank_; ++d) n *= shape_[d];
  return n;
}

bool Tensor::contiguous() const {
  int64_t stride = 1;
  for (int d = rank_ - 1; d >= 0; --d) {
    if (shape_[d] != 1 && stride_[d] != stride) return false;
    stride *= shape_[d];
  }
  return true;
}

Tensor Tensor::Rows(int64_t begin, int64_t end) const {
  CHECK(rank_ >= 1 && 0 <= begin && begin <= end && end <= shape_[0]) << ShapeString() << " rows " << begin << ".." << end;
  Tensor t = *this;
  t.data_ = Advance(data_, begin * stride_[0], dtype_);
  t.shape_[0] = end - begin;
  return t;
}

Tensor Tensor::Columns(int64_t begin, int64_t end) const {
  CHECK(rank_ >= 1 && 0 <= begin && begin <= end && end <= shape_[rank_ - 1])
      << ShapeString() << " columns " << begin << ".." << end;
  Tensor t = *this;
  t.data_ = Advance(data_, begin, dtype_);
  t.shape_[rank_ - 1] = end - begin;
  return t;
}

Tensor Tensor::operator[](int64_t i) const {
  CHECK(rank_ >= 1 && 0 <= i && i < shape_[0]) << ShapeString() << " [" << i << "]";
  Tensor t = *this;
  t.data_ = Advance(data_, i * stride_[0], dtype_);
  t.rank_ = rank_ - 1;
  for (int d = 0; d < t.rank_; ++d) {
    t.shape_[d] = shape_[d + 1];
    t.stride_[d] = stride_[d + 1];
  }
  return t;
}

Tensor Tensor::Reshape(std::initializer_list<int64_t> shape) const {
  Tensor t(data_, dtype_, shape, device_);
  CHECK_EQ(t.size(), size());
  if (contiguous()) return t;
  // Split of the innermost dimension: leading dimensions keep their size and stride.
  CHECK_GT(t.rank_, rank_ - 1);
  for (int d = 0; d + 1 < rank_; ++d) {
    CHECK_EQ(t.shape_[d], shape_[d]) << ShapeString();
    t.stride_[d] = stride_[d];
  }
  return t;
}

Tensor Tensor::Repeat(int d, int64_t times) const {
  CHECK(d >= 0 && d + 1 < rank_ && shape_[d] == 1 && times >= 0) << ShapeString() << " dimension " << d << " " << times << " times";
  Tensor t = *this;
  t.shape_[d] = times;
  t.stride_[d] = 0;
  return t;
}

Tensor Tensor::At(void* data, Device device) const {
  Tensor t = *this;
  t.data_ = data;
  t.device_ = device;
  return t;
}

std::string Tensor::ShapeString() const {
  std::string text = absl::StrCat(Name(dtype_), "[");
  for (int d = 0; d < rank_; ++d) absl::StrAppend(&text, d ? ", " : "", shape_[d]);
  return text + "]";
}

}  // namespace grouper
