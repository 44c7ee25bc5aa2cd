#include "common/text/post_processor.h"

#include <limits>

#include "common/base/status.h"
#include "common/text/json_fields.h"

namespace grouper::text {
namespace {

constexpr size_t kMaxTokens = 256;

// The ids of template piece {"SpecialToken": {"id": name}}.
absl::Status AppendSpecial(const json::Json& special_tokens, const std::string& tokens_path, const std::string& name, const std::string& path,
                           const Vocabulary& vocabulary, const AddedTokens& added, std::vector<int32_t>* ids) {
  const auto it = special_tokens.find(name);
  if (it == special_tokens.end()) return FieldError(path, "names \"", name, "\", which special_tokens does not define");
  const std::string here = absl::StrCat(tokens_path, "[\"", name, "\"]");
  ASSIGN_OR_RETURN(const json::Json* const values, ArrayField(*it, "ids", here));
  ASSIGN_OR_RETURN(const json::Json* const tokens, ArrayField(*it, "tokens", here));
  if (values->size() != tokens->size()) return FieldError(here, "ids and tokens differ in length");
  for (size_t i = 0; i < values->size(); ++i) {
    const std::string item = Item(At(here, "ids"), i);
    ASSIGN_OR_RETURN(const int64_t id, AsInt((*values)[i], item, 0, std::numeric_limits<int32_t>::max()));
    if (!(*tokens)[i].is_string()) return FieldError(Item(At(here, "tokens"), i), "expected a string");
    const std::string& token = (*tokens)[i].get_ref<const std::string&>();
    const AddedToken* const known = added.Find(static_cast<int32_t>(id));
    if (known == nullptr && !vocabulary.Has(id)) return FieldError(item, "no token has the id ", id);
    const absl::string_view content = known != nullptr ? known->content : vocabulary.TokenOf(static_cast<int32_t>(id));
    if (content != token) return FieldError(item, "id ", id, " is the token \"", content, "\", not \"", token, "\"");
    ids->push_back(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status Read(const json::Json& json, const std::string& path, const Vocabulary& vocabulary, const AddedTokens& added,
                  PostProcessor* out) {
  ASSIGN_OR_RETURN(const std::string type, TypeOf(json, path));
  if (type == "ByteLevel") return absl::OkStatus();  // changes offsets only
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const json::Json* const items, ArrayField(json, "processors", path));
    for (size_t i = 0; i < items->size(); ++i) {
      RETURN_IF_ERROR(Read((*items)[i], Item(At(path, "processors"), i), vocabulary, added, out));
    }
    return absl::OkStatus();
  }
  if (type != "TemplateProcessing") return FieldError(At(path, "type"), "post-processor \"", type, "\" is not supported");
  ASSIGN_OR_RETURN(const json::Json* const pieces, ArrayField(json, "single", path));
  if (!json::Has(json, "special_tokens") || !json["special_tokens"].is_object()) {
    return FieldError(At(path, "special_tokens"), "expected an object");
  }
  PostProcessor result;
  bool seen_sequence = false;
  for (size_t i = 0; i < pieces->size(); ++i) {
    const std::string here = Item(At(path, "single"), i);
    const json::Json& piece = (*pieces)[i];
    if (piece.is_object() && piece.size() == 1 && piece.contains("Sequence")) {
      ASSIGN_OR_RETURN(const std::string id, StringField(piece["Sequence"], "id", At(here, "Sequence")));
      if (id != "A" || seen_sequence) return FieldError(here, "expected sequence A, once");
      seen_sequence = true;
    } else if (piece.is_object() && piece.size() == 1 && piece.contains("SpecialToken")) {
      ASSIGN_OR_RETURN(const std::string id, StringField(piece["SpecialToken"], "id", At(here, "SpecialToken")));
      RETURN_IF_ERROR(AppendSpecial(json["special_tokens"], At(path, "special_tokens"), id, here, vocabulary, added,
                                    seen_sequence ? &result.after : &result.before));
    } else {
      return FieldError(here, "expected {\"Sequence\": ...} or {\"SpecialToken\": ...}");
    }
    if (result.before.size() + result.after.size() > kMaxTokens) return FieldError(path, "more than ", kMaxTokens, " special tokens");
  }
  if (!seen_sequence) return FieldError(At(path, "single"), "has no sequence A: the text would be lost");
  out->before.insert(out->before.begin(), result.before.begin(), result.before.end());
  out->after.insert(out->after.end(), result.after.begin(), result.after.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::FromJson(const json::Json& json, const std::string& path, const Vocabulary& model_vocabulary,
                                                      const AddedTokens& added) {
  PostProcessor out;
  if (!json.is_null()) RETURN_IF_ERROR(Read(json, path, model_vocabulary, added, &out));
  return out;
}

}  // namespace grouper::text
