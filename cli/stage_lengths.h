// How long a stage's sequences are, from its first rows: what a memory plan needs to know of the data.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_directory.h"
#include "proto/recipe.pb.h"

namespace grouper::cli {

struct Lengths {
  int64_t count = 0, longest = 0;
  double mean = 0, deviation = 0;
};

struct StageLengths {
  Lengths examples;      // SFT: prompt and completion, tokens
  Lengths prompts;       // GRPO
  Lengths eval_prompts;  // of the rows that an evaluation takes
  int64_t eval_rows = 0;
  int64_t data_bytes = 0;  // of the stage's files
};

// One for each stage of the recipe. Reads at most 4096 rows of each file; errors as from Dataset::Open. Rows that cannot be encoded are left
// out: the run's own checks name them.
absl::StatusOr<std::vector<StageLengths>> MeasureStages(const v1::Recipe& recipe, const LoadedModel& loaded);

}  // namespace grouper::cli
