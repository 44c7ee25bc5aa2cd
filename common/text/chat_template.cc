#include "common/text/chat_template.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "common/text/jinja.h"

namespace grouper {
namespace {

constexpr char kQuestion[] = "{question}";

// DeepSeek-R1-Zero's, word for word (arXiv:2501.12948, table 1).
constexpr char kR1Zero[] =
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first thinks about the "
    "reasoning process in the mind and then provides the user with the answer. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here "
    "</answer>. User: {question}. Assistant:";

absl::Status CheckMessages(const std::vector<ChatMessage>& messages, absl::string_view last_role) {
  if (messages.empty()) return absl::InvalidArgumentError("no messages");
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].role: \"", role, "\"; expected system, user or assistant"));
    }
  }
  if (messages.back().role != last_role) {
    return absl::InvalidArgumentError(absl::StrCat("the last message is the ", messages.back().role, "'s; expected the ", last_role, "'s"));
  }
  return absl::OkStatus();
}

// The assistant's turn: what the template fixes is not learnt.
void AppendCompletion(const std::string& content, const std::string& prefill, const std::string& end, std::vector<TextSegment>* segments) {
  size_t fixed = 0;
  if (!prefill.empty() && absl::StartsWith(content, prefill)) {
    fixed = prefill.size();
    segments->push_back({prefill, false});
  }
  segments->push_back({absl::StrCat(absl::string_view(content).substr(fixed), end), true});
}

std::string ChatMlTurn(const ChatMessage& message) {
  return absl::StrCat("<|im_start|>", message.role, "\n", message.content, "<|im_end|>\n");
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Create(absl::string_view name, absl::string_view text, absl::string_view prefill,
                                                  const TemplateTokens& tokens) {
  ChatTemplate out;
  out.name_ = std::string(name);
  out.prefill_ = std::string(prefill);
  out.tokens_ = tokens;
  if (name == "plain") {
    out.text_ = kQuestion;
  } else if (name == "r1_zero") {
    out.text_ = kR1Zero;
  } else if (name == "custom") {
    out.text_ = std::string(text);
    if (!absl::StrContains(text, kQuestion)) return absl::InvalidArgumentError("custom template: no {question} in it");
  } else if (name == "tokenizer") {
    if (text.empty()) return absl::InvalidArgumentError("the tokenizer has no chat_template; choose another template");
    ASSIGN_OR_RETURN(out.jinja_, Annotate(JinjaTemplate::Parse(text),
                                          "chat_template (choose another template, or \"custom\" with a text of your own)"));
  } else if (name != "chatml") {
    return absl::InvalidArgumentError(
        absl::StrCat("template \"", name, "\"; expected plain, r1_zero, chatml, custom or tokenizer"));
  }
  return out;
}

absl::StatusOr<std::string> ChatTemplate::RenderQuestion(const std::vector<ChatMessage>& messages, size_t user) const {
  if (user != 0) {
    return absl::InvalidArgumentError(absl::StrCat("template \"", name_, "\" takes one question: no system message, no earlier turns"));
  }
  return absl::StrReplaceAll(text_, {{kQuestion, messages[0].content}});
}

absl::StatusOr<RenderedPrompt> ChatTemplate::RenderPrompt(const std::vector<ChatMessage>& messages) const {
  RETURN_IF_ERROR(CheckMessages(messages, "user"));
  RenderedPrompt out;
  out.completion_prefill = prefill_;
  if (jinja_ != nullptr) {
    ASSIGN_OR_RETURN(out.prompt_text, jinja_->RenderChat(messages, true, tokens_));
  } else if (name_ == "chatml") {
    for (const ChatMessage& message : messages) out.prompt_text += ChatMlTurn(message);
    out.prompt_text += "<|im_start|>assistant\n";
  } else {
    ASSIGN_OR_RETURN(out.prompt_text, RenderQuestion(messages, messages.size() - 1));
  }
  return out;
}

absl::StatusOr<std::vector<TextSegment>> ChatTemplate::RenderTraining(const std::vector<ChatMessage>& messages) const {
  RETURN_IF_ERROR(CheckMessages(messages, "assistant"));
  std::vector<TextSegment> segments;
  if (jinja_ != nullptr) {
    // The turn of the assistant is what the template adds to the conversation before it with the generation prompt.
    std::string done;
    for (size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].role != "assistant") continue;
      const std::vector<ChatMessage> before(messages.begin(), messages.begin() + i);
      const std::vector<ChatMessage> with(messages.begin(), messages.begin() + i + 1);
      ASSIGN_OR_RETURN(const std::string prompt, jinja_->RenderChat(before, true, tokens_));
      ASSIGN_OR_RETURN(const std::string whole, jinja_->RenderChat(with, false, tokens_));
      if (!absl::StartsWith(whole, prompt) || !absl::StartsWith(prompt, done)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "chat_template: its text for ", i + 1, " messages does not continue its text for the first ", i,
            ", so the assistant's turn cannot be told apart; choose another template (\"chatml\" or \"custom\")"));
      }
      segments.push_back({prompt.substr(done.size()), false});
      AppendCompletion(whole.substr(prompt.size()), prefill_, "", &segments);
      done = whole;
    }
    return segments;
  }
  if (name_ == "chatml") {
    std::string context;
    for (const ChatMessage& message : messages) {
      if (message.role != "assistant") {
        context += ChatMlTurn(message);
        continue;
      }
      segments.push_back({absl::StrCat(context, "<|im_start|>assistant\n"), false});
      AppendCompletion(message.content, prefill_, "<|im_end|>", &segments);
      context = "\n";
    }
    segments.push_back({context, false});
    return segments;
  }
  if (messages.size() < 2 || messages[messages.size() - 2].role != "user") {
    return absl::InvalidArgumentError("expected a user's message before the assistant's");
  }
  ASSIGN_OR_RETURN(std::string question, RenderQuestion(messages, messages.size() - 2));
  segments.push_back({std::move(question), false});
  AppendCompletion(messages.back().content, prefill_, tokens_.eos_token, &segments);
  return segments;
}

}  // namespace grouper
