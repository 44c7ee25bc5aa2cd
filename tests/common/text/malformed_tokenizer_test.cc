// Tokenizer files that lie: each is an error that names the field, and none costs memory or time.
#include "absl/strings/str_cat.h"
#include "common/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/common/text/text_world.h"

namespace grouper {
namespace {

using json::Json;

Json Base(const std::string& case_name) {
  for (const Json& golden_case : Golden()["cases"]) {
    if (golden_case["name"] == case_name) return Json::parse(GoldenTokenizerJson(golden_case));
  }
  return {};
}

struct Row {
  const char* base;     // a golden case
  const char* pointer;  // JSON pointer of what is replaced
  const char* value;    // JSON; empty: removed
  const char* error;    // what the message must say
};

const Row kRows[] = {
    {"gpt2", "/version", R"("2.0")", "version"},
    {"gpt2", "/model", "", "model: missing"},
    {"gpt2", "/model", "[]", "model: expected an object"},
    {"gpt2", "/model/type", R"("WordPiece")", "model.type"},
    {"gpt2", "/model/type", "3", "model.type: expected a string"},
    {"gpt2", "/model/vocab", "", "model.vocab: missing"},
    {"gpt2", "/model/vocab", "[]", "model.vocab: expected an object"},
    {"gpt2", "/model/vocab", "{}", "model.merges[0]"},
    {"gpt2", "/model/vocab/!", R"("0")", "model.vocab[\"!\"]: expected an integer"},
    {"gpt2", "/model/vocab/!", "-1", "model.vocab[\"!\"]"},
    {"gpt2", "/model/vocab/!", "0.5", "model.vocab[\"!\"]"},
    {"gpt2", "/model/vocab/!", "1", "have the same id 1"},
    {"gpt2", "/model/vocab/!", "5000", "id 5000 of token \"!\" is far beyond the vocabulary"},
    {"gpt2", "/model/vocab/!", "4000000000", "model.vocab[\"!\"]"},
    {"gpt2", "/model/vocab/!", "18446744073709551615", "model.vocab[\"!\"]"},
    {"gpt2", "/model/vocab/!", "2147483647", "far beyond the vocabulary"},
    {"gpt2", "/model/vocab/Ġ", "", "is not in model.vocab"},
    {"gpt2", "/model/vocab/}", "", "no token \"}\" for byte 125"},
    {"gpt2", "/model/merges", "", "model.merges"},
    {"gpt2", "/model/merges", "{}", "model.merges: expected an array"},
    {"gpt2", "/model/merges/3", R"("ab")", "model.merges[3]"},
    {"gpt2", "/model/merges/3", R"("a b c")", "model.merges[3]"},
    {"gpt2", "/model/merges/3", R"(["a"])", "model.merges[3]"},
    {"gpt2", "/model/merges/3", R"(["a", 1])", "model.merges[3]"},
    {"gpt2", "/model/merges/3", R"(["QQ", "a"])", "token \"QQ\" is not in model.vocab"},
    {"gpt2", "/model/merges/3", R"(["Q", "Z"])", "token \"QZ\" is not in model.vocab"},
    {"gpt2", "/model/dropout", "0.1", "model.dropout"},
    {"gpt2", "/model/continuing_subword_prefix", R"("##")", "model.continuing_subword_prefix"},
    {"gpt2", "/model/end_of_word_suffix", R"("</w>")", "model.end_of_word_suffix"},
    {"gpt2", "/model/unk_token", R"("<nope>")", "model.unk_token"},
    {"gpt2", "/model/fuse_unk", R"("yes")", "model.fuse_unk"},
    {"gpt2", "/model/ignore_merges", "1", "model.ignore_merges"},
    {"gpt2", "/added_tokens", "{}", "added_tokens: expected an array"},
    {"gpt2", "/added_tokens/0", "7", "added_tokens[0]"},
    {"gpt2", "/added_tokens/0/id", "5000", "added_tokens[0].id"},
    {"gpt2", "/added_tokens/0/id", "3", "added_tokens[0].id"},
    {"gpt2", "/added_tokens/0/id", "4000000000", "added_tokens[0].id"},
    {"gpt2", "/added_tokens/0/id", R"("1")", "added_tokens[0].id: expected an integer"},
    {"gpt2", "/added_tokens/0/content", "null", "added_tokens[0].content"},
    {"gpt2", "/added_tokens/0/content", R"("")", "added_tokens[0].content: empty"},
    {"gpt2", "/added_tokens/1/content", R"("<s>")", "is there twice"},
    {"gpt2", "/added_tokens/0/content", R"("!")", "model.vocab has it as 0"},
    {"gpt2", "/added_tokens/0/special", "null", "added_tokens[0].special"},
    {"gpt2", "/added_tokens/0/lstrip", "", "added_tokens[0].lstrip: missing"},
    {"gpt2", "/normalizer", R"({"type":"Nmt"})", "normalizer.type: normalizer \"Nmt\" is not supported"},
    {"gpt2", "/normalizer", R"({"type":"Precompiled","precompiled_charsmap":""})", "normalizer.type"},
    {"gpt2", "/normalizer", R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"X"}]})", "normalizer.normalizers[1].type"},
    {"gpt2", "/normalizer", R"({"type":"Replace","pattern":{"Regex":"("},"content":""})", "normalizer.pattern.Regex"},
    {"gpt2", "/normalizer", R"({"type":"Replace","pattern":"x","content":""})", "normalizer.pattern"},
    {"gpt2", "/normalizer", R"({"type":"Strip","strip_left":true})", "normalizer.strip_right"},
    {"gpt2", "/normalizer", "[]", "normalizer"},
    {"gpt2", "/pre_tokenizer/type", R"("BertPreTokenizer")", "pre_tokenizer.type"},
    {"gpt2", "/pre_tokenizer/add_prefix_space", "", "pre_tokenizer.add_prefix_space"},
    {"llama3", "/pre_tokenizer/pretokenizers/0/pattern/Regex", R"("(((")", "pre_tokenizer.pretokenizers[0].pattern.Regex"},
    {"llama3", "/pre_tokenizer/pretokenizers/0/pattern", "{}", "pre_tokenizer.pretokenizers[0].pattern"},
    {"llama3", "/pre_tokenizer/pretokenizers/0/behavior", R"("Sideways")", "pre_tokenizer.pretokenizers[0].behavior"},
    {"llama3", "/pre_tokenizer/pretokenizers/0/invert", "0", "pre_tokenizer.pretokenizers[0].invert"},
    {"llama3", "/pre_tokenizer/pretokenizers", R"([{"type":"ByteLevel","add_prefix_space":false},{"type":"Whitespace"}])", "ByteLevel must be the last"},
    {"llama3", "/pre_tokenizer/pretokenizers", "3", "pre_tokenizer.pretokenizers: expected an array"},
    {"unigram", "/pre_tokenizer/replacement", R"("ab")", "pre_tokenizer.replacement: expected one character"},
    {"unigram", "/pre_tokenizer/prepend_scheme", R"("sometimes")", "pre_tokenizer.prepend_scheme"},
    {"gpt2", "/post_processor/type", R"("Unknown")", "post_processor.type"},
    {"gpt2", "/post_processor/single/0/SpecialToken/id", R"("<nope>")", "which special_tokens does not define"},
    {"gpt2", "/post_processor/special_tokens/<s>/ids/0", "5000", "no token has the id 5000"},
    {"gpt2", "/post_processor/special_tokens/<s>/ids/0", "3", "not \"<s>\""},
    {"gpt2", "/post_processor/special_tokens/<s>/ids", "[]", "differ in length"},
    {"gpt2", "/post_processor/special_tokens", "", "post_processor.special_tokens"},
    {"gpt2", "/post_processor/single", "[]", "no sequence A"},
    {"gpt2", "/post_processor/single/1/Sequence/id", R"("B")", "expected sequence A"},
    {"gpt2", "/decoder/type", R"("CTC")", "decoder.type"},
    {"llama2", "/decoder/decoders/3/content", R"("")", "decoder.decoders[3].content"},
    {"llama2", "/decoder/decoders/3/start", "-1", "decoder.decoders[3].start"},
    {"llama2", "/decoder/decoders/0/pattern", "", "decoder.decoders[0].pattern"},
    {"llama2", "/model/vocab/<0x41>", "", "added_tokens"},
    {"unigram", "/model/vocab", "[]", "model.vocab"},
    {"unigram", "/model/vocab/3", R"(["x"])", "model.vocab[3]"},
    {"unigram", "/model/vocab/3/1", R"("1")", "model.vocab[3]"},
    {"unigram", "/model/unk_id", "5000", "model.unk_id"},
    {"unigram", "/model/unk_id", "-1", "model.unk_id"},
    {"whitespace_words", "/model/unk_token", "null", "model.unk_token"},
};

TEST(MalformedTokenizerTest, EachLieIsAnErrorThatNamesTheField) {
  for (const Row& row : kRows) {
    SCOPED_TRACE(absl::StrCat(row.base, " ", row.pointer, " = ", row.value));
    Json tokenizer = Base(row.base);
    const Json::json_pointer pointer(row.pointer);
    if (*row.value == 0) {
      if (pointer.back() == "<0x41>") tokenizer["model"]["unk_token"] = nullptr;
      tokenizer[pointer.parent_pointer()].erase(pointer.back());
    } else {
      tokenizer[pointer] = Json::parse(row.value);
    }
    const auto loaded = Tokenizer::FromJson(tokenizer.dump(), "dir/tokenizer.json");
    ASSERT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument);
    if (*row.value != 0 || pointer.back() != "<0x41>") {
      EXPECT_THAT(std::string(loaded.status().message()), testing::HasSubstr(row.error));
    }
    EXPECT_THAT(std::string(loaded.status().message()), testing::StartsWith("dir/tokenizer.json: "));
  }
}

TEST(MalformedTokenizerTest, TextsThatAreNotATokenizerAreErrors) {
  const std::string whole = Base("gpt2").dump();
  std::vector<std::string> texts = {"", "null", "[]", "3", "{}", "{\"model\":", std::string(200'000, '['), "\xFF\xFE{}", std::string(10, '\0'),
                                    R"({"model":{"type":"BPE","vocab":{"a":0,"a":1},"merges":[]}})", R"({"model":{"type":"BPE","vocab":{},"merges":[]}})"};
  for (size_t cut = 1; cut < whole.size(); cut += whole.size() / 40) texts.push_back(whole.substr(0, cut));
  for (const std::string& text : texts) {
    const auto loaded = Tokenizer::FromJson(text, "t");
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 40);
  }
}

TEST(MalformedTokenizerTest, AnythingOverwrittenNeverCrashes) {
  for (const char* base : {"gpt2", "llama2", "unigram", "whitespace_words", "deepseek3"}) {
    const Json whole = Base(base);
    const Json flat = whole.flatten();
    size_t tried = 0;
    for (const auto& [pointer, value] : flat.items()) {
      if (pointer.find("/model/vocab") == 0 || pointer.find("/model/merges") == 0) continue;
      for (const char* other : {"null", "-1", "1e300", "\"\"", "\"\\u0000\"", "[]", "{}", "true"}) {
        Json changed = whole;
        changed[Json::json_pointer(pointer)] = Json::parse(other);
        const auto loaded = Tokenizer::FromJson(changed.dump(), "t");
        if (loaded.ok()) {
          const std::vector<int32_t> ids = (*loaded)->Encode("Hello <s> world 123");
          (*loaded)->Decode(ids, true);
        }
        ++tried;
      }
    }
    EXPECT_GT(tried, 50u);
  }
}

TEST(MalformedTokenizerTest, FilesBesideItAreCheckedToo) {
  const std::string whole = Base("gpt2").dump();
  for (const char* config : {"[]", "{", R"({"bos_token":3})", R"({"bos_token":{"x":1}})", R"({"pad_token":"<nope>"})", R"({"chat_template":7})",
                             R"({"chat_template":[{"name":"default"}]})"}) {
    EXPECT_EQ(Tokenizer::FromJson(whole, "t", config).status().code(), absl::StatusCode::kInvalidArgument) << config;
  }
}

}  // namespace
}  // namespace grouper
