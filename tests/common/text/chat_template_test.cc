#include "common/text/chat_template.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

using Messages = std::vector<ChatMessage>;

ChatTemplate Make(absl::string_view name, absl::string_view text = "", absl::string_view prefill = "") {
  TemplateTokens tokens;
  tokens.eos_token = "</s>";
  auto made = ChatTemplate::Create(name, text, prefill, tokens);
  EXPECT_TRUE(made.ok()) << made.status();
  return *made;
}

std::string Joined(const std::vector<TextSegment>& segments, bool loss_only) {
  std::string out;
  for (const TextSegment& segment : segments) {
    if (segment.in_loss || !loss_only) out += segment.text;
  }
  return out;
}

TEST(ChatTemplateTest, PlainIsTheQuestionAlone) {
  const auto prompt = Make("plain").RenderPrompt({{"user", "12+34="}});
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(prompt->prompt_text, "12+34=");
  EXPECT_EQ(prompt->completion_prefill, "");
}

TEST(ChatTemplateTest, R1ZeroIsThePapersPrompt) {
  const auto prompt = Make("r1_zero", "", " <think>").RenderPrompt({{"user", "What is 1+1?"}});
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(prompt->prompt_text,
            "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first thinks about "
            "the reasoning process in the mind and then provides the user with the answer. The reasoning process and answer are enclosed within "
            "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here "
            "</answer>. User: What is 1+1?. Assistant:");
  EXPECT_EQ(prompt->completion_prefill, " <think>");
}

TEST(ChatTemplateTest, ChatMlHasATurnForEachMessage) {
  const auto prompt = Make("chatml").RenderPrompt({{"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello"}, {"user", "2+2?"}});
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(prompt->prompt_text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, CustomPutsTheQuestionInEveryPlace) {
  const auto prompt = Make("custom", "Q: {question}\nAgain: {question}\nA:").RenderPrompt({{"user", "why {question}?"}});
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(prompt->prompt_text, "Q: why {question}?\nAgain: why {question}?\nA:");
}

TEST(ChatTemplateTest, TrainingIsOnTheAssistantsTurnsAndTheirEndTokens) {
  const Messages messages = {{"user", "Hi"}, {"assistant", "Hello"}, {"user", "2+2?"}, {"assistant", "4"}};
  const auto segments = Make("chatml").RenderTraining(messages);
  ASSERT_TRUE(segments.ok());
  EXPECT_EQ(Joined(*segments, false),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
            "<|im_start|>assistant\n4<|im_end|>\n");
  EXPECT_EQ(Joined(*segments, true), "Hello<|im_end|>4<|im_end|>");
}

TEST(ChatTemplateTest, TrainingTextBeginsAsThePromptDoes) {
  for (const char* name : {"plain", "r1_zero", "chatml"}) {
    const ChatTemplate chat = Make(name, "", "<think>\n");
    const auto prompt = chat.RenderPrompt({{"user", "Q"}});
    const auto segments = chat.RenderTraining({{"user", "Q"}, {"assistant", "<think>\nsteps</think>4"}});
    ASSERT_TRUE(prompt.ok() && segments.ok());
    const std::string end = std::string(name) == "chatml" ? "<|im_end|>" : "</s>";
    EXPECT_THAT(Joined(*segments, false), testing::StartsWith(prompt->prompt_text + prompt->completion_prefill));
    EXPECT_EQ(Joined(*segments, true), "steps</think>4" + end) << "the prefill is not learnt";
  }
}

constexpr char kTurns[] = R"({% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %})";

TEST(ChatTemplateTest, TheTokenizersOwnTemplateRendersPromptsAndTrainingText) {
  const ChatTemplate chat = Make("tokenizer", kTurns, "<think>");
  const auto prompt = chat.RenderPrompt({{"system", "s"}, {"user", "u"}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->prompt_text, "<system>s</s><user>u</s><assistant>");
  EXPECT_EQ(prompt->completion_prefill, "<think>");
  const auto segments = chat.RenderTraining({{"user", "u"}, {"assistant", "<think>a"}, {"user", "v"}, {"assistant", "b"}});
  ASSERT_TRUE(segments.ok()) << segments.status();
  EXPECT_EQ(Joined(*segments, false), "<user>u</s><assistant><think>a</s><user>v</s><assistant>b</s>");
  EXPECT_EQ(Joined(*segments, true), "a</s>b</s>");
}

TEST(ChatTemplateTest, ATemplateThatRewritesEarlierTurnsCannotMarkTheAssistants) {
  const ChatTemplate chat = Make("tokenizer", "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}");
  EXPECT_THAT(std::string(chat.RenderTraining({{"user", "u"}, {"assistant", "a"}}).status().message()), testing::HasSubstr("choose another template"));
}

TEST(ChatTemplateTest, ATemplateOutsideTheSubsetSaysHowToGiveAnother) {
  const auto made = ChatTemplate::Create("tokenizer", "{% include x() %}{% endinclude %}", "", {});
  EXPECT_THAT(std::string(made.status().message()), testing::AllOf(testing::HasSubstr("{% include %}"), testing::HasSubstr("\"custom\"")));
}

TEST(ChatTemplateTest, WhatATemplateCannotSayIsAnError) {
  struct Row {
    const char* name;
    Messages messages;
    const char* error;
  };
  const Row rows[] = {
      {"plain", {}, "no messages"},
      {"plain", {{"tool", "x"}}, "messages[0].role"},
      {"plain", {{"user", "a"}, {"assistant", "b"}}, "expected the user's"},
      {"plain", {{"system", "s"}, {"user", "a"}}, "no system message"},
      {"r1_zero", {{"user", "a"}, {"assistant", "b"}, {"user", "c"}}, "no earlier turns"},
  };
  for (const Row& row : rows) {
    EXPECT_THAT(std::string(Make(row.name).RenderPrompt(row.messages).status().message()), testing::HasSubstr(row.error)) << row.name;
  }
  EXPECT_THAT(std::string(ChatTemplate::Create("alpaca", "", "", {}).status().message()), testing::HasSubstr("expected plain, r1_zero"));
  EXPECT_THAT(std::string(ChatTemplate::Create("custom", "no place", "", {}).status().message()), testing::HasSubstr("{question}"));
  EXPECT_THAT(std::string(ChatTemplate::Create("tokenizer", "", "", {}).status().message()), testing::HasSubstr("no chat_template"));
}

}  // namespace
}  // namespace grouper
