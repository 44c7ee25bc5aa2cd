#include "common/model/load_weights.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/quote.h"
#include "common/base/status.h"

namespace grouper {
namespace {

struct Job {
  size_t tensor;
  int64_t begin, end;  // rows
};

// values [n], finite, as they lie in a tensor of `dtype`: themselves, or in `bytes`. Null when one is beyond what the type holds.
const char* Converted(DType dtype, absl::Span<const float> values, std::string* bytes) {
  if (dtype == DType::kF32) return reinterpret_cast<const char*>(values.data());
  bool finite = true;
  bytes->resize(values.size() * SizeOf(dtype));
  const Tensor to(bytes->data(), dtype, {static_cast<int64_t>(values.size())});
  if (dtype == DType::kF64) {
    std::copy(values.begin(), values.end(), to.data<double>());
  } else {
    for (size_t i = 0; i < values.size(); ++i) {
      to.data<bf16>()[i] = bf16(values[i]);
      finite &= (to.data<bf16>()[i].bits & 0x7f80) != 0x7f80;
    }
  }
  return finite ? bytes->data() : nullptr;
}

std::vector<Job> Jobs(const StoredWeights& weights) {
  const std::vector<LogicalTensor>& tensors = weights.tensors();
  std::vector<Job> jobs;
  for (size_t i : weights.FileOrder()) {
    const int64_t rows = tensors[i].value.dim(0), step = tensors[i].value.rank() == 1 ? rows : RowsAtOnce(tensors[i]);
    for (int64_t row = 0; row < rows; row += step) jobs.push_back({i, row, std::min(rows, row + step)});
  }
  return jobs;
}

}  // namespace

absl::Status LoadWeights(const StoredWeights& weights, Model& model, ThreadPool& threads) {
  const std::vector<LogicalTensor>& tensors = model.tensors();
  CHECK_EQ(tensors.size(), weights.tensors().size());
  const std::vector<Job> jobs = Jobs(weights);
  std::mutex mutex;
  absl::Status status;
  std::atomic<bool> failed = false;
  std::atomic<size_t> next = 0;
  threads.ParallelFor(threads.num_threads(), 1, [&](int64_t, int64_t) {
    std::vector<float> values;
    std::string bytes;
    for (size_t j = next++; j < jobs.size() && !failed; j = next++) {
      const Job& job = jobs[j];
      values.resize(static_cast<size_t>((job.end - job.begin) * ColumnsOf(tensors[job.tensor])));
      absl::Status read = weights.Read(job.tensor, job.begin, job.end, values.data());
      if (read.ok()) {
        const char* const converted = Converted(tensors[job.tensor].value.dtype(), values, &bytes);
        if (converted != nullptr) {
          model.WriteRows(job.tensor, job.begin, job.end, converted);
          continue;
        }
        const StoredTensor& stored = weights.stored(job.tensor);
        read = absl::InvalidArgumentError(absl::StrCat(stored.file, ": tensor ", QuoteName(stored.name), " has values beyond bfloat16; use float32"));
      }
      std::lock_guard<std::mutex> lock(mutex);
      if (!failed) status = read;
      failed = true;
    }
  });
  malloc_trim(0);  // the threads' buffers
  return status;
}

absl::Status LoadWeights(const std::vector<NamedTensor>& tensors, const std::string& source, Fp8Blocks blocks,
                         Model& model, ThreadPool& threads) {
  ASSIGN_OR_RETURN(const std::unique_ptr<StoredWeights> weights, StoredWeights::Create(model.config(), tensors, source, blocks, nullptr, {}));
  return LoadWeights(*weights, model, threads);
}

}  // namespace grouper
