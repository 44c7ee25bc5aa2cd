#include "trainer/prompt_encoder.h"

#include "common/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const Tokenizer> Characters() {
  auto tokenizer = Tokenizer::FromDirectory(std::string(GROUPER_SOURCE_DIR) + "/recipes/quickstart");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

PromptEncoder MakeEncoder(const std::string& name, bool add_bos, const std::string& prefill = "", const std::string& text = "") {
  v1::PromptTemplate config;
  config.set_template_(name);
  config.set_add_bos(add_bos);
  config.set_prefill(prefill);
  config.set_text(text);
  auto encoder = PromptEncoder::Create(config, Characters());
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  return *std::move(encoder);
}

DataRow Row(const std::string& text) {
  DataRow row{*json::Parse(text), "rows.jsonl:7"};
  EXPECT_TRUE(CanonicaliseRow({}, row).ok());
  return row;
}

// The tokens as text, those in the loss in brackets.
std::string Show(const TrainSequence& s) {
  const auto tokenizer = Characters();
  std::string shown;
  for (size_t i = 0; i < s.token_ids.size(); ++i) {
    const std::string token(tokenizer->Token(s.token_ids[i]));
    shown += s.trained[i] ? "[" + token + "]" : token;
  }
  return shown;
}

TEST(PromptEncoderTest, ThePromptIsBosTemplateAndPrefill) {
  const auto prompt = MakeEncoder("plain", true, "<think>").EncodePrompt(Row(R"({"prompt": "1+2=", "answer": "3"})"));
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  TrainSequence shown;
  shown.token_ids = prompt->token_ids;
  shown.trained.assign(prompt->token_ids.size(), 0);
  EXPECT_EQ(Show(shown), "<bos>1+2=<think>");
  EXPECT_EQ(prompt->text, "1+2=");
  EXPECT_EQ(prompt->prefill, "<think>");
}

TEST(PromptEncoderTest, TheLossCoversTheCompletionOnly) {
  const auto example = MakeEncoder("plain", true).EncodeExample(Row(R"({"prompt": "1+2=", "completion": "3"})"), false);
  ASSERT_TRUE(example.ok()) << example.status();
  EXPECT_EQ(Show(*example), "<bos>1+2=[3][<eos>]");
}

TEST(PromptEncoderTest, TrainOnPromptCoversTheRestButTheFirstToken) {
  const auto example = MakeEncoder("plain", true).EncodeExample(Row(R"({"prompt": "1+", "completion": "3"})"), true);
  ASSERT_TRUE(example.ok()) << example.status();
  EXPECT_EQ(Show(*example), "<bos>[1][+][3][<eos>]");
  const auto without_bos = MakeEncoder("plain", false).EncodeExample(Row(R"({"prompt": "1+", "completion": "3"})"), true);
  EXPECT_EQ(Show(*without_bos), "1[+][3][<eos>]");
}

TEST(PromptEncoderTest, ATextRowIsTrainedOnAsAWhole) {
  const auto example = MakeEncoder("plain", false).EncodeExample(Row(R"({"text": "1+2"})"), false);
  ASSERT_TRUE(example.ok()) << example.status();
  EXPECT_EQ(Show(*example), "1[+][2]");
}

TEST(PromptEncoderTest, ErrorsNameTheRow) {
  const PromptEncoder encoder = MakeEncoder("plain", false);
  EXPECT_THAT(std::string(encoder.EncodeExample(Row(R"({"text": "1"})"), false).status().message()), HasSubstr("rows.jsonl:7"));
  EXPECT_THAT(std::string(encoder.EncodePrompt(Row(R"({"prompt": "", "answer": "1"})")).status().message()), HasSubstr("rows.jsonl:7"));
  EXPECT_THAT(std::string(encoder.EncodeExample(Row(R"({"prompt": "1", "answer": "1"})"), false).status().message()), HasSubstr("rows.jsonl:7"));
}

TEST(PromptEncoderTest, ATemplateThatTheTokenizerLacksIsNamed) {
  v1::PromptTemplate config;
  config.set_template_("tokenizer");
  EXPECT_THAT(std::string(PromptEncoder::Create(config, Characters()).status().message()), HasSubstr("prompt.template"));
}

TEST(PromptEncoderTest, TextThatTheVocabularyCannotSayIsAnErrorOfTheRow) {
  const PromptEncoder plain = MakeEncoder("plain", true);
  EXPECT_THAT(std::string(plain.EncodeExample(Row(R"({"prompt": "1+2=", "completion": "forty two"})"), false).status().message()),
              HasSubstr("rows.jsonl:7: the tokenizer has no token for \"f\", \"o\", \"r\", \"t\", \"y\", \"w\" (its unknown token is <pad>"));
  EXPECT_THAT(std::string(plain.EncodeExample(Row(R"({"prompt": "日本", "completion": "1"})"), false).status().message()),
              HasSubstr("rows.jsonl:7: the tokenizer has no token for \"日\", \"本\""));
  EXPECT_THAT(std::string(plain.EncodeExample(Row(R"({"text": "1\n"})"), false).status().message()),
              HasSubstr("rows.jsonl:7: the tokenizer has no token for \"\\n\""));
  EXPECT_THAT(std::string(plain.EncodePrompt(Row(R"({"prompt": "a+2="})")).status().message()), HasSubstr("rows.jsonl:7: the tokenizer has no token for \"a\""));
}

TEST(PromptEncoderTest, WhatTheTemplateAddsIsNotTheRowsFault) {
  const PromptEncoder custom = MakeEncoder("custom", false, "", "Q: {question}");
  EXPECT_THAT(std::string(custom.EncodePrompt(Row(R"({"prompt": "1+2="})")).status().message()),
              HasSubstr("rows.jsonl:7: what prompt's template, system and prefill put around the text: the tokenizer has no token for \"Q\""));
  EXPECT_THAT(std::string(custom.EncodePrompt(Row(R"({"prompt": "x"})")).status().message()), HasSubstr("rows.jsonl:7: the tokenizer has no token for \"x\""));
}

TEST(PromptEncoderTest, UnknownTokensOfTheirOwnAreCountedWithTheFirstRow) {
  const auto tokenizer = Tokenizer::FromJson(R"({"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,
    "decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"one":1},"unk_token":"[UNK]"}})", "words");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  v1::PromptTemplate config;
  config.set_template_("plain");
  const auto encoder = PromptEncoder::Create(config, *tokenizer);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  UnknownTokens unknown;
  for (const char* prompt : {"one one", "one three", "four"}) {
    DataRow row{{{"prompt", prompt}}, prompt};
    ASSERT_TRUE(encoder->EncodePrompt(row, &unknown).ok());
  }
  EXPECT_EQ(unknown.tokens, 5);
  EXPECT_EQ(unknown.unknown, 2);
  EXPECT_EQ(unknown.first, "one three");
  ::testing::internal::CaptureStderr();
  UnknownTokens{.tokens = 8, .unknown = 0, .first = ""}.Warn("none.jsonl");
  unknown.Warn("train.jsonl");
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("train.jsonl: 2 of 5 tokens (40%) are the unknown token"));
  EXPECT_THAT(said, HasSubstr("first in one three"));
  EXPECT_THAT(said, ::testing::Not(HasSubstr("none.jsonl")));
}

}  // namespace
}  // namespace grouper
