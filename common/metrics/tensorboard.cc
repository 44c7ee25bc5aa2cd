// TensorBoard's event file: TFRecords of the Event message, encoded by hand (three small messages need no schema of their own).
//
//   record  := length(u64 LE) masked_crc32c(length bytes)(u32 LE) event masked_crc32c(event)(u32 LE)
//   Event   := wall_time(1, double) step(2, int64) file_version(3, string) summary(5, Summary)
//   Summary := value(1, Value)*       Value := tag(1, string) simple_value(2, float)
//   masked(c) = rotate_right(c, 15) + 0xa282ead8
#include <cmath>
#include <cstring>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/metrics/metrics.h"

namespace grouper {
namespace {

template <typename T>
void PutLittleEndian(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void PutVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void PutBytes(std::string& out, int field, const std::string& bytes) {
  PutVarint(out, static_cast<uint64_t>(field) << 3 | 2);
  PutVarint(out, bytes.size());
  out += bytes;
}

uint32_t Masked(const std::string& bytes) {
  const uint32_t crc = Crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::string Record(const std::string& event) {
  std::string length, out;
  PutLittleEndian<uint64_t>(length, event.size());
  out = length;
  PutLittleEndian<uint32_t>(out, Masked(length));
  out += event;
  PutLittleEndian<uint32_t>(out, Masked(event));
  return out;
}

std::string EventStart(double wall_time) {
  std::string event;
  PutVarint(event, 1 << 3 | 1);
  PutLittleEndian(event, wall_time);
  return event;
}

class TensorBoardSink : public MetricsSink {
 public:
  explicit TensorBoardSink(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}

  absl::Status Write(const MetricsRow& row) override {
    std::string summary;
    for (const auto& [name, value] : row.values()) {
      if (name == "step" || std::holds_alternative<std::string>(value)) continue;
      const float number = static_cast<float>(row.Number(name, 0));
      if (!std::isfinite(number)) continue;
      std::string entry;
      PutBytes(entry, 1, name);
      PutVarint(entry, 2 << 3 | 5);
      PutLittleEndian(entry, number);
      PutBytes(summary, 1, entry);
    }
    std::string event = EventStart(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
    PutVarint(event, 2 << 3 | 0);
    PutVarint(event, static_cast<uint64_t>(row.Number("step", 0)));
    PutBytes(event, 5, summary);
    RETURN_IF_ERROR(file_->Append(Record(event)));
    return file_->Flush();
  }

  absl::Status Sync() override { return file_->Sync(); }

 private:
  std::unique_ptr<WritableFile> file_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsSink>> OpenTensorBoardSink(FileSystem& fs, const std::string& directory, double wall_time) {
  RETURN_IF_ERROR(fs.CreateDirectories(directory));
  const std::string path = JoinPath(directory, absl::StrFormat("events.out.tfevents.%010.0f.grouper", std::floor(wall_time)));
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.OpenAppend(path));
  std::string event = EventStart(wall_time);
  PutBytes(event, 3, "brain.Event:2");
  RETURN_IF_ERROR(file->Append(Record(event)));
  RETURN_IF_ERROR(file->Flush());
  return std::make_unique<TensorBoardSink>(std::move(file));
}

}  // namespace grouper
