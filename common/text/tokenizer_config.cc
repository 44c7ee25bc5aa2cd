#include "common/text/tokenizer_config.h"

#include <limits>

#include "common/base/json.h"
#include "common/base/status.h"
#include "common/text/json_fields.h"

namespace grouper::text {
namespace {

// "</s>", {"content": "</s>", ...} or null.
absl::Status ReadToken(const json::Json& config, const std::string& key, std::optional<std::string>* token) {
  if (*token || !json::Has(config, key)) return absl::OkStatus();
  const json::Json& value = config[key];
  if (value.is_string()) {
    *token = value.get<std::string>();
  } else {
    ASSIGN_OR_RETURN(*token, StringField(value, "content", key));
  }
  if (token->value().empty()) token->reset();
  return absl::OkStatus();
}

// A text, or a list of {"name", "template"} with one named "default".
absl::StatusOr<std::string> ReadTemplate(const json::Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return FieldError("chat_template", "expected a string or a list of templates");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string here = Item("chat_template", i);
    ASSIGN_OR_RETURN(const std::string name, StringField(value[i], "name", here));
    if (name == "default") return StringField(value[i], "template", here);
  }
  return std::string();
}

absl::StatusOr<int32_t> ReadId(const json::Json& value, const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t id, AsInt(value, path, 0, std::numeric_limits<int32_t>::max()));
  return static_cast<int32_t>(id);
}

}  // namespace

absl::Status TokenizerConfig::ReadConfig(absl::string_view text, const std::string& name) {
  ASSIGN_OR_RETURN(const json::Json config, Annotate(json::Parse(text), name));
  if (!config.is_object()) return FieldError(name, "expected an object");
  RETURN_IF_ERROR(Annotate(ReadToken(config, "bos_token", &bos_token), name));
  RETURN_IF_ERROR(Annotate(ReadToken(config, "eos_token", &eos_token), name));
  RETURN_IF_ERROR(Annotate(ReadToken(config, "pad_token", &pad_token), name));
  RETURN_IF_ERROR(Annotate(ReadToken(config, "unk_token", &unk_token), name));
  if (chat_template.empty() && json::Has(config, "chat_template")) {
    ASSIGN_OR_RETURN(chat_template, Annotate(ReadTemplate(config["chat_template"]), name));
  }
  return absl::OkStatus();
}

absl::Status TokenizerConfig::ReadGenerationConfig(absl::string_view text, const std::string& name) {
  generation_name = name;
  ASSIGN_OR_RETURN(const json::Json config, Annotate(json::Parse(text), name));
  if (!config.is_object()) return FieldError(name, "expected an object");
  if (json::Has(config, "eos_token_id")) {
    const json::Json& eos = config["eos_token_id"];
    stop_ids.clear();
    if (eos.is_array()) {
      for (size_t i = 0; i < eos.size(); ++i) {
        ASSIGN_OR_RETURN(const int32_t id, Annotate(ReadId(eos[i], Item("eos_token_id", i)), name));
        stop_ids.push_back(id);
      }
    } else {
      ASSIGN_OR_RETURN(const int32_t id, Annotate(ReadId(eos, "eos_token_id"), name));
      stop_ids.push_back(id);
    }
  }
  if (!bos_token && !bos_id && json::Has(config, "bos_token_id")) {
    ASSIGN_OR_RETURN(bos_id, Annotate(ReadId(config["bos_token_id"], "bos_token_id"), name));
  }
  if (!pad_token && !pad_id && json::Has(config, "pad_token_id")) {
    ASSIGN_OR_RETURN(pad_id, Annotate(ReadId(config["pad_token_id"], "pad_token_id"), name));
  }
  return absl::OkStatus();
}

}  // namespace grouper::text
