#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "reward/extraction.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

constexpr size_t kMaxJsonBytes = 1 << 20;
constexpr const char* kTypes[] = {"string", "number", "integer", "boolean", "object", "array", "null", "any"};

bool HasType(const json::Json& value, const std::string& type) {
  if (type == "any") return true;
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  if (type == "integer") return value.is_number_integer();
  if (type == "boolean") return value.is_boolean();
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  return value.is_null();
}

absl::string_view WithoutFence(absl::string_view text) {
  if (!absl::ConsumePrefix(&text, "```")) return text;
  absl::ConsumePrefix(&text, "json");
  text = absl::StripAsciiWhitespace(text);
  absl::ConsumeSuffix(&text, "```");
  return absl::StripAsciiWhitespace(text);
}

class JsonSchemaLiteRule : public Rule {
 public:
  JsonSchemaLiteRule(std::vector<Place> places, std::map<std::string, std::string> fields, bool closed)
      : places_(std::move(places)), fields_(std::move(fields)), closed_(closed) {}

  RuleResult Score(const RuleInput& input) const override {
    const Extracted answer = Extract(input.text, places_);
    if (!answer.found) return RuleResult::Scored(0, "no answer found");
    const absl::string_view text = WithoutFence(answer.text);
    if (text.size() > kMaxJsonBytes) return RuleResult::Scored(0, "the JSON text is too long");
    const absl::StatusOr<json::Json> value = json::Parse(text);
    if (!value.ok()) return RuleResult::Scored(0, std::string(value.status().message()), text);
    if (!value->is_object()) return RuleResult::Scored(0, "not a JSON object", text);
    for (const auto& [name, type] : fields_) {
      const auto it = value->find(name);
      if (it == value->end()) return RuleResult::Scored(0, absl::StrCat("no field \"", name, "\""), text);
      if (!HasType(*it, type))
        return RuleResult::Scored(0, absl::StrCat("\"", name, "\" is ", it->type_name(), ", expected ", type), text);
    }
    if (closed_ && value->size() > fields_.size()) return RuleResult::Scored(0, "fields that were not asked for", text);
    return RuleResult::Scored(1, "", text);
  }

 private:
  const std::vector<Place> places_;
  const std::map<std::string, std::string> fields_;
  const bool closed_;
};

}  // namespace

RuleOr CreateJsonSchemaLiteRule(const v1::JsonSchemaLiteRule& config) {
  ASSIGN_OR_RETURN(std::vector<Place> places, ParsePlaces(config.extraction(), {Place::kAnswerTag, Place::kWhole}));
  for (const auto& [name, type] : config.fields()) {
    if (std::find(std::begin(kTypes), std::end(kTypes), type) == std::end(kTypes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("fields[\"", name, "\"]: \"", type,
                       "\", expected string, number, integer, boolean, object, array, null or any"));
    }
  }
  return std::make_unique<JsonSchemaLiteRule>(
      std::move(places), std::map<std::string, std::string>(config.fields().begin(), config.fields().end()),
      config.closed());
}

}  // namespace grouper
