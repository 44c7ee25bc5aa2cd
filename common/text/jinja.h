// The subset of Jinja2 in which chat templates are written, rendered as transformers' apply_chat_template renders it.
//
//   text {{ expression }} {% statement %} {# comment #}    with trim_blocks, lstrip_blocks and the - and + marks
//   statements:  if elif else endif, for x in e / for a, b in e (with loop.*, "if" filter, else), set x = e, set ns.x = e, set x ... endset,
//                generation ... endgeneration (transparent), break, continue, macro f(a, b=x) ... endmacro (no caller, varargs, kwargs)
//   expressions: literals, lists, dicts, names, a.b, a[b], slices, calls, filters |, tests is, + - * / // % ~, comparisons, in, not, and,
//                or, a if b else c
//   methods:     split strip lstrip rstrip startswith endswith replace upper lower title join items keys values get
//   filters:     trim length count upper lower title join default first last tojson string int list items replace capitalize map select
//                reject selectattr rejectattr (map and the four with attribute names or simple tests), safe
//   functions:   raise_exception namespace range strftime_now (always an error: a prompt must not depend on the day) dict
// Call blocks, imports, includes, inheritance and anything else are errors that show the construct and its line.
//
// Bounded: source of at most 256 KiB, nesting 64, 1,000,000 steps and 64 MiB of output a rendering; no recursion beyond the nesting and 16 macros deep, no
// access to anything but the given values. Immutable once parsed, thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/text/chat_template.h"

namespace grouper {

class JinjaTemplate {
 public:
  static absl::StatusOr<std::shared_ptr<const JinjaTemplate>> Parse(absl::string_view source);
  ~JinjaTemplate();

  // With the names messages, add_generation_prompt, bos_token, eos_token, pad_token, unk_token (those that are set).
  absl::StatusOr<std::string> RenderChat(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                                         const TemplateTokens& tokens) const;

  struct Program;
  explicit JinjaTemplate(std::unique_ptr<const Program> program);

 private:
  std::unique_ptr<const Program> program_;
};

}  // namespace grouper
