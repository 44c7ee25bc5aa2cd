// The weights of a model as rows of floats, wherever they lie: in a Model, or still in the files that they came in (stored_weights.h). Who writes,
// digests or judges a model reads them so, a few rows at a time, and needs no model in memory.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "common/model/model.h"

namespace grouper {

// Const methods are thread-safe.
class WeightRows {
 public:
  virtual ~WeightRows() = default;
  virtual const ModelConfig& config() const = 0;
  // Sorted by name. For names, shapes and `trainable`: values may have no memory.
  virtual const std::vector<LogicalTensor>& tensors() const = 0;
  // out [end - begin, columns] (=) rows [begin, end) of tensors()[i]; a vector's rows are its elements.
  virtual absl::Status Read(size_t i, int64_t begin, int64_t end, float* out) const = 0;

  // Index in tensors(), or -1.
  int Find(const std::string& name) const;
};

// A Model's, which must outlive this. float64 is rounded.
class ModelRows : public WeightRows {
 public:
  explicit ModelRows(const Model& model) : model_(model) {}
  const ModelConfig& config() const override { return model_.config(); }
  const std::vector<LogicalTensor>& tensors() const override { return model_.tensors(); }
  absl::Status Read(size_t i, int64_t begin, int64_t end, float* out) const override;

 private:
  const Model& model_;
};

inline int64_t ColumnsOf(const LogicalTensor& tensor) { return tensor.value.rank() == 1 ? 1 : tensor.value.dim(1); }
// How many rows make a piece of work: 128 KiB of floats, which stay in a core's cache on their way.
inline int64_t RowsAtOnce(const LogicalTensor& tensor) {
  constexpr int64_t kChunk = 1 << 15;
  return std::max<int64_t>(1, kChunk / std::max<int64_t>(1, ColumnsOf(tensor)));
}

// Behind the name of a model that is being written, until it is whole. What an accident left under that name is removed by the next who writes
// there, so it is one that nobody gives to anything of his own.
inline constexpr char kUnfinishedModel[] = ".grouper-unfinished";

// WeightsDigest (model.h) of the float32 model that these weights make.
absl::StatusOr<Sha256Digest> FloatWeightsDigest(const WeightRows& weights, ThreadPool& threads);
// WeightsDigest of `like`, a float32 or bfloat16 model, if it had these weights. InvalidArgument naming the tensor when theirs are other tensors.
absl::StatusOr<Sha256Digest> WeightsDigestLike(const Model& like, const WeightRows& weights, ThreadPool& threads);

}  // namespace grouper
