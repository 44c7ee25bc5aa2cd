#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"

namespace grouper {
namespace {

constexpr int kMaxDepth = 100;
constexpr uint64_t kMaxBytes = 16 << 20;

// Keeps the first error; the parser counts lines and columns from 0.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  explicit FirstError(const std::string& source) : source_(source) {}
  void AddError(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    if (!error_.empty()) return;
    error_ = line < 0 ? absl::StrCat(source_, ": ", message) : absl::StrCat(source_, ":", line + 1, ":", column + 1, ": ", message);
  }
  const std::string& error() const { return error_; }

 private:
  std::string source_;
  std::string error_;
};

}  // namespace

absl::Status ParseTextProto(const std::string& text, const std::string& source, google::protobuf::Message* message) {
  google::protobuf::TextFormat::Parser parser;
  FirstError error(source);
  parser.RecordErrorsTo(&error);
  parser.SetRecursionLimit(kMaxDepth);
  if (parser.ParseFromString(text, message) && error.error().empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(error.error().empty() ? absl::StrCat(source, ": not a protobuf text file of ", message->GetTypeName())
                                                          : error.error());
}

absl::Status ParseTextProtoFile(const std::string& path, google::protobuf::Message* message) {
  ASSIGN_OR_RETURN(const std::string text, DefaultFileSystem().ReadFile(path, kMaxBytes));
  return ParseTextProto(text, path, message);
}

}  // namespace grouper
