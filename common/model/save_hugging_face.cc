#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/safetensors_writer.h"
#include "common/model/model_directory.h"

namespace grouper {
namespace {

absl::Status WriteTensorAs(StorageType type, const WeightRows& weights, size_t i, AppendBytes append) {
  const LogicalTensor& tensor = weights.tensors()[i];
  const int64_t rows = tensor.value.dim(0), columns = ColumnsOf(tensor), step = tensor.value.rank() == 1 ? rows : RowsAtOnce(tensor);
  std::vector<float> values(static_cast<size_t>(std::min(rows, step) * columns));
  std::vector<bf16> narrow(type == StorageType::kBF16 ? values.size() : 0);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t end = std::min(rows, row + step);
    const size_t n = static_cast<size_t>((end - row) * columns);
    RETURN_IF_ERROR(weights.Read(i, row, end, values.data()));
    if (type == StorageType::kBF16) {
      for (size_t k = 0; k < n; ++k) {
        narrow[k] = bf16(values[k]);
        if (!std::isfinite(static_cast<float>(narrow[k]))) {
          return absl::InvalidArgumentError(absl::StrCat(tensor.name, " holds ", values[k], ", beyond what bfloat16 can say; use float32"));
        }
      }
      RETURN_IF_ERROR(append({reinterpret_cast<const char*>(narrow.data()), n * sizeof(bf16)}));
    } else {
      RETURN_IF_ERROR(append({reinterpret_cast<const char*>(values.data()), n * sizeof(float)}));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteJson(FileSystem& fs, const std::string& path, const json::OrderedJson& value) {
  return WriteFileAtomically(fs, path, value.dump(2) + "\n");
}

json::OrderedJson GenerationConfig(const ModelConfig& config, const std::vector<int32_t>& stop_token_ids) {
  json::OrderedJson j;
  if (config.bos_token_id) j["bos_token_id"] = *config.bos_token_id;
  if (stop_token_ids.size() == 1) {
    j["eos_token_id"] = stop_token_ids[0];
  } else if (!stop_token_ids.empty()) {
    j["eos_token_id"] = stop_token_ids;
  }
  if (config.pad_token_id) j["pad_token_id"] = *config.pad_token_id;
  return j.is_null() ? json::OrderedJson::object() : j;
}

// Everything, config.json last, into `directory`, which does not exist.
absl::Status WriteInto(FileSystem& fs, const WeightRows& weights, const Tokenizer& tokenizer, const std::vector<int32_t>& stop_token_ids,
                       const std::string& directory, const std::string& dtype, uint64_t max_shard_bytes) {
  RETURN_IF_ERROR(fs.CreateDirectories(directory));
  std::vector<TensorSpec> specs;
  for (const LogicalTensor& tensor : weights.tensors()) {
    TensorSpec spec{tensor.name, dtype == "bfloat16" && tensor.trainable ? StorageType::kBF16 : StorageType::kF32, {}};
    for (int d = 0; d < tensor.value.rank(); ++d) spec.shape.push_back(tensor.value.dim(d));
    specs.push_back(std::move(spec));
  }
  RETURN_IF_ERROR(WriteModelSafetensors(
      fs, directory, specs, {{"format", "pt"}}, max_shard_bytes, [&](const TensorSpec& spec, AppendBytes append) {
        return WriteTensorAs(spec.type, weights, static_cast<size_t>(weights.Find(spec.name)), append);
      }));
  ModelConfig config = weights.config();
  if (config.eos_token_ids.empty()) config.eos_token_ids = stop_token_ids;
  RETURN_IF_ERROR(
      WriteJson(fs, JoinPath(directory, "generation_config.json"), GenerationConfig(config, stop_token_ids)));
  RETURN_IF_ERROR(WriteFileAtomically(fs, JoinPath(directory, "tokenizer.json"), tokenizer.ToJson()));
  RETURN_IF_ERROR(
      WriteFileAtomically(fs, JoinPath(directory, "tokenizer_config.json"), tokenizer.TokenizerConfigJson()));
  // Last: without it the directory is no model.
  RETURN_IF_ERROR(WriteJson(fs, JoinPath(directory, "config.json"), config.ToHuggingFace(dtype)));
  return fs.SyncDirectory(directory);
}

}  // namespace

absl::Status SaveHuggingFace(FileSystem& fs, const WeightRows& weights, const Tokenizer& tokenizer,
                             const std::vector<int32_t>& stop_token_ids, const std::string& directory,
                             const std::string& dtype, uint64_t max_shard_bytes) {
  if (dtype != "float32" && dtype != "bfloat16") {
    return absl::InvalidArgumentError(absl::StrCat("dtype ", dtype, ": expected float32 or bfloat16"));
  }
  constexpr char kExpected[] = "a model is written into a new directory";
  if (fs.Exists(directory)) {
    ASSIGN_OR_RETURN(const std::vector<std::string> names, Annotate(fs.ListDirectory(directory), kExpected));
    if (!names.empty()) return absl::AlreadyExistsError(absl::StrCat(directory, " is not empty; ", kExpected));
    RETURN_IF_ERROR(Annotate(fs.RemoveAll(directory), kExpected));
  }
  std::string path = directory;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const std::string temporary = path + kUnfinishedModel;
  RETURN_IF_ERROR(fs.RemoveAll(temporary));
  absl::Status written = WriteInto(fs, weights, tokenizer, stop_token_ids, temporary, dtype, max_shard_bytes);
  if (written.ok()) written = fs.Rename(temporary, path);
  if (!written.ok()) {
    fs.RemoveAll(temporary).IgnoreError();  // the first error is the one to tell
    return written;
  }
  return fs.SyncDirectory(Dirname(path));
}

}  // namespace grouper
