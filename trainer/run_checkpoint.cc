#include "trainer/run_checkpoint.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/checkpoint/safetensors.h"
#include "common/checkpoint/safetensors_writer.h"
#include "common/model/weight_rows.h"
#include "common/recipe/load_recipe.h"
#include "common/tensor/host_memory.h"

namespace grouper {
namespace {

using NamedTensors = std::vector<OptimizerState::Named>;

StorageType StorageOf(DType dtype) {
  return dtype == DType::kBF16 ? StorageType::kBF16 : dtype == DType::kF64 ? StorageType::kF64 : StorageType::kF32;
}

// A model's tensors for names and shapes: values may have no memory (WeightUse::kForward).
NamedTensors Weights(const Model& model) {
  NamedTensors tensors;
  for (const LogicalTensor& tensor : model.tensors()) tensors.push_back({tensor.name, tensor.value});
  return tensors;
}

constexpr size_t kReadAtOnce = 4 << 20;  // bytes

using AppendTensor = absl::FunctionRef<absl::Status(size_t i, AppendBytes append)>;  // appends tensors[i]'s bytes
using StoreRows = absl::FunctionRef<void(size_t i, int64_t begin, int64_t end, absl::string_view bytes)>;  // a vector's rows are its elements

absl::Status WriteTensors(CheckpointWriter& writer, const std::string& file_name, const NamedTensors& tensors, AppendTensor append_tensor) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) {
    TensorSpec spec{name, StorageOf(tensor.dtype()), {}};
    for (int d = 0; d < tensor.rank(); ++d) spec.shape.push_back(tensor.dim(d));
    specs.push_back(std::move(spec));
  }
  std::map<std::string, size_t> by_name;
  for (size_t i = 0; i < tensors.size(); ++i) by_name[tensors[i].name] = i;
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, writer.CreateFile(file_name));
  RETURN_IF_ERROR(WriteSafetensors(*file, specs, {{"format", "pt"}}, [&](const TensorSpec& spec, AppendBytes append) {
    return append_tensor(by_name.at(spec.name), append);
  }));
  return file->Close();
}

absl::Status WriteModel(CheckpointWriter& writer, const std::string& file_name, const Model& model) {
  return WriteTensors(writer, file_name, Weights(model), [&](size_t i, AppendBytes append) -> absl::Status {
    const LogicalTensor& tensor = model.tensors()[i];
    if (!tensor.value.empty()) return append(HostBytes(tensor.value).view());
    std::string rows;
    for (int64_t row = 0; row < tensor.value.dim(0);) {
      const int64_t end = std::min(tensor.value.dim(0), row + RowsAtOnce(tensor));
      rows.resize(static_cast<size_t>((end - row) * ColumnsOf(tensor)) * SizeOf(tensor.value.dtype()));
      model.ReadRows(i, row, end, rows.data());
      RETURN_IF_ERROR(append(rows));
      row = end;
    }
    return absl::OkStatus();
  });
}

absl::Status ReadTensors(const CheckpointReader& reader, const std::string& file_name, const NamedTensors& tensors, StoreRows store) {
  ASSIGN_OR_RETURN(const std::string path, reader.Path(file_name));
  ASSIGN_OR_RETURN(const std::shared_ptr<const SafetensorsFile> file, SafetensorsFile::Open(path));
  if (file->tensors().size() != tensors.size()) {
    return absl::DataLossError(absl::StrCat(path, ": ", file->tensors().size(), " tensors, expected ", tensors.size()));
  }
  std::string buffer;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, tensor] = tensors[i];
    const StoredTensor* stored = file->Find(name);
    if (stored == nullptr) return absl::DataLossError(absl::StrCat(path, ": tensor ", name, " is missing"));
    if (stored->type != StorageOf(tensor.dtype()) || stored->bytes.size() != NumBytes(tensor)) {
      return absl::DataLossError(absl::StrCat(path, ": tensor ", name, " is ", stored->ShapeString(), ", expected ", tensor.ShapeString()));
    }
    // By read(2), a few rows at a time: the process never holds a file that may be larger than its memory.
    const int64_t rows = tensor.dim(0);
    const size_t row_bytes = rows == 0 ? 0 : stored->bytes.size() / static_cast<size_t>(rows);
    const int64_t at_once = static_cast<int64_t>(std::max<size_t>(1, kReadAtOnce / std::max<size_t>(1, row_bytes)));
    for (int64_t begin = 0; begin < rows; begin += at_once) {
      const int64_t end = std::min(rows, begin + at_once);
      const absl::string_view part = stored->bytes.substr(static_cast<size_t>(begin) * row_bytes, static_cast<size_t>(end - begin) * row_bytes);
      buffer.resize(part.size());
      RETURN_IF_ERROR(file->mapping()->Read(part, buffer.data()));
      store(i, begin, end, buffer);
    }
  }
  return absl::OkStatus();
}

constexpr int64_t kMax = int64_t{1} << 62;  // of a number in state.json

}  // namespace

std::string RunState::ToJson() const {
  json::OrderedJson j;
  j["format"] = unfinished_row.empty() ? 1 : 2;  // a program that knows no unfinished rows must not lose one
  j["step"] = step;
  j["stage_index"] = stage_index;
  j["stage_step"] = stage.step;
  j["data_position"] = stage.data_position;
  j["group_serial"] = stage.group_serial;
  j["skipped_in_row"] = stage.skipped_in_row;
  j["optimizer_steps"] = optimizer_steps;
  j["weight_version"] = weight_version;
  j["num_tokens"] = num_tokens;
  j["completions_digest"] = completions_digest;
  j["weights_digest"] = weights_digest;
  j["metrics_bytes"] = metrics_bytes;
  j["completions_bytes"] = completions_bytes;
  j["best_accuracy"] = best_accuracy;
  j["best_step"] = best_step;
  j["numerics_id"] = numerics_id;
  j["inputs_digest"] = inputs_digest;
  if (!unfinished_row.empty()) j["unfinished_row"] = unfinished_row;
  return j.dump(1) + "\n";
}

absl::StatusOr<RunState> RunState::FromJson(const std::string& text) {
  ASSIGN_OR_RETURN(const json::Json j, json::Parse(text));
  ASSIGN_OR_RETURN(const int64_t format, json::GetInt(j, "format", 1, 2));
  RunState s;
  ASSIGN_OR_RETURN(s.step, json::GetInt(j, "step", 0, kMax));
  ASSIGN_OR_RETURN(s.stage_index, json::GetInt(j, "stage_index", 0, 1 << 20));
  ASSIGN_OR_RETURN(s.stage.step, json::GetInt(j, "stage_step", 0, kMax));
  ASSIGN_OR_RETURN(s.stage.data_position, json::GetInt(j, "data_position", 0, kMax));
  ASSIGN_OR_RETURN(s.stage.group_serial, json::GetInt(j, "group_serial", 0, kMax));
  ASSIGN_OR_RETURN(s.stage.skipped_in_row, json::GetInt(j, "skipped_in_row", 0, kMax));
  ASSIGN_OR_RETURN(s.optimizer_steps, json::GetInt(j, "optimizer_steps", 0, kMax));
  ASSIGN_OR_RETURN(s.weight_version, json::GetInt(j, "weight_version", 0, kMax));
  ASSIGN_OR_RETURN(s.num_tokens, json::GetInt(j, "num_tokens", 0, kMax));
  ASSIGN_OR_RETURN(s.completions_digest, json::GetString(j, "completions_digest"));
  ASSIGN_OR_RETURN(s.weights_digest, json::GetString(j, "weights_digest"));
  ASSIGN_OR_RETURN(s.metrics_bytes, json::GetInt(j, "metrics_bytes", 0, kMax));
  ASSIGN_OR_RETURN(s.completions_bytes, json::GetInt(j, "completions_bytes", 0, kMax));
  ASSIGN_OR_RETURN(s.best_accuracy, json::GetNumber(j, "best_accuracy"));
  ASSIGN_OR_RETURN(s.best_step, json::GetInt(j, "best_step", -1, kMax));
  ASSIGN_OR_RETURN(s.numerics_id, json::GetString(j, "numerics_id"));
  ASSIGN_OR_RETURN(s.inputs_digest, json::GetString(j, "inputs_digest"));
  if (format == 2) {
    ASSIGN_OR_RETURN(s.unfinished_row, json::GetString(j, "unfinished_row"));
  }
  return s;
}

std::string ConfigText(const Model& model, const std::vector<int32_t>& stop_token_ids) {
  ModelConfig config = model.config();
  config.eos_token_ids = stop_token_ids;
  return config.ToHuggingFace(model.dtype() == DType::kBF16 ? "bfloat16" : "float32").dump(2) + "\n";
}

absl::Status SaveRunCheckpoint(FileSystem& fs, const std::string& directory, const CheckpointContents& contents) {
  ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointWriter> writer, CheckpointWriter::Create(fs, directory, contents.state.step));
  RETURN_IF_ERROR(WriteModel(*writer, "model.safetensors", contents.model));
  if (contents.optimizer != nullptr) {
    const NamedTensors tensors = contents.optimizer->tensors();
    RETURN_IF_ERROR(WriteTensors(*writer, "optimizer.safetensors", tensors,
                                 [&](size_t i, AppendBytes append) { return append(HostBytes(tensors[i].tensor).view()); }));
  }
  if (contents.reference != nullptr) RETURN_IF_ERROR(WriteModel(*writer, "reference.safetensors", *contents.reference));
  if (contents.loaded != nullptr) {
    RETURN_IF_ERROR(writer->AddFile("config.json", ConfigText(contents.model, contents.loaded->stop_token_ids)));
    RETURN_IF_ERROR(writer->AddFile("tokenizer.json", contents.loaded->tokenizer->ToJson()));
    RETURN_IF_ERROR(writer->AddFile("tokenizer_config.json", contents.loaded->tokenizer->TokenizerConfigJson()));
  }
  RETURN_IF_ERROR(writer->AddFile("recipe.textproto", RecipeText(contents.recipe)));
  RETURN_IF_ERROR(writer->AddFile("state.json", contents.state.ToJson()));
  return writer->Commit();
}

absl::StatusOr<RunState> ReadRunState(const CheckpointReader& reader) {
  ASSIGN_OR_RETURN(const std::string text, reader.ReadFile("state.json"));
  return Annotate(RunState::FromJson(text), absl::StrCat(reader.directory(), "/state.json"));
}

absl::StatusOr<v1::Recipe> ReadRecipe(const CheckpointReader& reader) {
  ASSIGN_OR_RETURN(const std::string text, reader.ReadFile("recipe.textproto"));
  v1::Recipe recipe;
  RETURN_IF_ERROR(ParseTextProto(text, absl::StrCat(reader.directory(), "/recipe.textproto"), &recipe));
  return recipe;
}

absl::Status ReadWeights(const CheckpointReader& reader, const std::string& file, Model& model) {
  return ReadTensors(reader, file, Weights(model),
                     [&](size_t i, int64_t begin, int64_t end, absl::string_view bytes) { model.WriteRows(i, begin, end, bytes.data()); });
}

absl::Status ReadOptimizer(const CheckpointReader& reader, const OptimizerState& optimizer) {
  const NamedTensors tensors = optimizer.tensors();
  return ReadTensors(reader, "optimizer.safetensors", tensors, [&](size_t i, int64_t begin, int64_t end, absl::string_view bytes) {
    WriteBytes(tensors[i].tensor, static_cast<size_t>(begin) * (bytes.size() / static_cast<size_t>(end - begin)), bytes);
  });
}

}  // namespace grouper
