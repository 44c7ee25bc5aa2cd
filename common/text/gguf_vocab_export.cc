// The way back of gguf_vocab.cc: a BPE tokenizer, byte-level or SentencePiece's, as the tokenizer.ggml.* keys of a GGUF file.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/text/gguf_pre.h"
#include "common/text/tokenizer.h"

namespace grouper {
namespace {

constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

// Does the post-processor put `token` first (last)?
bool Adds(const json::OrderedJson& processor, absl::string_view token, bool first) {
  if (!processor.is_object()) return false;
  if (processor.contains("processors")) {
    for (const auto& part : processor["processors"]) {
      if (Adds(part, token, first)) return true;
    }
    return false;
  }
  if (!processor.contains("single") || !processor["single"].is_array() || processor["single"].empty()) return false;
  const json::OrderedJson& piece = first ? processor["single"].front() : processor["single"].back();
  return piece.contains("SpecialToken") && piece["SpecialToken"].value("id", "") == token;
}

std::vector<std::pair<std::string, std::string>> MergesOf(const json::OrderedJson& model) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (const auto& merge : model["merges"]) {
    if (merge.is_string()) {
      const std::string text = merge.get<std::string>();
      const size_t space = text.find(' ');
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else {
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    }
  }
  return merges;
}

// A SentencePiece vocabulary has scores instead of merges: the earlier a token's merges, the higher. Tokens whose merges stand among each
// other's had one score.
std::vector<float> ScoresOf(const std::vector<std::pair<std::string, std::string>>& merges, const std::vector<std::string>& tokens) {
  absl::flat_hash_map<std::string, size_t> last;
  for (size_t i = 0; i < merges.size(); ++i) last[merges[i].first + merges[i].second] = i;
  absl::flat_hash_map<std::string, int> order;
  int score = 0;
  size_t end = 0;  // of the merges of this score
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string token = merges[i].first + merges[i].second;
    if (i > end) ++score;
    end = std::max(end, last[token]);
    order.emplace(token, score);
  }
  std::vector<float> scores;
  for (const std::string& token : tokens) {
    const auto it = order.find(token);
    scores.push_back(-static_cast<float>(it == order.end() ? score + 1 : it->second));
  }
  return scores;
}

// Merges with those of one token, which stand together, in one order.
std::vector<std::pair<std::string, std::string>> Grouped(std::vector<std::pair<std::string, std::string>> merges) {
  for (size_t begin = 0; begin < merges.size();) {
    size_t end = begin + 1;
    while (end < merges.size() && merges[end].first + merges[end].second == merges[begin].first + merges[begin].second) ++end;
    std::sort(merges.begin() + static_cast<int64_t>(begin), merges.begin() + static_cast<int64_t>(end));
    begin = end;
  }
  return merges;
}

}  // namespace

absl::StatusOr<GgufVocab> Tokenizer::ToGgufVocab(int64_t vocab_size) const {
  ASSIGN_OR_RETURN(const json::OrderedJson root, json::ParseOrdered(ToJson()));
  const json::OrderedJson& model = root["model"];
  if (model.value("type", "") != "BPE") {
    return absl::UnimplementedError(absl::StrCat("a tokenizer of type ", model.value("type", "?"),
                                                 " is not written to GGUF, only BPE; --format hf keeps every tokenizer"));
  }
  GgufVocab vocab;
  const bool sentencepiece = model.value("byte_fallback", false);
  if (sentencepiece) {
    const std::optional<bool> prefix = text::SentencePiecePrefixOf(root);
    if (!prefix) {
      return absl::UnimplementedError(
          "tokenizer.json: of SentencePiece's kind only normalizers that replace spaces (and prepend one) without a pre_tokenizer can be said in "
          "GGUF; --format hf keeps every tokenizer");
    }
    vocab.model = "llama";
    vocab.pre = "default";
    vocab.add_space_prefix = *prefix;
  } else {
    const std::optional<std::string> pre = text::GgufPreOf(root);
    if (!pre) {
      return absl::UnimplementedError(absl::StrCat("tokenizer.json: llama.cpp has no name for this pre_tokenizer and normalizer that we know (",
                                                   text::GgufPreNames(), "); --format hf keeps every tokenizer"));
    }
    vocab.model = "gpt2";
    vocab.pre = *pre;
  }
  if (this->vocab_size() > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("the tokenizer has ", this->vocab_size(), " tokens, the model ", vocab_size));
  }
  for (int64_t i = 0; i < vocab_size; ++i) {
    const int32_t id = static_cast<int32_t>(i);
    const std::string token(id < this->vocab_size() ? Token(id) : "");
    vocab.tokens.push_back(token.empty() ? absl::StrCat("[PAD", i, "]") : token);
    vocab.token_types.push_back(token.empty() ? kUnused : kNormal);
  }
  if (root.contains("added_tokens")) {
    for (const auto& added : root["added_tokens"]) {
      const int64_t id = added.value("id", int64_t{-1});
      if (id >= 0 && id < vocab_size) vocab.token_types[static_cast<size_t>(id)] = added.value("special", false) ? kControl : kUserDefined;
    }
  }
  vocab.bos_id = bos_id().value_or(-1);
  vocab.eos_id = eos_id().value_or(-1);
  vocab.pad_id = pad_id().value_or(-1);
  vocab.unk_id = unk_id().value_or(-1);
  if (root.contains("post_processor")) {
    vocab.add_bos = vocab.bos_id >= 0 && Adds(root["post_processor"], Token(vocab.bos_id), true);
    vocab.add_eos = vocab.eos_id >= 0 && Adds(root["post_processor"], Token(vocab.eos_id), false);
  }
  vocab.chat_template = chat_template();
  const std::vector<std::pair<std::string, std::string>> merges = MergesOf(model);
  if (!sentencepiece) {
    for (const auto& [left, right] : merges) vocab.merges.push_back(absl::StrCat(left, " ", right));
    return vocab;
  }
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const std::string& token = vocab.tokens[i];
    if (token.size() == 6 && absl::StartsWith(token, "<0x") && token[5] == '>' && vocab.token_types[i] == kNormal) vocab.token_types[i] = kByte;
  }
  if (model.contains("unk_token") && model["unk_token"].is_string()) vocab.unk_id = TokenId(model["unk_token"].get<std::string>()).value_or(-1);
  if (vocab.unk_id >= 0) vocab.token_types[static_cast<size_t>(vocab.unk_id)] = kUnknown;
  vocab.scores = ScoresOf(merges, vocab.tokens);
  // llama.cpp merges any two tokens whose concatenation is one: the file's merges must be all of those, in the order of one score a token.
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> again, FromGgufVocab(vocab, "the exported vocabulary"));
  ASSIGN_OR_RETURN(const json::OrderedJson again_root, json::ParseOrdered(again->ToJson()));
  if (Grouped(MergesOf(again_root["model"])) != Grouped(merges)) {
    return absl::UnimplementedError("tokenizer.json: its merges are not those of a SentencePiece vocabulary with scores, which GGUF keeps; --format hf keeps every tokenizer");
  }
  return vocab;
}

}  // namespace grouper
