#include "common/model/save_gguf.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/checkpoint/ggml_encode.h"
#include "common/checkpoint/gguf_writer.h"

namespace grouper {
namespace {

struct Format {
  const char* name;
  StorageType type;
  uint32_t file_type;  // llama.cpp's general.file_type
};
constexpr Format kFormats[] = {{"F32", StorageType::kF32, 0},   {"F16", StorageType::kF16, 1},   {"BF16", StorageType::kBF16, 32},
                               {"Q8_0", StorageType::kQ8_0, 7}, {"Q4_0", StorageType::kQ4_0, 2}, {"Q4_K", StorageType::kQ4_K, 14}};

absl::StatusOr<std::string> ArchitectureOf(const ModelConfig& config) {
  if (config.architecture == "LlamaForCausalLM") return "llama";
  if (config.architecture == "Qwen2ForCausalLM") return "qwen2";
  if (config.architecture == "Qwen3ForCausalLM") return "qwen3";
  return absl::UnimplementedError(absl::StrCat(config.architecture, " is not written to GGUF (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM are); use --format hf"));
}

// A tensor of the file: which of ours it comes from, and how.
struct Source {
  int tensor = -1;            // of Model::tensors(); -1: `values`
  int64_t rotated_heads = 0;  // rows of so many heads go from half-split to llama.cpp's interleaved rotary pairs
  std::vector<float> values;
};

std::string GgufName(absl::string_view name) {
  static constexpr std::pair<absl::string_view, absl::string_view> kParts[] = {
      {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"}, {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},           {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},           {"mlp.down_proj", "ffn_down"}};
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  absl::string_view rest = name;
  CHECK(absl::ConsumePrefix(&rest, "model.layers.")) << name;
  const absl::string_view layer = rest.substr(0, rest.find('.'));
  rest.remove_prefix(layer.size() + 1);
  for (const auto& [ours, theirs] : kParts) {
    if (absl::ConsumePrefix(&rest, absl::StrCat(ours, "."))) return absl::StrCat("blk.", layer, ".", theirs, ".", rest);
  }
  CHECK(false) << name;
  return "";
}

StorageType TypeOf(const Format& format, const Tensor& value, const std::string& name) {
  if (value.rank() == 1) return StorageType::kF32;
  StorageType type = format.type;
  const int64_t columns = value.dim(1);
  if ((type == StorageType::kQ4_0 || type == StorageType::kQ4_K) && (name == "token_embd.weight" || name == "output.weight")) type = StorageType::kQ8_0;
  if (columns % BlockElements(type) != 0) type = columns % 32 == 0 ? StorageType::kQ8_0 : StorageType::kF16;
  return type;
}

absl::Status AddMetadata(GgufWriter& out, const std::string& architecture, const ModelConfig& c, const Format& format) {
  auto key = [&](const char* name) { return absl::StrCat(architecture, ".", name); };
  auto add = [&](const char* name, int64_t value) { out.AddUint32(key(name), static_cast<uint32_t>(value)); };
  out.AddString("general.architecture", architecture);
  out.AddString("general.type", "model");
  out.AddUint32("general.file_type", format.file_type);
  out.AddUint32("general.quantization_version", 2);
  add("block_count", c.num_hidden_layers);
  add("context_length", c.declared_max_position_embeddings > 0 ? c.declared_max_position_embeddings : c.max_position_embeddings);
  add("embedding_length", c.hidden_size);
  add("feed_forward_length", c.intermediate_size);
  add("attention.head_count", c.num_attention_heads);
  add("attention.head_count_kv", c.num_key_value_heads);
  add("attention.key_length", c.head_dim);
  add("attention.value_length", c.head_dim);
  out.AddFloat32(key("attention.layer_norm_rms_epsilon"), static_cast<float>(c.rms_norm_eps));
  out.AddFloat32(key("rope.freq_base"), static_cast<float>(c.rope_theta));
  add("rope.dimension_count", c.head_dim);
  add("vocab_size", c.vocab_size);
  const RopeScaling& s = c.rope_scaling;
  if (s.type == RopeScaling::Type::kLinear || s.type == RopeScaling::Type::kYarn) {
    const bool yarn = s.type == RopeScaling::Type::kYarn;
    if (yarn && (s.beta_fast != 32 || s.beta_slow != 1 || s.mscale != 0 || s.mscale_all_dim != 0 || s.attention_factor || !s.truncate)) {
      return absl::UnimplementedError("rope_scaling: GGUF has no place for YaRN's beta_fast, beta_slow, mscale, attention_factor and truncate; only their defaults are written");
    }
    out.AddString(key("rope.scaling.type"), yarn ? "yarn" : "linear");
    out.AddFloat32(key("rope.scaling.factor"), static_cast<float>(s.factor));
    if (yarn) add("rope.scaling.original_context_length", s.original_max_position_embeddings);
  }
  return absl::OkStatus();
}

void AddVocab(GgufWriter& out, const GgufVocab& vocab, const std::vector<int32_t>& stop_token_ids) {
  out.AddString("tokenizer.ggml.model", vocab.model);
  out.AddString("tokenizer.ggml.pre", vocab.pre);
  out.AddStrings("tokenizer.ggml.tokens", vocab.tokens);
  out.AddInt32s("tokenizer.ggml.token_type", vocab.token_types);
  out.AddStrings("tokenizer.ggml.merges", vocab.merges);
  // llama.cpp ends a generation at eos: the first stop token, where the model has several.
  const int32_t eos = stop_token_ids.empty() ? vocab.eos_id : stop_token_ids[0];
  const std::pair<const char*, int32_t> ids[] = {{"bos", vocab.bos_id}, {"eos", eos}, {"padding", vocab.pad_id}, {"unknown", vocab.unk_id}};
  for (const auto& [name, id] : ids) {
    if (id >= 0) out.AddUint32(absl::StrCat("tokenizer.ggml.", name, "_token_id"), static_cast<uint32_t>(id));
  }
  out.AddBool("tokenizer.ggml.add_bos_token", vocab.add_bos);
  out.AddBool("tokenizer.ggml.add_eos_token", vocab.add_eos);
  if (!vocab.chat_template.empty()) out.AddString("tokenizer.chat_template", vocab.chat_template);
}

// Llama 3's scaling is a tensor of divisors, one for each rotary pair.
std::vector<float> Llama3Divisors(const ModelConfig& c) {
  const RopeScaling& s = c.rope_scaling;
  const double original = static_cast<double>(s.original_max_position_embeddings);
  std::vector<float> divisors;
  for (int64_t i = 0; i < c.head_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(c.rope_theta, 2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
    double divisor = 1;
    if (wavelength > original / s.low_freq_factor) {
      divisor = s.factor;
    } else if (wavelength > original / s.high_freq_factor) {
      const double smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      divisor = 1 / ((1 - smooth) / s.factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

// Row `row` of the file's tensor as our row: of each head, pair p's two rows lie apart with us, side by side there.
int64_t OurRow(int64_t row, int64_t rows, int64_t heads) {
  if (heads == 0) return row;
  const int64_t width = rows / heads, head = row / width, within = row % width;
  return head * width + within % 2 * (width / 2) + within / 2;
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

float ElementAsFloat(const Tensor& t, int64_t i) {
  switch (t.dtype()) {
    case DType::kF64: return static_cast<float>(t.data<double>()[i]);
    case DType::kBF16: return static_cast<float>(t.data<bf16>()[i]);
    default: return t.data<float>()[i];
  }
}

}  // namespace

absl::Status SaveGguf(FileSystem& fs, const Model& model, const Tokenizer& tokenizer, const std::vector<int32_t>& stop_token_ids, const std::string& path,
                      const std::string& type) {
  const Format* format = std::find_if(std::begin(kFormats), std::end(kFormats), [&](const Format& f) { return type == f.name; });
  if (format == std::end(kFormats)) return absl::InvalidArgumentError(absl::StrCat("dtype ", type, ": expected F32, F16, BF16, Q8_0, Q4_0 or Q4_K"));
  if (fs.Exists(path)) return absl::AlreadyExistsError(absl::StrCat(path, " exists; a model is written into a new file"));
  const ModelConfig& config = model.config();
  ASSIGN_OR_RETURN(const std::string architecture, ArchitectureOf(config));
  GgufWriter writer;
  RETURN_IF_ERROR(AddMetadata(writer, architecture, config, *format));
  ASSIGN_OR_RETURN(const GgufVocab vocab, tokenizer.ToGgufVocab(config.vocab_size));
  AddVocab(writer, vocab, stop_token_ids);

  std::vector<TensorSpec> specs;
  std::vector<Source> sources;
  if (config.rope_scaling.type == RopeScaling::Type::kLlama3) {
    sources.push_back({-1, 0, Llama3Divisors(config)});
    specs.push_back({"rope_freqs.weight", StorageType::kF32, {config.head_dim / 2}});
  }
  for (size_t i = 0; i < model.tensors().size(); ++i) {
    const LogicalTensor& tensor = model.tensors()[i];
    const std::string name = GgufName(tensor.name);
    TensorSpec spec{name, TypeOf(*format, tensor.value, name), {}};
    for (int d = 0; d < tensor.value.rank(); ++d) spec.shape.push_back(tensor.value.dim(d));
    Source source{static_cast<int>(i), 0, {}};
    if (architecture == "llama") {
      if (absl::StrContains(name, ".attn_q.")) source.rotated_heads = config.num_attention_heads;
      if (absl::StrContains(name, ".attn_k.")) source.rotated_heads = config.num_key_value_heads;
    }
    specs.push_back(std::move(spec));
    sources.push_back(std::move(source));
  }
  const std::string temporary = path + ".tmp";
  RETURN_IF_ERROR(fs.RemoveAll(temporary));
  RETURN_IF_ERROR(writer.Write(fs, temporary, specs, [&](const TensorSpec& spec, AppendBytes append) -> absl::Status {
    const Source& source = sources[static_cast<size_t>(&spec - specs.data())];
    if (source.tensor < 0) return WriteRow(spec.type, source.values, append);
    const Tensor& value = model.tensors()[static_cast<size_t>(source.tensor)].value;
    const int64_t rows = value.dim(0), columns = value.rank() == 1 ? 1 : value.dim(1);
    std::vector<float> row(static_cast<size_t>(columns));
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t from = OurRow(r, rows, source.rotated_heads);
      for (int64_t c = 0; c < columns; ++c) row[static_cast<size_t>(c)] = ElementAsFloat(value, from * columns + c);
      RETURN_IF_ERROR(CheckRange(spec.type, spec.name, row));
      RETURN_IF_ERROR(WriteRow(spec.type, row, append));
    }
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(fs.Rename(temporary, path));
  return fs.SyncDirectory(Dirname(path));
}

}  // namespace grouper
