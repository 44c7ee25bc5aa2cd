#include "common/metrics/metrics.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace grouper {

void MetricsRow::Put(const std::string& name, Value value) {
  for (auto& [existing, old] : values_) {
    if (existing == name) {
      old = std::move(value);
      return;
    }
  }
  values_.emplace_back(name, std::move(value));
}

const MetricsRow::Value* MetricsRow::Find(const std::string& name) const {
  for (const auto& [existing, value] : values_) {
    if (existing == name) return &value;
  }
  return nullptr;
}

double MetricsRow::Number(const std::string& name, double otherwise) const {
  const Value* value = Find(name);
  if (value == nullptr) return otherwise;
  if (const auto* integer = std::get_if<int64_t>(value)) return static_cast<double>(*integer);
  if (const auto* number = std::get_if<double>(value)) return *number;
  return otherwise;
}

std::string MetricsRow::ToJson() const {
  json::OrderedJson row = json::OrderedJson::object();
  for (const auto& [name, value] : values_) {
    if (const auto* integer = std::get_if<int64_t>(&value)) {
      row[name] = *integer;
    } else if (const auto* number = std::get_if<double>(&value)) {
      row[name] = std::isfinite(*number) ? json::OrderedJson(*number) : json::OrderedJson(nullptr);
    } else {
      row[name] = std::get<std::string>(value);
    }
  }
  return json::Dump(row);
}

absl::StatusOr<MetricsRow> MetricsRow::FromJson(const std::string& text) {
  ASSIGN_OR_RETURN(const json::OrderedJson object, json::ParseOrdered(text));
  if (!object.is_object()) return absl::InvalidArgumentError("expected an object of metrics");
  MetricsRow row;
  for (const auto& [name, value] : object.items()) {
    if (value.is_number_integer()) {
      row.Set(name, value.get<int64_t>());
    } else if (value.is_number()) {
      row.Set(name, value.get<double>());
    } else if (value.is_null()) {
      row.Set(name, std::numeric_limits<double>::quiet_NaN());
    } else if (value.is_string()) {
      row.Set(name, value.get<std::string>());
    } else {
      return absl::InvalidArgumentError(absl::StrCat("\"", name, "\": expected a number, null or a string"));
    }
  }
  return row;
}

absl::StatusOr<std::unique_ptr<JsonLinesFile>> JsonLinesFile::Open(FileSystem& fs, const std::string& path, uint64_t keep_bytes) {
  if (fs.Exists(path)) {
    ASSIGN_OR_RETURN(const uint64_t size, fs.FileSize(path));
    if (size < keep_bytes) {
      return absl::DataLossError(absl::StrCat(path, ": ", size, " bytes, but the checkpoint recorded ", keep_bytes));
    }
    if (size > keep_bytes) RETURN_IF_ERROR(fs.Truncate(path, keep_bytes));
  } else if (keep_bytes > 0) {
    return absl::DataLossError(absl::StrCat(path, ": missing, but the checkpoint recorded ", keep_bytes, " bytes"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.OpenAppend(path));
  return std::unique_ptr<JsonLinesFile>(new JsonLinesFile(std::move(file), keep_bytes));
}

absl::Status JsonLinesFile::AppendLine(const std::string& line) {
  RETURN_IF_ERROR(file_->Append(line + "\n"));
  RETURN_IF_ERROR(file_->Flush());
  size_ += line.size() + 1;
  return absl::OkStatus();
}

absl::Status JsonLinesFile::Sync() { return file_->Sync(); }

}  // namespace grouper
