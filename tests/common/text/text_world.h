// Small tokenizers for the tests of common/text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/json.h"
#include "common/text/tokenizer.h"

namespace grouper {

// golden_tokenizers.json, made by make_golden.py with Hugging Face's tokenizers.
const json::Json& Golden();
// The tokenizer.json of one of its cases, with the model's vocabulary put in.
std::string GoldenTokenizerJson(const json::Json& golden_case);
std::shared_ptr<const Tokenizer> GoldenTokenizer(const std::string& case_name);

}  // namespace grouper
