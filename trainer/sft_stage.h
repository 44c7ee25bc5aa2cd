// Supervised fine-tuning: cross-entropy on the completion's tokens (or the assistant's turns), mean over the batch's trained tokens.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "trainer/stage.h"

namespace grouper {

// Checks every row of the data file (of a generator: the first ones): that it is an SFT row, has tokens to train on and fits the context
// (data.too_long). Returns the stage's steps.
absl::StatusOr<int64_t> CheckSftData(const StageContext& context);

std::unique_ptr<Stage> MakeSftStage(StageContext& context, int64_t steps);

}  // namespace grouper
