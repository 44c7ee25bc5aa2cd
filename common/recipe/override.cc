#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/parse_double.h"
#include "common/base/quote.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "common/text/utf8.h"
#include "google/protobuf/descriptor.h"

namespace grouper {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// One step of a path: NAME or NAME[SELECTOR].
struct PathStep {
  std::string name, selector;
  bool selected = false;
};

absl::StatusOr<std::vector<PathStep>> ParsePath(absl::string_view path) {
  std::vector<PathStep> steps;
  for (size_t at = 0; at <= path.size();) {
    PathStep step;
    const size_t end = path.find_first_of(".[", at);
    step.name = std::string(path.substr(at, end == absl::string_view::npos ? end : end - at));
    if (step.name.empty()) return absl::InvalidArgumentError("expected a field name");
    at = end == absl::string_view::npos ? path.size() + 1 : end;
    if (at < path.size() && path[at] == '[') {
      const size_t close = path.find(']', at);
      if (close == absl::string_view::npos) return absl::InvalidArgumentError("expected ']'");
      step.selector = std::string(path.substr(at + 1, close - at - 1));
      step.selected = true;
      at = close + 1;
      if (at < path.size() && path[at] != '.') return absl::InvalidArgumentError("expected '.' after ']'");
      if (at == path.size()) at = path.size() + 1;
    }
    if (at < path.size() && path[at] == '.') ++at;
    steps.push_back(std::move(step));
  }
  return steps;
}

std::string FieldNames(const Descriptor* type) {
  std::vector<std::string> names;
  for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
  return absl::StrJoin(names, ", ");
}

const char* TypeName(const FieldDescriptor* field) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: return "true or false";
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64: return "an integer";
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64: return "an integer of at least 0";
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE: return "a number";
    case FieldDescriptor::CPPTYPE_STRING: return "text";
    case FieldDescriptor::CPPTYPE_MESSAGE: return "a message";
    case FieldDescriptor::CPPTYPE_ENUM: return "an enum value";
  }
  return "a value";
}

// Parses `text` and passes the value to `set` or, for a repeated field, `add`.
absl::Status StoreScalar(const std::string& text, const FieldDescriptor* field, Message* message) {
  const Reflection* reflection = message->GetReflection();
  const bool repeated = field->is_repeated();
  auto wrong = [&] { return absl::InvalidArgumentError(absl::StrCat("expected ", TypeName(field), ", got \"", text, "\"")); };
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: {
      if (text != "true" && text != "false") return wrong();
      repeated ? reflection->AddBool(message, field, text == "true") : reflection->SetBool(message, field, text == "true");
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value;
      if (!absl::SimpleAtoi(text, &value)) return wrong();
      repeated ? reflection->AddInt32(message, field, value) : reflection->SetInt32(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value;
      if (!absl::SimpleAtoi(text, &value)) return wrong();
      repeated ? reflection->AddUInt64(message, field, value) : reflection->SetUInt64(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value;
      if (!ParseDouble(text, &value)) return wrong();
      repeated ? reflection->AddDouble(message, field, value) : reflection->SetDouble(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      repeated ? reflection->AddString(message, field, text) : reflection->SetString(message, field, text);
      return absl::OkStatus();
    }
    default:
      return absl::InvalidArgumentError(absl::StrCat("a field of type ", field->cpp_type_name(), " cannot be set this way"));
  }
}

// The item of a repeated message that `selector` (a name or an index) stands for.
absl::StatusOr<Message*> FindItem(Message* message, const FieldDescriptor* field, const std::string& selector) {
  const Reflection* reflection = message->GetReflection();
  const int count = reflection->FieldSize(*message, field);
  const FieldDescriptor* name = field->message_type()->FindFieldByName("name");
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    Message* item = reflection->MutableRepeatedMessage(message, field, i);
    if (name == nullptr) continue;
    names.push_back(item->GetReflection()->GetString(*item, name));
    if (names.back() == selector) return item;
  }
  uint32_t index;
  if (absl::SimpleAtoi(selector, &index) && index < static_cast<uint32_t>(count)) {
    return reflection->MutableRepeatedMessage(message, field, static_cast<int>(index));
  }
  return absl::InvalidArgumentError(absl::StrCat("no \"", selector, "\" in ", field->name(), "; expected an index below ", count,
                                                 names.empty() ? "" : absl::StrCat(" or one of: ", absl::StrJoin(names, ", "))));
}

// A stage's type and a rule's kind are not replaced by the way: what the text says of the old one would be gone without a word.
absl::Status CheckAlternative(const Message& message, const FieldDescriptor* field) {
  const auto* alternatives = field->real_containing_oneof();
  if (alternatives == nullptr) return absl::OkStatus();
  const FieldDescriptor* set = message.GetReflection()->GetOneofFieldDescriptor(message, alternatives);
  if (set == nullptr || set == field) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("field ", field->name(), " is asked for, but field ", set->name(), " is set, and a ",
                                                 message.GetDescriptor()->name(), " has only one ", alternatives->name(), "; expected a field of ",
                                                 set->name(), ", or another ", alternatives->name(), " in the recipe's text"));
}

absl::Status Apply(const std::vector<PathStep>& path, const std::string& value, Message* message) {
  for (size_t i = 0; i < path.size(); ++i) {
    const PathStep& step = path[i];
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(step.name);
    if (field == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("no field \"", step.name, "\" in ", message->GetDescriptor()->name(),
                                                     "; it has: ", FieldNames(message->GetDescriptor())));
    }
    RETURN_IF_ERROR(CheckAlternative(*message, field));
    const Reflection* reflection = message->GetReflection();
    const bool is_message = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (i + 1 < path.size()) {
      if (!is_message || field->is_map()) return absl::InvalidArgumentError(absl::StrCat("\"", step.name, "\" has no fields inside"));
      if (field->is_repeated()) {
        if (!step.selected) {
          return absl::InvalidArgumentError(absl::StrCat("\"", step.name, "\" is a list: expected ", step.name, "[NAME or INDEX]"));
        }
        ASSIGN_OR_RETURN(message, FindItem(message, field, step.selector));
      } else {
        if (step.selected) return absl::InvalidArgumentError(absl::StrCat("\"", step.name, "\" is not a list"));
        message = reflection->MutableMessage(message, field);
      }
      continue;
    }
    if (field->is_map()) {
      if (!step.selected || step.selector.empty()) return absl::InvalidArgumentError(absl::StrCat("expected ", step.name, "[KEY]"));
      Message* entry = nullptr;
      const FieldDescriptor* key_field = field->message_type()->map_key();
      for (int k = 0; k < reflection->FieldSize(*message, field); ++k) {
        Message* candidate = reflection->MutableRepeatedMessage(message, field, k);
        if (candidate->GetReflection()->GetString(*candidate, key_field) == step.selector) entry = candidate;
      }
      if (entry == nullptr) entry = reflection->AddMessage(message, field);
      entry->GetReflection()->SetString(entry, key_field, step.selector);
      return StoreScalar(value, field->message_type()->map_value(), entry);
    }
    if (step.selected) return absl::InvalidArgumentError(absl::StrCat("\"", step.name, "\" cannot be indexed here"));
    if (is_message) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", step.name, "\" is a message: set one of its fields: ", FieldNames(field->message_type())));
    }
    // An empty one would be no name at all.
    if (step.name == "name" && value.empty()) return absl::InvalidArgumentError("expected a name, got an empty one");
    reflection->ClearField(message, field);
    if (!field->is_repeated()) return StoreScalar(value, field, message);
    if (value.empty()) return absl::OkStatus();
    for (absl::string_view part : absl::StrSplit(value, ',')) RETURN_IF_ERROR(StoreScalar(std::string(part), field, message));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ApplyOverride(const std::string& override_text, Message* message) {
  if (const size_t valid = text::ValidPrefix(override_text); valid < override_text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", absl::CHexEscape(override_text), ": byte ", valid + 1, " is not UTF-8, expected UTF-8"));
  }
  const std::string context = absl::StrCat("--set ", Printable(override_text));
  const size_t equals = override_text.find('=');
  if (equals == std::string::npos) return absl::InvalidArgumentError(absl::StrCat(context, ": expected FIELD=VALUE"));
  absl::StatusOr<std::vector<PathStep>> path = ParsePath(absl::string_view(override_text).substr(0, equals));
  if (!path.ok()) return Annotate(path.status(), context);
  return Annotate(Apply(*path, override_text.substr(equals + 1), message), context);
}

}  // namespace grouper
