// lr(step) for step 0, 1, ..., steps - 1: linear warm-up lr (step + 1) / warmup_steps, then by schedule over the rest, with progress
// p = (step - warmup) / (steps - warmup):  constant lr;  linear lr (1 - (1 - r) p);  cosine lr (r + (1 - r) (1 + cos(pi p)) / 2),  r = min_lr_ratio.
#pragma once

#include <cstdint>

#include "proto/recipe.pb.h"

namespace grouper {

double LearningRate(const v1::Optimizer& optimizer, int64_t step, int64_t steps);

}  // namespace grouper
