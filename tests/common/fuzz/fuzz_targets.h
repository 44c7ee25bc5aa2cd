// Every parser in common/ that reads a file from a stranger, as functions of arbitrary bytes that abort when a property fails. Each is a
// libFuzzer program of its own (cmake -DGROUPER_FUZZ=ON with clang++; fuzz_main.cc), and fuzz_test.cc runs all of them over a corpus and
// mutations of it in every build.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace grouper::fuzz {

// A tokenizer.json. One that is accepted encodes and decodes any text, streamed and at once alike, and its own export gives the same ids.
void FuzzTokenizerJson(absl::string_view input);
// A chat template: parsed, rendered over conversations within its bounds.
void FuzzChatTemplate(absl::string_view input);
// A safetensors file: accepted tensors lie inside the file.
void FuzzSafetensors(absl::string_view input);
// A model.safetensors.index.json beside one good shard: what is opened has only that shard's tensors.
void FuzzSafetensorsIndex(absl::string_view input);
// A GGUF file: tensors inside the file, its configuration valid, its vocabulary a tokenizer that encodes.
void FuzzGguf(absl::string_view input);
// A config.json: what is accepted passes Validate and reads back from what we write of it.
void FuzzConfigJson(absl::string_view input);
// A recipe's text, and after a line of "====" overrides, one a line: what passes the check reads back from its canonical text.
void FuzzRecipe(absl::string_view input);
// A file of JSON lines: each row that is accepted has its line, and its turns can be asked for.
void FuzzJsonLines(absl::string_view input);

struct Target {
  const char* name;
  void (*run)(absl::string_view input);
};
absl::Span<const Target> Targets();

}  // namespace grouper::fuzz
