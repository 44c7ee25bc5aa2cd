#include "common/recipe/text_locations.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/quote.h"

namespace grouper {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

// A field, and which one of a repeated one; -1 for a field that is not, or all of them.
using PathStep = std::pair<const FieldDescriptor*, int>;

bool IsNameChar(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// The item of a repeated message by its name or index; -1 when there is none.
int FindItem(const Message& message, const FieldDescriptor* field, absl::string_view selector) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  const int count = reflection->FieldSize(message, field);
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    const FieldDescriptor* name = field->message_type()->FindFieldByName("name");
    for (int i = 0; name != nullptr && i < count; ++i) {
      const Message& item = reflection->GetRepeatedMessage(message, field, i);
      if (item.GetReflection()->GetString(item, name) == selector) return i;
    }
  }
  int index;
  return absl::SimpleAtoi(selector, &index) && index >= 0 && index < count ? index : -1;
}

// The longest beginning of `text` that is a path of fields of `message`; what follows is left in *rest. "A: B" goes on with B inside A.
std::vector<PathStep> Resolve(const Message& root, absl::string_view text, absl::string_view* rest) {
  std::vector<PathStep> steps;
  const Message* message = &root;
  *rest = text;
  while (message != nullptr) {
    size_t end = 0;
    while (end < text.size() && IsNameChar(text[end])) ++end;
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(std::string(text.substr(0, end)));
    if (field == nullptr) break;
    text.remove_prefix(end);
    int index = -1;
    if (field->is_repeated() && absl::ConsumePrefix(&text, "[")) {
      const size_t close = text.find(']');
      if (close == absl::string_view::npos) break;
      index = FindItem(*message, field, text.substr(0, close));
      text.remove_prefix(close + 1);
    }
    if (!text.empty() && text[0] != '.' && text[0] != ':' && text[0] != '=' && text[0] != ' ') break;  // another word that begins the same
    steps.emplace_back(field, index);
    *rest = text;
    const bool single = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_map() && (!field->is_repeated() || index >= 0);
    if (!single) break;
    const google::protobuf::Reflection* reflection = message->GetReflection();
    message = field->is_repeated() ? &reflection->GetRepeatedMessage(*message, field, index) : &reflection->GetMessage(*message, field);
    if (!absl::ConsumePrefix(&text, ".") && !absl::ConsumePrefix(&text, ": ")) break;
  }
  return steps;
}

}  // namespace

std::string TextLocations::Find(const Message& message, absl::string_view path, int* depth) const {
  absl::string_view rest;
  const std::vector<PathStep> steps = Resolve(message, path, &rest);
  if (depth != nullptr) *depth = static_cast<int>(steps.size());
  for (auto text = overrides_.rbegin(); text != overrides_.rend(); ++text) {
    const std::vector<PathStep> set = Resolve(message, absl::string_view(*text).substr(0, text->find('=')), &rest);
    // A --set of a list gave all its items.
    const bool item = !steps.empty() && set.size() == steps.size() && set.back().second < 0 && !steps.back().first->is_map();
    if (!steps.empty() && (set == steps || (item && std::equal(set.begin(), set.end() - 1, steps.begin()) && set.back().first == steps.back().first))) {
      return absl::StrCat("--set ", Printable(*text));
    }
  }
  std::string place = source_;
  const TextFormat::ParseInfoTree* tree = tree_.get();
  for (const auto& [field, index] : steps) {
    if (tree == nullptr || field->is_map()) break;
    const int which = field->is_repeated() && index < 0 ? 0 : index;
    const TextFormat::ParseLocation location = tree->GetLocation(field, which);
    if (location.line < 0) break;
    place = absl::StrCat(source_, ":", location.line + 1, ":", location.column + 1);
    tree = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE ? tree->GetTreeForNested(field, which) : nullptr;
  }
  return place;
}

absl::Status TextLocations::Locate(const Message& message, const absl::Status& status, int least_depth) const {
  if (status.ok()) return status;
  int depth = 0;
  const std::string place = Find(message, status.message(), &depth);
  if (depth < least_depth) return status;
  return absl::Status(status.code(), absl::StrCat(place, ": ", status.message()));
}

std::string FieldPathAt(absl::string_view text, int line, int column, const Descriptor* type) {
  constexpr int kTab = 8;
  struct Open {
    const Descriptor* type;
    std::string path;                  // of this message, with a dot at its end
    std::map<std::string, int> items;  // of repeated fields so far
  };
  std::vector<Open> open = {{type, "", {}}};
  std::string name;       // the newest word
  bool wants_value = false;  // a colon came after it, and nothing yet after that
  int at_line = 0, at_column = 0;
  for (size_t i = 0; i < text.size() && (at_line < line || (at_line == line && at_column < column));) {
    const size_t begin = i;
    const char c = text[i];
    if (c == '#') {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (c == '"' || c == '\'') {
      for (++i; i < text.size() && text[i] != c && text[i] != '\n'; ++i) i += text[i] == '\\';
      i = std::min(i + 1, text.size());
      wants_value = false;
    } else if (IsNameChar(c)) {
      while (i < text.size() && IsNameChar(text[i])) ++i;
      if (!wants_value) name = std::string(text.substr(begin, i - begin));
      wants_value = false;
    } else {
      ++i;
      if (c == ':') wants_value = true;
      if (c == '{' || c == '<') {
        Open& outer = open.back();
        const FieldDescriptor* field = outer.type == nullptr ? nullptr : outer.type->FindFieldByName(name);
        const bool message = field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
        std::string path = absl::StrCat(outer.path, name);
        if (field != nullptr && field->is_repeated()) absl::StrAppend(&path, "[", outer.items[name]++, "]");
        open.push_back({message ? field->message_type() : nullptr, path + ".", {}});
        wants_value = false;
      }
      if ((c == '}' || c == '>') && open.size() > 1) open.pop_back();
    }
    for (size_t k = begin; k < i; ++k) {
      if (text[k] == '\n') {
        ++at_line;
        at_column = 0;
      } else {
        at_column += text[k] == '\t' ? kTab - at_column % kTab : 1;
      }
    }
  }
  return wants_value ? open.back().path + name : std::string(absl::StripSuffix(open.back().path, "."));
}

}  // namespace grouper
