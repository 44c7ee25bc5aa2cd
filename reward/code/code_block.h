// Finding the program in a completion: the last fenced block. One pass, any bytes.
//
//   ```python        a fence is a line of three or more backticks (or tildes) after white space, with the language behind an opening one;
//   print(7)         the closing fence has at least as many and nothing behind it. A block that is never closed is no block.
//   ```
#pragma once

#include "absl/strings/string_view.h"

namespace grouper::code {

enum class Language { kUnknown, kPython, kCpp };

// "python", "py", "python3", "cpp", "c++", "cc", "cxx", in any case; kUnknown for others.
Language LanguageOf(absl::string_view tag);

struct CodeBlock {
  bool found = false;
  Language language = Language::kUnknown;  // kUnknown: the fence names none
  absl::string_view text;                  // inside the completion: the lines between the fences
};

// Of the text after the last </think>: the last block whose fence names a language of ours; when there is none, the last whose fence names
// nothing. Blocks in other languages (```text, ```json) are not programs.
CodeBlock LastCodeBlock(absl::string_view completion);

}  // namespace grouper::code
