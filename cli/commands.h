// The subcommands; each is described and implemented in the file of its name.
#pragma once

#include "cli/command.h"

namespace grouper::cli {

extern const Command kRun, kEval, kGenerate, kScore, kServe, kConvert, kInspect, kBench;

}  // namespace grouper::cli
