#include "common/model/own_dtype.h"

#include <algorithm>
#include <functional>

#include "absl/strings/match.h"
#include "common/base/bf16.h"
#include "common/base/status.h"
#include "common/checkpoint/ggml_encode.h"

namespace grouper {
namespace {

// What a stored type would be written as if it were alone.
StorageType WrittenAs(StorageType stored) {
  if (stored == StorageType::kF8E4M3) return StorageType::kBF16;
  return stored == StorageType::kBF16 || stored == StorageType::kF16 ? stored : StorageType::kF32;
}

bool Holds(StorageType type, float value) {
  if (type == StorageType::kBF16) return static_cast<float>(bf16(value)) == value;
  return HalfToFloat(HalfFromFloat(value)) == value;
}

absl::StatusOr<bool> HoldsAll(StorageType type, const StoredWeights& weights, size_t i) {
  const LogicalTensor& tensor = weights.tensors()[i];
  const int64_t rows = tensor.value.dim(0), columns = ColumnsOf(tensor), step = RowsAtOnce(tensor);
  std::vector<float> values(static_cast<size_t>(std::min(rows, step) * columns));
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t end = std::min(rows, row + step);
    RETURN_IF_ERROR(weights.Read(i, row, end, values.data()));
    for (int64_t k = 0; k < (end - row) * columns; ++k) {
      if (!Holds(type, values[static_cast<size_t>(k)])) return false;
    }
  }
  return true;
}

// kBF16, kF16 or kF32, judged by the tensors that `counts` takes.
absl::StatusOr<StorageType> OwnType(const StoredWeights& weights, const std::function<bool(const LogicalTensor&)>& counts) {
  int64_t all = 0, bfloat16 = 0, float16 = 0;
  for (size_t i = 0; i < weights.tensors().size(); ++i) {
    if (!counts(weights.tensors()[i])) continue;
    const int64_t n = weights.stored(i).num_elements();
    const StorageType type = WrittenAs(weights.stored(i).type);
    all += n;
    if (type == StorageType::kBF16) bfloat16 += n;
    if (type == StorageType::kF16) float16 += n;
  }
  if (2 * std::max(bfloat16, float16) <= all) return StorageType::kF32;
  const StorageType most = bfloat16 > float16 ? StorageType::kBF16 : StorageType::kF16;
  for (size_t i = 0; i < weights.tensors().size(); ++i) {
    if (!counts(weights.tensors()[i]) || WrittenAs(weights.stored(i).type) == most) continue;
    ASSIGN_OR_RETURN(const bool holds, HoldsAll(most, weights, i));
    if (!holds) return StorageType::kF32;
  }
  return most;
}

}  // namespace

absl::StatusOr<std::string> OwnHuggingFaceDType(const StoredWeights& weights) {
  ASSIGN_OR_RETURN(const StorageType type, OwnType(weights, [](const LogicalTensor& tensor) { return tensor.trainable; }));
  return type == StorageType::kBF16 ? "bfloat16" : "float32";
}

absl::StatusOr<std::string> OwnGgufType(const StoredWeights& weights) {
  ASSIGN_OR_RETURN(const StorageType type, OwnType(weights, [](const LogicalTensor& tensor) {
                     return tensor.value.rank() == 2 && !absl::EndsWith(tensor.name, ".mlp.gate.weight");
                   }));
  return std::string(Name(type));
}

}  // namespace grouper
