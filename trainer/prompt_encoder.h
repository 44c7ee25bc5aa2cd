// From data rows to tokens: prompts for sampling, whole examples for SFT. Text becomes tokens here and never again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/data/row.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "proto/recipe.pb.h"
#include "trainer/training_pass.h"

namespace grouper {

// How much of a file's text the vocabulary cannot say, where the tokenizer has an unknown token of its own for that (else it is an error).
struct UnknownTokens {
  int64_t tokens = 0, unknown = 0;
  std::string first;  // the first such row's source

  // Once a file: nothing is trained on without a word that is not what the row says.
  void Warn(absl::string_view what) const;
};

// Immutable, thread-safe.
class PromptEncoder {
 public:
  // Errors name the recipe's field (prompt.template, prompt.add_bos).
  static absl::StatusOr<PromptEncoder> Create(const v1::PromptTemplate& config, std::shared_ptr<const Tokenizer> tokenizer);

  struct Prompt {
    std::vector<int32_t> token_ids;  // with the prefill
    std::string text;                // what the model sees, prefill excluded
    std::string prefill;             // the completion's given beginning
  };
  // Errors name the row's source. `unknown` (may be null) counts on.
  absl::StatusOr<Prompt> EncodePrompt(const DataRow& row, UnknownTokens* unknown = nullptr) const;

  // Tokens and loss mask. train_on_prompt: the loss covers the prompt too. Rows with `text` are trained on as a whole.
  absl::StatusOr<TrainSequence> EncodeExample(const DataRow& row, bool train_on_prompt, UnknownTokens* unknown = nullptr) const;

 private:
  PromptEncoder(ChatTemplate chat_template, std::string system, bool add_bos, std::shared_ptr<const Tokenizer> tokenizer)
      : template_(std::move(chat_template)), system_(std::move(system)), add_bos_(add_bos), tokenizer_(std::move(tokenizer)) {}
  std::vector<ChatMessage> Messages(const std::vector<ChatTurn>& turns) const;
  // `text` is that of the row, with what the template puts around it.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, const DataRow& row, const std::vector<ChatTurn>& turns, UnknownTokens* unknown) const;

  ChatTemplate template_;
  std::string system_;
  bool add_bos_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace grouper
