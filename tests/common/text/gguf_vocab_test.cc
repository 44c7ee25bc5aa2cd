#include "common/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/common/text/text_world.h"

namespace grouper {
namespace {

// The golden byte-level vocabulary as a GGUF file holds it.
GgufVocab ByteVocab(const std::string& pre) {
  const json::Json& model = Golden()["models"]["byte_bpe"];
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = pre;
  vocab.tokens.resize(model["vocab"].size());
  for (const auto& [token, id] : model["vocab"].items()) vocab.tokens[id.get<size_t>()] = token;
  for (const json::Json& merge : model["merges"]) vocab.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  vocab.token_types.assign(vocab.tokens.size(), 1);
  for (const char* special : {"<s>", "</s>"}) {
    vocab.tokens.push_back(special);
    vocab.token_types.push_back(3);
  }
  vocab.bos_id = static_cast<int32_t>(vocab.tokens.size()) - 2;
  vocab.eos_id = static_cast<int32_t>(vocab.tokens.size()) - 1;
  vocab.add_bos = true;
  vocab.chat_template = "{{ messages[0]['content'] }}";
  return vocab;
}

TEST(GgufVocabTest, EncodesAsTheTokenizerJsonItWasMadeFrom) {
  const std::pair<const char*, const char*> rows[] = {{"gpt-2", "gpt2"}, {"smollm", "smollm2"}, {"llama-bpe", "llama3"}, {"qwen2", "qwen2"}, {"deepseek-v3", "deepseek3"}};
  for (const auto& [pre, golden_case] : rows) {
    const auto tokenizer = Tokenizer::FromGgufVocab(ByteVocab(pre), "model.gguf");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const std::shared_ptr<const Tokenizer> golden = GoldenTokenizer(golden_case);
    for (const json::Json& text : Golden()["texts"]) {
      const std::string s = text.get<std::string>();
      if (s.find("qux") != std::string::npos || s.find("<l>") != std::string::npos || s.find("Hello World") != std::string::npos) continue;
      EXPECT_EQ((*tokenizer)->Encode(s), golden->Encode(s)) << pre << " " << s;
      EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode(s), true), golden->Decode(golden->Encode(s), true));
    }
  }
}

TEST(GgufVocabTest, KnowsItsSpecialTokensAndTemplate) {
  const GgufVocab vocab = ByteVocab("smollm");
  const auto tokenizer = Tokenizer::FromGgufVocab(vocab, "model.gguf");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_id(), vocab.bos_id);
  EXPECT_EQ((*tokenizer)->eos_id(), vocab.eos_id);
  EXPECT_EQ((*tokenizer)->chat_template(), vocab.chat_template);
  EXPECT_TRUE((*tokenizer)->IsSpecial(vocab.eos_id));
  EXPECT_EQ((*tokenizer)->Encode("a", true, true).front(), vocab.bos_id);
  const auto again = Tokenizer::FromJson((*tokenizer)->ToJson(), "exported", (*tokenizer)->TokenizerConfigJson());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->Encode("the <s> cat"), (*tokenizer)->Encode("the <s> cat"));
  EXPECT_EQ((*again)->chat_template(), vocab.chat_template);
}

TEST(GgufVocabTest, SentencePieceMergesFollowFromTheScores) {
  GgufVocab vocab;
  vocab.model = "llama";
  vocab.tokens = {"<unk>", "<s>", "</s>"};
  vocab.token_types = {2, 3, 3};
  vocab.scores = {0, 0, 0};
  const char* const kHex = "0123456789ABCDEF";
  for (int b = 0; b < 256; ++b) {
    vocab.tokens.push_back(std::string("<0x") + kHex[b / 16] + kHex[b % 16] + ">");
    vocab.token_types.push_back(6);
    vocab.scores.push_back(0);
  }
  float score = 0;
  for (const char* piece : {"▁t", "he", "▁the", "in", "▁", "t", "h", "e", "i", "n"}) {
    vocab.tokens.push_back(piece);
    vocab.token_types.push_back(1);
    vocab.scores.push_back(score -= 1);
  }
  vocab.unk_id = 0;
  vocab.bos_id = 1;
  vocab.eos_id = 2;
  const auto tokenizer = Tokenizer::FromGgufVocab(vocab, "model.gguf");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto tokens = [&](const char* text) {
    std::vector<std::string> out;
    for (const int32_t id : (*tokenizer)->Encode(text)) out.emplace_back((*tokenizer)->Token(id));
    return out;
  };
  EXPECT_THAT(tokens("the thin"), testing::ElementsAre("▁the", "▁t", "h", "in"));
  EXPECT_THAT(tokens("é"), testing::ElementsAre("▁", "<0xC3>", "<0xA9>"));
  EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode("the thin é"), true), "the thin é");

  // And back: the same vocabulary, other scores of the same order.
  for (const bool prefix : {true, false}) {
    vocab.add_space_prefix = prefix;
    const auto first = Tokenizer::FromGgufVocab(vocab, "model.gguf");
    ASSERT_TRUE(first.ok()) << first.status();
    const auto exported = (*first)->ToGgufVocab(300);
    ASSERT_TRUE(exported.ok()) << exported.status();
    EXPECT_EQ(exported->model, "llama");
    EXPECT_EQ(exported->add_space_prefix, prefix);
    EXPECT_EQ(exported->tokens.size(), 300u);
    EXPECT_TRUE(std::equal(vocab.token_types.begin(), vocab.token_types.end(), exported->token_types.begin()));
    const auto second = Tokenizer::FromGgufVocab(*exported, "again.gguf");
    ASSERT_TRUE(second.ok()) << second.status();
    for (const char* text : {"the thin é", "  ttheinn", "<s>the<unk>"}) EXPECT_EQ((*second)->Encode(text), (*first)->Encode(text)) << text;
  }
}

TEST(GgufVocabTest, EveryNameOfASplitComesBack) {
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "deepseek-llm", "deepseek-coder", "deepseek-v3", "kimi-k2"}) {
    const auto tokenizer = Tokenizer::FromGgufVocab(ByteVocab(pre), "model.gguf");
    ASSERT_TRUE(tokenizer.ok()) << pre << " " << tokenizer.status();
    const auto exported = (*tokenizer)->ToGgufVocab((*tokenizer)->vocab_size());
    ASSERT_TRUE(exported.ok()) << pre << " " << exported.status();
    EXPECT_EQ(exported->pre, pre);
  }
}

TEST(GgufVocabTest, MergesThatScoresCannotSayAreRefused) {
  const char* const json = R"({"version":"1.0","added_tokens":[],"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"\u2581"},"pre_tokenizer":null,
      "post_processor":null,"decoder":null,"model":{"type":"BPE","unk_token":"a","fuse_unk":true,"byte_fallback":true,
      "vocab":{"a":0,"b":1,"c":2,"ab":3,"bc":4,"abc":5},"merges":[["a","b"],["b","c"],["ab","c"]]}})";
  const auto tokenizer = Tokenizer::FromJson(json, "t.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->ToGgufVocab(6).status().code(), absl::StatusCode::kUnimplemented);  // a + bc is no merge there
}

TEST(GgufVocabTest, DamagedVocabulariesAreErrorsThatNameTheKey) {
  const auto error = [](const std::function<void(GgufVocab&)>& damage) {
    GgufVocab vocab = ByteVocab("gpt-2");
    damage(vocab);
    const auto loaded = Tokenizer::FromGgufVocab(vocab, "model.gguf");
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(loaded.status().message());
  };
  using testing::HasSubstr;
  EXPECT_THAT(error([](GgufVocab& v) { v.tokens.clear(); }), HasSubstr("tokenizer.ggml.tokens: empty"));
  EXPECT_THAT(error([](GgufVocab& v) { v.token_types.pop_back(); }), HasSubstr("tokenizer.ggml.token_type"));
  EXPECT_THAT(error([](GgufVocab& v) { v.scores = {1.0f}; }), HasSubstr("tokenizer.ggml.scores"));
  EXPECT_THAT(error([](GgufVocab& v) { v.pre = "made-up"; }), HasSubstr("tokenizer.ggml.pre: \"made-up\""));
  EXPECT_THAT(error([](GgufVocab& v) { v.model = "bert"; }), HasSubstr("tokenizer.ggml.model: \"bert\""));
  EXPECT_THAT(error([](GgufVocab& v) { v.model = "llama"; }), HasSubstr("tokenizer.ggml.scores: missing"));
  EXPECT_THAT(error([](GgufVocab& v) { v.bos_id = 5000; }), HasSubstr("tokenizer.ggml.bos_token_id"));
  EXPECT_THAT(error([](GgufVocab& v) { v.tokens[3] = "\xFF"; }), HasSubstr("tokenizer.ggml.tokens: token 3 is not UTF-8"));
  EXPECT_THAT(error([](GgufVocab& v) { v.tokens[3] = v.tokens[4]; }), HasSubstr("model.gguf"));
  EXPECT_THAT(error([](GgufVocab& v) { v.merges[2] = "ab"; }), HasSubstr("tokenizer.ggml.merges: merge 2"));
  EXPECT_THAT(error([](GgufVocab& v) { v.merges[2] = "Q Z"; }), HasSubstr("\"QZ\" is not in model.vocab"));
  EXPECT_THAT(error([](GgufVocab& v) { v.chat_template = "\xC3"; }), HasSubstr("tokenizer.chat_template"));
}

}  // namespace
}  // namespace grouper
