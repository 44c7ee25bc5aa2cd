// Text to token ids and back, equal to Hugging Face `tokenizers`, from a tokenizer.json or from a GGUF file's own vocabulary.
//
//   encode:  text -> added tokens cut out -> normalizer -> pre-tokenizer -> model (BPE, Unigram, WordLevel) -> post-processor
//   decode:  ids -> token strings -> decoder -> text
//
// tokenizer.json: models BPE (byte-level and character-level with byte_fallback), Unigram, WordLevel; normalizers NFC, NFD, NFKC, NFKD,
// Lowercase, StripAccents, Strip, Prepend, Replace, Sequence; pre-tokenizers ByteLevel, Split, Digits, Whitespace, WhitespaceSplit,
// Metaspace, Punctuation, Sequence; post-processors ByteLevel, TemplateProcessing, Sequence; decoders ByteLevel, Metaspace, ByteFallback,
// Fuse, Replace, Strip, Sequence. Anything else is an error that names the JSON path, never ignored (but "truncation" and "padding", which
// are the caller's business).
//
// Text that is not valid UTF-8 is read as if each maximal ill-formed part were U+FFFD (Unicode 15, 3.9; Python's errors="replace").
// A Tokenizer is immutable and thread-safe. Files that lie (ids beyond the vocabulary, two tokens of one id, merges or templates naming
// unknown tokens, missing byte tokens, ...) are InvalidArgument naming file and field.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace grouper {

// The tokenizer.ggml.* keys of a GGUF file; whoever reads the file fills it. -1: the file has no such token.
struct GgufVocab {
  std::string model;                 // tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)
  std::string pre;                   // tokenizer.ggml.pre: "gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-v3", ...
  std::vector<std::string> tokens;   // id -> token
  std::vector<float> scores;         // as many as tokens for "llama"; may be empty for "gpt2"
  std::vector<int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty: all normal
  std::vector<std::string> merges;   // "left right", best first ("gpt2")
  int32_t bos_id = -1;
  int32_t eos_id = -1;
  int32_t pad_id = -1;
  int32_t unk_id = -1;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = true;  // "llama" only
  std::string chat_template;     // may be empty
};

class Tokenizer {
 public:
  // A tokenizer.json, and what stands beside it: tokenizer_config.json (bos/eos/pad/unk tokens, chat_template),
  // special_tokens_map.json, generation_config.json (stop ids), chat_template.jinja. When none says which tokens are bos, eos, ..., they
  // are found by their usual names ("<s>", "<|endoftext|>", ...) among the special tokens.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromFile(const std::string& path);
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromDirectory(const std::string& directory);  // its tokenizer.json
  // The text of a tokenizer.json; `name` stands for the file in errors. `config_json`: text of a tokenizer_config.json, or empty.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromJson(absl::string_view text, const std::string& name,
                                                                   absl::string_view config_json = {});
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromGgufVocab(const GgufVocab& vocab, const std::string& name);

  ~Tokenizer();

  // parse_special: special tokens written in the text become their ids; else they are ordinary text (use it for text from strangers).
  // add_special: the post-processor's tokens (bos, eos) are added, as the file says.
  // What the vocabulary cannot say becomes the model's unknown token, or is left out where there is none.
  std::vector<int32_t> Encode(absl::string_view text, bool parse_special = true, bool add_special = false) const;
  // As Encode, but InvalidArgument that names the characters (or words, where the vocabulary is of words) without a token, when no token of its own
  // stands for them: there is none, or it is the one that pads, begins or ends a text. Else adds the number of unknown tokens to *unknown.
  absl::StatusOr<std::vector<int32_t>> TryEncode(absl::string_view text, bool parse_special = true, int64_t* unknown = nullptr) const;

  // The text of `ids`, always valid UTF-8 (ill-formed parts become U+FFFD). Ids without a token are passed over.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const;

  // The raw bytes that the token stands for inside a text (may be part of a character). Empty for an id without a token.
  absl::string_view TokenBytes(int32_t id) const;

  int32_t vocab_size() const;  // largest id + 1
  std::optional<int32_t> TokenId(absl::string_view token) const;  // as written in the vocabulary ("Ġthe")
  absl::string_view Token(int32_t id) const;                      // its inverse; empty for an id without a token
  bool IsSpecial(int32_t id) const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;
  std::optional<int32_t> unk_id() const;              // of the configuration
  std::optional<int32_t> model_unk_id() const;        // what Encode puts for what has no token
  const std::vector<int32_t>& stop_ids() const;      // generation_config.json's eos_token_id(s), else eos_id; may be empty
  const std::string& chat_template() const;          // Jinja text, or empty

  // What `transformers.AutoTokenizer` loads: the original text where there was one, else generated from the GGUF vocabulary.
  std::string ToJson() const;                  // tokenizer.json
  std::string TokenizerConfigJson() const;     // tokenizer_config.json
  // As a GGUF file holds it, filled up to `vocab_size` tokens. Unimplemented for what llama.cpp cannot say: other models than BPE, byte-level
  // splits of the text that it has no name for, and merges that are not those of a SentencePiece vocabulary with scores.
  absl::StatusOr<GgufVocab> ToGgufVocab(int64_t vocab_size) const;

  struct Parts;  // tokenizer_parts.h
  explicit Tokenizer(std::unique_ptr<const Parts> parts);

 private:
  friend class IncrementalDecoder;
  struct Encoded {
    bool all_known = true;      // all of the text has tokens of its own
    bool within_limits = true;  // of the pre_tokenizer's regex
  };
  // `unknown` (may be null): what has no token, as text::Model::Encode says it.
  Encoded AppendEncoding(absl::string_view text, bool parse_special, std::vector<int32_t>* ids, std::vector<std::string>* unknown = nullptr) const;
  bool UnkSaysSomethingElse() const;

  std::unique_ptr<const Parts> parts_;
};

// Decodes a stream of ids. The concatenation of everything that Add and Flush return equals Decode of all ids; every piece is valid
// UTF-8, and no piece ends inside a character. Not thread-safe; the tokenizer is kept alive.
class IncrementalDecoder {
 public:
  IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special);
  ~IncrementalDecoder();
  IncrementalDecoder(IncrementalDecoder&&) noexcept;
  IncrementalDecoder& operator=(IncrementalDecoder&&) noexcept;

  std::string Add(int32_t id);  // the text that this id completes, often empty in the middle of a character
  std::string Flush();          // the rest; the decoder is then as new

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace grouper
