// The way back of gguf_vocab.cc: a byte-level BPE tokenizer as the tokenizer.ggml.* keys of a GGUF file.
#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/text/gguf_pre.h"
#include "common/text/tokenizer.h"

namespace grouper {
namespace {

constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

// Does the post-processor put `token` first (last)?
bool Adds(const json::OrderedJson& processor, const std::string& token, bool first) {
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

}  // namespace

absl::StatusOr<GgufVocab> Tokenizer::ToGgufVocab(int64_t vocab_size) const {
  ASSIGN_OR_RETURN(const json::OrderedJson root, json::ParseOrdered(ToJson()));
  const json::OrderedJson& model = root["model"];
  if (model.value("type", "") != "BPE" || model.value("byte_fallback", false)) {
    return absl::UnimplementedError(absl::StrCat("a tokenizer of type ", model.value("type", "?"),
                                                 " is not written to GGUF, only byte-level BPE; --format hf keeps every tokenizer"));
  }
  const std::optional<std::string> pre = text::GgufPreOf(root);
  if (!pre) {
    return absl::UnimplementedError(
        "tokenizer.json: llama.cpp has no name for this pre_tokenizer and normalizer that we know (gpt-2, smollm, llama-bpe, qwen2, qwen35, deepseek-coder, "
        "deepseek-v3); --format hf keeps every tokenizer");
  }
  if (this->vocab_size() > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("the tokenizer has ", this->vocab_size(), " tokens, the model ", vocab_size));
  }
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = *pre;
  for (int64_t i = 0; i < vocab_size; ++i) {
    const int32_t id = static_cast<int32_t>(i);
    const std::string token = id < this->vocab_size() ? Token(id) : std::string();
    vocab.tokens.push_back(token.empty() ? absl::StrCat("[PAD", i, "]") : token);
    vocab.token_types.push_back(token.empty() ? kUnused : kNormal);
  }
  if (root.contains("added_tokens")) {
    for (const auto& added : root["added_tokens"]) {
      const int64_t id = added.value("id", int64_t{-1});
      if (id >= 0 && id < vocab_size) vocab.token_types[static_cast<size_t>(id)] = added.value("special", false) ? kControl : kUserDefined;
    }
  }
  for (const auto& merge : model["merges"]) {
    vocab.merges.push_back(merge.is_string() ? merge.get<std::string>()
                                             : absl::StrCat(merge[0].get<std::string>(), " ", merge[1].get<std::string>()));
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
  return vocab;
}

}  // namespace grouper
