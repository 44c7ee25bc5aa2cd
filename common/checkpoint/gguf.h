// GGUF, llama.cpp's model file, versions 2 and 3, little endian: typed metadata, tensor infos, then the tensors' bytes.
//
//   file   := "GGUF" version:u32 tensor_count:u64 kv_count:u64 kv* info* padding data
//   kv     := key:string type:u32 value          string := length:u64 bytes
//   value  := a number, bool (one byte, 0 or 1), string, or array := type:u32 count:u64 values   (no arrays of arrays)
//   info   := name:string rank:u32 dims:u64[rank] type:u32 offset:u64
//             dims: innermost first; offset: from the start of data
//
// Data begin at the next multiple of general.alignment (u32, default 32) after the infos, and so does each tensor.
//
// Open trusts nothing. Every count and length is compared with the bytes that remain before it is used; keys and tensor
// names are unique, not empty, names at most 64 bytes; rank at most 4, dimensions > 0, products and sums checked;
// tensors lie within the file, aligned, one after another as ggml demands, without overlaps or gaps; types are those of
// ggml_blocks.h, plain floats and integers. Refused with their own words: version 1, big-endian files, one part of a
// split model. Errors are InvalidArgument and name the file and the key or tensor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/file.h"
#include "common/checkpoint/stored_tensor.h"

namespace grouper {

enum class GgufType : uint32_t {
  // clang-format off
  kUint8 = 0, kInt8 = 1, kUint16 = 2, kInt16 = 3, kUint32 = 4, kInt32 = 5, kFloat32 = 6,
  kBool = 7, kString = 8, kArray = 9, kUint64 = 10, kInt64 = 11, kFloat64 = 12,
  // clang-format on
};

const char* Name(GgufType type);  // "u8", "i8", ..., "string", "array"

// One metadata value as it lies in the file: its type and raw bytes; for an array its elements' type and number.
struct GgufValue {
  GgufType type = GgufType::kUint8;
  GgufType element_type = GgufType::kUint8;  // arrays only
  uint64_t count = 0;                        // arrays only
  absl::string_view bytes;                   // a number's bytes, a string's text, an array's elements
};

// Thread-safe once open. Strings and tensors point into the mapping, which lives as long as the object.
class GgufFile {
 public:
  static absl::StatusOr<std::shared_ptr<const GgufFile>> Open(const std::string& path);
  // The same on bytes that the caller keeps alive; `name` stands for the file in errors.
  static absl::StatusOr<std::shared_ptr<const GgufFile>> Parse(absl::string_view bytes, const std::string& name);

  const std::string& path() const { return path_; }
  const std::shared_ptr<MappedFile>& mapping() const { return file_; }
  uint32_t version() const { return version_; }

  // Shapes are outermost first, as everywhere in this program: a weight of GGUF dims {in, out} has shape [out, in].
  absl::Span<const StoredTensor> tensors() const { return tensors_; }  // sorted by name
  const StoredTensor* Find(absl::string_view name) const;              // nullptr: none of that name

  // Metadata. The accessors never convert between kinds: an integer key may have any integer type of the file as long
  // as its value is in range, a float f32 or f64; anything else, and a missing key, is InvalidArgument naming file,
  // key, and what was expected.
  bool Has(const std::string& key) const { return values_.count(key) > 0; }
  absl::Span<const std::string> keys() const { return keys_; }  // in file order
  const GgufValue* Value(const std::string& key) const;
  absl::StatusOr<int64_t> GetInt(const std::string& key, int64_t min, int64_t max) const;
  absl::StatusOr<double> GetFloat(const std::string& key) const;  // finite
  absl::StatusOr<bool> GetBool(const std::string& key) const;
  absl::StatusOr<absl::string_view> GetString(const std::string& key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(const std::string& key, int64_t min, int64_t max) const;
  absl::StatusOr<std::vector<float>> GetFloats(
      const std::string& key) const;  // f32 array; values as they are (NaN too)
  absl::StatusOr<std::vector<absl::string_view>> GetStrings(const std::string& key) const;

  // One line for people: "u32 32", "string \"llama\"", "array of 49152 string".
  std::string Describe(const std::string& key) const;

 private:
  friend class GgufParser;
  absl::StatusOr<const GgufValue*> Get(const std::string& key, absl::string_view expected) const;
  absl::StatusOr<const GgufValue*> GetArray(const std::string& key, absl::string_view expected) const;
  absl::Status Wrong(const std::string& key, absl::string_view expected) const;

  std::string path_;
  std::shared_ptr<MappedFile> file_;  // null when parsed from memory
  uint32_t version_ = 0;
  std::vector<StoredTensor> tensors_;
  std::vector<std::string> keys_;
  std::unordered_map<std::string, GgufValue> values_;
};

}  // namespace grouper
