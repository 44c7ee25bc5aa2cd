#include "common/model/weight_rows.h"

#include <algorithm>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace grouper {

int WeightRows::Find(const std::string& name) const {
  const auto it = std::lower_bound(tensors().begin(), tensors().end(), name,
                                   [](const LogicalTensor& t, const std::string& n) { return t.name < n; });
  return it != tensors().end() && it->name == name ? static_cast<int>(it - tensors().begin()) : -1;
}

absl::Status ModelRows::Read(size_t i, int64_t begin, int64_t end, float* out) const {
  const LogicalTensor& tensor = model_.tensors()[i];
  const DType dtype = tensor.value.dtype();
  const int64_t n = (end - begin) * ColumnsOf(tensor);
  if (dtype == DType::kF32) {
    model_.ReadRows(i, begin, end, reinterpret_cast<char*>(out));
    return absl::OkStatus();
  }
  std::string bytes(static_cast<size_t>(n) * SizeOf(dtype), '\0');
  model_.ReadRows(i, begin, end, bytes.data());
  const Tensor values(bytes.data(), dtype, {n});
  for (int64_t k = 0; k < n; ++k) {
    out[k] = dtype == DType::kF64 ? static_cast<float>(values.data<double>()[k]) : static_cast<float>(values.data<bf16>()[k]);
  }
  return absl::OkStatus();
}

namespace {

bool SameShape(const Tensor& a, const Tensor& b) {
  if (a.rank() != b.rank()) return false;
  for (int d = 0; d < a.rank(); ++d) {
    if (a.dim(d) != b.dim(d)) return false;
  }
  return true;
}

// The values as `tensors`' types, F32 or BF16, which have the weights' names and shapes.
absl::StatusOr<Sha256Digest> DigestAs(const std::vector<LogicalTensor>& tensors, const WeightRows& weights, ThreadPool& threads) {
  // The largest first, or one would be left for last.
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return tensors[a].value.size() > tensors[b].value.size(); });
  std::vector<Sha256Digest> digests(tensors.size());
  std::mutex mutex;
  absl::Status status;
  threads.ParallelForDynamic(static_cast<int64_t>(order.size()), [&](int64_t job) {
    const size_t i = order[static_cast<size_t>(job)];
    const LogicalTensor& tensor = tensors[i];
    const int64_t rows = tensor.value.dim(0), columns = ColumnsOf(tensor), step = RowsAtOnce(tensor);
    std::vector<float> values(static_cast<size_t>(std::min(rows, step) * columns));
    std::vector<bf16> narrow(tensor.value.dtype() == DType::kBF16 ? values.size() : 0);
    Sha256Stream digest;
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t end = std::min(rows, row + step);
      const absl::Status read = weights.Read(i, row, end, values.data());
      if (!read.ok()) {
        std::lock_guard<std::mutex> lock(mutex);
        if (status.ok()) status = read;
        return;
      }
      const size_t n = static_cast<size_t>((end - row) * columns);
      if (narrow.empty()) {
        digest.Update({reinterpret_cast<const char*>(values.data()), n * sizeof(float)});
      } else {
        for (size_t k = 0; k < n; ++k) narrow[k] = bf16(values[k]);
        digest.Update({reinterpret_cast<const char*>(narrow.data()), n * sizeof(bf16)});
      }
    }
    digests[i] = digest.Finish();
  });
  RETURN_IF_ERROR(status);
  return WeightsDigestOf(tensors, digests);
}

}  // namespace

absl::StatusOr<Sha256Digest> FloatWeightsDigest(const WeightRows& weights, ThreadPool& threads) {
  return DigestAs(weights.tensors(), weights, threads);
}

absl::StatusOr<Sha256Digest> WeightsDigestLike(const Model& like, const WeightRows& weights, ThreadPool& threads) {
  const std::vector<LogicalTensor>&tensors = like.tensors(), &others = weights.tensors();
  for (size_t i = 0; i < std::min(tensors.size(), others.size()); ++i) {
    if (tensors[i].name != others[i].name || !SameShape(tensors[i].value, others[i].value)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", others[i].name, " ", others[i].value.ShapeString(), ", expected ", tensors[i].name, " ",
                                                     tensors[i].value.ShapeString()));
    }
  }
  if (tensors.size() != others.size()) return absl::InvalidArgumentError(absl::StrCat(others.size(), " tensors, expected ", tensors.size()));
  return DigestAs(tensors, weights, threads);
}

}  // namespace grouper
