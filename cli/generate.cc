#include <cstdio>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/prompt_options.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/data/row.h"
#include "common/model/model_directory.h"
#include "rollout/engine.h"
#include "trainer/prompt_encoder.h"

namespace grouper::cli {
namespace {

// The prompt as the user's message, behind the turns of --history.
absl::StatusOr<DataRow> PromptRow(const Arguments& arguments) {
  DataRow row;
  row.source = "--prompt";
  row.columns["prompt"] = arguments.Get("prompt");
  if (!arguments.Has("history")) return row;
  const std::string path = arguments.Get("history");
  row.source = "--history " + path;
  ASSIGN_OR_RETURN(const std::string text, DefaultFileSystem().ReadFile(path, 16 << 20));
  json::Json turns;
  ASSIGN_OR_RETURN(turns, Annotate(json::Parse(text), path));
  if (!turns.is_array()) return absl::InvalidArgumentError(row.source + ": expected an array of {\"role\": string, \"content\": string}");
  turns.push_back({{"role", "user"}, {"content", arguments.Get("prompt")}});
  row.columns["messages"] = std::move(turns);
  RETURN_IF_ERROR(CanonicaliseRow({}, row));
  if (arguments.Has("system") && row.columns["messages"][0]["role"] == "system") {
    return absl::InvalidArgumentError(row.source + ": begins with a system message, and --system is given; expected one of them");
  }
  return row;
}

absl::Status Run(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const int64_t new_tokens, arguments.GetInt("max-new-tokens", 1, 1 << 30));
  ASSIGN_OR_RETURN(const double temperature, TemperatureFromOptions(arguments));
  ASSIGN_OR_RETURN(const int64_t top_k, arguments.GetInt("top-k", 0, 1 << 30));
  ASSIGN_OR_RETURN(const double top_p, arguments.GetDouble("top-p", 1e-9, 1));
  ASSIGN_OR_RETURN(const int64_t num_threads, arguments.GetInt("threads", 0, 4096));
  ASSIGN_OR_RETURN(const int64_t seed, arguments.GetInt("seed", 0, INT64_MAX));
  RETURN_IF_ERROR(CheckPromptOptions(arguments));
  ASSIGN_OR_RETURN(const DataRow row, PromptRow(arguments));
  ThreadPool threads(static_cast<int>(num_threads));
  LoadOptions load;
  load.use = WeightUse::kForward;
  ASSIGN_OR_RETURN(const ModelPlace place, PlaceFromOptions(arguments));
  load.dtype = place.dtype;
  load.device = place.device;
  ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(arguments.Get("model"), load, threads));

  ASSIGN_OR_RETURN(const v1::PromptTemplate prompt_template, PromptFromOptions(arguments, arguments.Get("model"), *loaded.tokenizer));
  ASSIGN_OR_RETURN(const PromptEncoder encoder, PromptEncoder::Create(prompt_template, loaded.tokenizer));
  UnknownTokens unknown;
  ASSIGN_OR_RETURN(const PromptEncoder::Prompt prompt, encoder.EncodePrompt(row, &unknown));
  unknown.Warn(row.source);

  const int64_t context = loaded.model->config().max_position_embeddings;
  if (static_cast<int64_t>(prompt.token_ids.size()) >= context) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %d tokens, expected fewer than the model's context of %d", row.source, prompt.token_ids.size(), context));
  }

  EngineOptions options;
  options.max_sequences = 1;
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(*loaded.model, loaded.tokenizer, threads, options));
  v1::GenerateRequest request;
  request.set_seed(static_cast<uint64_t>(seed));
  request.add_sample_indices(0);
  *request.mutable_prompt_token_ids() = {prompt.token_ids.begin(), prompt.token_ids.end()};
  v1::SamplingParams* sampling = request.mutable_sampling();
  sampling->set_temperature(static_cast<float>(temperature));
  sampling->set_top_k(static_cast<uint32_t>(top_k));
  sampling->set_top_p(static_cast<float>(top_p));
  sampling->set_max_new_tokens(static_cast<uint32_t>(new_tokens));
  *sampling->mutable_stop_token_ids() = {loaded.stop_token_ids.begin(), loaded.stop_token_ids.end()};
  for (const std::string& stop : arguments.GetAll("stop")) sampling->add_stop_strings(stop);

  std::fputs(prompt.prefill.c_str(), stdout);
  IncrementalDecoder decoder(loaded.tokenizer, /*skip_special=*/arguments.Has("chat"));
  const absl::Time start = absl::Now();
  int64_t tokens = 0;
  bool done = false;
  absl::Status finite;
  RETURN_IF_ERROR(engine->Add(
      request, 1,
      [&](const v1::Sample& sample) {
        done = true;
        finite = CheckFinite(sample);
      },
      [&](const v1::SampleId&, int32_t token) {
        ++tokens;
        for (int32_t stop : loaded.stop_token_ids) {
          if (token == stop) return;
        }
        std::fputs(decoder.Add(token).c_str(), stdout);
        std::fflush(stdout);
      }));
  while (!done && !std::ferror(stdout)) RETURN_IF_ERROR(engine->Step().status());  // nobody reads it: main says so
  std::printf("%s\n", decoder.Flush().c_str());
  RETURN_IF_ERROR(Annotate(finite, arguments.Get("model")));
  std::fprintf(stderr, "%d tokens, %.1f tok/s\n", static_cast<int>(tokens), static_cast<double>(tokens) / absl::ToDoubleSeconds(absl::Now() - start));
  return absl::OkStatus();
}

}  // namespace

const Command kGenerate = {
    "generate",
    "",
    "continue one prompt, streamed",
    "The prompt is taken as it is; --chat puts it into the model's chat template (ChatML when it has none). A run directory's model is asked as it\n"
    "was trained, by the `prompt` of its recipe, unless one of --template, --chat, --system, --prefill, --add-bos is given.",
    {
        {.name = "model", .placeholder = "MODEL", .help = "directory, GGUF file or run directory", .default_text = "", .required = true},
        {.name = "prompt", .placeholder = "TEXT", .help = "the prompt, or the user's message with --chat", .default_text = "", .required = true},
        {.name = "chat", .placeholder = "", .help = "use the chat template", .default_text = ""},
        {.name = "history", .placeholder = "FILE", .help = "the turns before the prompt: a JSON array of {role, content}", .default_text = ""},
        {.name = "system", .placeholder = "TEXT", .help = "system message", .default_text = ""},
        {.name = "template", .placeholder = "NAME", .help = "plain (the default), r1_zero, chatml, tokenizer", .default_text = ""},
        {.name = "prefill", .placeholder = "TEXT", .help = "beginning of the completion", .default_text = ""},
        {.name = "add-bos", .placeholder = "", .help = "put the bos token first", .default_text = ""},
        {.name = "temperature", .placeholder = "T", .help = "0: greedy, else 1e-6..100", .default_text = "0"},
        {.name = "top-k", .placeholder = "K", .help = "0: all", .default_text = "0"},
        {.name = "top-p", .placeholder = "P", .help = "1: all", .default_text = "1"},
        {.name = "max-new-tokens", .placeholder = "N", .help = "longest completion", .default_text = "256"},
        {.name = "stop", .placeholder = "TEXT", .help = "ends the text, which keeps it", .default_text = "", .repeated = true},
        {.name = "seed", .placeholder = "N", .help = "of the sampling noise", .default_text = "0"},
        DTypeOption(),
        DeviceOption(),
        {.name = "threads", .placeholder = "N", .help = "CPU threads; 0: one per core", .default_text = "0"},
    },
    Run,
};

}  // namespace grouper::cli
