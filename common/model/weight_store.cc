#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/model/layers.h"

namespace grouper {

WeightStore::WeightStore(DType dtype, Device device, WeightUse use, size_t bytes)
    : dtype_(dtype), device_(device), use_(use), bytes_(bytes), memory_(device) {
  // On a device small models would leave much of a block unused.
  if (use != WeightUse::kShapes && !device.is_cuda()) memory_.Reserve(bytes);
}

Weight* WeightStore::Add(const Tensor& shape, bool keep_packed) {
  auto weight = std::make_unique<Weight>();
  weight->value = shape;
  if (use_ == WeightUse::kForward && keep_packed && !device_.is_cuda()) {
    weight->packed.Reserve(shape, &memory_);
  } else if (use_ != WeightUse::kShapes) {
    switch (shape.rank()) {
      case 1:
        weight->value = memory_.NewZero(shape.dtype(), {shape.dim(0)});
        break;
      case 2:
        weight->value = memory_.NewZero(shape.dtype(), {shape.dim(0), shape.dim(1)});
        break;
      default:
        weight->value = memory_.NewZero(shape.dtype(), {shape.dim(0), shape.dim(1), shape.dim(2)});
    }
  }
  weight->index = static_cast<int>(weights.size());
  weight->keep_packed = keep_packed;
  weights.push_back(std::move(weight));
  return weights.back().get();
}

void WeightStore::Pack(Stream& stream) {
  if (use_ != WeightUse::kTrain || device_.is_cuda()) return;
  if (packed_.reserved_bytes() == 0) packed_.Reserve(bytes_);
  for (const auto& weight : weights) {
    if (!weight->keep_packed) continue;
    weight->packed.Reserve(weight->value, &packed_);
    weight->packed.Pack(stream, weight->value);
  }
}

size_t WeightStore::BytesOnCpu() const {
  size_t bytes = 0;
  for (const auto& weight : weights) {
    const Tensor& shape = weight->value;
    bytes += weight->keep_packed ? kernels::PackedMatrix::BytesFor(shape) : static_cast<size_t>(shape.size()) * SizeOf(shape.dtype());
    bytes += Arena::kLine;  // the next one begins at a line
  }
  return bytes;
}

Weight* WeightStore::AddMatrix(const std::vector<Part>& parts, int64_t cols, DType dtype, bool packed) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  Weight* weight = Add(Tensor(nullptr, dtype, {rows, cols}, device_), packed);
  int64_t row = 0;
  for (const Part& part : parts) {
    logical.push_back({{part.name, weight->value.Rows(row, row + part.rows), true}, weight->index, row * cols});
    row += part.rows;
  }
  return weight;
}

Weight* WeightStore::AddExperts(const std::vector<Part>& parts, int64_t experts, int64_t cols) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  Weight* weight = Add(Tensor(nullptr, dtype_, {experts, rows, cols}, device_), true);
  for (int64_t e = 0; e < experts; ++e) {
    int64_t row = 0;
    for (const Part& part : parts) {
      const std::string name = absl::StrReplaceAll(part.name, {{"%d", absl::StrCat(e)}});
      logical.push_back(
          {{name, weight->value[e].Rows(row, row + part.rows), true}, weight->index, (e * rows + row) * cols});
      row += part.rows;
    }
  }
  return weight;
}

Weight* WeightStore::AddVector(const std::vector<Part>& parts, DType dtype, bool trainable) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  Weight* weight = Add(Tensor(nullptr, dtype, {rows}, device_), false);
  int64_t row = 0;
  for (const Part& part : parts) {
    if (!part.name.empty()) {
      logical.push_back({{part.name, weight->value.Rows(row, row + part.rows), trainable}, weight->index, row});
    }
    row += part.rows;
  }
  return weight;
}

}  // namespace grouper
