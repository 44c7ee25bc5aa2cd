// tokenizer.json's "model": one piece of text to ids.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/json.h"
#include "common/text/vocabulary.h"

namespace grouper::text {

// Immutable, thread-safe.
class Model {
 public:
  virtual ~Model() = default;
  // Appends the ids of `piece` (valid UTF-8, not empty). False: something in it has no token; unk_id stands in its place, or nothing does. `unknown`
  // (may be null) gets what it was: the characters, or the piece where the vocabulary is of whole pieces.
  virtual bool Encode(absl::string_view piece, std::vector<int32_t>* ids, std::vector<std::string>* unknown) const = 0;
  virtual std::optional<int32_t> unk_id() const = 0;
};

// Reads "model.vocab" (of any model type) into *vocabulary.
absl::Status ReadVocabulary(const json::Json& model, const std::string& path, Vocabulary* vocabulary);

// `vocabulary` (model.vocab and the added tokens) must outlive the model.
absl::StatusOr<std::unique_ptr<const Model>> ModelFromJson(const json::Json& model, const std::string& path, const Vocabulary& vocabulary,
                                                           bool byte_level);

}  // namespace grouper::text
