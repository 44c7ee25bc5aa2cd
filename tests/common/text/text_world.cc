#include "tests/common/text/text_world.h"

#include "common/base/check.h"
#include "common/base/file.h"

namespace grouper {

const json::Json& Golden() {
  static const json::Json* const golden = [] {
    const std::string path = std::string(GROUPER_SOURCE_DIR) + "/tests/common/text/golden_tokenizers.json";
    absl::StatusOr<std::string> text = DefaultFileSystem().ReadFile(path, 1 << 20);
    CHECK(text.ok()) << text.status().ToString();
    absl::StatusOr<json::Json> parsed = json::Parse(*text);
    CHECK(parsed.ok()) << parsed.status().ToString();
    return new json::Json(*std::move(parsed));
  }();
  return *golden;
}

std::string GoldenTokenizerJson(const json::Json& golden_case) {
  json::Json tokenizer = golden_case["tokenizer"];
  json::Json model = Golden()["models"][tokenizer["model"]["base"].get<std::string>()];
  model.update(tokenizer["model"]["changes"]);
  tokenizer["model"] = model;
  return tokenizer.dump();
}

std::shared_ptr<const Tokenizer> GoldenTokenizer(const std::string& case_name) {
  for (const json::Json& golden_case : Golden()["cases"]) {
    if (golden_case["name"] != case_name) continue;
    auto tokenizer = Tokenizer::FromJson(GoldenTokenizerJson(golden_case), case_name);
    CHECK(tokenizer.ok()) << tokenizer.status().ToString();
    return *tokenizer;
  }
  CHECK(false) << "no golden case " << case_name;
  return nullptr;
}

}  // namespace grouper
