#include "common/model/gguf_vocab.h"

#include <string>

#include "common/base/status.h"

namespace grouper {

absl::StatusOr<GgufVocab> ReadGgufVocab(const GgufFile& file) {
  GgufVocab vocab;
  ASSIGN_OR_RETURN(const absl::string_view model, file.GetString("tokenizer.ggml.model"));
  vocab.model = std::string(model);
  if (file.Has("tokenizer.ggml.pre")) {
    ASSIGN_OR_RETURN(const absl::string_view pre, file.GetString("tokenizer.ggml.pre"));
    vocab.pre = std::string(pre);
  }
  ASSIGN_OR_RETURN(const std::vector<absl::string_view> tokens, file.GetStrings("tokenizer.ggml.tokens"));
  for (const absl::string_view token : tokens) vocab.tokens.emplace_back(token);
  if (file.Has("tokenizer.ggml.scores")) {
    ASSIGN_OR_RETURN(vocab.scores, file.GetFloats("tokenizer.ggml.scores"));
  }
  if (file.Has("tokenizer.ggml.token_type")) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> types, file.GetInts("tokenizer.ggml.token_type", INT32_MIN, INT32_MAX));
    vocab.token_types.assign(types.begin(), types.end());
  }
  if (file.Has("tokenizer.ggml.merges")) {
    ASSIGN_OR_RETURN(const std::vector<absl::string_view> merges, file.GetStrings("tokenizer.ggml.merges"));
    for (const absl::string_view merge : merges) vocab.merges.emplace_back(merge);
  }
  const int64_t last = static_cast<int64_t>(vocab.tokens.size()) - 1;
  const std::pair<const char*, int32_t*> ids[] = {
      {"bos", &vocab.bos_id}, {"eos", &vocab.eos_id}, {"padding", &vocab.pad_id}, {"unknown", &vocab.unk_id}};
  for (const auto& [name, id] : ids) {
    const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
    if (!file.Has(key)) continue;
    ASSIGN_OR_RETURN(const int64_t value, file.GetInt(key, 0, last));
    *id = static_cast<int32_t>(value);
  }
  const std::pair<const char*, bool*> flags[] = {{"add_bos_token", &vocab.add_bos},
                                                 {"add_eos_token", &vocab.add_eos},
                                                 {"add_space_prefix", &vocab.add_space_prefix}};
  for (const auto& [name, flag] : flags) {
    const std::string key = absl::StrCat("tokenizer.ggml.", name);
    if (!file.Has(key)) continue;
    ASSIGN_OR_RETURN(*flag, file.GetBool(key));
  }
  if (file.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(const absl::string_view text, file.GetString("tokenizer.chat_template"));
    vocab.chat_template = std::string(text);
  }
  return vocab;
}

}  // namespace grouper
