// From a conversation to the text that the model continues, and to training segments with loss flags.
//
// Built-in templates:
//   plain    the last user message's content alone ("{question}")
//   r1_zero  DeepSeek-R1-Zero's (arXiv:2501.12948, table 1): "A conversation between User and Assistant. ... User: {question}. Assistant:"
//   chatml   "<|im_start|>role\ncontent<|im_end|>\n" for each message, then "<|im_start|>assistant\n"
//   custom   any text with {question}
//   tokenizer  the tokenizer's own chat_template (Jinja; jinja.h)
// A template may prefill the completion ("<think>\n"): the model sees prompt + prefill, the reward rules see prefill + completion.
// plain, r1_zero and custom have no place for a system message or earlier turns: the system message and earlier turns are errors there.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grouper {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct RenderedPrompt {
  std::string prompt_text;         // without the prefill
  std::string completion_prefill;  // the beginning of the completion, fixed by the template
};

struct TextSegment {
  std::string text;
  bool in_loss = false;
};

// The special tokens that a tokenizer's own template may name. Empty: the tokenizer has none.
struct TemplateTokens {
  std::string bos_token;
  std::string eos_token;
  std::string pad_token;
  std::string unk_token;
};

class JinjaTemplate;

// Immutable, thread-safe.
class ChatTemplate {
 public:
  // `name` as above; `text` is the custom template, or the Jinja source for "tokenizer". `eos_token` ends the assistant's turn in
  // plain, r1_zero and custom training text (chatml: <|im_end|>).
  static absl::StatusOr<ChatTemplate> Create(absl::string_view name, absl::string_view text, absl::string_view prefill,
                                             const TemplateTokens& tokens);

  // The messages must end with a user turn.
  absl::StatusOr<RenderedPrompt> RenderPrompt(const std::vector<ChatMessage>& messages) const;

  // Training text of a conversation that ends with an assistant turn: the assistant's contents and their end tokens are in the loss,
  // everything else (and the prefill, when a content begins with it) is not. The segments' concatenation is the whole text.
  absl::StatusOr<std::vector<TextSegment>> RenderTraining(const std::vector<ChatMessage>& messages) const;

  const std::string& name() const { return name_; }

 private:
  ChatTemplate() = default;
  absl::StatusOr<std::string> RenderQuestion(const std::vector<ChatMessage>& messages, size_t user) const;

  std::string name_;
  std::string text_;
  std::string prefill_;
  TemplateTokens tokens_;
  std::shared_ptr<const JinjaTemplate> jinja_;  // "tokenizer" only
};

}  // namespace grouper
