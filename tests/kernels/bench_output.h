// The lines that a benchmark prints for a filter, or its error.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "kernels/bench.h"

namespace grouper::testing {

inline absl::StatusOr<std::vector<std::string>> BenchLines(const std::string& filter,
                                                           const std::function<absl::Status(const kernels::BenchOptions&)>& bench) {
  std::FILE* const file = std::tmpfile();
  CHECK(file != nullptr);
  const absl::Status status = bench({.threads = 2, .seconds = 0, .filter = filter, .few_cases = true, .out = file});
  std::string text(static_cast<size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  const size_t read = std::fread(text.data(), 1, text.size(), file);
  std::fclose(file);
  CHECK_EQ(read, text.size());
  RETURN_IF_ERROR(status);
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

}  // namespace grouper::testing
