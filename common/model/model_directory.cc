#include "common/model/model_directory.h"

#include <malloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_directory.h"
#include "common/checkpoint/gguf.h"
#include "common/checkpoint/model_tensors.h"
#include "common/model/gguf_model.h"
#include "common/model/gguf_vocab.h"
#include "common/model/load_weights.h"

namespace grouper {
namespace {

constexpr uint64_t kMaxJson = 4 << 20;

bool IsDirectory(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool IsFile(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

absl::StatusOr<json::Json> ReadJson(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, DefaultFileSystem().ReadFile(path, kMaxJson));
  return Annotate(json::Parse(text), path);
}

// The directory that has config.json: `path` itself, or what a run left.
absl::StatusOr<std::string> FindDirectory(const std::string& path) {
  if (IsFile(JoinPath(path, "config.json"))) return path;
  const std::string exported = JoinPath(path, "model");
  if (IsFile(JoinPath(exported, "config.json"))) return exported;
  const std::string checkpoints = JoinPath(path, "checkpoints");
  if (IsDirectory(checkpoints)) {
    ASSIGN_OR_RETURN(const std::optional<CheckpointReader> newest,
                     FindLatestCheckpoint(DefaultFileSystem(), checkpoints));
    if (newest && newest->Has("config.json")) return newest->directory();
  }
  return absl::NotFoundError(absl::StrCat(path, DefaultFileSystem().Exists(path) ? ": not a model" : ": no such file or directory",
                                          ": expected a directory with config.json, a run directory, or a GGUF file"));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> ReadTokenizer(const std::string& path) {
  if (IsDirectory(path)) return Tokenizer::FromDirectory(path);
  if (absl::EndsWith(path, ".gguf")) {
    ASSIGN_OR_RETURN(const std::shared_ptr<const GgufFile> file, GgufFile::Open(path));
    ASSIGN_OR_RETURN(const GgufVocab vocab, ReadGgufVocab(*file));
    return Tokenizer::FromGgufVocab(vocab, path);
  }
  return Tokenizer::FromFile(path);
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& path) {
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = ReadTokenizer(path);
  malloc_trim(0);  // what the text took to parse would stay with the process beside the weights
  return tokenizer;
}

absl::Status CheckTokenizer(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& source) {
  if (tokenizer.vocab_size() <= config.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(source, ": the tokenizer has ids up to ", tokenizer.vocab_size() - 1,
                                                 ", the model's vocab_size is ", config.vocab_size));
}

// Before any memory is taken: a config may not describe many more parameters, or tensors, than the files hold. What exactly is missing,
// StoredWeights says.
absl::Status CheckSize(const ModelConfig& config, absl::Span<const StoredTensor> tensors, const std::string& source) {
  double stored = 0;
  for (const StoredTensor& tensor : tensors) stored += static_cast<double>(tensor.num_elements());
  const double described = static_cast<double>(config.NumParameters());
  if (described > 1.5 * stored + (1 << 24)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the config describes %.0f parameters, the tensors hold %.0f", source, described, stored));
  }
  // Twelve matrices a layer or fewer, three an expert.
  int64_t most = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    most += 24 + (config.IsMoeLayer(layer) ? 3 * int64_t{config.moe->router.num_experts} : 0);
  }
  if (most > 4 * static_cast<int64_t>(tensors.size()) + (1 << 17)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the config describes up to %d tensors (num_hidden_layers %d), the files hold %d", source, most,
                        config.num_hidden_layers, tensors.size()));
  }
  return absl::OkStatus();
}

void LimitContext(int64_t max_context, ModelConfig& config) {
  if (max_context <= 0 || max_context >= config.max_position_embeddings) return;
  config.declared_max_position_embeddings = config.max_position_embeddings;
  config.max_position_embeddings = max_context;
}

// generation_config.json's eos_token_id, else config.json's, else the tokenizer's.
absl::StatusOr<std::vector<int32_t>> StopIds(const std::string& directory, const ModelConfig& config,
                                             const Tokenizer& tokenizer) {
  const std::string path = JoinPath(directory, "generation_config.json");
  if (!directory.empty() && IsFile(path)) {
    ASSIGN_OR_RETURN(const json::Json generation, ReadJson(path));
    if (generation.is_object() && json::Has(generation, "eos_token_id")) {
      const json::Json& eos = generation["eos_token_id"];
      std::vector<int32_t> ids;
      for (const json::Json& id : eos.is_array() ? eos : json::Json::array({eos})) {
        if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(config.vocab_size)) {
          return absl::InvalidArgumentError(
              absl::StrCat(path, ": eos_token_id: expected ids below ", config.vocab_size));
        }
        ids.push_back(id.get<int32_t>());
      }
      return ids;
    }
  }
  if (!config.eos_token_ids.empty()) return config.eos_token_ids;
  return tokenizer.stop_ids();
}

absl::StatusOr<Fp8Blocks> ReadFp8Blocks(const json::Json& config, const std::string& source) {
  Fp8Blocks blocks;
  if (!json::Has(config, "quantization_config")) return blocks;
  const json::Json& size = config["quantization_config"]["weight_block_size"];
  const bool ok = size.is_array() && size.size() == 2 && size[0].is_number_unsigned() && size[1].is_number_unsigned();
  if (ok) {
    const uint64_t rows = size[0].get<uint64_t>(), columns = size[1].get<uint64_t>();
    if (rows >= 1 && columns >= 1 && rows <= 1 << 20 && columns <= 1 << 20) {
      return Fp8Blocks{static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": quantization_config.weight_block_size: expected two positive integers"));
}

// What there is of a model without its weights' values, once the files have shown it.
absl::StatusOr<OpenedModel> Opened(std::unique_ptr<const StoredWeights> weights, std::shared_ptr<const Tokenizer> tokenizer,
                                   const std::string& directory, const std::string& source) {
  RETURN_IF_ERROR(CheckTokenizer(*tokenizer, weights->config(), source));
  ASSIGN_OR_RETURN(std::vector<int32_t> stop, StopIds(directory, weights->config(), *tokenizer));
  return OpenedModel{std::move(weights), std::move(tokenizer), std::move(stop), source};
}

absl::StatusOr<OpenedModel> OpenGguf(const std::string& path, const LoadOptions& options) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const GgufFile> file, GgufFile::Open(path));
  ASSIGN_OR_RETURN(ModelConfig config, GgufConfig(*file));
  RETURN_IF_ERROR(CheckSize(config, file->tensors(), path));
  LimitContext(options.max_context, config);
  ASSIGN_OR_RETURN(std::unique_ptr<const StoredWeights> weights,
                   StoredWeights::Create(config, GgufTensors(config, *file), path, {}, file, {file->mapping().get()}));
  ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer,
                   LoadTokenizer(options.tokenizer.empty() ? path : options.tokenizer));
  return Opened(std::move(weights), std::move(tokenizer), "", path);
}

absl::StatusOr<OpenedModel> OpenDirectory(const std::string& path, const LoadOptions& options) {
  ASSIGN_OR_RETURN(const std::string directory, FindDirectory(path));
  const std::string config_path = JoinPath(directory, "config.json");
  ASSIGN_OR_RETURN(const json::Json config_json, ReadJson(config_path));
  ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::FromHuggingFace(config_json, config_path));
  ASSIGN_OR_RETURN(const Fp8Blocks blocks, ReadFp8Blocks(config_json, config_path));
  LimitContext(options.max_context, config);
  ASSIGN_OR_RETURN(const std::shared_ptr<const ModelTensors> tensors, ModelTensors::Open(directory));
  RETURN_IF_ERROR(CheckSize(config, tensors->tensors(), tensors->path()));
  std::vector<const MappedFile*> files;
  for (const auto& file : tensors->files()) files.push_back(file->mapping().get());
  ASSIGN_OR_RETURN(std::unique_ptr<const StoredWeights> weights,
                   StoredWeights::Create(config, HuggingFaceTensors(config, tensors->tensors(), directory), tensors->path(), blocks, tensors,
                                         std::move(files)));
  // Parsed while the weights come from the disk.
  ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer,
                   LoadTokenizer(options.tokenizer.empty() ? directory : options.tokenizer));
  return Opened(std::move(weights), std::move(tokenizer), directory, directory);
}

}  // namespace

absl::StatusOr<OpenedModel> OpenModel(const std::string& path, const LoadOptions& options) {
  return IsFile(path) ? OpenGguf(path, options) : OpenDirectory(path, options);
}

absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const LoadOptions& options, ThreadPool& threads) {
  ASSIGN_OR_RETURN(OpenedModel opened, OpenModel(path, options));
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.model, Model::Create(opened.weights->config(), options.dtype, options.device, options.use));
  RETURN_IF_ERROR(LoadWeights(*opened.weights, *loaded.model, threads));
  opened.weights.reset();  // unmapped before matrices are packed
  Stream stream(threads, options.device);
  loaded.model->WeightsChanged(stream);
  loaded.tokenizer = std::move(opened.tokenizer);
  loaded.stop_token_ids = std::move(opened.stop_token_ids);
  loaded.source = std::move(opened.source);
  return loaded;
}

absl::StatusOr<LoadedModel> InitModel(const std::string& config_path, const LoadOptions& options, uint64_t seed,
                                      ThreadPool& threads) {
  const std::string path = IsDirectory(config_path) ? JoinPath(config_path, "config.json") : config_path;
  const std::string directory = Dirname(path);
  ASSIGN_OR_RETURN(const json::Json config_json, ReadJson(path));
  ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::FromHuggingFace(config_json, path));
  LimitContext(options.max_context, config);
  ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer,
                   LoadTokenizer(options.tokenizer.empty() ? directory : options.tokenizer));
  RETURN_IF_ERROR(CheckTokenizer(*tokenizer, config, path));
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.stop_token_ids, StopIds(directory, config, *tokenizer));
  ASSIGN_OR_RETURN(loaded.model, Model::Create(config, options.dtype, options.device, options.use));
  Stream stream(threads, options.device);
  loaded.model->InitRandom(stream, seed);
  loaded.tokenizer = std::move(tokenizer);
  loaded.source = path;
  return loaded;
}

}  // namespace grouper
