#include "trainer/prompt_encoder.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/log.h"
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

void UnknownTokens::Warn(absl::string_view what) const {
  if (unknown == 0) return;
  LOG(WARNING) << what << ": " << unknown << " of " << tokens << " tokens ("
               << absl::StrFormat("%.3g%%", 100.0 * static_cast<double>(unknown) / static_cast<double>(tokens))
               << ") are the unknown token: the tokenizer has none for the text that stands there, first in " << first;
}

absl::StatusOr<std::vector<int32_t>> PromptEncoder::Encode(absl::string_view text, const DataRow& row, const std::vector<ChatTurn>& turns,
                                                           UnknownTokens* unknown) const {
  int64_t here = 0;
  absl::StatusOr<std::vector<int32_t>> ids = tokenizer_->TryEncode(text, /*parse_special=*/true, &here);
  if (ids.ok()) {
    if (unknown == nullptr) return ids;
    unknown->tokens += static_cast<int64_t>(ids->size());
    unknown->unknown += here;
    if (here > 0 && unknown->first.empty()) unknown->first = row.source;
    return ids;
  }
  // The row's own text, or what the recipe puts around it?
  for (const ChatTurn& turn : turns) RETURN_IF_ERROR(Annotate(tokenizer_->TryEncode(turn.content).status(), row.source));
  return Annotate(ids.status(), absl::StrCat(row.source, turns.empty() ? "" : ": what prompt's template, system and prefill put around the text"));
}

absl::StatusOr<PromptEncoder::Prompt> PromptEncoder::EncodePrompt(const DataRow& row, UnknownTokens* unknown) const {
  ASSIGN_OR_RETURN(const std::vector<ChatTurn> turns, PromptTurns(row));
  ASSIGN_OR_RETURN(RenderedPrompt rendered, Annotate(template_.RenderPrompt(Messages(turns)), row.source));
  Prompt prompt;
  if (add_bos_) prompt.token_ids.push_back(*tokenizer_->bos_id());
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(rendered.prompt_text + rendered.completion_prefill, row, turns, unknown));
  prompt.token_ids.insert(prompt.token_ids.end(), ids.begin(), ids.end());
  prompt.text = std::move(rendered.prompt_text);
  prompt.prefill = std::move(rendered.completion_prefill);
  if (prompt.token_ids.empty()) return absl::InvalidArgumentError(absl::StrCat(row.source, ": the prompt has no tokens"));
  return prompt;
}

absl::StatusOr<TrainSequence> PromptEncoder::EncodeExample(const DataRow& row, bool train_on_prompt, UnknownTokens* unknown) const {
  TrainSequence example;
  std::vector<TextSegment> segments;
  std::vector<ChatTurn> turns;
  if (json::Has(row.columns, "text")) {
    segments.push_back({row.columns["text"].get<std::string>(), true});
  } else {
    ASSIGN_OR_RETURN(turns, AllTurns(row));
    ASSIGN_OR_RETURN(segments, Annotate(template_.RenderTraining(Messages(turns)), row.source));
  }
  if (add_bos_) {
    example.token_ids.push_back(*tokenizer_->bos_id());
    example.trained.push_back(0);
  }
  for (const TextSegment& segment : segments) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(segment.text, row, turns, unknown));
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
