// Models in and out: a Hugging Face directory, a GGUF file, or a run directory of ours (its model/, else its newest
// checkpoint, which holds config.json, model.safetensors, tokenizer.json and tokenizer_config.json as a Hugging Face
// directory does).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file.h"
#include "common/model/model.h"
#include "common/model/stored_weights.h"
#include "common/text/tokenizer.h"

namespace grouper {

struct LoadedModel {
  std::unique_ptr<Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> stop_token_ids;  // generation_config's eos, else config's, else the tokenizer's
  std::string source;                   // what was read, for people
};

struct LoadOptions {
  DType dtype = DType::kF32;
  Device device = {};
  std::string tokenizer;    // overrides where the tokenizer comes from: a directory, a tokenizer.json or a GGUF file;
                            // empty: beside the model
  int64_t max_context = 0;  // caps max_position_embeddings; 0: as the model says
  WeightUse use = WeightUse::kTrain;
};

// A model as it lies in its files: all is known of it, and checked, but for the weights' values, which are read from there as they are asked for.
struct OpenedModel {
  std::unique_ptr<const StoredWeights> weights;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> stop_token_ids;  // as LoadedModel's
  std::string source;
};

// Reads and checks config, every tensor's presence, shape and range in the file, tokenizer against vocab_size. All missing, extra and mis-shaped
// tensors are named in one error. Takes no memory for weights; options.dtype, device and use do not matter.
absl::StatusOr<OpenedModel> OpenModel(const std::string& path, const LoadOptions& options);

// The same, and the weights' values, which must be finite; they are ready for Forward.
absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const LoadOptions& options, ThreadPool& threads);

// A model with random weights from a config.json (or the directory that holds it).
absl::StatusOr<LoadedModel> InitModel(const std::string& config_path, const LoadOptions& options, uint64_t seed,
                                      ThreadPool& threads);

// Writes `directory` (created; absent or empty before) as transformers expects: config.json, generation_config.json,
// model.safetensors (or shards of at most max_shard_bytes with an index), tokenizer.json, tokenizer_config.json.
// Written to `directory` + kUnfinishedModel, synced, renamed; an error removes what was written. dtype: "float32" or "bfloat16"; a value that bfloat16
// cannot say is an error naming the tensor.
absl::Status SaveHuggingFace(FileSystem& fs, const WeightRows& weights, const Tokenizer& tokenizer,
                             const std::vector<int32_t>& stop_token_ids, const std::string& directory,
                             const std::string& dtype, uint64_t max_shard_bytes = 5'000'000'000);

}  // namespace grouper
