#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/model/layers.h"

namespace grouper {

Weight* WeightStore::Add(Tensor value, bool keep_packed) {
  auto weight = std::make_unique<Weight>();
  weight->value = value;
  weight->index = static_cast<int>(weights.size());
  weight->keep_packed = keep_packed;
  weights.push_back(std::move(weight));
  return weights.back().get();
}

Weight* WeightStore::AddMatrix(const std::vector<Part>& parts, int64_t cols, DType dtype, bool packed) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  Weight* weight = Add(memory_.NewZero(dtype, {rows, cols}), packed);
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
  Weight* weight = Add(memory_.NewZero(dtype_, {experts, rows, cols}), true);
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
  Weight* weight = Add(memory_.NewZero(dtype, {rows}), false);
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
