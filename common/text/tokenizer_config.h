// What stands beside a tokenizer.json: special tokens by their role, the chat template, the ids that end a completion.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace grouper::text {

struct TokenizerConfig {
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> pad_token;
  std::optional<std::string> unk_token;
  std::string chat_template;

  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::optional<int32_t> pad_id;
  std::optional<int32_t> unk_id;
  std::vector<int32_t> stop_ids;

  std::string generation_name;  // of the file that gave stop_ids, and ids without a token
  std::string json;             // the text of tokenizer_config.json; empty: there was none

  // tokenizer_config.json or special_tokens_map.json: fields that are not set yet.
  absl::Status ReadConfig(absl::string_view text, const std::string& name);
  // generation_config.json: stop_ids, and bos and pad where nothing else says.
  absl::Status ReadGenerationConfig(absl::string_view text, const std::string& name);
};

}  // namespace grouper::text
