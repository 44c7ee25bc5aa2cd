#include "common/data/dataset.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "common/base/check.h"
#include "common/base/file.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/data/generator.h"

namespace grouper {
namespace {

constexpr size_t kMaxLine = 4 << 20;
constexpr int64_t kDefaultHeldOut = 512;

class FileDataset : public Dataset {
 public:
  FileDataset(std::vector<DataRow> train, std::vector<DataRow> eval, PhiloxKey key, uint32_t stage, bool keep_order)
      : train_(std::move(train)), eval_(std::move(eval)), key_(key), stage_(stage), keep_order_(keep_order) {}

  int64_t epoch_size() const override { return static_cast<int64_t>(train_.size()); }
  bool has_train() const override { return !train_.empty(); }
  const std::vector<DataRow>& eval_rows() const override { return eval_; }
  const std::vector<DataRow>& file_rows() const override { return train_; }

  DataRow TrainRow(int64_t index) override {
    CHECK(index >= 0 && !train_.empty());
    const int64_t epoch = index / epoch_size(), place = index % epoch_size();
    if (keep_order_) return train_[place];
    if (epoch != ordered_epoch_) {
      order_.resize(train_.size());
      for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<uint32_t>(i);
      PhiloxStream random(key_, (static_cast<uint64_t>(stage_) << 32) | static_cast<uint32_t>(epoch));
      for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.NextBelow(i)]);
      ordered_epoch_ = epoch;
    }
    return train_[order_[place]];
  }

 private:
  std::vector<DataRow> train_, eval_;
  PhiloxKey key_;
  uint32_t stage_;
  bool keep_order_;
  int64_t ordered_epoch_ = -1;
  std::vector<uint32_t> order_;
};

class GeneratedDataset : public Dataset {
 public:
  GeneratedDataset(std::unique_ptr<ProblemGenerator> generator, std::vector<DataRow> eval, PhiloxKey key, uint32_t stage,
                   std::string name)
      : generator_(std::move(generator)), eval_(std::move(eval)), key_(key), stage_(stage), name_(std::move(name)) {}

  int64_t epoch_size() const override { return 0; }
  bool has_train() const override { return true; }
  const std::vector<DataRow>& eval_rows() const override { return eval_; }
  const std::vector<DataRow>& file_rows() const override { return none_; }

  DataRow TrainRow(int64_t index) override {
    PhiloxStream random(key_, (static_cast<uint64_t>(stage_) << 48) | static_cast<uint64_t>(index));
    DataRow row = generator_->TrainRow(random);
    row.source = absl::StrCat(name_, ":", index);
    return row;
  }

 private:
  std::unique_ptr<ProblemGenerator> generator_;
  std::vector<DataRow> eval_, none_;
  PhiloxKey key_;
  uint32_t stage_;
  std::string name_;
};

}  // namespace

absl::StatusOr<std::vector<DataRow>> ReadJsonLines(const std::string& path, int64_t max_rows) {
  ASSIGN_OR_RETURN(std::shared_ptr<MappedFile> file, MappedFile::Open(path));
  std::vector<DataRow> rows;
  absl::string_view rest = file->bytes();
  absl::ConsumePrefix(&rest, "\xef\xbb\xbf");
  for (int64_t line_number = 1; !rest.empty() && (max_rows == 0 || static_cast<int64_t>(rows.size()) < max_rows); ++line_number) {
    const size_t end = rest.find('\n');
    absl::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == absl::string_view::npos ? rest.size() : end + 1);
    absl::ConsumeSuffix(&line, "\r");
    if (line.find_first_not_of(" \t") == absl::string_view::npos) continue;
    DataRow row;
    row.source = absl::StrCat(path, ":", line_number);
    if (line.size() > kMaxLine) {
      return absl::InvalidArgumentError(absl::StrCat(row.source, ": line of ", line.size(), " bytes, expected at most ", kMaxLine));
    }
    ASSIGN_OR_RETURN(row.columns, Annotate(json::ParseRow(line), row.source));
    if (!row.columns.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(row.source, ": expected a JSON object, got ", row.columns.type_name()));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

absl::StatusOr<std::unique_ptr<Dataset>> Dataset::Open(const v1::Data& config, uint64_t seed, uint32_t stage,
                                                       const std::string& base_dir) {
  const PhiloxKey key = MakePhiloxKey(seed, "data");
  const std::map<std::string, std::string> fields(config.fields().begin(), config.fields().end());
  auto read = [&](const std::string& file, int64_t max_rows) -> absl::StatusOr<std::vector<DataRow>> {
    if (file.empty()) return std::vector<DataRow>();
    const std::string path = JoinPath(base_dir, file);
    ASSIGN_OR_RETURN(std::vector<DataRow> rows, ReadJsonLines(path, max_rows));
    if (rows.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": no rows, expected JSON lines"));
    for (DataRow& row : rows) RETURN_IF_ERROR(CanonicaliseRow(fields, row));
    return rows;
  };
  ASSIGN_OR_RETURN(std::vector<DataRow> train, read(config.train(), config.max_rows()));
  ASSIGN_OR_RETURN(std::vector<DataRow> eval, read(config.eval(), 0));
  if (config.has_generator()) {
    ASSIGN_OR_RETURN(std::unique_ptr<ProblemGenerator> generator, ProblemGenerator::Create(config.generator()));
    if (config.eval().empty()) {
      const int64_t held_out = config.generator().eval_problems() > 0 ? config.generator().eval_problems() : kDefaultHeldOut;
      ASSIGN_OR_RETURN(eval, generator->HeldOutRows(held_out));
    }
    if (config.train().empty()) {
      const std::string name = config.generator().has_countdown() ? "countdown" : "addition";
      return std::make_unique<GeneratedDataset>(std::move(generator), std::move(eval), key, stage, name);
    }
  }
  return std::make_unique<FileDataset>(std::move(train), std::move(eval), key, stage, config.keep_order());
}

}  // namespace grouper
