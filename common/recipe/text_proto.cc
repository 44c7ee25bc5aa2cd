#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "common/text/utf8.h"
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

// Protobuf takes any bytes for a string here, and fails when the message is sent.
absl::Status CheckUtf8(const google::protobuf::Message& message, const std::string& prefix) {
  using google::protobuf::FieldDescriptor;
  const google::protobuf::Reflection* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const std::string path = absl::StrCat(prefix, field->name(), field->is_repeated() ? absl::StrCat("[", i, "]") : "");
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        RETURN_IF_ERROR(CheckUtf8(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i) : reflection->GetMessage(message, field),
                                  path + "."));
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        const std::string text = field->is_repeated() ? reflection->GetRepeatedString(message, field, i) : reflection->GetString(message, field);
        const size_t valid = text::ValidPrefix(text);
        if (valid < text.size()) return absl::InvalidArgumentError(absl::StrCat(path, ": byte ", valid + 1, " of the text is not UTF-8, expected UTF-8"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseTextProto(const std::string& bytes, const std::string& source, google::protobuf::Message* message, TextLocations* locations) {
  const std::string text(absl::StripPrefix(bytes, "\xef\xbb\xbf"));
  google::protobuf::TextFormat::Parser parser;
  FirstError error(source, text, message->GetDescriptor());
  parser.RecordErrorsTo(&error);
  parser.SetRecursionLimit(kMaxDepth);
  TextLocations own;
  if (locations == nullptr) locations = &own;
  locations->SetSource(source);
  parser.WriteLocationsTo(locations->tree());
  if (parser.ParseFromString(text, message) && error.error().empty()) return locations->Locate(*message, CheckUtf8(*message, ""), /*least_depth=*/0);
  return absl::InvalidArgumentError(error.error().empty() ? absl::StrCat(source, ": not a protobuf text file of ", message->GetTypeName())
                                                          : error.error());
}

absl::Status ParseTextProtoFile(const std::string& path, google::protobuf::Message* message, TextLocations* locations) {
  ASSIGN_OR_RETURN(const std::string text, DefaultFileSystem().ReadFile(path, kMaxBytes));
  return ParseTextProto(text, path, message, locations);
}

}  // namespace grouper
