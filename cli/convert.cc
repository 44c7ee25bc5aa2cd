#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "cli/commands.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/model/model_directory.h"
#include "common/model/own_dtype.h"
#include "common/model/save_gguf.h"

namespace grouper::cli {
namespace {

// "5GB", "300MB", "1000000": decimal, as transformers has them.
absl::StatusOr<uint64_t> ShardBytes(const std::string& text) {
  const size_t digits = std::min(text.size(), text.find_first_not_of("0123456789"));
  const std::string unit = text.substr(digits);
  uint64_t number = 0, scale = 0;
  if (unit.empty() || unit == "B") scale = 1;
  if (unit == "KB") scale = 1000;
  if (unit == "MB") scale = 1'000'000;
  if (unit == "GB") scale = 1'000'000'000;
  if (scale == 0 || !absl::SimpleAtoi(text.substr(0, digits), &number) || number == 0 || number > (uint64_t{1} << 62) / scale) {
    return absl::InvalidArgumentError("--max-shard-size " + text + ": expected a number of bytes, KB, MB or GB, such as 5GB");
  }
  return number * scale;
}

// Where --to leads: what is written there replaces an empty directory, and must not replace a link to one.
absl::StatusOr<std::string> Destination(const std::string& to) {
  if (to.empty()) return absl::InvalidArgumentError("--to: expected a path, got an empty one");
  std::string path = to;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error)) return to;
  path = std::filesystem::canonical(path, error).string();
  if (error) return absl::InvalidArgumentError("--to " + to + ": a symbolic link to nothing; expected a new path");
  return path;
}

absl::Status Run(const Arguments& arguments) {
  const std::string format = arguments.Get("format");
  if (format != "hf" && format != "gguf") return absl::InvalidArgumentError("--format " + format + ": expected hf or gguf");
  std::string dtype = arguments.Get("dtype");
  if (format == "hf" && arguments.Has("dtype") && dtype != "float32" && dtype != "bfloat16") {
    return absl::InvalidArgumentError("--dtype " + dtype + ": expected float32 or bfloat16 for --format hf");
  }
  if (format == "gguf" && arguments.Has("max-shard-size")) {
    return absl::InvalidArgumentError("--max-shard-size: a GGUF file is written whole; expected --format hf with it");
  }
  uint64_t max_shard_bytes = 0;
  ASSIGN_OR_RETURN(max_shard_bytes, ShardBytes(arguments.Get("max-shard-size")));
  ASSIGN_OR_RETURN(const std::string to, Destination(arguments.Get("to")));
  ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(arguments.Get("from"), {}));
  if (!arguments.Has("dtype")) {
    ASSIGN_OR_RETURN(dtype, format == "hf" ? OwnHuggingFaceDType(*opened.weights) : OwnGgufType(*opened.weights));
  }
  if (format == "hf") {
    RETURN_IF_ERROR(SaveHuggingFace(DefaultFileSystem(), *opened.weights, *opened.tokenizer, opened.stop_token_ids, to, dtype, max_shard_bytes));
  } else {
    RETURN_IF_ERROR(SaveGguf(DefaultFileSystem(), *opened.weights, *opened.tokenizer, opened.stop_token_ids, to, dtype));
  }
  std::printf("%s -> %s (%s)\n", opened.source.c_str(), arguments.Get("to").c_str(), dtype.c_str());
  return absl::OkStatus();
}

}  // namespace

const Command kConvert = {
    "convert",
    "",
    "write a model as a Hugging Face directory or a GGUF file",
    "Reads a Hugging Face directory, a GGUF file or a run directory; writes what transformers and vLLM (hf)\nor llama.cpp (gguf) load.\n\n"
    "The type is the model's own unless --dtype says another. hf: bfloat16 from BF16 and FP8 weights, float32 from F32, and from F16 and GGUF's\n"
    "quantised types, which bfloat16 would round. gguf: BF16 from BF16 and FP8, F16 from F16, F32 from all else; vectors and routers stay F32.\n"
    "A few weights beside the others that their type would round make it float32.",
    {
        {.name = "from", .placeholder = "MODEL", .help = "directory, GGUF file or run directory", .default_text = "", .required = true},
        {.name = "to", .placeholder = "PATH", .help = "new directory (hf) or file (gguf)", .default_text = "", .required = true},
        {.name = "format", .placeholder = "FORMAT", .help = "hf or gguf", .default_text = "hf"},
        {.name = "dtype", .placeholder = "TYPE", .help = "hf: float32 or bfloat16; gguf: F32, F16, BF16, Q8_0, Q4_0, Q4_K (default: the model's own)", .default_text = ""},
        {.name = "max-shard-size", .placeholder = "SIZE", .help = "hf: largest file of weights; more go to several, with an index", .default_text = "5GB"},
    },
    Run,
};

}  // namespace grouper::cli
