// tokenizer.json's "pre_tokenizer": a normalized text to the pieces that the model encodes one by one.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/json.h"
#include "common/text/pattern.h"

namespace grouper::text {

// Pieces of a text, in order, none empty. Views into the text, or into `storage` where a step changed it.
struct Pieces {
  struct Piece {
    absl::string_view text;
    bool at_start;  // begins where the whole input begins
  };
  std::vector<Piece> items;
  std::deque<std::string> storage;
  bool limits_hit = false;  // a regex ended at its limits: the rest of a piece stayed whole

  // Working space of Split.
  std::vector<Match> matches;
  std::vector<Piece> next;
};

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct PreTokenizerStep {
  enum Kind { kSplit, kPrefixSpace, kMetaspace };
  Kind kind = kSplit;
  // kSplit
  std::shared_ptr<const Pattern> pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
  // kMetaspace
  enum Prepend { kNever, kFirst, kAlways };
  Prepend prepend = kNever;
  std::string replacement;
};

// Immutable, thread-safe.
class PreTokenizer {
 public:
  PreTokenizer() = default;  // one piece

  // `json` may be null.
  static absl::StatusOr<PreTokenizer> FromJson(const json::Json& json, const std::string& path);

  // ByteLevel stands last: the model works on the pieces' bytes.
  bool byte_level() const { return byte_level_; }

  // Sets pieces->items. `text` (valid UTF-8) must outlive the pieces.
  void Split(absl::string_view text, bool at_start, Pieces* pieces) const;

 private:
  absl::Status Read(const json::Json& json, const std::string& path);

  std::vector<PreTokenizerStep> steps_;
  bool byte_level_ = false;
};

}  // namespace grouper::text
