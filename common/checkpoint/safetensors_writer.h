// Writes safetensors files (safetensors.h), streaming: no tensor needs to be in memory as a whole.
//
// Within a file tensors are ordered by element size, largest first, then as given, and the data begin at a multiple of
// 64, so that each tensor is aligned to its element. The header lists them in that order; the same input gives the same
// bytes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "common/base/file.h"
#include "common/checkpoint/stored_tensor.h"

namespace grouper {

struct TensorSpec {
  std::string name;  // unique, valid UTF-8
  StorageType type = StorageType::kF32;  // not a quantised one
  std::vector<int64_t> shape;
};

// Appends bytes of the current tensor; may be called any number of times.
using AppendBytes = absl::FunctionRef<absl::Status(absl::string_view)>;
// Called once a tensor; must append exactly its bytes (CHECKed). Its error ends the writing.
using WriteTensor = absl::FunctionRef<absl::Status(const TensorSpec& spec, AppendBytes append)>;

// One file, into an open `file`; neither synced nor closed.
absl::Status WriteSafetensors(WritableFile& file, const std::vector<TensorSpec>& tensors,
                              const std::map<std::string, std::string>& metadata, WriteTensor write_tensor);

// A model: directory/model.safetensors when all tensors fit into max_shard_bytes, else model-00001-of-0000N.safetensors
// and model.safetensors.index.json. Tensors fill shards in the order given; a tensor larger than the limit has a shard
// of its own. Each file is synced and closed, then the directory, which must exist. Writing into a temporary directory
// and renaming it is the caller's part.
absl::Status WriteModelSafetensors(FileSystem& fs, const std::string& directory, const std::vector<TensorSpec>& tensors,
                                   const std::map<std::string, std::string>& metadata, uint64_t max_shard_bytes,
                                   WriteTensor write_tensor);

}  // namespace grouper
