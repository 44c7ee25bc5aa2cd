// Problem generators: rows made by code. Training row i is a pure function of (seed, stage, i).
//
// A generated row has `prompt`, `answer`, `completion` (a demonstration for SFT), and the task's own columns.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/philox.h"
#include "common/data/row.h"
#include "proto/recipe.pb.h"

namespace grouper {

class ProblemGenerator {
 public:
  static absl::StatusOr<std::unique_ptr<ProblemGenerator>> Create(const v1::Generator& config);
  virtual ~ProblemGenerator() = default;

  // A problem that is not held out.
  virtual DataRow TrainRow(PhiloxStream& random) const = 0;
  // `count` distinct held-out problems, the same for every seed of a run. Error when the task has fewer.
  virtual absl::StatusOr<std::vector<DataRow>> HeldOutRows(int64_t count) const = 0;
};

// proto/recipe.proto: Addition, Countdown. REQUIRES: ranges were checked by ProblemGenerator::Create.
std::unique_ptr<ProblemGenerator> MakeAddition(const v1::Addition& config);
std::unique_ptr<ProblemGenerator> MakeCountdown(const v1::Countdown& config);

// Problems whose hash falls into this class are held out and never drawn for training (1 in 97).
bool IsHeldOut(uint64_t problem_hash);

}  // namespace grouper
