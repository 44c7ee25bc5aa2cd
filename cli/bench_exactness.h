// `grouper bench exactness`: are the sampler's log-probabilities the trainer's, bit for bit?
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "common/base/thread_pool.h"
#include "common/model/model_directory.h"

namespace grouper::cli {

struct ExactnessOptions {
  int64_t tokens = 0;        // to compare in all, at least
  int64_t longest = 0;       // prompt and completion together, at most
  int64_t batch_tokens = 0;  // of a pass, and of the trainer's micro-batches
};

// Samples in many ways (1 to 1024 sequences together, prompts and completions of mixed lengths, prefixes shared or not, prompts whole or in
// chunks, passes ahead, with graphs, or one by one, every filter), scores the samples as training does, and compares every sampled token's
// log-probability with ==. One line a way; Internal when one differs.
absl::Status BenchExactness(const LoadedModel& loaded, ThreadPool& threads, const ExactnessOptions& options);

}  // namespace grouper::cli
