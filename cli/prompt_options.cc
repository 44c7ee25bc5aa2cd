#include "cli/prompt_options.h"

#include "common/base/file.h"
#include "common/base/quote.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "kernels/sampling.h"

namespace grouper::cli {

absl::Status CheckPromptOptions(const Arguments& arguments) {
  for (const char* option : {"prompt", "system", "prefill", "stop"}) {
    for (const std::string& text : arguments.GetAll(option)) {
      if (!IsUtf8(text)) return absl::InvalidArgumentError(absl::StrCat("--", option, " ", QuoteName(text), ": expected UTF-8"));
    }
  }
  for (const std::string& stop : arguments.GetAll("stop")) {
    if (stop.empty()) return absl::InvalidArgumentError("--stop: expected a text, got an empty one");
  }
  if (arguments.Has("chat") && arguments.Has("template")) return absl::InvalidArgumentError("--chat and --template: expected one of them");
  const std::string name = arguments.Get("template");
  for (const char* option : {"system", "history"}) {
    if (arguments.Has(option) && !arguments.Has("chat") && name != "chatml" && name != "tokenizer") {
      return absl::InvalidArgumentError(absl::StrCat("--", option, ": needs --chat, or a template that has a place for it (chatml, tokenizer)"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<double> TemperatureFromOptions(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const double temperature, arguments.GetDouble("temperature", 0, 100));
  if (temperature == 0 || temperature >= static_cast<double>(kernels::kMinTemperature)) return temperature;
  return absl::InvalidArgumentError(absl::StrCat("--temperature ", arguments.Get("temperature"), ": expected 0 (greedy) or 1e-6..100"));
}

absl::StatusOr<v1::PromptTemplate> PromptFromOptions(const Arguments& arguments, const std::string& model, const Tokenizer& tokenizer) {
  bool given = false;
  for (const char* option : {"template", "chat", "system", "prefill", "add-bos"}) given |= arguments.Has(option);
  const std::string recipe_path = JoinPath(model, "recipe.textproto");
  if (!given && DefaultFileSystem().Exists(recipe_path)) {
    v1::Recipe recipe;
    RETURN_IF_ERROR(ParseTextProtoFile(recipe_path, &recipe));
    return recipe.prompt();
  }
  v1::PromptTemplate prompt;
  const bool has_template = !tokenizer.chat_template().empty();
  prompt.set_template_(arguments.Has("chat") ? (has_template ? "tokenizer" : "chatml") : arguments.Has("template") ? arguments.Get("template") : "plain");
  prompt.set_prefill(arguments.Get("prefill"));
  prompt.set_system(arguments.Get("system"));
  prompt.set_add_bos(arguments.Has("add-bos"));
  return prompt;
}

}  // namespace grouper::cli
