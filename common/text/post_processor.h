// tokenizer.json's "post_processor", as far as it changes ids: the special tokens around one sequence.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/json.h"
#include "common/text/added_tokens.h"
#include "common/text/vocabulary.h"

namespace grouper::text {

struct PostProcessor {
  std::vector<int32_t> before;
  std::vector<int32_t> after;

  // `json` may be null. TemplateProcessing's tokens must exist under the ids that it gives.
  static absl::StatusOr<PostProcessor> FromJson(const json::Json& json, const std::string& path, const Vocabulary& model_vocabulary,
                                                const AddedTokens& added);
};

}  // namespace grouper::text
