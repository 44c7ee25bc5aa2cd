// What a run's checkpoint holds, and how it is written and read. The directory protocol (whole or absent) is checkpoint_directory.h's.
//
//   model.safetensors       every weight, in the run's dtype
//   optimizer.safetensors   m.NAME, v.NAME, master.NAME         (absent between stages)
//   reference.safetensors   the frozen reference policy          (only with a KL term, inside its stage)
//   config.json, tokenizer.json, tokenizer_config.json   with model.safetensors a model that LoadModel reads
//   recipe.textproto        the resolved recipe
//   state.json              RunState
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/checkpoint/checkpoint_directory.h"
#include "common/model/model_directory.h"
#include "proto/recipe.pb.h"
#include "trainer/optimizer.h"
#include "trainer/stage.h"

namespace grouper {

struct RunState {
  int64_t step = 0;         // optimizer steps since the start, over all stages
  int64_t stage_index = 0;  // the stage to go on with; number of stages: all done
  StageState stage;
  int64_t optimizer_steps = 0;
  uint64_t weight_version = 0;
  int64_t num_tokens = 0;
  std::string completions_digest;  // 64 hex digits; chained: SHA-256(previous digest, the step's samples)
  std::string weights_digest;      // of the weights saved with this state
  uint64_t metrics_bytes = 0, completions_bytes = 0;  // lengths of the two files
  double best_accuracy = -1;  // of this stage's evaluations at steps with a checkpoint; -1: there is none yet
  int64_t best_step = -1;
  std::string numerics_id;
  std::string inputs_digest;  // of the tokenizer and of every row of the stages' files and held-out sets
  // Saved between a step and its evaluation, which failed or was cut off: the step's row of metrics, which the evaluation completes. Else empty.
  std::string unfinished_row;

  std::string ToJson() const;
  static absl::StatusOr<RunState> FromJson(const std::string& text);
};

struct CheckpointContents {
  const Model& model;
  const OptimizerState* optimizer;  // null between stages
  const Model* reference;           // null without one
  const v1::Recipe& recipe;
  const RunState& state;
  const LoadedModel* loaded = nullptr;  // its tokenizer and stop tokens go beside the weights
};

// The checkpoint's config.json: another text, another model.
std::string ConfigText(const Model& model, const std::vector<int32_t>& stop_token_ids);

absl::Status SaveRunCheckpoint(FileSystem& fs, const std::string& directory, const CheckpointContents& contents);

// Parts of a verified checkpoint. Tensors must be exactly those of the target, or it is DataLoss naming the tensor.
absl::StatusOr<RunState> ReadRunState(const CheckpointReader& reader);
absl::StatusOr<v1::Recipe> ReadRecipe(const CheckpointReader& reader);
absl::Status ReadWeights(const CheckpointReader& reader, const std::string& file, Model& model);
absl::Status ReadOptimizer(const CheckpointReader& reader, const OptimizerState& optimizer);

}  // namespace grouper
