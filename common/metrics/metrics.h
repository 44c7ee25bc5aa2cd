// Metrics: one row a step, under the names of docs/metrics.md, to several sinks.
//
// Rows keep insertion order. Values are integers, doubles (non-finite ones are written as null) or strings. Groups of names: results ("loss",
// "reward/mean", ...) are a function of the recipe alone; "time/*", "perf/*", "fault/*" differ from run to run.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file.h"

namespace grouper {

class MetricsRow {
 public:
  using Value = std::variant<int64_t, double, std::string>;

  void Set(const std::string& name, int64_t value) { Put(name, value); }
  void Set(const std::string& name, int value) { Put(name, static_cast<int64_t>(value)); }
  void Set(const std::string& name, double value) { Put(name, value); }
  void Set(const std::string& name, const std::string& value) { Put(name, value); }

  const std::vector<std::pair<std::string, Value>>& values() const { return values_; }
  const Value* Find(const std::string& name) const;
  double Number(const std::string& name, double otherwise) const;  // integers and doubles
  std::string ToJson() const;  // one line, no newline
  // The row whose ToJson is `text`: null becomes NaN.
  static absl::StatusOr<MetricsRow> FromJson(const std::string& text);

 private:
  void Put(const std::string& name, Value value);
  std::vector<std::pair<std::string, Value>> values_;
};

// Not thread-safe.
class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual absl::Status Write(const MetricsRow& row) = 0;
  virtual absl::Status Sync() = 0;
};

// Appends lines to a file. `size()` is the file's length in bytes, which a checkpoint records and resume cuts back to.
class JsonLinesFile {
 public:
  // Opens for appending after cutting the file to `keep_bytes` (0 for a new run). A file shorter than keep_bytes is DataLoss.
  static absl::StatusOr<std::unique_ptr<JsonLinesFile>> Open(FileSystem& fs, const std::string& path, uint64_t keep_bytes);
  absl::Status AppendLine(const std::string& line);  // reaches the kernel before it returns
  absl::Status Sync();
  uint64_t size() const { return size_; }

 private:
  JsonLinesFile(std::unique_ptr<WritableFile> file, uint64_t size) : file_(std::move(file)), size_(size) {}
  std::unique_ptr<WritableFile> file_;
  uint64_t size_;
};

// TensorBoard event file (one per start of a run) with the row's numbers as scalars at row["step"].
absl::StatusOr<std::unique_ptr<MetricsSink>> OpenTensorBoardSink(FileSystem& fs, const std::string& directory, double wall_time);

}  // namespace grouper
