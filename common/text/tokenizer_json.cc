#include <algorithm>

#include "common/base/json.h"
#include "common/base/status.h"
#include "common/text/json_fields.h"
#include "common/text/tokenizer_parts.h"

namespace grouper {

absl::string_view Tokenizer::Parts::TokenOf(int32_t id) const {
  if (const text::AddedToken* token = added.Find(id)) return token->content;
  return vocabulary.TokenOf(id);
}

absl::string_view Tokenizer::Parts::DecodeForm(int32_t id) const {
  if (const text::AddedToken* token = added.Find(id)) return added.DecodeForm(*token);
  return vocabulary.TokenOf(id);
}

bool Tokenizer::Parts::Has(int32_t id) const { return added.Find(id) != nullptr || vocabulary.Has(id); }

namespace text {
namespace {

const json::Json& Field(const json::Json& root, const char* key) {
  static const json::Json* const null = new json::Json();
  const auto it = root.find(key);
  return it == root.end() ? *null : *it;
}

absl::Status Read(const json::Json& root, Tokenizer::Parts* parts) {
  if (!root.is_object()) return absl::InvalidArgumentError("expected an object");
  if (json::Has(root, "version") && root["version"] != "1.0") return FieldError("version", "expected \"1.0\"");
  if (!json::Has(root, "model")) return FieldError("model", "missing");
  ASSIGN_OR_RETURN(parts->normalizer, Normalizer::FromJson(Field(root, "normalizer"), "normalizer"));
  ASSIGN_OR_RETURN(parts->pre_tokenizer, PreTokenizer::FromJson(Field(root, "pre_tokenizer"), "pre_tokenizer"));
  RETURN_IF_ERROR(ReadVocabulary(root["model"], "model", &parts->vocabulary));
  ASSIGN_OR_RETURN(parts->model, ModelFromJson(root["model"], "model", parts->vocabulary, parts->pre_tokenizer.byte_level()));
  ASSIGN_OR_RETURN(parts->added, AddedTokens::FromJson(Field(root, "added_tokens"), "added_tokens", parts->vocabulary, parts->normalizer));
  ASSIGN_OR_RETURN(parts->post_processor,
                   PostProcessor::FromJson(Field(root, "post_processor"), "post_processor", parts->vocabulary, parts->added));
  ASSIGN_OR_RETURN(parts->decoder, Decoder::FromJson(Field(root, "decoder"), "decoder"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer::Parts>> PartsFromJson(absl::string_view json_text, const std::string& name) {
  auto parts = std::make_unique<Tokenizer::Parts>();
  ASSIGN_OR_RETURN(const json::Json root, Annotate(json::Parse(json_text), name));
  RETURN_IF_ERROR(Annotate(Read(root, parts.get()), name));

  parts->vocab_size = parts->vocabulary.limit();
  for (const AddedToken& token : parts->added.tokens()) parts->vocab_size = std::max(parts->vocab_size, token.id + 1);
  if (parts->vocab_size == 0) return absl::InvalidArgumentError(absl::StrCat(name, ": model.vocab: no tokens"));
  parts->token_bytes.Resize(parts->vocab_size);
  parts->special.resize(parts->vocab_size, false);
  parts->skipped.resize(parts->vocab_size, false);
  for (int32_t id = 0; id < parts->vocab_size; ++id) {
    if (!parts->Has(id)) continue;
    const absl::string_view form = parts->DecodeForm(id);
    parts->token_bytes.Set(id, parts->decoder.TokenBytes(form));
    const AddedToken* const added = parts->added.Find(id);
    parts->special[id] = added != nullptr && added->special;
    const AddedToken* const by_form = parts->added.Find(form);
    parts->skipped[id] = by_form != nullptr && by_form->special;  // Hugging Face asks by the string
  }
  parts->json = std::string(json_text);
  return parts;
}

}  // namespace text
}  // namespace grouper
