// Tensor: a typed, strided view of memory that somebody else owns (an Arena, a weight store, a mapped file).
//
// Copying a Tensor copies the view. Rank 0..4; the innermost stride is always 1, so a row is contiguous; outer strides are in
// elements and may be larger than the row (a slice of a fused projection). No operator here computes: ops live in kernels/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "common/base/bf16.h"
#include "common/base/check.h"

namespace grouper {

enum class DType : uint8_t { kF32, kF64, kBF16, kI32 };

size_t SizeOf(DType dtype);
const char* Name(DType dtype);  // safetensors' spelling: "F32", "F64", "BF16", "I32"

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};

struct Device {
  enum class Kind : uint8_t { kCpu, kCuda };
  Kind kind = Kind::kCpu;
  int index = 0;
  bool is_cuda() const { return kind == Kind::kCuda; }
  friend bool operator==(const Device&, const Device&) = default;
};

class Tensor {
 public:
  static constexpr int kMaxRank = 4;

  Tensor() = default;  // empty(): no data; ops take it for "absent"
  // Contiguous view. With null data a shape alone: empty(), and so are its parts.
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape, Device device = {});

  bool empty() const { return data_ == nullptr; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int rank() const { return rank_; }
  int64_t dim(int i) const { return shape_[i < 0 ? i + rank_ : i]; }
  int64_t stride(int i) const { return stride_[i < 0 ? i + rank_ : i]; }
  int64_t size() const;  // number of elements
  bool contiguous() const;

  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    CHECK(dtype_ == DTypeOf<T>::value) << Name(dtype_);
    return static_cast<T*>(data_);
  }
  // First element of row i (rank 2: element [i, 0]; rank 3: [i, 0, 0]).
  template <typename T>
  T* row(int64_t i) const {
    return data<T>() + i * stride_[0];
  }

  // Rows [begin, end) of dimension 0.
  Tensor Rows(int64_t begin, int64_t end) const;
  // Elements [begin, end) of the innermost dimension; outer strides stay.
  Tensor Columns(int64_t begin, int64_t end) const;
  // The i-th sub-tensor of dimension 0: rank - 1.
  Tensor operator[](int64_t i) const;
  // Same elements, other shape. The innermost dimension may be split ([T, H*D] -> [T, H, D]) also when rows are strided;
  // any other change REQUIRES contiguous().
  Tensor Reshape(std::initializer_list<int64_t> shape) const;
  // Dimension d, of length 1, `times` times over (stride 0): for reading.
  Tensor Repeat(int d, int64_t times) const;
  // The same type, shape and strides over other memory.
  Tensor At(void* data, Device device) const;

  std::string ShapeString() const;  // "F32[3, 96]"

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Device device_;
  int rank_ = 0;
  int64_t shape_[kMaxRank] = {};
  int64_t stride_[kMaxRank] = {};
};

}  // namespace grouper
