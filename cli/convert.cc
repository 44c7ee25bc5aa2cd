#include <cstdio>

#include "cli/commands.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/model/model_directory.h"
#include "common/model/save_gguf.h"

namespace grouper::cli {
namespace {

absl::Status Run(const Arguments& arguments) {
  const std::string format = arguments.Get("format"), to = arguments.Get("to");
  if (format != "hf" && format != "gguf") return absl::InvalidArgumentError("--format " + format + ": expected hf or gguf");
  std::string dtype = arguments.Get("dtype");
  if (dtype.empty()) dtype = format == "hf" ? "float32" : "F32";
  if (format == "hf" && dtype != "float32" && dtype != "bfloat16") {
    return absl::InvalidArgumentError("--dtype " + dtype + ": expected float32 or bfloat16 for --format hf");
  }
  ThreadPool threads(0);
  ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(arguments.Get("from"), {}, threads));
  if (format == "hf") {
    RETURN_IF_ERROR(SaveHuggingFace(DefaultFileSystem(), *loaded.model, *loaded.tokenizer, loaded.stop_token_ids, to, dtype));
  } else {
    RETURN_IF_ERROR(SaveGguf(DefaultFileSystem(), *loaded.model, *loaded.tokenizer, loaded.stop_token_ids, to, dtype));
  }
  std::printf("%s -> %s (%s)\n", loaded.source.c_str(), to.c_str(), dtype.c_str());
  return absl::OkStatus();
}

}  // namespace

const Command kConvert = {
    "convert",
    "",
    "write a model as a Hugging Face directory or a GGUF file",
    "Reads a Hugging Face directory, a GGUF file or a run directory; writes what transformers and vLLM (hf)\nor llama.cpp (gguf) load.",
    {
        {.name = "from", .placeholder = "MODEL", .help = "directory, GGUF file or run directory", .default_text = "", .required = true},
        {.name = "to", .placeholder = "PATH", .help = "new directory (hf) or file (gguf)", .default_text = "", .required = true},
        {.name = "format", .placeholder = "FORMAT", .help = "hf or gguf", .default_text = "hf"},
        {.name = "dtype", .placeholder = "TYPE", .help = "hf: float32 or bfloat16; gguf: F32, F16, BF16, Q8_0, Q4_0, Q4_K (default: float32, F32)", .default_text = ""},
    },
    Run,
};

}  // namespace grouper::cli
