#include "tests/common/fuzz/fuzz_targets.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/checkpoint/gguf.h"
#include "common/checkpoint/model_tensors.h"
#include "common/checkpoint/safetensors.h"
#include "common/data/dataset.h"
#include "common/model/config.h"
#include "common/model/gguf_model.h"
#include "common/model/gguf_vocab.h"
#include "common/recipe/load_recipe.h"
#include "common/text/jinja.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"

namespace grouper::fuzz {
namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property failed: %s\n", what);
  std::abort();
}

bool Inside(absl::string_view part, absl::string_view whole) {
  return part.empty() || (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

const char* const kTexts[] = {"", " ", "Hello, world! It's 2024.", "  two  spaces\n\n\tx", "\xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x91\x8D e\xCC\x81", "\xFF\xC3(", "<s>the</s>"};

void UseTokenizer(const std::shared_ptr<const Tokenizer>& tokenizer) {
  for (const char* text : kTexts) {
    const std::vector<int32_t> ids = tokenizer->Encode(text, true, true);
    for (const int32_t id : ids) Require(id >= 0 && id < tokenizer->vocab_size(), "ids lie in the vocabulary");
    const std::string decoded = tokenizer->Decode(ids, false);
    Require(text::IsValidUtf8(decoded), "decoded text is UTF-8");
    IncrementalDecoder decoder(tokenizer, false);
    std::string pieces;
    for (const int32_t id : ids) pieces += decoder.Add(id);
    pieces += decoder.Flush();
    Require(pieces == decoded, "streamed and decoded at once are the same text");
  }
}

// A folder of this process, for parsers that read files by name.
std::string Folder() {
  static const std::string* const folder = [] {
    char name[] = "/tmp/grouper_fuzz_XXXXXX";
    Require(mkdtemp(name) != nullptr, "a temporary folder");
    std::atexit([] { DefaultFileSystem().RemoveAll(Folder()).IgnoreError(); });
    return new std::string(name);
  }();
  return *folder;
}

void Put(const std::string& name, absl::string_view bytes) {
  std::FILE* const file = std::fopen(JoinPath(Folder(), name).c_str(), "wb");
  Require(file != nullptr, "a temporary file");
  Require(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() && std::fclose(file) == 0, "a temporary file is written");
}

}  // namespace

void FuzzTokenizerJson(absl::string_view input) {
  const auto tokenizer = Tokenizer::FromJson(input, "fuzz");
  if (!tokenizer.ok()) return;
  UseTokenizer(*tokenizer);
  const auto again = Tokenizer::FromJson((*tokenizer)->ToJson(), "again", (*tokenizer)->TokenizerConfigJson());
  Require(again.ok(), "an export is read");
  for (const char* text : kTexts) Require((*again)->Encode(text) == (*tokenizer)->Encode(text), "an export gives the same ids");
}

void FuzzChatTemplate(absl::string_view input) {
  const auto jinja = JinjaTemplate::Parse(input);
  if (!jinja.ok()) return;
  const TemplateTokens tokens = {"<s>", "</s>", "", "<unk>"};
  (*jinja)->RenderChat({{"system", "Be brief."}, {"user", "What is 2+2?"}}, true, tokens).status().IgnoreError();
  (*jinja)->RenderChat({{"user", "<think>x"}, {"assistant", "a</think>\n\n4 "}, {"user", "{{ 1 }}"}}, false, tokens).status().IgnoreError();
  (*jinja)->RenderChat({}, true, tokens).status().IgnoreError();
}

void FuzzSafetensors(absl::string_view input) {
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
  if (!ParseSafetensors(input, "fuzz", &tensors, &metadata).ok()) return;
  for (const StoredTensor& tensor : tensors) {
    Require(Inside(tensor.bytes, input), "a tensor lies in the file");
    uint64_t bytes = 0;
    Require(StorageBytes(tensor.type, tensor.shape, &bytes).ok() && bytes == tensor.bytes.size(), "its bytes are its shape's");
  }
}

void FuzzSafetensorsIndex(absl::string_view input) {
  static const bool once = [] {
    constexpr char kHeader[] = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})";
    const uint64_t length = sizeof(kHeader) - 1;
    Put("x.safetensors", absl::StrCat(absl::string_view(reinterpret_cast<const char*>(&length), 8), kHeader, std::string(8, '\0')));
    return true;
  }();
  Require(once, "the shard is there");
  Put("model.safetensors.index.json", input);
  const auto opened = ModelTensors::Open(Folder());
  if (opened.ok()) Require((*opened)->tensors().size() == 2 && (*opened)->files().size() == 1, "an index opens the shards that it names");
}

void FuzzGguf(absl::string_view input) {
  const auto file = GgufFile::Parse(input, "fuzz");
  if (!file.ok()) return;
  for (const StoredTensor& tensor : (*file)->tensors()) Require(Inside(tensor.bytes, input), "a tensor lies in the file");
  for (const std::string& key : (*file)->keys()) Require(text::IsValidUtf8((*file)->Describe(key)), "a key can be shown");
  const auto config = GgufConfig(**file);
  if (config.ok()) {
    Require(config->Validate().ok(), "a configuration is valid");
    GgufTensors(*config, **file);
  }
  const auto vocab = ReadGgufVocab(**file);
  if (!vocab.ok()) return;
  const auto tokenizer = Tokenizer::FromGgufVocab(*vocab, "fuzz");
  if (tokenizer.ok()) UseTokenizer(*tokenizer);
}

void FuzzConfigJson(absl::string_view input) {
  const auto json = json::Parse(input);
  if (!json.ok()) return;
  base::SetMinLogLevel(base::LogLevel::ERROR);  // unknown fields are told
  const auto config = ModelConfig::FromHuggingFace(*json, "fuzz");
  if (!config.ok()) return;
  Require(config->Validate().ok(), "an accepted configuration is valid");
  const auto written = json::Parse(json::Dump(config->ToHuggingFace("float32")));
  Require(written.ok(), "what we write is JSON");
  const auto again = ModelConfig::FromHuggingFace(*written, "again");
  Require(again.ok(), "what we write is read");
  Require(json::Dump(again->ToHuggingFace("float32")) == json::Dump(config->ToHuggingFace("float32")), "what we write means the same");
}

void FuzzRecipe(absl::string_view input) {
  const size_t cut = std::min(input.find("\n====\n"), input.size());
  v1::Recipe recipe;
  if (!ParseTextProto(std::string(input.substr(0, cut)), "fuzz", &recipe).ok()) return;
  if (cut < input.size()) {
    for (const absl::string_view line : absl::StrSplit(input.substr(cut + 6), '\n')) ApplyOverride(std::string(line), &recipe).IgnoreError();
  }
  if (!CheckRecipe(recipe).ok()) return;
  v1::Recipe again;
  Require(ParseTextProto(RecipeText(recipe), "again", &again).ok(), "a recipe's own text is a recipe");
  Require(RecipeText(again) == RecipeText(recipe), "and the same one");
  Require(RecipeDifference(recipe, again).empty(), "which differs in nothing");
}

void FuzzJsonLines(absl::string_view input) {
  Put("rows.jsonl", input);
  auto rows = ReadJsonLines(JoinPath(Folder(), "rows.jsonl"), 0);
  if (!rows.ok()) return;
  const size_t lines = 1 + static_cast<size_t>(std::count(input.begin(), input.end(), '\n'));
  Require(rows->size() <= lines, "a row is a line");
  for (DataRow& row : *rows) {
    Require(row.columns.is_object(), "a row is an object");
    if (!CanonicaliseRow({{"question", "q"}}, row).ok()) continue;
    if (row.HasPrompt()) PromptTurns(row).status().IgnoreError();
    AllTurns(row).status().IgnoreError();
    Require(json::Parse(json::Dump(row.columns)).ok(), "a row can be sent to the rules");
  }
}

absl::Span<const Target> Targets() {
  static const Target targets[] = {
      {"TokenizerJson", FuzzTokenizerJson}, {"ChatTemplate", FuzzChatTemplate}, {"Safetensors", FuzzSafetensors},
      {"SafetensorsIndex", FuzzSafetensorsIndex}, {"Gguf", FuzzGguf}, {"ConfigJson", FuzzConfigJson},
      {"Recipe", FuzzRecipe}, {"JsonLines", FuzzJsonLines},
  };
  return targets;
}

}  // namespace grouper::fuzz
