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
  FirstError(const std::string& source, const std::string& text, const google::protobuf::Descriptor* type) : source_(source), text_(text), type_(type) {}
  void AddError(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    if (!error_.empty()) return;
    if (line < 0) {
      error_ = absl::StrCat(source_, ": ", message);
      return;
    }
    const std::string field = FieldPathAt(text_, line, column, type_);
    error_ = absl::StrCat(source_, ":", line + 1, ":", column + 1, ": ", field, field.empty() ? "" : ": ", message);
  }
  const std::string& error() const { return error_; }

 private:
  const std::string& source_;
  const std::string& text_;
  const google::protobuf::Descriptor* type_;
  std::string error_;
};

}  // namespace

absl::Status ParseTextProto(const std::string& text, const std::string& source, google::protobuf::Message* message, TextLocations* locations) {
  google::protobuf::TextFormat::Parser parser;
  FirstError error(source, text, message->GetDescriptor());
  parser.RecordErrorsTo(&error);
  parser.SetRecursionLimit(kMaxDepth);
  if (locations != nullptr) {
    locations->SetSource(source);
    parser.WriteLocationsTo(locations->tree());
  }
  if (parser.ParseFromString(text, message) && error.error().empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(error.error().empty() ? absl::StrCat(source, ": not a protobuf text file of ", message->GetTypeName())
                                                          : error.error());
}

absl::Status ParseTextProtoFile(const std::string& path, google::protobuf::Message* message, TextLocations* locations) {
  ASSIGN_OR_RETURN(const std::string text, DefaultFileSystem().ReadFile(path, kMaxBytes));
  return ParseTextProto(text, path, message, locations);
}

}  // namespace grouper
