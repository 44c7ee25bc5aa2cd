// Dataset: training rows by index, and the held-out rows.
//
// The order is a pure function of (seed, stage, index), so that "data position" is one integer and a resumed run takes the same rows. A
// file's rows are permuted anew each epoch (Fisher-Yates from Philox); a generator makes row i from its own counter and never repeats the
// held-out problems.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/data/row.h"
#include "proto/recipe.pb.h"

namespace grouper {

class Dataset {
 public:
  // Reads and checks every row (both files). Beside a generator, `train` takes the place of its training rows and `eval` of its held-out rows.
  // `base_dir` resolves relative paths. Errors are "FILE:LINE: what, expected what".
  static absl::StatusOr<std::unique_ptr<Dataset>> Open(const v1::Data& config, uint64_t seed, uint32_t stage, const std::string& base_dir);
  virtual ~Dataset() = default;

  // Rows of one epoch; 0 for a generator (endless) or when there is no training data.
  virtual int64_t epoch_size() const = 0;
  // Row `index` >= 0 of the stage's endless sequence. Not thread-safe (caches one epoch's order). REQUIRES: there is training data.
  virtual DataRow TrainRow(int64_t index) = 0;
  virtual bool has_train() const = 0;

  // Held-out rows in a fixed order; may be empty.
  virtual const std::vector<DataRow>& eval_rows() const = 0;
  // Every distinct row that training may see, for checks at load: a file's rows in file order; empty for a generator.
  virtual const std::vector<DataRow>& file_rows() const = 0;
};

// Reads JSON lines: one object a line, blank lines skipped, at most 4 MiB a line and `max_rows` rows (0: all). Errors name FILE:LINE.
absl::StatusOr<std::vector<DataRow>> ReadJsonLines(const std::string& path, int64_t max_rows);

}  // namespace grouper
