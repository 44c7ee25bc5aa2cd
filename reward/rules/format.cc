// Strict format: each tag once, in order, white space outside. One pass over the text: the scan stops at '<' only.
#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "reward/extraction.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

using absl::string_view;

struct Tag {
  std::string text;  // "<think>", "</think>"
  int count = 0;
  size_t at = 0;  // first occurrence
};

// Counts every tag in one pass. Two tags never overlap: each begins with the only '<' in it.
void CountTags(string_view text, std::vector<Tag>& tags) {
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    p = static_cast<const char*>(std::memchr(p, '<', static_cast<size_t>(end - p)));
    if (p == nullptr) return;
    const size_t rest = static_cast<size_t>(end - p);
    for (Tag& tag : tags) {
      if (rest >= tag.text.size() && std::memcmp(p, tag.text.data(), tag.text.size()) == 0) {
        if (tag.count++ == 0) tag.at = static_cast<size_t>(p - text.data());
        break;
      }
    }
    ++p;
  }
}

bool Blank(string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isspace(c); });
}

absl::Status CheckTags(const google::protobuf::RepeatedPtrField<std::string>& names) {
  for (int i = 0; i < names.size(); ++i) {
    if (names[i].empty() || names[i].find_first_of("<>/ \t\r\n") != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("tags[", i, "]: \"", names[i], "\", expected a tag name without brackets"));
    }
    if (std::count(names.begin(), names.end(), names[i]) > 1) {
      return absl::InvalidArgumentError(absl::StrCat("tags[", i, "]: \"", names[i], "\" is there twice"));
    }
  }
  return absl::OkStatus();
}

std::vector<Tag> MakeTags(const google::protobuf::RepeatedPtrField<std::string>& names) {
  std::vector<Tag> tags;
  const auto add = [&](const std::string& name) {
    tags.push_back({absl::StrCat("<", name, ">")});
    tags.push_back({absl::StrCat("</", name, ">")});
  };
  for (const std::string& name : names) add(name);
  if (names.empty()) {
    add("think");
    add("answer");
  }
  return tags;
}

enum class Style { kExact, kThinkOnly, kBoxed };

class FormatRule : public Rule {
 public:
  FormatRule(std::vector<Tag> tags, Style style, bool nonempty)
      : tags_(std::move(tags)), style_(style), nonempty_(nonempty) {}

  RuleResult Score(const RuleInput& input) const override {
    std::vector<Tag> tags = tags_;
    CountTags(input.text, tags);
    for (const Tag& tag : tags) {
      if (tag.count != 1)
        return RuleResult::Scored(
            0, tag.count == 0 ? absl::StrCat("no ", tag.text) : absl::StrCat(tag.count, " times ", tag.text));
    }
    size_t outside = 0;
    for (size_t i = 0; i < tags.size(); i += 2) {
      const Tag& open = tags[i];
      const Tag& close = tags[i + 1];
      if (open.at < outside || close.at < open.at)
        return RuleResult::Scored(0, absl::StrCat(open.text, " out of order"));
      if (!Blank(input.text.substr(outside, open.at - outside)))
        return RuleResult::Scored(0, absl::StrCat("text before ", open.text));
      const string_view block = input.text.substr(open.at + open.text.size(), close.at - open.at - open.text.size());
      if (nonempty_ && Blank(block)) return RuleResult::Scored(0, absl::StrCat("blank ", open.text));
      outside = close.at + close.text.size();
      if (style_ == Style::kBoxed && i + 2 == tags.size() && !ExtractFrom(block, Place::kBoxed).found) {
        return RuleResult::Scored(0, absl::StrCat("no \\boxed{} in ", open.text));
      }
    }
    const bool rest = !Blank(input.text.substr(outside));
    if (style_ == Style::kThinkOnly)
      return rest ? RuleResult::Scored(1) : RuleResult::Scored(0, absl::StrCat("nothing after ", tags.back().text));
    return rest ? RuleResult::Scored(0, absl::StrCat("text after ", tags.back().text)) : RuleResult::Scored(1);
  }

 private:
  const std::vector<Tag> tags_;  // opening and closing tag of each block in turn
  const Style style_;
  const bool nonempty_;
};

class TagCountRule : public Rule {
 public:
  explicit TagCountRule(std::vector<Tag> tags) : tags_(std::move(tags)) {}

  RuleResult Score(const RuleInput& input) const override {
    std::vector<Tag> tags = tags_;
    CountTags(input.text, tags);
    const auto once = std::count_if(tags.begin(), tags.end(), [](const Tag& tag) { return tag.count == 1; });
    return RuleResult::Scored(static_cast<double>(once) / static_cast<double>(tags.size()));
  }

 private:
  const std::vector<Tag> tags_;
};

}  // namespace

RuleOr CreateFormatRule(const v1::FormatRule& config) {
  if (const absl::Status tags = CheckTags(config.tags()); !tags.ok()) return tags;
  Style style;
  if (config.style().empty() || config.style() == "exact") {
    style = Style::kExact;
  } else if (config.style() == "think_only") {
    style = Style::kThinkOnly;
  } else if (config.style() == "boxed") {
    style = Style::kBoxed;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("style: \"", config.style(), "\", expected exact, think_only or boxed"));
  }
  std::vector<Tag> tags = MakeTags(config.tags());
  if (style == Style::kThinkOnly) tags.resize(2);
  return std::make_unique<FormatRule>(std::move(tags), style, config.nonempty());
}

RuleOr CreateTagCountRule(const v1::TagCountRule& config) {
  if (const absl::Status tags = CheckTags(config.tags()); !tags.ok()) return tags;
  return std::make_unique<TagCountRule>(MakeTags(config.tags()));
}

}  // namespace grouper
