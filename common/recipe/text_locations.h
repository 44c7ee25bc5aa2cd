// Where the fields of a message were given: line and column of its text file, or a --set.
//
// Errors about values ("stages[rl].optimizer.lr: -1, expected ...") are found long after the text was parsed, and name a field path:
// NAME ('.' NAME)*, each with [INDEX] or [ITEM_NAME] where it is repeated. Locate finds that path's place.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"

namespace grouper {

class TextLocations {
 public:
  // Filled by ParseTextProto and ApplyOverride's callers.
  void SetSource(std::string source) { source_ = std::move(source); }
  google::protobuf::TextFormat::ParseInfoTree* tree() { return tree_.get(); }
  void AddOverride(std::string text) { overrides_.push_back(std::move(text)); }

  // "my.textproto:12:5" of the field, or of the innermost message around it that the file has; "--set PATH=VALUE" where that gave it; the file's
  // name where it has nothing of the path. `depth`: how many names of the path are fields of `message`.
  std::string Find(const google::protobuf::Message& message, absl::string_view path, int* depth = nullptr) const;

  // Puts the place before an error whose text begins with a path of at least `least_depth` names ("PATH: ...", "PATH: REST_OF_PATH: ...").
  absl::Status Locate(const google::protobuf::Message& message, const absl::Status& status, int least_depth = 2) const;

 private:
  std::string source_;
  std::unique_ptr<google::protobuf::TextFormat::ParseInfoTree> tree_ = std::make_unique<google::protobuf::TextFormat::ParseInfoTree>();
  std::vector<std::string> overrides_;
};

// The path of the field whose value is expected at a line and column (from 0, as protobuf's tokenizer counts them), or of the message that is open
// there: "stages[1].optimizer.lr". Empty at the top. For errors of syntax, where there is no message yet.
std::string FieldPathAt(absl::string_view text, int line, int column, const google::protobuf::Descriptor* type);

}  // namespace grouper
