#include <cstdio>

#include "cli/commands.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/model/model_directory.h"

namespace grouper::cli {
namespace {

absl::Status Run(const Arguments& arguments) {
  const std::string format = arguments.Get("format"), dtype = arguments.Get("dtype");
  if (format != "hf") return absl::InvalidArgumentError("--format " + format + ": expected hf");
  if (dtype != "float32" && dtype != "bfloat16") return absl::InvalidArgumentError("--dtype " + dtype + ": expected float32 or bfloat16");
  ThreadPool threads(0);
  ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(arguments.Get("from"), {}, threads));
  RETURN_IF_ERROR(SaveHuggingFace(DefaultFileSystem(), *loaded.model, *loaded.tokenizer, loaded.stop_token_ids, arguments.Get("to"), dtype));
  std::printf("%s -> %s (%s)\n", loaded.source.c_str(), arguments.Get("to").c_str(), dtype.c_str());
  return absl::OkStatus();
}

}  // namespace

const Command kConvert = {
    "convert",
    "",
    "write a model as a Hugging Face directory",
    "Reads a Hugging Face directory, a GGUF file or a run directory; writes what transformers, vLLM and others load.",
    {
        {.name = "from", .placeholder = "MODEL", .help = "directory, GGUF file or run directory", .default_text = "", .required = true},
        {.name = "to", .placeholder = "DIR", .help = "new directory", .default_text = "", .required = true},
        {.name = "format", .placeholder = "FORMAT", .help = "hf", .default_text = "hf"},
        {.name = "dtype", .placeholder = "TYPE", .help = "float32 or bfloat16", .default_text = "float32"},
    },
    Run,
};

}  // namespace grouper::cli
