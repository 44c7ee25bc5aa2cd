#include "trainer/prompt_encoder.h"

#include "common/base/status.h"

namespace grouper {

absl::StatusOr<PromptEncoder> PromptEncoder::Create(const v1::PromptTemplate& config, std::shared_ptr<const Tokenizer> tokenizer) {
  if (config.add_bos() && !tokenizer->bos_id()) {
    return absl::InvalidArgumentError("prompt.add_bos: the tokenizer has no bos token");
  }
  auto token = [&](std::optional<int32_t> id) { return std::string(id ? tokenizer->Token(*id) : ""); };
  TemplateTokens tokens;
  tokens.bos_token = token(tokenizer->bos_id());
  tokens.eos_token = token(tokenizer->eos_id());
  tokens.pad_token = token(tokenizer->pad_id());
  tokens.unk_token = token(tokenizer->unk_id());
  const std::string text = config.template_() == "tokenizer" ? tokenizer->chat_template() : config.text();
  if (config.template_() == "tokenizer" && text.empty()) {
    return absl::InvalidArgumentError("prompt.template: \"tokenizer\", but the tokenizer has no chat_template; expected chatml, r1_zero, plain or custom");
  }
  ASSIGN_OR_RETURN(ChatTemplate chat_template,
                   Annotate(ChatTemplate::Create(config.template_(), text, config.prefill(), tokens), "prompt"));
  return PromptEncoder(std::move(chat_template), config.system(), config.add_bos(), std::move(tokenizer));
}

std::vector<ChatMessage> PromptEncoder::Messages(const std::vector<ChatTurn>& turns) const {
  std::vector<ChatMessage> messages;
  if (!system_.empty() && (turns.empty() || turns[0].role != "system")) messages.push_back({"system", system_});
  for (const ChatTurn& turn : turns) messages.push_back({turn.role, turn.content});
  return messages;
}

absl::StatusOr<PromptEncoder::Prompt> PromptEncoder::EncodePrompt(const DataRow& row) const {
  ASSIGN_OR_RETURN(const std::vector<ChatTurn> turns, PromptTurns(row));
  ASSIGN_OR_RETURN(RenderedPrompt rendered, Annotate(template_.RenderPrompt(Messages(turns)), row.source));
  Prompt prompt;
  if (add_bos_) prompt.token_ids.push_back(*tokenizer_->bos_id());
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Annotate(tokenizer_->TryEncode(rendered.prompt_text + rendered.completion_prefill), row.source));
  prompt.token_ids.insert(prompt.token_ids.end(), ids.begin(), ids.end());
  prompt.text = std::move(rendered.prompt_text);
  prompt.prefill = std::move(rendered.completion_prefill);
  if (prompt.token_ids.empty()) return absl::InvalidArgumentError(absl::StrCat(row.source, ": the prompt has no tokens"));
  return prompt;
}

absl::StatusOr<TrainSequence> PromptEncoder::EncodeExample(const DataRow& row, bool train_on_prompt) const {
  TrainSequence example;
  std::vector<TextSegment> segments;
  if (json::Has(row.columns, "text")) {
    segments.push_back({row.columns["text"].get<std::string>(), true});
  } else {
    ASSIGN_OR_RETURN(const std::vector<ChatTurn> turns, AllTurns(row));
    ASSIGN_OR_RETURN(segments, Annotate(template_.RenderTraining(Messages(turns)), row.source));
  }
  if (add_bos_) {
    example.token_ids.push_back(*tokenizer_->bos_id());
    example.trained.push_back(0);
  }
  for (const TextSegment& segment : segments) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Annotate(tokenizer_->TryEncode(segment.text), row.source));
    for (int32_t id : ids) {
      example.token_ids.push_back(id);
      example.trained.push_back(segment.in_loss || train_on_prompt);
    }
  }
  if (!example.trained.empty()) example.trained[0] = 0;  // nothing predicts the first token
  if (example.num_trained() == 0) return absl::InvalidArgumentError(absl::StrCat(row.source, ": no token to train on"));
  return example;
}

}  // namespace grouper
