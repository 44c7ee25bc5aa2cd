#include "common/text/tokenizer.h"

#include <chrono>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/text/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/common/text/text_world.h"

namespace grouper {
namespace {

using Ids = std::vector<int32_t>;

std::vector<std::string> Texts() { return Golden()["texts"].get<std::vector<std::string>>(); }

TEST(TokenizerGoldenTest, EncodesAndDecodesAsHuggingFaceDoes) {
  const std::vector<std::string> texts = Texts();
  for (const json::Json& golden_case : Golden()["cases"]) {
    SCOPED_TRACE(golden_case["name"].get<std::string>());
    const auto tokenizer = Tokenizer::FromJson(GoldenTokenizerJson(golden_case), "golden");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (size_t i = 0; i < texts.size(); ++i) {
      const Ids expected = golden_case["ids"][i].get<Ids>();
      EXPECT_EQ((*tokenizer)->Encode(texts[i]), expected) << texts[i];
      EXPECT_EQ((*tokenizer)->Decode(expected, false), golden_case["decoded"][i].get<std::string>()) << texts[i];
      EXPECT_EQ((*tokenizer)->Decode(expected, true), golden_case["decoded_skipping"][i].get<std::string>()) << texts[i];
    }
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ((*tokenizer)->Encode(texts[13 + i], /*parse_special=*/false), golden_case["unparsed"][i].get<Ids>()) << texts[13 + i];
    }
    EXPECT_EQ((*tokenizer)->Encode(texts[2], true, /*add_special=*/true), golden_case["with_special"].get<Ids>());
  }
}

// Random ids, also such that no text gives.
Ids RandomIds(const Tokenizer& tokenizer, std::mt19937* random, int length) {
  Ids ids;
  for (int i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>((*random)() % (tokenizer.vocab_size() + 2)) - 1);
  return ids;
}

TEST(IncrementalDecoderTest, PiecesJoinToTheWholeTextAndEachIsValidUtf8) {
  std::mt19937 random(1);
  for (const json::Json& golden_case : Golden()["cases"]) {
    SCOPED_TRACE(golden_case["name"].get<std::string>());
    const std::shared_ptr<const Tokenizer> tokenizer = GoldenTokenizer(golden_case["name"].get<std::string>());
    for (int round = 0; round < 200; ++round) {
      const Ids ids = round % 2 == 0 ? RandomIds(*tokenizer, &random, 1 + round / 4) : tokenizer->Encode(Texts()[random() % Texts().size()]);
      for (const bool skip_special : {false, true}) {
        IncrementalDecoder decoder(tokenizer, skip_special);
        std::string joined;
        for (const int32_t id : ids) {
          const std::string piece = decoder.Add(id);
          EXPECT_TRUE(text::IsValidUtf8(piece));
          joined += piece;
        }
        joined += decoder.Flush();
        EXPECT_EQ(joined, tokenizer->Decode(ids, skip_special));
        EXPECT_TRUE(text::IsValidUtf8(joined));
      }
    }
  }
}

TEST(IncrementalDecoderTest, HoldsBackHalfACharacter) {
  const std::shared_ptr<const Tokenizer> tokenizer = GoldenTokenizer("gpt2");
  IncrementalDecoder decoder(tokenizer, false);
  const auto byte = [&](const char* token) { return *tokenizer->TokenId(token); };
  EXPECT_EQ(decoder.Add(byte("ð")), "");
  EXPECT_EQ(decoder.Add(byte("Ł")), "");
  EXPECT_EQ(decoder.Add(byte("ĳ")), "");
  EXPECT_EQ(decoder.Add(byte("į")), "\xF0\x9F\x91\x8D");  // thumbs up
  EXPECT_EQ(decoder.Add(byte("ð")), "");
  EXPECT_EQ(decoder.Add(byte("A")), "\xEF\xBF\xBD" "A");  // never completed
  EXPECT_EQ(decoder.Add(byte("ð")), "");
  EXPECT_EQ(decoder.Flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.Add(byte("A")), "A") << "as new after Flush";
}

TEST(TokenizerTest, InvalidUtf8IsReadAsReplacementCharacters) {
  const std::shared_ptr<const Tokenizer> tokenizer = GoldenTokenizer("smollm2");
  const std::pair<const char*, const char*> rows[] = {
      {"a\xFF" "b", "a\xEF\xBF\xBD" "b"},
      {"\xE4\xBD", "\xEF\xBF\xBD"},
      {"\xF0\x9F\x91x", "\xEF\xBF\xBDx"},
      {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},
      {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
      {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
  };
  for (const auto& [bad, repaired] : rows) EXPECT_EQ(tokenizer->Encode(bad), tokenizer->Encode(repaired)) << repaired;
}

TEST(TokenizerTest, TokensBytesAndSpecialsAreKnownById) {
  const std::shared_ptr<const Tokenizer> tokenizer = GoldenTokenizer("gpt2");
  const int32_t space = *tokenizer->TokenId("Ġ");
  EXPECT_EQ(tokenizer->Token(space), "Ġ");
  EXPECT_EQ(tokenizer->TokenBytes(space), " ");
  const int32_t bos = *tokenizer->TokenId("<s>");
  EXPECT_TRUE(tokenizer->IsSpecial(bos));
  EXPECT_FALSE(tokenizer->IsSpecial(space));
  EXPECT_EQ(tokenizer->bos_id(), bos) << "by its usual name";
  EXPECT_EQ(tokenizer->eos_id(), tokenizer->TokenId("</s>"));
  EXPECT_THAT(tokenizer->stop_ids(), testing::ElementsAre(*tokenizer->TokenId("</s>")));
  EXPECT_EQ(tokenizer->pad_id(), std::nullopt);
  EXPECT_EQ(tokenizer->TokenId("no such token"), std::nullopt);
  for (const int32_t id : {-1, tokenizer->vocab_size(), INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->Token(id), "");
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    EXPECT_EQ(tokenizer->Decode({&id, 1}, false), "");
  }
}

TEST(TokenizerTest, ByteTokensOfACharacterVocabularyStandForTheirByte) {
  const std::shared_ptr<const Tokenizer> tokenizer = GoldenTokenizer("llama2");
  EXPECT_EQ(tokenizer->TokenBytes(*tokenizer->TokenId("<0xE4>")), "\xE4");
  EXPECT_EQ(tokenizer->TokenBytes(*tokenizer->TokenId("▁the")), " the");
}

TEST(TokenizerTest, TryEncodeNamesTheCharacterWithoutAToken) {
  const char* const json = R"({"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"."},
    "behavior":"Isolated","invert":false},"post_processor":null,"decoder":{"type":"Fuse"},
    "model":{"type":"WordLevel","vocab":{"a":0,"b":1},"unk_token":"?"}})";
  const auto tokenizer = Tokenizer::FromJson(json, "characters");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->TryEncode("abba"), testing::ElementsAre(0, 1, 1, 0));
  const auto failed = (*tokenizer)->TryEncode("abéb");
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(failed.status().message()), testing::HasSubstr("the tokenizer has no token for \"é\""));
  EXPECT_THAT((*tokenizer)->Encode("abéb"), testing::ElementsAre(0, 1, 1));
}

// `model` with unknown token 0, which the configuration gives a role or not.
std::shared_ptr<const Tokenizer> WithUnknown(const std::string& model, const std::string& config, const std::string& pre_tokenizer = "null") {
  const auto tokenizer = Tokenizer::FromJson(R"({"version":"1.0","added_tokens":[{"id":0,"content":"<u>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":)" +
                                                 pre_tokenizer + R"(,"post_processor":null,"decoder":{"type":"Fuse"},"model":)" + model + "}",
                                             "t.json", config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

constexpr char kWords[] = R"({"type":"WordLevel","vocab":{"<u>":0,"one":1,"two":2},"unk_token":"<u>"})";
constexpr char kBpe[] = R"({"type":"BPE","vocab":{"<u>":0,"a":1,"b":2,"ab":3},"merges":["a b"],"unk_token":"<u>"})";
constexpr char kUnigram[] = R"({"type":"Unigram","vocab":[["<u>",0.0],["a",-1.0],["b",-1.0]],"unk_id":0})";

TEST(TokenizerTest, AnUnknownTokenThatMeansSomethingElseIsAnError) {
  const struct {
    const char* model;
    const char* pre_tokenizer;
    const char* good;
    const char* bad;
    const char* missing;
  } cases[] = {
      {kWords, R"({"type":"WhitespaceSplit"})", "one two", "one three two\u00e9 three", "\"three\", \"two\u00e9\""},
      {kBpe, "null", "abba", "ab\u65e5cb\u65e5", "\"\u65e5\", \"c\""},
      {kUnigram, "null", "abba", "ab\u65e5cb\u65e5", "\"\u65e5\", \"c\""},
      {kBpe, "null", "ab", "a\nb", "\"\\n\""},
      {kBpe, "null", "ab", "0123456789cd", "\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\", ..."},
  };
  for (const auto& c : cases) {
    for (const char* config : {R"({"pad_token":"<u>"})", R"({"eos_token":"<u>"})", R"({"bos_token":"<u>"})"}) {
      const auto tokenizer = WithUnknown(c.model, config, c.pre_tokenizer);
      int64_t unknown = 0;
      EXPECT_TRUE(tokenizer->TryEncode(c.good, true, &unknown).ok()) << tokenizer->TryEncode(c.good).status();
      EXPECT_TRUE(tokenizer->TryEncode(std::string(c.good) + "<u>").ok()) << "written out it is what somebody wrote";
      EXPECT_EQ(tokenizer->TryEncode(c.bad, true, &unknown).status().message(),
                absl::StrCat("the tokenizer has no token for ", c.missing, " (its unknown token is <u>, which means something else)"));
      EXPECT_EQ(unknown, 0);
    }
  }
}

TEST(TokenizerTest, AnUnknownTokenOfItsOwnIsCounted) {
  const std::pair<const char*, const char*> cases[] = {{kWords, R"({"type":"WhitespaceSplit"})"}, {kBpe, "null"}, {kUnigram, "null"}};
  for (const auto& [model, pre_tokenizer] : cases) {
    for (const char* config : {R"({"unk_token":"<u>"})", "{}"}) {
      const auto tokenizer = WithUnknown(model, config, pre_tokenizer);
      EXPECT_EQ(tokenizer->model_unk_id(), 0);
      int64_t unknown = 0;
      for (int round = 1; round <= 2; ++round) {  // the second comes from what was kept of the first
        const auto ids = tokenizer->TryEncode("\u65e5", true, &unknown);
        ASSERT_TRUE(ids.ok()) << ids.status();
        EXPECT_THAT(*ids, testing::ElementsAre(0));
        EXPECT_EQ(unknown, round);
      }
    }
  }
}

TEST(TokenizerTest, ByteFallbackHasATokenForEverything) {
  const std::shared_ptr<const Tokenizer> tokenizer = GoldenTokenizer("llama2");
  int64_t unknown = 0;
  EXPECT_TRUE(tokenizer->TryEncode("\u6771\u4eac \U0001F9EA\x01", true, &unknown).ok());
  EXPECT_EQ(unknown, 0);
}

TEST(TokenizerTest, ConfigNamesTheSpecialTokens) {
  const json::Json& golden_case = Golden()["cases"][0];
  const auto tokenizer = Tokenizer::FromJson(GoldenTokenizerJson(golden_case), "t.json",
                                             R"({"bos_token":"</s>","eos_token":{"content":"<s>"},"pad_token":null,"chat_template":[
                                               {"name":"tools","template":"x"},{"name":"default","template":"{{ messages }}"}]})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_id(), (*tokenizer)->TokenId("</s>"));
  EXPECT_EQ((*tokenizer)->eos_id(), (*tokenizer)->TokenId("<s>"));
  EXPECT_EQ((*tokenizer)->pad_id(), std::nullopt);
  EXPECT_EQ((*tokenizer)->chat_template(), "{{ messages }}");
  const auto bad = Tokenizer::FromJson(GoldenTokenizerJson(golden_case), "t.json", R"({"eos_token":"<nope>"})");
  EXPECT_THAT(std::string(bad.status().message()), testing::HasSubstr("eos_token: \"<nope>\" is not in the vocabulary"));
}

TEST(TokenizerTest, ExportedFilesGiveTheSameTokenizer) {
  for (const json::Json& golden_case : Golden()["cases"]) {
    const std::shared_ptr<const Tokenizer> tokenizer = GoldenTokenizer(golden_case["name"].get<std::string>());
    const auto again = Tokenizer::FromJson(tokenizer->ToJson(), "again", tokenizer->TokenizerConfigJson());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ((*again)->vocab_size(), tokenizer->vocab_size());
    EXPECT_EQ((*again)->bos_id(), tokenizer->bos_id());
    EXPECT_EQ((*again)->eos_id(), tokenizer->eos_id());
    for (const std::string& text : Texts()) EXPECT_EQ((*again)->Encode(text), tokenizer->Encode(text));
  }
}

TEST(TokenizerTest, ThreadsShareOneTokenizer) {
  const std::shared_ptr<const Tokenizer> one = GoldenTokenizer("qwen2");
  const std::shared_ptr<const Tokenizer> other = GoldenTokenizer("deepseek3");
  std::vector<Ids> expected;
  for (const std::string& text : Texts()) {
    expected.push_back(one->Encode(text));
    expected.push_back(other->Encode(text));
  }
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round) {
        for (size_t i = 0; i < Texts().size(); ++i) {
          wrong[t] += one->Encode(Texts()[i]) != expected[2 * i];
          wrong[t] += other->Encode(Texts()[i]) != expected[2 * i + 1];
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

TEST(TokenizerTest, OneMegabyteWithoutABoundaryTakesLinearTime) {
  std::string letters, mixed;
  std::mt19937 random(3);
  for (int i = 0; i < 1'000'000; ++i) letters.push_back("abcdefghetn"[random() % 11]);
  for (int i = 0; i < 250'000; ++i) mixed += "\xF0\x9F\x91\x8D";
  const std::string texts[] = {std::string(1'000'000, ' '), std::string(1'000'000, 'a'), std::string(1'000'000, '\n'), letters, mixed,
                               std::string(1'000'000, '<'), std::string(1'000'000, '\''), std::string(1'000'000, '\xFF')};
  for (const char* name : {"gpt2", "llama3", "deepseek3", "other_regex", "llama2", "unigram"}) {
    const std::shared_ptr<const Tokenizer> tokenizer = GoldenTokenizer(name);
    for (const std::string& text : texts) {
      const auto begin = std::chrono::steady_clock::now();
      const Ids ids = tokenizer->Encode(text);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      EXPECT_LT(seconds, 2.0 * text.size() / 1e6 + 2.0) << name << " on " << text.substr(0, 8);
      EXPECT_FALSE(ids.empty());
    }
  }
}

}  // namespace
}  // namespace grouper
