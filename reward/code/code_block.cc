#include "reward/code/code_block.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "reward/extraction.h"

namespace grouper::code {
namespace {

struct Fence {
  size_t length = 0;  // 0: the line is no fence
  char mark = 0;
  absl::string_view tag;
};

Fence FenceOf(absl::string_view line) {
  line = absl::StripAsciiWhitespace(line);
  if (line.empty() || (line[0] != '`' && line[0] != '~')) return {};
  const size_t length = std::min(line.find_first_not_of(line[0]), line.size());
  if (length < 3) return {};
  const absl::string_view tag = absl::StripAsciiWhitespace(line.substr(length));
  if (line[0] == '`' && tag.find('`') != absl::string_view::npos) return {};  // ```inline code```
  return {length, line[0], tag};
}

}  // namespace

Language LanguageOf(absl::string_view tag) {
  const absl::string_view name = tag.substr(0, tag.find_first_of(" \t{,"));
  for (const char* python : {"python", "py", "python3", "python2"}) {
    if (absl::EqualsIgnoreCase(name, python)) return Language::kPython;
  }
  for (const char* cpp : {"cpp", "c++", "cc", "cxx", "c++17", "c++20"}) {
    if (absl::EqualsIgnoreCase(name, cpp)) return Language::kCpp;
  }
  return Language::kUnknown;
}

CodeBlock LastCodeBlock(absl::string_view completion) {
  const absl::string_view text = AfterThink(completion);
  CodeBlock named, unnamed;
  Fence open;
  size_t content = 0;  // where the open block's first line begins
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    const size_t next = newline == absl::string_view::npos ? text.size() : newline + 1;
    const Fence fence = FenceOf(text.substr(begin, next - begin));
    if (open.length == 0) {
      open = fence;
      content = next;
    } else if (fence.mark == open.mark && fence.length >= open.length && fence.tag.empty()) {
      const CodeBlock block = {true, LanguageOf(open.tag), text.substr(content, begin - content)};
      if (block.language != Language::kUnknown) {
        named = block;
      } else if (open.tag.empty()) {
        unnamed = block;
      }
      open = {};
    }
    begin = next;
  }
  // A block that is open at the end would have been the last one.
  if (open.length > 0 && (open.tag.empty() || LanguageOf(open.tag) != Language::kUnknown)) return {};
  return named.found ? named : unnamed;
}

}  // namespace grouper::code
