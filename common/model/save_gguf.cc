#include "common/model/save_gguf.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/checkpoint/ggml_encode.h"
#include "common/checkpoint/gguf_writer.h"
#include "common/model/gguf_metadata.h"
#include "common/model/gguf_names.h"

namespace grouper {
namespace {

struct Format {
  const char* name;
  StorageType type;
  uint32_t file_type;  // llama.cpp's general.file_type
};
constexpr Format kFormats[] = {{"F32", StorageType::kF32, 0},   {"F16", StorageType::kF16, 1},   {"BF16", StorageType::kBF16, 32},
                               {"Q8_0", StorageType::kQ8_0, 7}, {"Q4_0", StorageType::kQ4_0, 2}, {"Q4_K", StorageType::kQ4_K, 14}};

// A tensor of the file, and what its rows are made of. `read` fills one row of shape.back() numbers (a vector is one number).
struct Source {
  TensorSpec spec;
  std::function<absl::Status(int64_t row, std::vector<float>* out)> read;
};

std::string GgufName(absl::string_view name) {
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  absl::string_view rest = name;
  CHECK(absl::ConsumePrefix(&rest, "model.layers.")) << name;
  const absl::string_view layer = rest.substr(0, rest.find('.'));
  rest.remove_prefix(layer.size() + 1);
  if (rest == "mlp.gate.e_score_correction_bias") return absl::StrCat("blk.", layer, ".exp_probs_b.bias");
  for (const GgufPart& part : kGgufParts) {
    absl::string_view kind = rest;
    if (absl::ConsumePrefix(&kind, absl::StrCat(part.ours, ".")) && kind.find('.') == absl::string_view::npos) {
      return absl::StrCat("blk.", layer, ".", part.theirs, ".", kind);
    }
  }
  CHECK(false) << name;
  return "";
}

// Vectors and routers stay F32.
StorageType TypeOf(const Format& format, const TensorSpec& spec) {
  if (spec.shape.size() == 1 || absl::EndsWith(spec.name, ".ffn_gate_inp.weight")) return StorageType::kF32;
  StorageType type = format.type;
  const int64_t columns = spec.shape.back();
  if ((type == StorageType::kQ4_0 || type == StorageType::kQ4_K) && (spec.name == "token_embd.weight" || spec.name == "output.weight")) {
    type = StorageType::kQ8_0;
  }
  if (columns % BlockElements(type) != 0) type = columns % 32 == 0 ? StorageType::kQ8_0 : StorageType::kF16;
  return type;
}

// Row `row` of the file's tensor as our row: of each head, pair p's two rows lie apart with us, side by side there.
int64_t OurRow(int64_t row, int64_t rows, int64_t heads) {
  if (heads == 0) return row;
  const int64_t width = rows / heads, head = row / width, within = row % width;
  return head * width + within % 2 * (width / 2) + within / 2;
}

// One of our tensors; rotated_heads > 0: its rows go from half-split to llama.cpp's interleaved rotary pairs.
Source Whole(const WeightRows& weights, size_t index, std::string name, int64_t rotated_heads) {
  const Tensor& value = weights.tensors()[index].value;
  Source source;
  source.spec.name = std::move(name);
  for (int d = 0; d < value.rank(); ++d) source.spec.shape.push_back(value.dim(d));
  source.read = [&weights, index, rows = value.dim(0), rotated_heads](int64_t row, std::vector<float>* out) {
    const int64_t ours = OurRow(row, rows, rotated_heads);
    return weights.Read(index, ours, ours + 1, out->data());
  };
  return source;
}

// The same part of all experts of a layer, `first` being expert 0's.
Source Stacked(const WeightRows& weights, const LogicalTensor& first, const std::string& before, const std::string& after, std::string name) {
  std::vector<size_t> experts;
  for (int e = 0; e < weights.config().moe->router.num_experts; ++e) {
    const int index = weights.Find(absl::StrCat(before, e, after));
    CHECK_GE(index, 0) << before << e << after;
    experts.push_back(static_cast<size_t>(index));
  }
  const int64_t rows = first.value.dim(0);
  Source source;
  source.spec = {std::move(name), StorageType::kF32, {static_cast<int64_t>(experts.size()), rows, first.value.dim(1)}};
  source.read = [&weights, experts = std::move(experts), rows](int64_t row, std::vector<float>* out) {
    return weights.Read(experts[static_cast<size_t>(row / rows)], row % rows, row % rows + 1, out->data());
  };
  return source;
}

// kv_b_proj's two halves (gguf_names.h), k's turned head by head.
void AddKvB(const WeightRows& weights, size_t index, const std::string& layer, std::vector<Source>* sources) {
  const ModelConfig& config = weights.config();
  const int64_t heads = config.num_attention_heads, nope = config.mla->qk_nope_head_dim, width = config.mla->v_head_dim, rank = config.mla->kv_lora_rank;
  Source k, v;
  k.spec = {layer + "attn_k_b.weight", StorageType::kF32, {heads, rank, nope}};
  k.read = [&weights, index, nope, width, rank, head_rows = std::vector<float>(), held = int64_t{-1}](int64_t row, std::vector<float>* out) mutable -> absl::Status {
    const int64_t head = row / rank, column = row % rank, first = head * (nope + width);
    if (head != held) {
      head_rows.resize(static_cast<size_t>(nope * rank));
      RETURN_IF_ERROR(weights.Read(index, first, first + nope, head_rows.data()));
      held = head;
    }
    for (int64_t d = 0; d < nope; ++d) (*out)[static_cast<size_t>(d)] = head_rows[static_cast<size_t>(d * rank + column)];
    return absl::OkStatus();
  };
  v.spec = {layer + "attn_v_b.weight", StorageType::kF32, {heads, width, rank}};
  v.read = [&weights, index, nope, width](int64_t row, std::vector<float>* out) {
    const int64_t ours = row / width * (nope + width) + nope + row % width;
    return weights.Read(index, ours, ours + 1, out->data());
  };
  sources->push_back(std::move(k));
  sources->push_back(std::move(v));
}

std::vector<Source> MakeSources(const WeightRows& weights, const Format& format) {
  const ModelConfig& config = weights.config();
  std::vector<Source> sources;
  if (config.rope_scaling.type == RopeScaling::Type::kLlama3) {
    Source divisors;
    divisors.spec = {"rope_freqs.weight", StorageType::kF32, {config.head_dim / 2}};
    divisors.read = [values = Llama3Divisors(config)](int64_t row, std::vector<float>* out) {
      (*out)[0] = values[static_cast<size_t>(row)];
      return absl::OkStatus();
    };
    sources.push_back(std::move(divisors));
  }
  const bool rotated = config.architecture == "LlamaForCausalLM";
  for (size_t i = 0; i < weights.tensors().size(); ++i) {
    const LogicalTensor& tensor = weights.tensors()[i];
    const size_t experts = tensor.name.find(".mlp.experts.");
    if (experts != std::string::npos) {
      const std::string before = tensor.name.substr(0, experts + 13), layer = tensor.name.substr(13, experts - 13);  // behind "model.layers."
      if (!absl::StartsWith(absl::string_view(tensor.name).substr(before.size()), "0.")) continue;                    // with expert 0
      const std::string after = tensor.name.substr(before.size() + 1);
      for (const GgufPart& part : kGgufExpertParts) {
        if (after != absl::StrCat(".", part.ours, ".weight")) continue;
        sources.push_back(Stacked(weights, tensor, before, after, absl::StrCat("blk.", layer, ".", part.theirs, ".weight")));
      }
      continue;
    }
    std::string name = GgufName(tensor.name);
    if (absl::EndsWith(name, ".attn_kv_b.weight")) {
      AddKvB(weights, i, name.substr(0, name.size() - 16), &sources);
      continue;
    }
    int64_t heads = 0;
    if (rotated && absl::StrContains(name, ".attn_q.")) heads = config.num_attention_heads;
    if (rotated && absl::StrContains(name, ".attn_k.")) heads = config.num_key_value_heads;
    sources.push_back(Whole(weights, i, std::move(name), heads));
  }
  for (Source& source : sources) source.spec.type = TypeOf(format, source.spec);
  return sources;
}

// Halves, and the scales of blocks, end at 65504.
absl::Status CheckRange(StorageType type, const std::string& name, const std::vector<float>& row) {
  if (type == StorageType::kF32 || type == StorageType::kBF16) return absl::OkStatus();
  for (float value : row) {
    if (!(std::fabs(value) <= 65504)) return absl::InvalidArgumentError(absl::StrCat(name, " holds ", value, ", beyond what ", Name(type), " can say; use F32 or BF16"));
  }
  return absl::OkStatus();
}

absl::Status WriteRow(StorageType type, const std::vector<float>& row, AppendBytes append) {
  const int64_t n = static_cast<int64_t>(row.size());
  std::string bytes;
  switch (type) {
    case StorageType::kF32:
      return append({reinterpret_cast<const char*>(row.data()), row.size() * sizeof(float)});
    case StorageType::kF16:
    case StorageType::kBF16:
      for (float value : row) {
        const uint16_t bits = type == StorageType::kF16 ? HalfFromFloat(value) : bf16(value).bits;
        bytes.append(reinterpret_cast<const char*>(&bits), 2);
      }
      return append(bytes);
    default:
      bytes.resize(static_cast<size_t>(n / BlockElements(type) * BlockBytes(type)));
      EncodeGgmlBlocks(type, row.data(), n / BlockElements(type), bytes.data());
      return append(bytes);
  }
}

}  // namespace

absl::Status SaveGguf(FileSystem& fs, const WeightRows& weights, const Tokenizer& tokenizer, const std::vector<int32_t>& stop_token_ids, const std::string& path,
                      const std::string& type) {
  const Format* format = std::find_if(std::begin(kFormats), std::end(kFormats), [&](const Format& f) { return type == f.name; });
  if (format == std::end(kFormats)) return absl::InvalidArgumentError(absl::StrCat("dtype ", type, ": expected F32, F16, BF16, Q8_0, Q4_0 or Q4_K"));
  if (fs.Exists(path)) return absl::AlreadyExistsError(absl::StrCat(path, " exists; a model is written into a new file"));
  const ModelConfig& config = weights.config();
  ASSIGN_OR_RETURN(const std::string architecture, GgufArchitecture(config));
  GgufWriter writer;
  RETURN_IF_ERROR(AddGgufMetadata(writer, architecture, config, format->file_type));
  ASSIGN_OR_RETURN(const GgufVocab vocab, tokenizer.ToGgufVocab(config.vocab_size));
  AddGgufVocab(writer, vocab, stop_token_ids);
  const std::vector<Source> sources = MakeSources(weights, *format);
  std::vector<TensorSpec> specs;
  for (const Source& source : sources) specs.push_back(source.spec);
  const auto write = [&](const TensorSpec& spec, AppendBytes append) -> absl::Status {
    const Source& source = sources[static_cast<size_t>(&spec - specs.data())];
    const int64_t columns = spec.shape.size() == 1 ? 1 : spec.shape.back();
    int64_t rows = 1;
    for (const int64_t extent : spec.shape) rows *= extent;
    rows /= columns;
    std::vector<float> row(static_cast<size_t>(columns));
    for (int64_t r = 0; r < rows; ++r) {
      RETURN_IF_ERROR(source.read(r, &row));
      RETURN_IF_ERROR(CheckRange(spec.type, spec.name, row));
      RETURN_IF_ERROR(WriteRow(spec.type, row, append));
    }
    return absl::OkStatus();
  };
  const std::string temporary = path + kUnfinishedModel;
  RETURN_IF_ERROR(fs.CreateDirectories(Dirname(path)));
  RETURN_IF_ERROR(fs.RemoveAll(temporary));
  absl::Status written = writer.Write(fs, temporary, specs, write);
  if (written.ok()) written = fs.Rename(temporary, path);
  if (!written.ok()) {
    fs.RemoveAll(temporary).IgnoreError();  // the first error is the one to tell
    return written;
  }
  return fs.SyncDirectory(Dirname(path));
}

}  // namespace grouper
