#include "common/text/tokenizer.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/quote.h"
#include "common/base/status.h"
#include "common/text/tokenizer_parts.h"
#include "common/text/utf8.h"

namespace grouper {
namespace {

constexpr uint64_t kMaxTokenizerBytes = 256ull << 20;
constexpr uint64_t kMaxConfigBytes = 16ull << 20;

// Special tokens' usual names, for a tokenizer.json that stands alone.
constexpr const char* kBosNames[] = {"<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"};
constexpr const char* kEosNames[] = {"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "<|im_end|>"};
constexpr const char* kPadNames[] = {"<pad>", "<|pad|>", "[PAD]", "<|endoftext|>", "<｜▁pad▁｜>"};
constexpr const char* kUnkNames[] = {"<unk>", "<|unk|>", "[UNK]"};

template <size_t N>
void Guess(const text::AddedTokens& added, const char* const (&names)[N], std::optional<int32_t>* id) {
  for (const char* name : names) {
    const text::AddedToken* const token = added.Find(absl::string_view(name));
    if (id->has_value() || token == nullptr || !token->special) continue;
    *id = token->id;
  }
}

absl::StatusOr<std::optional<int32_t>> Resolve(const Tokenizer::Parts& parts, const std::optional<std::string>& token,
                                               const std::optional<int32_t>& known, const char* role, const std::string& name) {
  if (!token) {
    if (known && !parts.Has(*known)) {
      return absl::InvalidArgumentError(absl::StrCat(parts.config.generation_name, ": ", role, "_token_id: no token has the id ", *known));
    }
    return known;
  }
  if (const text::AddedToken* added = parts.added.Find(absl::string_view(*token))) return std::optional<int32_t>(added->id);
  const std::optional<int32_t> id = parts.vocabulary.Find(*token);
  if (!id) return absl::InvalidArgumentError(absl::StrCat(name, ": ", role, "_token: \"", *token, "\" is not in the vocabulary"));
  return id;
}

// Ids for the config's tokens. `config_name`: where they came from.
absl::Status ResolveSpecials(const std::string& config_name, Tokenizer::Parts* parts) {
  text::TokenizerConfig& config = parts->config;
  const bool has_config = !config.json.empty() || config.bos_token || config.eos_token || config.pad_token || config.unk_token;
  ASSIGN_OR_RETURN(config.bos_id, Resolve(*parts, config.bos_token, config.bos_id, "bos", config_name));
  ASSIGN_OR_RETURN(config.eos_id, Resolve(*parts, config.eos_token, config.eos_id, "eos", config_name));
  ASSIGN_OR_RETURN(config.pad_id, Resolve(*parts, config.pad_token, config.pad_id, "pad", config_name));
  ASSIGN_OR_RETURN(config.unk_id, Resolve(*parts, config.unk_token, config.unk_id, "unk", config_name));
  if (!has_config) {
    Guess(parts->added, kBosNames, &config.bos_id);
    Guess(parts->added, kEosNames, &config.eos_id);
    Guess(parts->added, kPadNames, &config.pad_id);
    Guess(parts->added, kUnkNames, &config.unk_id);
  }
  for (const int32_t id : config.stop_ids) {
    if (!parts->Has(id)) return absl::InvalidArgumentError(absl::StrCat(config.generation_name, ": eos_token_id: no token has the id ", id));
  }
  if (config.stop_ids.empty() && config.eos_id) config.stop_ids.push_back(*config.eos_id);
  // A token with a role is special, as in transformers.
  for (const std::optional<int32_t>& id : {config.bos_id, config.eos_id, config.pad_id, config.unk_id}) {
    if (id && parts->added.Find(*id) != nullptr) parts->special[*id] = parts->skipped[*id] = true;
  }
  return absl::OkStatus();
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(absl::string_view text, const std::string& name,
                                                                     absl::string_view config_json) {
  ASSIGN_OR_RETURN(std::unique_ptr<Parts> parts, text::PartsFromJson(text, name));
  const std::string config_name = absl::StrCat(name, " (tokenizer_config)");
  if (!config_json.empty()) {
    RETURN_IF_ERROR(parts->config.ReadConfig(config_json, config_name));
    parts->config.json = std::string(config_json);
  }
  RETURN_IF_ERROR(ResolveSpecials(config_name, parts.get()));
  return std::make_shared<const Tokenizer>(std::move(parts));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromFile(const std::string& path) {
  FileSystem& fs = DefaultFileSystem();
  ASSIGN_OR_RETURN(const std::string json_text, fs.ReadFile(path, kMaxTokenizerBytes));
  ASSIGN_OR_RETURN(std::unique_ptr<Parts> parts, text::PartsFromJson(json_text, path));
  const std::string directory = Dirname(path);
  const std::string config_path = JoinPath(directory, "tokenizer_config.json");
  if (fs.Exists(config_path)) {
    ASSIGN_OR_RETURN(parts->config.json, fs.ReadFile(config_path, kMaxConfigBytes));
    RETURN_IF_ERROR(parts->config.ReadConfig(parts->config.json, config_path));
  }
  const std::string map_path = JoinPath(directory, "special_tokens_map.json");
  if (fs.Exists(map_path)) {
    ASSIGN_OR_RETURN(const std::string map_text, fs.ReadFile(map_path, kMaxConfigBytes));
    RETURN_IF_ERROR(parts->config.ReadConfig(map_text, map_path));
  }
  const std::string jinja_path = JoinPath(directory, "chat_template.jinja");
  if (parts->config.chat_template.empty() && fs.Exists(jinja_path)) {
    ASSIGN_OR_RETURN(parts->config.chat_template, fs.ReadFile(jinja_path, kMaxConfigBytes));
    if (text::ValidPrefix(parts->config.chat_template) != parts->config.chat_template.size()) {
      return absl::InvalidArgumentError(absl::StrCat(jinja_path, ": not UTF-8"));
    }
  }
  const std::string generation_path = JoinPath(directory, "generation_config.json");
  if (fs.Exists(generation_path)) {
    ASSIGN_OR_RETURN(const std::string generation_text, fs.ReadFile(generation_path, kMaxConfigBytes));
    RETURN_IF_ERROR(parts->config.ReadGenerationConfig(generation_text, generation_path));
  }
  RETURN_IF_ERROR(ResolveSpecials(config_path, parts.get()));
  return std::make_shared<const Tokenizer>(std::move(parts));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromDirectory(const std::string& directory) {
  return FromFile(JoinPath(directory, "tokenizer.json"));
}

Tokenizer::Encoded Tokenizer::AppendEncoding(absl::string_view text, bool parse_special, std::vector<int32_t>* ids,
                                             std::vector<std::string>* unknown) const {
  std::string repaired;
  if (!text::IsValidUtf8(text)) {
    text::AppendLossy(text, false, &repaired);
    text = repaired;
  }
  Encoded encoded;
  std::vector<text::AddedSegment> raw_segments;
  std::vector<text::AddedSegment> segments;
  text::Pieces pieces;
  parts_->added.Cut(text, false, parse_special, &raw_segments);
  for (const text::AddedSegment& raw : raw_segments) {
    if (raw.id >= 0) {
      ids->push_back(raw.id);
      continue;
    }
    std::string normalized;
    absl::string_view stretch = raw.text;
    bool lost_first = false;
    if (!parts_->normalizer.empty()) {
      normalized = parts_->normalizer.Normalize(stretch, &lost_first);
      stretch = normalized;
    }
    segments.clear();
    parts_->added.Cut(stretch, true, parse_special, &segments);
    for (const text::AddedSegment& segment : segments) {
      if (segment.id >= 0) {
        ids->push_back(segment.id);
        continue;
      }
      const bool at_start = !lost_first && raw.text.data() == text.data() && segment.text.data() == stretch.data();
      parts_->pre_tokenizer.Split(segment.text, at_start, &pieces);
      for (const text::Pieces::Piece& piece : pieces.items) encoded.all_known &= parts_->model->Encode(piece.text, ids, unknown);
    }
  }
  encoded.within_limits = !pieces.limits_hit;
  return encoded;
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, bool parse_special, bool add_special) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (add_special) ids = parts_->post_processor.before;
  AppendEncoding(text, parse_special, &ids);
  if (add_special) ids.insert(ids.end(), parts_->post_processor.after.begin(), parts_->post_processor.after.end());
  return ids;
}

// A text that is full of padding, or ends in its middle, is not what somebody wrote.
bool Tokenizer::UnkSaysSomethingElse() const {
  const text::TokenizerConfig& config = parts_->config;
  const std::optional<int32_t> unk = model_unk_id();
  const std::vector<int32_t>& stops = config.stop_ids;
  return unk && (unk == config.pad_id || unk == config.bos_id || unk == config.eos_id || std::find(stops.begin(), stops.end(), *unk) != stops.end());
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::TryEncode(absl::string_view text, bool parse_special, int64_t* unknown) const {
  constexpr size_t kShown = 10, kShownBytes = 40;
  std::vector<int32_t> ids;
  const Encoded encoded = AppendEncoding(text, parse_special, &ids);
  if (!encoded.within_limits) return absl::InvalidArgumentError("the tokenizer's pre_tokenizer regex took too many steps on this text");
  if (encoded.all_known) return ids;
  const std::optional<int32_t> unk = model_unk_id();
  if (unk && !UnkSaysSomethingElse()) {
    if (unknown != nullptr) *unknown += std::count(ids.begin(), ids.end(), *unk);
    return ids;
  }
  // Once more, to say what it was.
  std::vector<std::string> all, different;
  AppendEncoding(text, parse_special, &ids, &all);
  for (std::string& one : all) {
    if (different.size() > kShown) break;
    if (std::find(different.begin(), different.end(), one) == different.end()) different.push_back(std::move(one));
  }
  std::string shown;
  for (size_t i = 0; i < std::min(different.size(), kShown); ++i) {
    absl::StrAppend(&shown, i == 0 ? "" : ", ", "\"", Printable(absl::string_view(different[i]).substr(0, kShownBytes)), "\"");
  }
  return absl::InvalidArgumentError(absl::StrCat("the tokenizer has no token for ", shown, different.size() > kShown ? ", ..." : "",
                                                 unk ? absl::StrCat(" (its unknown token is ", Token(*unk), ", which means something else)") : ""));
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string out;
  text::DecodeStream stream(parts_->decoder);
  const bool takes_bytes = stream.takes_bytes();
  for (const int32_t id : ids) {
    if (!parts_->Has(id) || (skip_special && parts_->skipped[id])) continue;
    if (takes_bytes) {
      stream.AddBytes(parts_->token_bytes[id], &out);
    } else {
      stream.Add(parts_->DecodeForm(id), &out);
    }
  }
  stream.Finish(&out);
  return out;
}

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  return id >= 0 && id < parts_->vocab_size ? parts_->token_bytes[id] : absl::string_view();
}

int32_t Tokenizer::vocab_size() const { return parts_->vocab_size; }

std::optional<int32_t> Tokenizer::TokenId(absl::string_view token) const {
  if (const text::AddedToken* added = parts_->added.Find(token)) return added->id;
  return parts_->vocabulary.Find(token);
}

absl::string_view Tokenizer::Token(int32_t id) const { return parts_->TokenOf(id); }
bool Tokenizer::IsSpecial(int32_t id) const { return id >= 0 && id < parts_->vocab_size && parts_->special[id]; }
std::optional<int32_t> Tokenizer::bos_id() const { return parts_->config.bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return parts_->config.eos_id; }
std::optional<int32_t> Tokenizer::pad_id() const { return parts_->config.pad_id; }
std::optional<int32_t> Tokenizer::unk_id() const { return parts_->config.unk_id; }
std::optional<int32_t> Tokenizer::model_unk_id() const { return parts_->model->unk_id(); }
const std::vector<int32_t>& Tokenizer::stop_ids() const { return parts_->config.stop_ids; }
const std::string& Tokenizer::chat_template() const { return parts_->config.chat_template; }
std::string Tokenizer::ToJson() const { return parts_->json; }

std::string Tokenizer::TokenizerConfigJson() const {
  const text::TokenizerConfig& config = parts_->config;
  json::OrderedJson out = json::OrderedJson::object();
  if (!config.json.empty()) {
    absl::StatusOr<json::OrderedJson> original = json::ParseOrdered(config.json);
    CHECK(original.ok()) << original.status().ToString();  // it was read before
    out = *std::move(original);
  } else {
    out["tokenizer_class"] = "PreTrainedTokenizerFast";
    out["clean_up_tokenization_spaces"] = false;
  }
  const auto set = [&](const char* key, const std::optional<int32_t>& id) {
    if (id && (!out.contains(key) || out[key].is_null())) out[key] = std::string(Token(*id));
  };
  set("bos_token", config.bos_id);
  set("eos_token", config.eos_id);
  set("pad_token", config.pad_id);
  set("unk_token", config.unk_id);
  if (!out.contains("chat_template") && !config.chat_template.empty()) out["chat_template"] = config.chat_template;
  return out.dump(2, ' ', false, json::OrderedJson::error_handler_t::replace) + "\n";
}

struct IncrementalDecoder::State {
  explicit State(const text::Decoder& decoder) : stream(decoder) {}
  text::DecodeStream stream;
};

IncrementalDecoder::IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special), state_(std::make_unique<State>(tokenizer_->parts_->decoder)) {}
IncrementalDecoder::~IncrementalDecoder() = default;
IncrementalDecoder::IncrementalDecoder(IncrementalDecoder&&) noexcept = default;
IncrementalDecoder& IncrementalDecoder::operator=(IncrementalDecoder&&) noexcept = default;

std::string IncrementalDecoder::Add(int32_t id) {
  const Tokenizer::Parts& parts = *tokenizer_->parts_;
  std::string out;
  if (!parts.Has(id) || (skip_special_ && parts.skipped[id])) return out;
  if (state_->stream.takes_bytes()) {
    state_->stream.AddBytes(parts.token_bytes[id], &out);
  } else {
    state_->stream.Add(parts.DecodeForm(id), &out);
  }
  return out;
}

std::string IncrementalDecoder::Flush() {
  std::string out;
  state_->stream.Finish(&out);
  return out;
}

}  // namespace grouper
