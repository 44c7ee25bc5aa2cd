// safetensors, the file format of Hugging Face models: N (8 bytes, little endian), N bytes of JSON, then the tensors'
// bytes.
//
//   {"__metadata__": {"format": "pt"},
//    "model.norm.weight": {"dtype": "BF16", "shape": [576], "data_offsets": [0, 1152]}, ...}
//
// Open trusts nothing: N <= 100 MB and within the file; JSON without duplicate keys; known dtypes; at most 8
// dimensions, whose product fits; offsets that cover the rest of the file exactly, without holes and overlaps; size ==
// product * dtype size. The header is read in one pass without building a tree, and held to json.h's limits first, so
// that a hostile one costs no more memory than its tensors' entries, and no more than a second. Unknown fields of a tensor are ignored, as in the reference implementation. Errors
// are InvalidArgument and name file and tensor.
//
// Not refused: names that no model has, values that are NaN. Who loads a model checks those.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/file.h"
#include "common/checkpoint/stored_tensor.h"

namespace grouper {

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;
inline constexpr size_t kMaxSafetensorsRank = 8;
inline constexpr size_t kMaxSafetensorsTensors = 200'000;   // in one file
inline constexpr size_t kMaxSafetensorsMetadata = 100'000;  // entries

// Thread-safe once open. Tensors point into the mapping, which lives as long as the object. Reading them there ends the process
// (SIGBUS) where someone else has cut the file; MappedFile::Read is an error then.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const std::shared_ptr<MappedFile>& mapping() const { return file_; }
  absl::Span<const StoredTensor> tensors() const { return tensors_; }  // sorted by name
  const StoredTensor* Find(absl::string_view name) const;              // nullptr: none of that name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::shared_ptr<MappedFile> file_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// The same checks on bytes in memory; `name` stands for the file in errors and in StoredTensor::file. The tensors point
// into `bytes`.
absl::Status ParseSafetensors(absl::string_view bytes, const std::string& name, std::vector<StoredTensor>* tensors,
                              std::map<std::string, std::string>* metadata);

}  // namespace grouper
