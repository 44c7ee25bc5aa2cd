// What a recipe will take of memory, part by part, for `run --dry-run`.
#pragma once

#include <string>

#include "common/model/model.h"
#include "proto/recipe.pb.h"

namespace grouper::cli {

std::string MemoryPlan(const v1::Recipe& recipe, const Model& model);

}  // namespace grouper::cli
