// The fuzz targets over a corpus of good files and mutations of them: the short run that every build makes. GROUPER_FUZZ_ROUNDS sets how
// many mutations; GROUPER_FUZZ_SEEDS names a folder into which the corpus is written for libFuzzer, one folder a target.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/checkpoint/gguf_writer.h"
#include "common/text/byte_alphabet.h"
#include "gtest/gtest.h"
#include "tests/common/fuzz/fuzz_targets.h"

namespace grouper {
namespace {

std::string Read(const std::string& path) {
  auto text = DefaultFileSystem().ReadFile(absl::StrCat(GROUPER_SOURCE_DIR, "/", path), 64 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *std::move(text) : "";
}

// A whole small model's metadata and vocabulary, with one tensor.
std::string SmallGguf(const std::string& architecture) {
  GgufWriter writer;
  writer.AddString("general.architecture", architecture);
  const auto add = [&](const char* key, uint32_t value) { writer.AddUint32(absl::StrCat(architecture, ".", key), value); };
  add("block_count", 1);
  add("context_length", 64);
  add("embedding_length", 8);
  add("feed_forward_length", 16);
  add("attention.head_count", 2);
  add("attention.head_count_kv", 1);
  add("vocab_size", 258);
  writer.AddFloat32(absl::StrCat(architecture, ".attention.layer_norm_rms_epsilon"), 1e-5f);
  writer.AddFloat32(absl::StrCat(architecture, ".rope.freq_base"), 10000.0f);
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(text::CharacterOfByte(static_cast<uint8_t>(byte)));
  tokens.push_back("th");
  tokens.push_back("<s>");
  std::vector<int32_t> types(258, 1);
  types[257] = 3;
  writer.AddString("tokenizer.ggml.model", "gpt2");
  writer.AddString("tokenizer.ggml.pre", "qwen2");
  writer.AddStrings("tokenizer.ggml.tokens", tokens);
  writer.AddInt32s("tokenizer.ggml.token_type", types);
  writer.AddStrings("tokenizer.ggml.merges", {"t h"});
  writer.AddUint32("tokenizer.ggml.bos_token_id", 257);
  writer.AddBool("tokenizer.ggml.add_bos_token", true);
  writer.AddString("tokenizer.chat_template", "{{ messages }}");
  const std::string path = absl::StrCat(testing::TempDir(), "/fuzz_seed.gguf");
  const absl::Status written =
      writer.Write(DefaultFileSystem(), path, {{"token_embd.weight", StorageType::kF32, {2, 8}}},
                   [](const TensorSpec&, AppendBytes append) { return append(std::string(64, '\0')); });
  EXPECT_TRUE(written.ok()) << written;
  auto bytes = DefaultFileSystem().ReadFile(path, 1 << 20);
  EXPECT_TRUE(DefaultFileSystem().RemoveAll(path).ok());
  return *bytes;
}

std::map<std::string, std::vector<std::string>> MakeCorpus() {
  std::map<std::string, std::vector<std::string>> corpus;
  const json::Json tokenizers = *json::Parse(Read("tests/common/text/golden_tokenizers.json"));
  for (json::Json tokenizer : tokenizers["cases"]) {
    tokenizer = tokenizer["tokenizer"];
    json::Json model = tokenizers["models"][tokenizer["model"]["base"].get<std::string>()];
    model.update(tokenizer["model"]["changes"]);
    tokenizer["model"] = model;
    corpus["TokenizerJson"].push_back(tokenizer.dump());
  }
  const json::Json templates = *json::Parse(Read("tests/common/text/golden_chat_templates.json"));
  for (const json::Json& item : templates["templates"]) corpus["ChatTemplate"].push_back(item["template"].get<std::string>());
  corpus["ChatTemplate"].push_back("{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ m.content[::-1] ~ loop.index0 }}{% endfor %}");
  corpus["ChatTemplate"].push_back("{% set ns = namespace(a=[1, {'b': 2.5}]) %}{{ ns.a[1]['b'] ** 2 if ns.a is defined else range(3) | join(',') }}");
  corpus["ChatTemplate"].push_back("{% macro f(a, b='x') %}{% for i in a %}{{ b ~ f(i) if i is mapping else i }}{% endfor %}{% endmacro %}{{ f(messages, b=1) }}");
  corpus["Safetensors"] = {Read("tests/golden/plain_types.safetensors"), Read("tests/golden/models/qwen3/model.safetensors").substr(0, 1 << 14)};
  corpus["SafetensorsIndex"] = {R"({"metadata": {"total_size": 8}, "weight_map": {"a": "x.safetensors", "b": "x.safetensors"}})",
                                R"({"weight_map": {"a": "../x.safetensors", "c": "y.safetensors"}})"};
  corpus["Gguf"] = {Read("tests/golden/tiny.gguf"), SmallGguf("llama"), SmallGguf("qwen3")};
  for (const char* family : {"deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "llama", "llama_bias", "qwen2", "qwen2_yarn", "qwen3", "qwen3_moe"}) {
    corpus["ConfigJson"].push_back(Read(absl::StrCat("tests/golden/models/", family, "/config.json")));
  }
  for (const char* recipe : {"quickstart", "smoke"}) corpus["Recipe"].push_back(Read(absl::StrCat("recipes/", recipe, ".textproto")));
  corpus["Recipe"].push_back(corpus["Recipe"][0] + "\n====\nstages[0].steps=5\nseed=7\nstages[rl].optimizer.lr=1e-4\n");
  corpus["JsonLines"] = {"{\"question\": \"1+1?\", \"answer\": 2}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
                         "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"text\": \"c\"}\r\n{\"q\": \"\\ud83d\\ude00\", \"solution\": [1, {\"b\": null}]}"};
  return corpus;
}

std::string Mutated(const std::vector<std::string>& corpus, std::mt19937_64& random) {
  static const char* const kPieces[] = {"{", "}", "[", "]", "\"", ":", ",", "null", "-1", "1e999", "18446744073709551615", "9223372036854775808", "0.5", "true",
                                        "\\u0000", "\\ud800", "\xFF", "{{ ", " }}", "{% ", " %}", "(", ")", "\\p{L}", "[a&&[b]]", "{2,}", "|", "<0x41>", "\n", "//"};
  const auto pick = [&](size_t n) { return static_cast<size_t>(random() % n); };
  std::string text = corpus[pick(corpus.size())];
  for (size_t edits = 1 + pick(5); edits > 0; --edits) {
    const size_t at = pick(text.size() + 1);
    switch (pick(7)) {
      case 0: text.insert(at, kPieces[pick(std::size(kPieces))]); break;
      case 1: text.erase(at, 1 + pick(16)); break;
      case 2: text.insert(at, 1, static_cast<char>(pick(256))); break;
      case 3: text.insert(at, text.substr(pick(text.size() + 1), 1 + pick(40))); break;
      case 4: {
        const std::string& other = corpus[pick(corpus.size())];
        text = text.substr(0, at) + other.substr(pick(other.size() + 1));
        break;
      }
      case 5:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << pick(8)));
        break;
      default: {
        const std::string piece = kPieces[pick(std::size(kPieces))];
        for (size_t n = pick(100); n > 0; --n) text.insert(at, piece);
      }
    }
  }
  return text;
}

TEST(Fuzz, TheParsersHoldOnTheCorpusAndMutationsOfIt) {
  int rounds = 10000;
  const char* const more = std::getenv("GROUPER_FUZZ_ROUNDS");
  ASSERT_TRUE(more == nullptr || absl::SimpleAtoi(more, &rounds));
  const std::map<std::string, std::vector<std::string>> corpus = MakeCorpus();
  ASSERT_EQ(fuzz::Targets().size(), corpus.size());
  const char* const seeds = std::getenv("GROUPER_FUZZ_SEEDS");
  for (const fuzz::Target& target : fuzz::Targets()) {
    const std::vector<std::string>& texts = corpus.at(target.name);
    for (size_t i = 0; i < texts.size(); ++i) {
      target.run(texts[i]);
      if (seeds == nullptr) continue;
      const std::string folder = JoinPath(seeds, target.name);
      ASSERT_TRUE(DefaultFileSystem().CreateDirectories(folder).ok());
      ASSERT_TRUE(WriteFileAtomically(DefaultFileSystem(), absl::StrCat(folder, "/", i), texts[i]).ok());
    }
    std::mt19937_64 random(7);
    for (int i = 0; i < rounds; ++i) target.run(Mutated(texts, random));
    SUCCEED() << target.name;
  }
}

}  // namespace
}  // namespace grouper
