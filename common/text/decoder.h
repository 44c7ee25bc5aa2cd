// tokenizer.json's "decoder": token strings back to text, token by token, so that a stream and a whole sequence give the same text.
//
// Everything that a DecodeStream returns is valid UTF-8 and ends at a character's end. What cannot be known yet is held back: an unfinished
// character; with ByteFallback a run of byte tokens (one ill-formed byte changes the whole run); what a Strip at the end or a Replace after
// Fuse may still change.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/json.h"
#include "common/text/pattern.h"

namespace grouper::text {

struct DecoderStep {
  enum Kind { kByteLevel, kMetaspace, kByteFallback, kFuse, kReplace, kStrip, kJoinWithSpaces };
  Kind kind;
  std::string content;         // Metaspace's replacement, Replace's content, Strip's character
  bool drops_first = false;    // Metaspace: the first token's replacement characters vanish
  std::shared_ptr<const Pattern> pattern;
  std::string literal;         // Replace: the pattern, when it is a literal
  int64_t start = 0;
  int64_t stop = 0;
};

// Immutable, thread-safe.
class Decoder {
 public:
  // `json` null: tokens with spaces between them.
  static absl::StatusOr<Decoder> FromJson(const json::Json& json, const std::string& path);

  // The bytes that a token stands for in the middle of a text.
  std::string TokenBytes(absl::string_view token) const;

  const std::vector<DecoderStep>& steps() const { return steps_; }

 private:
  std::vector<DecoderStep> steps_;
};

// One sequence being decoded. The decoder must outlive it.
class DecodeStream {
 public:
  explicit DecodeStream(const Decoder& decoder);

  // Appends to *out what is certain after this token.
  void Add(absl::string_view token, std::string* out);
  // The same for a decoder that begins with ByteLevel, from the token's bytes.
  void AddBytes(absl::string_view bytes, std::string* out);
  bool takes_bytes() const;
  void Finish(std::string* out);  // the rest; then the stream is as new

 private:
  // A step's memory. Tokens pass between steps in fragments; `last` ends a token.
  struct State {
    std::string held;
    bool first_token = true;
    int64_t stripped = 0;
    bool stripping = true;
  };
  void Feed(size_t step, absl::string_view fragment, bool last, std::string* out);
  void FeedBytes(size_t step, absl::string_view bytes, std::string* out);
  void End(size_t step, std::string* out);
  void FlushByteRun(size_t step, std::string* out);
  void FeedStrip(size_t step, absl::string_view fragment, bool last, std::string* out);
  void FeedReplace(size_t step, absl::string_view fragment, bool last, std::string* out);

  const Decoder* decoder_;
  std::vector<State> states_;
};

}  // namespace grouper::text
