// All tensors of a Hugging Face directory: its model.safetensors, or the shards that model.safetensors.index.json
// names.
//
//   {"metadata": {"total_size": 123}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors", ...}}
//
// Every problem is named in one error: a shard that is missing or malformed, a tensor that is not in the shard that the
// index names, a tensor that stands in two shards. Tensors in a shard that the index does not list are there too (who
// loads a model refuses what it does not know). File names in the index cannot leave the directory (CheckInnerPath).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/checkpoint/safetensors.h"

namespace grouper {

inline constexpr uint64_t kMaxSafetensorsIndex = 32 << 20;

// Thread-safe once open; keeps its files mapped.
class ModelTensors {
 public:
  static absl::StatusOr<std::shared_ptr<const ModelTensors>> Open(const std::string& directory);

  absl::Span<const StoredTensor> tensors() const { return tensors_; }  // sorted by name
  const StoredTensor* Find(absl::string_view name) const;
  absl::Span<const std::shared_ptr<const SafetensorsFile>> files() const { return files_; }
  const std::string& path() const { return path_; }  // of the one file, or of the index


 private:
  std::string path_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace grouper
