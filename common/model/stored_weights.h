// The weights of a model in stored tensors (safetensors, GGUF): names matched, shapes checked, dequantised and converted
// as they are read. No memory is taken for them: a few rows at a time pass through a small buffer.
//
// Every missing, unknown and mis-shaped tensor, and every storage type that cannot be read, is named in one
// InvalidArgument. A value that is not finite is an error naming the tensor, and so is a file that has become shorter.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/file.h"
#include "common/base/read_ahead.h"
#include "common/checkpoint/stored_tensor.h"
#include "common/model/weight_rows.h"

namespace grouper {

// One stored tensor under the name that the model has for it.
struct NamedTensor {
  std::string name;  // Hugging Face name
  const StoredTensor* stored = nullptr;
  int64_t rotated_heads =
      0;  // > 0: rows of this many heads lie in interleaved pairs and go to half-split ones (llama.cpp's q and k)
  const StoredTensor* scale = nullptr;  // FP8: one float for each block; value = fp8 * scale
  std::shared_ptr<const void> owner = nullptr;  // keeps `stored` alive when it is not a file's own
};

struct Fp8Blocks {
  int64_t rows = 128, columns = 128;
};

class StoredWeights : public WeightRows {
 public:
  // Takes every tensor of a model of `config` from `tensors`, which `owner` keeps alive with the `files` in which they lie. `source` names the
  // file in errors.
  static absl::StatusOr<std::unique_ptr<StoredWeights>> Create(const ModelConfig& config, std::vector<NamedTensor> tensors, const std::string& source,
                                                               Fp8Blocks blocks, std::shared_ptr<const void> owner,
                                                               std::vector<const MappedFile*> files);

  const ModelConfig& config() const override { return shapes_->config(); }
  const std::vector<LogicalTensor>& tensors() const override { return shapes_->tensors(); }  // F32
  absl::Status Read(size_t i, int64_t begin, int64_t end, float* out) const override;
  // Where tensors()[i] comes from.
  const StoredTensor& stored(size_t i) const { return *found_[i].stored; }
  // All tensors in the order in which they lie in the files, which are being read ahead in it since Create.
  std::vector<size_t> FileOrder() const;

 private:
  StoredWeights() = default;
  absl::Status ReadRows(const NamedTensor& from, int64_t columns, int64_t begin, int64_t end, float* out) const;  // as they lie in the file
  size_t FileOf(const StoredTensor& stored) const;  // its index in files_; their number: in memory
  const MappedFile* FileAt(size_t index) const { return index < files_.size() ? files_[index] : nullptr; }
  std::unique_ptr<Model> shapes_;
  std::vector<NamedTensor> found_;  // by tensors()
  Fp8Blocks blocks_;
  std::shared_ptr<const void> owner_;
  std::vector<const MappedFile*> files_;
  std::unique_ptr<ReadAhead> ahead_;  // of the files; null without any
};

// The tensors of a Hugging Face checkpoint that concern `config`: rotary buffers, multi-token prediction layers (with a
// notice) and a tied head's copy are left aside; FP8 weights find their scales.
std::vector<NamedTensor> HuggingFaceTensors(const ModelConfig& config, absl::Span<const StoredTensor> tensors,
                                            const std::string& source);

}  // namespace grouper
