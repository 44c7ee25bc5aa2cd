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
  // Errors name the row's source.
  absl::StatusOr<Prompt> EncodePrompt(const DataRow& row) const;

  // Tokens and loss mask. train_on_prompt: the loss covers the prompt too. Rows with `text` are trained on as a whole.
  absl::StatusOr<TrainSequence> EncodeExample(const DataRow& row, bool train_on_prompt) const;

 private:
  PromptEncoder(ChatTemplate chat_template, std::string system, bool add_bos, std::shared_ptr<const Tokenizer> tokenizer)
      : template_(std::move(chat_template)), system_(std::move(system)), add_bos_(add_bos), tokenizer_(std::move(tokenizer)) {}
  std::vector<ChatMessage> Messages(const std::vector<ChatTurn>& turns) const;

  ChatTemplate template_;
  std::string system_;
  bool add_bos_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace grouper
