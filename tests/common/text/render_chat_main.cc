// Renders conversations with a Jinja chat template, for compare_chat_templates.py.
//
//   render_chat TEMPLATE CASES OUTPUT
//
// CASES: JSON lines {"messages": [{"role", "content"}], "add_generation_prompt": bool, "bos_token": text, "eos_token": text}. OUTPUT: JSON
// lines, {"text": ...} or {"error": ...}.
#include <cstdio>
#include <string>

#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/text/jinja.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: render_chat TEMPLATE CASES OUTPUT\n");
    return 1;
  }
  grouper::FileSystem& fs = grouper::DefaultFileSystem();
  const auto source = fs.ReadFile(argv[1], 1 << 20);
  const auto cases = fs.ReadFile(argv[2], 1 << 30);
  if (!source.ok() || !cases.ok()) return 1;
  const auto parsed = grouper::JinjaTemplate::Parse(*source);
  std::string output;
  for (const absl::string_view line : absl::StrSplit(*cases, '\n', absl::SkipEmpty())) {
    grouper::json::Json result;
    const auto row = grouper::json::Parse(line);
    if (!row.ok()) return 1;
    std::vector<grouper::ChatMessage> messages;
    for (const grouper::json::Json& message : (*row)["messages"]) messages.push_back({message["role"], message["content"]});
    grouper::TemplateTokens tokens;
    tokens.bos_token = (*row)["bos_token"];
    tokens.eos_token = (*row)["eos_token"];
    const auto text = parsed.ok() ? (*parsed)->RenderChat(messages, (*row)["add_generation_prompt"], tokens) : parsed.status();
    if (text.ok()) {
      result["text"] = *text;
    } else {
      result["error"] = std::string(text.status().message());
    }
    output += grouper::json::Dump(result) + "\n";
  }
  return grouper::WriteFileAtomically(fs, argv[3], output).ok() ? 0 : 1;
}
