#include "common/model/load_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/tensor/host_memory.h"

namespace grouper {
namespace {

constexpr int64_t kChunk = 1 << 18;  // elements that one thread takes at a time, in whole rows

struct Job {
  const NamedTensor* from;
  const LogicalTensor* to;
  int64_t row_begin, row_end;  // of `to`
};

int64_t Columns(const LogicalTensor& tensor) { return tensor.value.rank() == 1 ? 1 : tensor.value.dim(1); }

std::string ShapeText(const Tensor& tensor) {
  return tensor.rank() == 1 ? absl::StrCat("[", tensor.dim(0), "]")
                            : absl::StrCat("[", tensor.dim(0), ", ", tensor.dim(1), "]");
}

bool SameShape(const StoredTensor& stored, const Tensor& value) {
  if (static_cast<int>(stored.shape.size()) != value.rank()) return false;
  for (int d = 0; d < value.rank(); ++d) {
    if (stored.shape[static_cast<size_t>(d)] != value.dim(d)) return false;
  }
  return true;
}

// OCP 8-bit floating point, E4M3: no infinities, 0x7f and 0xff are NaN.
float FromE4M3(uint8_t bits) {
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if ((bits & 0x7f) == 0x7f) value = std::nanf("");
  return bits & 0x80 ? -value : value;
}

// Which row of the file row `r` of the model comes from: inside a head, pair i lies in rows (2i, 2i + 1) there and (i,
// i + D/2) here.
int64_t SourceRow(int64_t r, int64_t rows, int64_t heads) {
  if (heads == 0) return r;
  const int64_t width = rows / heads, head = r / width, i = r % width;
  return head * width + (i < width / 2 ? 2 * i : 2 * (i - width / 2) + 1);
}

// to[offset + i] = values[i]; `to` on the host.
void Convert(const Tensor& to, int64_t offset, const float* values, int64_t n) {
  switch (to.dtype()) {
    case DType::kF32:
      std::copy_n(values, n, to.data<float>() + offset);
      break;
    case DType::kF64:
      std::copy_n(values, n, to.data<double>() + offset);
      break;
    default:
      for (int64_t i = 0; i < n; ++i) to.data<bf16>()[offset + i] = bf16(values[i]);
  }
}

void Store(const Tensor& to, int64_t offset, const float* values, int64_t n) {
  if (to.device().kind == Device::Kind::kCpu) return Convert(to, offset, values, n);
  std::string bytes(static_cast<size_t>(n) * SizeOf(to.dtype()), '\0');
  Convert(Tensor(bytes.data(), to.dtype(), {n}), 0, values, n);
  WriteBytes(to, static_cast<size_t>(offset) * SizeOf(to.dtype()), bytes);
}

bool AllFinite(const float* values, int64_t n) {
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) finite &= std::isfinite(values[i]);
  return finite;
}

absl::Status DecodeRows(const StoredTensor& stored, const StoredTensor* scale, Fp8Blocks blocks, int64_t columns,
                        int64_t begin, int64_t end, float* out) {
  if (stored.type != StorageType::kF8E4M3) return DecodeToFloat(stored, begin * columns, end * columns, out);
  const int64_t scale_columns = (columns + blocks.columns - 1) / blocks.columns;
  std::vector<float> scales(static_cast<size_t>(scale_columns));
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first = row / blocks.rows * scale_columns;
    RETURN_IF_ERROR(DecodeToFloat(*scale, first, first + scale_columns, scales.data()));
    const char* bytes = stored.bytes.data() + row * columns;
    for (int64_t j = 0; j < columns; ++j) {
      *out++ = FromE4M3(static_cast<uint8_t>(bytes[j])) * scales[static_cast<size_t>(j / blocks.columns)];
    }
  }
  return absl::OkStatus();
}

absl::Status Run(const Job& job, Fp8Blocks blocks) {
  const Tensor& to = job.to->value;
  const int64_t columns = Columns(*job.to), heads = job.from->rotated_heads;
  std::vector<float> values(static_cast<size_t>((job.row_end - job.row_begin) * columns));
  if (heads == 0) {
    RETURN_IF_ERROR(
        DecodeRows(*job.from->stored, job.from->scale, blocks, columns, job.row_begin, job.row_end, values.data()));
  } else {
    for (int64_t row = job.row_begin; row < job.row_end; ++row) {
      const int64_t source = SourceRow(row, to.dim(0), heads);
      RETURN_IF_ERROR(DecodeRows(*job.from->stored, job.from->scale, blocks, columns, source, source + 1,
                                 values.data() + (row - job.row_begin) * columns));
    }
  }
  if (!AllFinite(values.data(), static_cast<int64_t>(values.size()))) {
    return absl::InvalidArgumentError(absl::StrCat(
        job.from->stored->file, ": tensor ", QuoteName(job.from->stored->name), " has values that are not finite"));
  }
  Store(to, job.row_begin * columns, values.data(), static_cast<int64_t>(values.size()));
  return absl::OkStatus();
}

// What is wrong with one pair, or "".
std::string Problem(const NamedTensor& from, const LogicalTensor& to, Fp8Blocks blocks) {
  const StoredTensor& stored = *from.stored;
  if (!SameShape(stored, to.value))
    return absl::StrCat(QuoteName(stored.name), " is ", stored.ShapeString(), ", expected ", ShapeText(to.value));
  if (stored.type == StorageType::kF8E4M3) {
    if (from.scale == nullptr)
      return absl::StrCat(QuoteName(stored.name), " is F8_E4M3 without ", stored.name, "_scale_inv");
    const std::vector<int64_t> expected = {
        (to.value.dim(0) + blocks.rows - 1) / blocks.rows,
        to.value.rank() == 2 ? (to.value.dim(1) + blocks.columns - 1) / blocks.columns : 0};
    if (from.scale->shape != expected || !CanDecodeToFloat(from.scale->type)) {
      return absl::StrCat(QuoteName(from.scale->name), " is ", from.scale->ShapeString(), ", expected [",
                          absl::StrJoin(expected, ", "), "]");
    }
    return "";
  }
  if (!CanDecodeToFloat(stored.type))
    return absl::StrCat(QuoteName(stored.name), " is ", Name(stored.type), ", which is not a kind of weight");
  if (from.rotated_heads > 0 && Columns(to) % BlockElements(stored.type) != 0) {
    return absl::StrCat(QuoteName(stored.name), " has rows that are not whole blocks of ", Name(stored.type));
  }
  return "";
}

}  // namespace

absl::Status LoadWeights(const std::vector<NamedTensor>& tensors, const std::string& source, Fp8Blocks blocks,
                         Model& model, ThreadPool& threads) {
  std::vector<const NamedTensor*> found(model.tensors().size(), nullptr);
  std::vector<std::string> missing, unknown, wrong;
  for (const NamedTensor& tensor : tensors) {
    const int index = model.FindTensor(tensor.name);
    if (index < 0) {
      unknown.push_back(QuoteName(tensor.stored->name));
    } else if (found[static_cast<size_t>(index)] != nullptr) {
      wrong.push_back(absl::StrCat(QuoteName(tensor.stored->name), " is there twice"));
    } else {
      found[static_cast<size_t>(index)] = &tensor;
    }
  }
  std::vector<Job> jobs;
  for (size_t i = 0; i < found.size(); ++i) {
    const LogicalTensor& to = model.tensors()[i];
    if (found[i] == nullptr) {
      missing.push_back(QuoteName(to.name));
      continue;
    }
    const std::string problem = Problem(*found[i], to, blocks);
    if (!problem.empty()) {
      wrong.push_back(problem);
      continue;
    }
    const int64_t rows = to.value.dim(0), columns = Columns(to);
    // Vectors of a blocked type are decoded whole.
    const int64_t step = to.value.rank() == 1 ? rows : std::max<int64_t>(1, kChunk / columns);
    for (int64_t row = 0; row < rows; row += step) jobs.push_back({found[i], &to, row, std::min(rows, row + step)});
  }
  std::vector<std::string> problems;
  if (!missing.empty())
    problems.push_back(absl::StrCat(missing.size(), " tensors are missing: ", absl::StrJoin(missing, ", ")));
  if (!unknown.empty())
    problems.push_back(absl::StrCat(unknown.size(), " tensors are not of this model: ", absl::StrJoin(unknown, ", ")));
  if (!wrong.empty()) problems.push_back(absl::StrJoin(wrong, "; "));
  if (!problems.empty()) return absl::InvalidArgumentError(absl::StrCat(source, ": ", absl::StrJoin(problems, "; ")));

  std::mutex mutex;
  absl::Status status;
  std::atomic<bool> failed = false;
  threads.ParallelForDynamic(static_cast<int64_t>(jobs.size()), [&](int64_t i) {
    if (failed) return;
    const absl::Status result = Run(jobs[static_cast<size_t>(i)], blocks);
    if (result.ok()) return;
    std::lock_guard<std::mutex> lock(mutex);
    if (!failed) status = result;
    failed = true;
  });
  return status;
}

std::vector<NamedTensor> HuggingFaceTensors(const ModelConfig& config, absl::Span<const StoredTensor> tensors,
                                            const std::string& source) {
  constexpr absl::string_view kScale = "_scale_inv";
  std::map<absl::string_view, const StoredTensor*> by_name;
  for (const StoredTensor& tensor : tensors) by_name[tensor.name] = &tensor;
  std::vector<NamedTensor> result;
  int64_t prediction = 0;
  for (const StoredTensor& tensor : tensors) {
    absl::string_view rest = tensor.name;
    if (absl::EndsWith(rest, ".rotary_emb.inv_freq")) continue;  // a buffer that old versions of transformers saved
    if (absl::ConsumePrefix(&rest, "model.layers.")) {
      int64_t layer = -1;
      if (absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= config.num_hidden_layers &&
          layer < config.num_hidden_layers + config.num_nextn_predict_layers) {
        ++prediction;
        continue;
      }
    }
    if (config.tie_word_embeddings && tensor.name == "lm_head.weight") continue;
    if (absl::EndsWith(tensor.name, kScale) &&
        by_name.count(absl::string_view(tensor.name).substr(0, tensor.name.size() - kScale.size())) > 0) {
      continue;
    }
    NamedTensor named{tensor.name, &tensor};
    if (auto scale = by_name.find(absl::StrCat(tensor.name, kScale)); scale != by_name.end())
      named.scale = scale->second;
    result.push_back(std::move(named));
  }
  if (prediction > 0)
    LOG(INFO) << source << ": " << prediction << " tensors of multi-token prediction layers are left aside";
  return result;
}

}  // namespace grouper
