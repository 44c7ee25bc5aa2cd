// A GGUF file's vocabulary, written as the tokenizer.json that it was made from, and read from there: one way in, and the export is free.

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/text/gguf_pre.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"

namespace grouper {
namespace {

using json::OrderedJson;
using text::ByteLevel;
using text::Sequence;

constexpr int32_t kNormal = 1;
constexpr int32_t kUnknown = 2;
constexpr int32_t kControl = 3;
constexpr int32_t kUserDefined = 4;
constexpr int32_t kByte = 6;

absl::Status Invalid(const std::string& name, absl::string_view key, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": tokenizer.ggml.", key, ": ", message));
}

// SentencePiece BPE has no list of merges: two pieces merge when their concatenation is a piece, the best score first (transformers'
// generate_merges).
std::vector<std::pair<absl::string_view, absl::string_view>> MergesFromScores(const GgufVocab& vocab) {
  struct Merge {
    absl::string_view left, right;
    float score;
    size_t left_id, right_id;
  };
  absl::flat_hash_map<absl::string_view, size_t> ids;
  const auto is_normal = [&](size_t i) { return vocab.token_types.empty() || vocab.token_types[i] == kNormal; };
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    if (is_normal(i)) ids.emplace(vocab.tokens[i], i);
  }
  std::vector<Merge> merges;
  std::vector<Merge> local;
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    if (!is_normal(i)) continue;
    const absl::string_view token = vocab.tokens[i];
    local.clear();
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(token.substr(cut));
      if (right == ids.end()) continue;
      local.push_back({token.substr(0, cut), token.substr(cut), vocab.scores[i], left->second, right->second});
    }
    std::sort(local.begin(), local.end(), [](const Merge& a, const Merge& b) {
      return std::make_pair(a.left_id, a.right_id) < std::make_pair(b.left_id, b.right_id);
    });
    merges.insert(merges.end(), local.begin(), local.end());
  }
  const auto code_points = [](absl::string_view text) {
    return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
  };
  std::stable_sort(merges.begin(), merges.end(), [&](const Merge& a, const Merge& b) {
    if (a.score != b.score) return a.score > b.score;
    const auto left_a = code_points(a.left), left_b = code_points(b.left);
    if (left_a != left_b) return left_a > left_b;
    return code_points(a.right) > code_points(b.right);
  });
  std::vector<std::pair<absl::string_view, absl::string_view>> out;
  for (const Merge& merge : merges) out.emplace_back(merge.left, merge.right);
  return out;
}

absl::Status CheckVocab(const GgufVocab& vocab, const std::string& name) {
  if (vocab.tokens.empty()) return Invalid(name, "tokens", "empty");
  absl::flat_hash_map<absl::string_view, size_t> ids;
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const auto [other, fresh] = ids.emplace(vocab.tokens[i], i);
    if (!fresh) {
      return Invalid(name, "tokens", absl::StrCat("token \"", absl::Utf8SafeCHexEscape(vocab.tokens[i]), "\" has the ids ", other->second, " and ", i));
    }
  }
  for (size_t i = 0; i < vocab.token_types.size(); ++i) {
    if (vocab.token_types[i] < 0 || vocab.token_types[i] > kByte) {
      return Invalid(name, "token_type", absl::StrCat(vocab.token_types[i], " of token ", i, ", expected 0 to ", kByte));
    }
  }
  if (!vocab.token_types.empty() && vocab.token_types.size() != vocab.tokens.size()) {
    return Invalid(name, "token_type", absl::StrCat(vocab.token_types.size(), " values for ", vocab.tokens.size(), " tokens"));
  }
  if (!vocab.scores.empty() && vocab.scores.size() != vocab.tokens.size()) {
    return Invalid(name, "scores", absl::StrCat(vocab.scores.size(), " values for ", vocab.tokens.size(), " tokens"));
  }
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    if (!text::IsValidUtf8(vocab.tokens[i])) return Invalid(name, "tokens", absl::StrCat("token ", i, " is not UTF-8"));
    if (!vocab.scores.empty() && !std::isfinite(vocab.scores[i])) return Invalid(name, "scores", absl::StrCat("score ", i, " is not finite"));
  }
  for (size_t i = 0; i < vocab.merges.size(); ++i) {
    if (!text::IsValidUtf8(vocab.merges[i])) return Invalid(name, "merges", absl::StrCat("merge ", i, " is not UTF-8"));
  }
  if (!text::IsValidUtf8(vocab.chat_template)) return absl::InvalidArgumentError(absl::StrCat(name, ": tokenizer.chat_template: not UTF-8"));
  const std::pair<const char*, int32_t> roles[] = {{"bos_token_id", vocab.bos_id},
                                                   {"eos_token_id", vocab.eos_id},
                                                   {"padding_token_id", vocab.pad_id},
                                                   {"unknown_token_id", vocab.unk_id}};
  for (const auto& [key, id] : roles) {
    if (id >= 0 && static_cast<size_t>(id) >= vocab.tokens.size()) {
      return Invalid(name, key, absl::StrCat(id, " is not below the ", vocab.tokens.size(), " tokens"));
    }
  }
  return absl::OkStatus();
}

// Control, unknown and user-defined tokens, and those with a role.
OrderedJson AddedTokens(const GgufVocab& vocab) {
  OrderedJson added = OrderedJson::array();
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const int32_t type = vocab.token_types.empty() ? kNormal : vocab.token_types[i];
    const int32_t id = static_cast<int32_t>(i);
    const bool has_role = id == vocab.bos_id || id == vocab.eos_id || id == vocab.pad_id;
    if ((type != kUnknown && type != kControl && type != kUserDefined && !has_role) || vocab.tokens[i].empty()) continue;
    added.push_back({{"id", id},
                     {"content", vocab.tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != kUserDefined || has_role}});
  }
  return added;
}

OrderedJson PostProcessor(const GgufVocab& vocab) {
  const bool bos = vocab.add_bos && vocab.bos_id >= 0;
  const bool eos = vocab.add_eos && vocab.eos_id >= 0;
  if (!bos && !eos) return nullptr;
  OrderedJson special = OrderedJson::object();
  const auto piece = [&](int32_t id, int type_id) -> OrderedJson {
    const std::string& token = vocab.tokens[id];
    special[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
    return {{"SpecialToken", {{"id", token}, {"type_id", type_id}}}};
  };
  OrderedJson single = OrderedJson::array();
  OrderedJson pair = OrderedJson::array();
  for (const auto& [sequence, type_id] : {std::make_pair("A", 0), std::make_pair("B", 1)}) {
    OrderedJson pieces = OrderedJson::array();
    if (bos) pieces.push_back(piece(vocab.bos_id, type_id));
    pieces.push_back({{"Sequence", {{"id", sequence}, {"type_id", type_id}}}});
    if (eos) pieces.push_back(piece(vocab.eos_id, type_id));
    for (OrderedJson& p : pieces) {
      if (type_id == 0) single.push_back(p);
      pair.push_back(p);
    }
  }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

std::string ConfigJson(const GgufVocab& vocab) {
  OrderedJson config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const std::pair<const char*, int32_t> roles[] = {
      {"bos_token", vocab.bos_id}, {"eos_token", vocab.eos_id}, {"pad_token", vocab.pad_id}, {"unk_token", vocab.unk_id}};
  for (const auto& [key, id] : roles) {
    if (id >= 0) config[key] = vocab.tokens[id];
  }
  if (!vocab.chat_template.empty()) config["chat_template"] = vocab.chat_template;
  return config.dump(2) + "\n";
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromGgufVocab(const GgufVocab& vocab, const std::string& name) {
  RETURN_IF_ERROR(CheckVocab(vocab, name));
  OrderedJson model = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr}, {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", false}};
  OrderedJson merges = OrderedJson::array();
  OrderedJson root = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", AddedTokens(vocab)}};
  OrderedJson decoder;
  if (vocab.model == "gpt2") {
    const std::optional<text::GgufPre> pre = text::FindGgufPre(vocab.pre);
    if (!pre) return Invalid(name, "pre", absl::StrCat("\"", vocab.pre, "\" is not supported; give a tokenizer.json beside the model"));
    root["normalizer"] = pre->normalizer;
    root["pre_tokenizer"] = pre->pre_tokenizer;
    model["ignore_merges"] = pre->ignore_merges;
    decoder = ByteLevel(true);
    if (vocab.merges.empty()) return Invalid(name, "merges", "missing; a \"gpt2\" vocabulary needs them");
    for (size_t i = 0; i < vocab.merges.size(); ++i) {
      const std::string& merge = vocab.merges[i];
      const size_t space = merge.find(' ', 1);
      if (space == std::string::npos || space + 1 == merge.size() || merge.find(' ', space + 1) != std::string::npos) {
        return Invalid(name, "merges", absl::StrCat("merge ", i, " \"", merge, "\" is not two tokens with one space between them"));
      }
      merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
    }
  } else if (vocab.model == "llama") {
    if (vocab.scores.empty()) return Invalid(name, "scores", "missing; a \"llama\" vocabulary needs them");
    root["normalizer"] = text::SentencePieceNormalizer(vocab.add_space_prefix);
    root["pre_tokenizer"] = nullptr;
    std::vector<OrderedJson> steps = {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
    if (vocab.add_space_prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    decoder = Sequence("decoders", steps);
    model["fuse_unk"] = true;
    model["byte_fallback"] = true;
    if (vocab.unk_id >= 0) model["unk_token"] = vocab.tokens[vocab.unk_id];
    for (const auto& [left, right] : MergesFromScores(vocab)) merges.push_back({std::string(left), std::string(right)});
  } else {
    return Invalid(name, "model", absl::StrCat("\"", vocab.model, "\" is not supported; expected \"gpt2\" or \"llama\""));
  }
  root["post_processor"] = PostProcessor(vocab);
  root["decoder"] = decoder;
  // Written by hand: an ordered JSON object takes quadratic time to fill.
  std::string tokens_json = "{";
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    absl::StrAppend(&tokens_json, i == 0 ? "" : ",", OrderedJson(vocab.tokens[i]).dump(), ":", i);
  }
  tokens_json += "}";
  std::string model_json = model.dump();
  model_json.pop_back();
  absl::StrAppend(&model_json, ",\"vocab\":", tokens_json, ",\"merges\":", merges.dump(), "}");
  std::string text = root.dump();
  text.pop_back();
  absl::StrAppend(&text, ",\"model\":", model_json, "}\n");
  return FromJson(text, name, ConfigJson(vocab));
}

}  // namespace grouper
