#include "common/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/metrics/progress.h"

namespace grouper {
namespace {

using ::testing::HasSubstr;

std::string Folder() {
  const std::string folder = ::testing::TempDir() + "/metrics_test_" + std::to_string(getpid());
  EXPECT_TRUE(DefaultFileSystem().CreateDirectories(folder).ok());
  return folder;
}

TEST(MetricsRowTest, KeepsOrderAndWritesNonFiniteNumbersAsNull) {
  MetricsRow row;
  row.Set("step", 3);
  row.Set("stage", std::string("sft"));
  row.Set("loss", std::numeric_limits<double>::quiet_NaN());
  row.Set("lr", 0.5);
  row.Set("step", 4);
  EXPECT_EQ(row.ToJson(), R"({"step":4,"stage":"sft","loss":null,"lr":0.5})");
  EXPECT_EQ(row.Number("step", -1), 4);
  EXPECT_EQ(row.Number("absent", -1), -1);
}

TEST(MetricsRowTest, DoublesSurviveTheirText) {
  for (double value : {0.1, 1e-300, 3.0000000000000004, -2.5e17}) {
    MetricsRow row;
    row.Set("x", value);
    EXPECT_EQ(json::Parse(row.ToJson())->at("x").get<double>(), value);
  }
}

TEST(MetricsRowTest, ARowComesBackFromItsText) {
  MetricsRow row;
  row.Set("step", 7);
  row.Set("stage", std::string("sft"));
  row.Set("loss", 0.1 + 0.2);
  row.Set("whole", 3.0);
  row.Set("large", 1e300);
  row.Set("nothing", std::nan(""));
  const auto back = MetricsRow::FromJson(row.ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->ToJson(), row.ToJson());
  EXPECT_TRUE(std::holds_alternative<int64_t>(*back->Find("step")));
  EXPECT_TRUE(std::holds_alternative<double>(*back->Find("whole")));
  for (const char* bad : {"", "[]", "{\"a\": [1]}", "{\"a\": true}"}) EXPECT_FALSE(MetricsRow::FromJson(bad).ok()) << bad;
}

TEST(JsonLinesFileTest, ResumeCutsTheFileBackToTheRecordedLength) {
  FileSystem& fs = DefaultFileSystem();
  const std::string path = Folder() + "/m.jsonl";
  uint64_t at_checkpoint = 0;
  {
    auto file = JsonLinesFile::Open(fs, path, 0);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->AppendLine("{\"step\":1}").ok());
    at_checkpoint = (*file)->size();
    ASSERT_TRUE((*file)->AppendLine("{\"step\":2}").ok());
    ASSERT_TRUE((*file)->AppendLine("{\"st").ok());  // torn
  }
  auto file = JsonLinesFile::Open(fs, path, at_checkpoint);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->AppendLine("{\"step\":2}").ok());
  EXPECT_EQ(*fs.ReadFile(path, 1000), "{\"step\":1}\n{\"step\":2}\n");
}

TEST(JsonLinesFileTest, AFileShorterThanRecordedIsDataLoss) {
  FileSystem& fs = DefaultFileSystem();
  const std::string path = Folder() + "/short.jsonl";
  ASSERT_TRUE(WriteFileAtomically(fs, path, "{}\n").ok());
  EXPECT_EQ(JsonLinesFile::Open(fs, path, 10).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(JsonLinesFile::Open(fs, path + ".absent", 10).status().code(), absl::StatusCode::kDataLoss);
}

// Reads records back and checks both checksums.
std::vector<std::string> ReadRecords(const std::string& bytes) {
  auto masked = [](absl::string_view data) {
    const uint32_t crc = Crc32c(data);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
  };
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length = 0;
    uint32_t crc = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    std::memcpy(&crc, bytes.data() + at + 8, 4);
    EXPECT_EQ(crc, masked(absl::string_view(bytes).substr(at, 8)));
    records.push_back(bytes.substr(at + 12, length));
    std::memcpy(&crc, bytes.data() + at + 12 + length, 4);
    EXPECT_EQ(crc, masked(records.back()));
    at += 16 + length;
  }
  return records;
}

TEST(TensorBoardTest, WritesAVersionAndOneEventARow) {
  FileSystem& fs = DefaultFileSystem();
  const std::string folder = Folder() + "/tb";
  ASSERT_TRUE(fs.RemoveAll(folder).ok());
  auto sink = OpenTensorBoardSink(fs, folder, 1700000000.5);
  ASSERT_TRUE(sink.ok()) << sink.status();
  MetricsRow row;
  row.Set("step", 7);
  row.Set("stage", std::string("grpo"));
  row.Set("reward/mean", 0.25);
  row.Set("loss", std::nan(""));
  ASSERT_TRUE((*sink)->Write(row).ok());
  auto names = fs.ListDirectory(folder);
  ASSERT_EQ(names->size(), 1u);
  EXPECT_THAT((*names)[0], HasSubstr("tfevents.1700000000"));
  const std::vector<std::string> records = ReadRecords(*fs.ReadFile(folder + "/" + (*names)[0], 1 << 20));
  ASSERT_EQ(records.size(), 2u);
  EXPECT_THAT(records[0], HasSubstr("brain.Event:2"));
  EXPECT_THAT(records[1], HasSubstr("reward/mean"));
  EXPECT_THAT(records[1], ::testing::Not(HasSubstr("loss")));
  EXPECT_EQ(records[1][9], 0x10);  // field 2, varint: the step
  EXPECT_EQ(records[1][10], 7);
}

TEST(ProgressTest, NumbersForPeople) {
  EXPECT_EQ(HumanDuration(absl::Seconds(47)), "47s");
  EXPECT_EQ(HumanDuration(absl::Seconds(83)), "1m23s");
  EXPECT_EQ(HumanDuration(absl::Seconds(7500)), "2h05m");
  EXPECT_EQ(HumanCount(950), "950");
  EXPECT_EQ(HumanCount(48100), "48.1k");
  EXPECT_EQ(HumanCount(1200000), "1.2M");
}

TEST(ProgressTest, CurveHasTitleAxesAndEveryPoint) {
  const std::string curve = DrawCurve("accuracy", {0, 5, 10}, {0.3, 0.9, 1.0}, 40, 8);
  EXPECT_THAT(curve, HasSubstr("accuracy\n"));
  EXPECT_THAT(curve, HasSubstr("1.000 ┤"));
  EXPECT_THAT(curve, HasSubstr("0.300 ┤"));
  size_t points = 0;
  for (size_t at = curve.find("●"); at != std::string::npos; at = curve.find("●", at + 1)) ++points;
  EXPECT_EQ(points, 3u);
  EXPECT_EQ(DrawCurve("x", {}, {}, 40, 8), "x\n");
}

}  // namespace
}  // namespace grouper
