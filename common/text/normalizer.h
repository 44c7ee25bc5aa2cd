// tokenizer.json's "normalizer": a text to a text, before anything is split.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/json.h"
#include "common/text/pattern.h"

namespace grouper::text {

struct NormalizerStep {
  enum Kind { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kStripAccents, kStrip, kPrepend, kReplace };
  Kind kind;
  bool strip_left = false;
  bool strip_right = false;
  std::string content;  // of Prepend and Replace
  std::shared_ptr<const Pattern> pattern;
};

// Immutable, thread-safe.
class Normalizer {
 public:
  Normalizer() = default;  // changes nothing

  // `json` may be null (no normalizer). `path` ("normalizer") stands before the field in errors.
  static absl::StatusOr<Normalizer> FromJson(const json::Json& json, const std::string& path);

  bool empty() const { return steps_.empty(); }
  // REQUIRES: valid UTF-8. The result is valid UTF-8. *lost_first: the text's first character was taken away.
  std::string Normalize(absl::string_view text, bool* lost_first = nullptr) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace grouper::text
