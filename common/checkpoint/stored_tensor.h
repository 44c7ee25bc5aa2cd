// A tensor as it lies in a model file (safetensors.h, gguf.h): name, storage type, shape and the raw little-endian
// bytes.
//
// Elements are stored in blocks: one element for the plain types, 32 or 256 for ggml's quantised ones (ggml_blocks.h).
// DecodeToFloat turns any range of whole blocks into float32, so that a caller may split a tensor over threads or
// decode one row at a time; it is a pure function and thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace grouper {

enum class StorageType : uint8_t {
  kF32, kF64, kF16, kBF16,
  kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool,
  kF8E4M3, kF8E5M2, kF8E8M0, kC64,                                  // recognised and sized; not decoded
  kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ4_K, kQ5_K, kQ6_K,           // ggml's
};

const char* Name(StorageType type);  // safetensors' spelling ("BF16", "F8_E4M3"), ggml's for quantised types ("Q4_K")
int64_t BlockElements(StorageType type);    // 1, 32 or 256
int64_t BlockBytes(StorageType type);
bool CanDecodeToFloat(StorageType type);    // F32, F64, F16, BF16 and the quantised types

struct StoredTensor {
  std::string name;
  StorageType type = StorageType::kF32;
  std::vector<int64_t> shape;   // outermost first, as in PyTorch; empty: a scalar. Dimensions >= 0, product checked
  absl::string_view bytes;      // exactly the tensor's size; inside a mapping that the file object keeps alive
  std::string file;             // where it came from, for error messages

  int64_t num_elements() const;
  std::string ShapeString() const;  // "BF16[576, 1536]"
};

// out[0, end - begin) = elements [begin, end) in row-major order, as float32. F64 is rounded to nearest; the others are
// exact or as ggml defines them (float32 arithmetic, no contraction). REQUIRES: 0 <= begin <= end <= num_elements(),
// both multiples of BlockElements(type) (CHECKed). InvalidArgument naming tensor and type when the type cannot be
// decoded.
absl::Status DecodeToFloat(const StoredTensor& tensor, int64_t begin, int64_t end, float* out);

// The same for `n` elements that lie at `in`. REQUIRES: whole blocks, CanDecodeToFloat(type).
void DecodeToFloat(StorageType type, const char* in, int64_t n, float* out);

// The bytes that a tensor of this type and shape takes. InvalidArgument on a negative dimension, a product beyond
// int64, or an innermost dimension that does not hold whole blocks.
absl::Status StorageBytes(StorageType type, const std::vector<int64_t>& shape, uint64_t* bytes);

}  // namespace grouper
