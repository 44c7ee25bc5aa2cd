// Group-relative policy optimisation (GRPO, DAPO, Dr. GRPO, GSPO, CISPO by the recipe's names). A step, on one screen: GrpoStage::Step.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "trainer/stage.h"

namespace grouper {

// Checks every row of the data file (of a generator: the first ones): prompt there, fits the context with room for a completion (data.too_long),
// and `check_row` (the reward rules) accepts it. Rows that the rules cannot score are reported by line; when none can be scored it is an error.
// Returns the stage's steps.
absl::StatusOr<int64_t> CheckGrpoData(const StageContext& context, const std::function<absl::Status(const json::Json&)>& check_row);

// With a KL term the present weights become the reference.
absl::StatusOr<std::unique_ptr<Stage>> MakeGrpoStage(StageContext& context, int64_t steps);

}  // namespace grouper
