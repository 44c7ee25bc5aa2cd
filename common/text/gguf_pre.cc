#include "common/text/gguf_pre.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/text/scanners.h"

namespace grouper::text {
namespace {

using json::OrderedJson;

// DeepSeek-LLM's and DeepSeek-V2's letters and signs, and CJK.
constexpr char kDeepSeekLlmWords[] =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ)"
    R"(-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)";
constexpr char kDeepSeekLlmSigns[] = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";
constexpr char kDeepSeekLlmCjk[] = R"([一-龥ࠀ-一가-퟿]+)";
constexpr const char* kNames[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "deepseek-llm", "deepseek-coder", "deepseek-v3", "kimi-k2"};

OrderedJson Split(absl::string_view regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", std::string(regex)}}}, {"behavior", "Isolated"}, {"invert", false}};
}

// Without what does not change how text is split: offsets, sequences of one, empty parts.
OrderedJson Essence(const OrderedJson& part) {
  if (!part.is_object()) return part;
  OrderedJson clean = OrderedJson::object();
  for (const auto& [key, value] : part.items()) {
    if (key == "trim_offsets") continue;
    if (value.is_array()) {
      clean[key] = OrderedJson::array();
      for (const OrderedJson& item : value) clean[key].push_back(Essence(item));
    } else {
      clean[key] = Essence(value);
    }
  }
  if (clean.value("type", "") == "Sequence") {
    for (const char* key : {"pretokenizers", "normalizers"}) {
      if (!clean.contains(key)) continue;
      if (clean[key].empty()) return nullptr;
      if (clean[key].size() == 1) return OrderedJson(clean[key][0]);
    }
  }
  return clean;
}

// nlohmann's ordered objects compare in order; ours may have another.
bool Same(const OrderedJson& a, const OrderedJson& b) { return json::Json::parse(Essence(a).dump()) == json::Json::parse(Essence(b).dump()); }

}  // namespace

OrderedJson ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

OrderedJson Sequence(const char* key, std::vector<OrderedJson> items) { return {{"type", "Sequence"}, {key, std::move(items)}}; }

std::optional<GgufPre> FindGgufPre(const std::string& name) {
  const auto one_of = [&](std::initializer_list<absl::string_view> names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  GgufPre pre;
  if (one_of({"gpt-2", "gpt2", "phi-2", "olmo", "jina-es", "jina-de", "mpt"})) {
    pre.pre_tokenizer = ByteLevel(true);
  } else if (one_of({"smollm", "starcoder", "refact", "codeshell", "command-r", "exaone", "minerva-7b"})) {
    pre.pre_tokenizer = Sequence("pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true)});
  } else if (one_of({"llama3", "llama-v3", "llama-bpe"})) {
    pre.pre_tokenizer = Sequence("pretokenizers", {Split(kLlama3Regex), ByteLevel(false)});
    pre.ignore_merges = true;
  } else if (one_of({"qwen2", "deepseek-r1-qwen"})) {
    pre.normalizer = {{"type", "NFC"}};
    pre.pre_tokenizer = Sequence("pretokenizers", {Split(kQwen2Regex), ByteLevel(false)});
  } else if (one_of({"qwen35"})) {
    pre.normalizer = {{"type", "NFC"}};
    pre.pre_tokenizer = Sequence("pretokenizers", {Split(kQwen35Regex), ByteLevel(false)});
  } else if (one_of({"deepseek-llm"})) {
    pre.pre_tokenizer = Sequence("pretokenizers", {Split("[\r\n]"), Split(kDeepSeekLlmWords), Split(kDeepSeekLlmSigns), Split("\\s+$"), Split(kDeepSeekLlmCjk),
                                                   {{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(false)});
  } else if (one_of({"kimi-k2"})) {
    pre.pre_tokenizer = Sequence("pretokenizers", {Split(kKimiRegex), ByteLevel(false)});
  } else if (one_of({"deepseek-coder"})) {
    pre.pre_tokenizer = Sequence("pretokenizers", {Split("[\r\n]"), Split("\\s?\\p{L}+"), Split("\\s?\\p{P}+"), Split("[一-龥ࠀ-一가-퟿]+"),
                                                   {{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(false)});
  } else if (one_of({"deepseek-v3"})) {
    pre.pre_tokenizer = Sequence("pretokenizers", {Split("\\p{N}{1,3}"), Split(kDeepSeek3Cjk), Split(kDeepSeek3Regex), ByteLevel(false)});
  } else {
    return std::nullopt;
  }
  return pre;
}

std::optional<std::string> GgufPreOf(const OrderedJson& tokenizer) {
  const auto part = [&](const char* key) { return tokenizer.contains(key) ? tokenizer[key] : OrderedJson(nullptr); };
  for (const char* name : kNames) {
    const std::optional<GgufPre> pre = FindGgufPre(name);
    if (Same(pre->pre_tokenizer, part("pre_tokenizer")) && Same(pre->normalizer, part("normalizer"))) return name;
  }
  return std::nullopt;
}

std::string GgufPreNames() { return absl::StrJoin(kNames, ", "); }

OrderedJson SentencePieceNormalizer(bool prefix) {
  const OrderedJson spaces = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  if (!prefix) return spaces;
  return Sequence("normalizers", {{{"type", "Prepend"}, {"prepend", "\u2581"}}, spaces});
}

std::optional<bool> SentencePiecePrefixOf(const OrderedJson& tokenizer) {
  const auto part = [&](const char* key) { return tokenizer.contains(key) ? tokenizer[key] : OrderedJson(nullptr); };
  if (!Essence(part("pre_tokenizer")).is_null()) return std::nullopt;
  for (const bool prefix : {true, false}) {
    if (Same(part("normalizer"), SentencePieceNormalizer(prefix))) return prefix;
  }
  return std::nullopt;
}

}  // namespace grouper::text
