#include "common/model/model.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/model/model_state.h"
#include "common/model/pass_memory.h"
#include "common/tensor/cuda.h"
#include "common/tensor/host_memory.h"

namespace grouper {
namespace {

// What there is of memory, or may be taken of address space where that is less.
int64_t MachineBytes() {
  const int64_t physical = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  struct rlimit limit = {};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return physical;
  return static_cast<int64_t>(std::min<uint64_t>(static_cast<uint64_t>(physical), limit.rlim_cur));
}

}  // namespace

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::~Model() = default;

absl::Status Model::CheckMemory(const ModelConfig& config, DType dtype, Device device, WeightUse use) {
  const bool on_cuda = device.is_cuda();
  RETURN_IF_ERROR(CheckDevice(device));
  if (on_cuda && dtype == DType::kF64) return absl::InvalidArgumentError("float64 models run on the CPU only");
  if (use == WeightUse::kShapes) return absl::OkStatus();
  // A config that lies about its sizes must not take the process down.
  const double item = static_cast<double>(SizeOf(dtype));
  const double memory = on_cuda ? static_cast<double>(cuda::Memory(device.index).free) : static_cast<double>(MachineBytes());
  // On the CPU matrices are kept packed beside.
  const double copies = on_cuda || use == WeightUse::kForward ? 1 : 2;
  const double weights = static_cast<double>(config.NumParameters()) * item * copies;
  const double rotary = static_cast<double>(config.max_position_embeddings) *
                        static_cast<double>(config.mla ? config.mla->qk_rope_head_dim : config.head_dim) *
                        static_cast<double>(SizeOf(AccumulatorType(dtype)));
  if (weights + rotary > memory) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the model takes %.1f GB of weights (%d parameters) and %.1f GB of rotary tables (max_position_embeddings %d), "
        "%s has %.1f GB: take %sa smaller model%s",
        weights / 1e9, config.NumParameters(), rotary / 1e9, config.max_position_embeddings,
        on_cuda ? absl::StrCat(Name(device), " (free; nvidia-smi shows who has the rest)") : "this machine", memory / 1e9,
        rotary > weights ? "a lower model.max_context or " : "", dtype == DType::kF32 ? " or model.dtype: \"bfloat16\"" : ""));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Model>> Model::Create(const ModelConfig& config, DType dtype, Device device, WeightUse use) {
  RETURN_IF_ERROR(config.Validate());
  RETURN_IF_ERROR(CheckMemory(config, dtype, device, use));
  size_t weight_bytes = 0;
  if (use != WeightUse::kShapes && !device.is_cuda()) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Model> shapes, Create(config, dtype, device, WeightUse::kShapes));
    weight_bytes = shapes->state_->store.BytesOnCpu();
  }
  auto state = std::make_unique<State>(config, dtype, device, use, weight_bytes);
  State& s = *state;
  WeightStore& store = s.store;
  if (use != WeightUse::kShapes) s.rotary = std::make_unique<RotaryTables>(config, dtype, s.tables);
  const kernels::RopeTable rope = s.rotary == nullptr ? kernels::RopeTable() : s.rotary->table();
  s.embedding = store.AddMatrix({{"model.embed_tokens.weight", config.vocab_size}}, config.hidden_size, dtype,
                                /*packed=*/config.tie_word_embeddings);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    State::Block block;
    block.input_norm = store.AddVector({{prefix + "input_layernorm.weight", config.hidden_size}});
    block.attention = config.mla ? MakeMlaLayer(config, prefix + "self_attn.", rope, store)
                                 : MakeGqaLayer(config, prefix + "self_attn.", rope, store);
    block.post_norm = store.AddVector({{prefix + "post_attention_layernorm.weight", config.hidden_size}});
    block.feed_forward = config.IsMoeLayer(i)
                             ? MakeMoeLayer(config, prefix + "mlp.", store)
                             : MakeDenseLayer(config, prefix + "mlp.", config.intermediate_size, store);
    s.blocks.push_back(std::move(block));
  }
  s.final_norm = store.AddVector({{"model.norm.weight", config.hidden_size}});
  s.head = config.tie_word_embeddings ? s.embedding
                                      : store.AddMatrix({{"lm_head.weight", config.vocab_size}}, config.hidden_size);

  std::map<std::string, int> by_name;
  for (size_t i = 0; i < store.logical.size(); ++i) by_name[store.logical[i].tensor.name] = static_cast<int>(i);
  CHECK_EQ(by_name.size(), store.logical.size());
  for (const auto& [name, index] : by_name) {
    s.tensors.push_back(store.logical[index].tensor);
    s.logical_of.push_back(index);
  }
  return std::unique_ptr<Model>(new Model(std::move(state)));
}

const ModelConfig& Model::config() const { return state_->config; }
DType Model::dtype() const { return state_->dtype; }
WeightUse Model::use() const { return state_->use; }
Device Model::device() const { return state_->device; }
const std::vector<LogicalTensor>& Model::tensors() const { return state_->tensors; }

size_t Model::WeightBytes() const {
  const bool on_cuda = state_->device.is_cuda();
  const Arena& store = state_->store.memory();
  return on_cuda ? store.reserved_bytes() + state_->tables.reserved_bytes()
                 : HeldBytes(store.peak_bytes(), {}) + HeldBytes(state_->tables.peak_bytes(), {});
}

size_t Model::PackedBytes() const {
  if (state_->use != WeightUse::kTrain) return 0;
  size_t bytes = 0;
  for (const auto& weight : state_->store.weights) bytes += weight->packed.bytes();
  return bytes;
}

size_t Model::ForwardWeightBytes() const {
  if (state_->device.is_cuda()) return WeightBytes();
  return HeldBytes(state_->store.BytesOnCpu(), {}) + HeldBytes(state_->tables.peak_bytes(), {});
}

int Model::FindTensor(const std::string& name) const {
  const auto& tensors = state_->tensors;
  auto it = std::lower_bound(tensors.begin(), tensors.end(), name,
                             [](const LogicalTensor& t, const std::string& n) { return t.name < n; });
  return it != tensors.end() && it->name == name ? static_cast<int>(it - tensors.begin()) : -1;
}

void Model::InitRandom(Stream& stream, uint64_t seed) {
  const double residual = 1 / std::sqrt(2.0 * static_cast<double>(state_->config.num_hidden_layers));
  stream.threads.ParallelForDynamic(static_cast<int64_t>(state_->tensors.size()), [&](int64_t i) {
    const LogicalTensor& tensor = state_->tensors[static_cast<size_t>(i)];
    // On the host where the model has them elsewhere.
    const bool apart = tensor.value.empty() || tensor.value.device().is_cuda();
    std::string memory(apart ? NumBytes(tensor.value) : 0, '\0');
    const Tensor w = apart ? tensor.value.At(memory.data(), {}) : tensor.value;
    PhiloxStream random(MakePhiloxKey(seed, absl::StrCat("init ", tensor.name).c_str()));
    double scale = 0, constant = 0;
    if (w.rank() == 1) {
      constant = absl::EndsWith(tensor.name, "norm.weight") ? 1 : 0;
    } else if (tensor.name == "model.embed_tokens.weight") {
      scale = state_->config.tie_word_embeddings ? 1 / std::sqrt(static_cast<double>(w.dim(1))) : 0.5;
    } else {
      scale = 1 / std::sqrt(static_cast<double>(w.dim(1)));
      if (absl::EndsWith(tensor.name, "o_proj.weight") || absl::EndsWith(tensor.name, "down_proj.weight"))
        scale *= residual;
    }
    for (int64_t k = 0; k < w.size(); ++k) {
      const double value = scale > 0 ? scale * random.NextNormal() : constant;
      switch (w.dtype()) {
        case DType::kF64:
          w.data<double>()[k] = value;
          break;
        case DType::kBF16:
          w.data<bf16>()[k] = bf16(static_cast<float>(value));
          break;
        default:
          w.data<float>()[k] = static_cast<float>(value);
      }
    }
    if (apart) WriteRows(static_cast<size_t>(i), 0, w.dim(0), memory.data());
  });
  WeightsChanged(stream);
}

void Model::WeightsChanged(Stream& stream) {
  if (state_->device.is_cuda()) return stream.Synchronize();
  state_->store.Pack(stream);
}

void Model::WriteRows(size_t i, int64_t begin, int64_t end, const char* bytes) {
  const Tensor& value = state_->tensors[i].value;
  const int64_t columns = value.rank() == 1 ? 1 : value.dim(1);
  const size_t item = SizeOf(value.dtype());
  if (!value.empty()) {
    WriteBytes(value, static_cast<size_t>(begin * columns) * item, {bytes, static_cast<size_t>((end - begin) * columns) * item});
    return;
  }
  const PackedRows rows = Packed(i);
  rows.weight->packed.WriteRows(rows.expert, rows.first + begin, Tensor(const_cast<char*>(bytes), value.dtype(), {end - begin, columns}));
}

void Model::ReadRows(size_t i, int64_t begin, int64_t end, char* bytes) const {
  const Tensor& value = state_->tensors[i].value;
  const int64_t columns = value.rank() == 1 ? 1 : value.dim(1);
  const size_t item = SizeOf(value.dtype());
  if (!value.empty()) {
    ReadBytes(value, static_cast<size_t>(begin * columns) * item, static_cast<size_t>((end - begin) * columns) * item, bytes);
    return;
  }
  const PackedRows rows = Packed(i);
  rows.weight->packed.ReadRows(rows.expert, rows.first + begin, Tensor(bytes, value.dtype(), {end - begin, columns}));
}

// Where tensors()[i] begins in the packed matrix that holds it.
Model::PackedRows Model::Packed(size_t i) const {
  const WeightStore::Logical& logical = state_->store.logical[static_cast<size_t>(state_->logical_of[i])];
  Weight* const weight = state_->store.weights[static_cast<size_t>(logical.weight)].get();
  const int64_t row = logical.offset / weight->value.dim(-1), rows = weight->value.dim(-2);
  return {weight, row / rows, row % rows};
}

size_t Model::SavedBytes(int64_t tokens, SaveOptions options) const {
  const ModelConfig& c = state_->config;
  const int64_t d = c.hidden_size, h = c.num_attention_heads;
  // Elements a token: what an attention or a feed-forward saves, and what its backward takes on top.
  int64_t attention, attention_backward;
  if (c.mla) {
    const int64_t q = h * (c.mla->qk_nope_head_dim + c.mla->qk_rope_head_dim),
                  key = c.mla->kv_lora_rank + c.mla->qk_rope_head_dim;
    const int64_t first = (c.mla->q_lora_rank > 0 ? c.mla->q_lora_rank : q) + key,
                  second = c.mla->q_lora_rank > 0 ? c.mla->q_lora_rank + q : 0;
    const int64_t heads = h * (c.mla->qk_nope_head_dim + c.mla->v_head_dim), value = h * c.mla->v_head_dim;
    attention = first + second + key + value + h;
    // Gradients of o, [k_nope, v], k and q; the pages of k and v.
    attention_backward = value + heads + q + (q + value) + first + (c.mla->q_lora_rank > 0 ? q : 0);
  } else {
    const int64_t q = h * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
    attention = 2 * q + 2 * kv + h + (c.qk_norm ? q + kv : 0);
    attention_backward = 2 * q + 2 * kv;
  }
  const int64_t dense = 3 * c.intermediate_size;
  int64_t experts = 0, experts_backward = 0;
  if (c.moe) {
    const MoeConfig& m = *c.moe;
    experts = 3 * m.moe_intermediate_size * (m.router.top_k + m.n_shared_experts) + (d + 2) * m.router.top_k +
              2 * m.router.num_experts;
    experts_backward = 3 * m.moe_intermediate_size * m.router.top_k + 2 * d * m.router.top_k + m.router.num_experts;
  }
  int64_t total = 0, largest = 0, largest_backward = 0;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const bool moe = c.IsMoeLayer(layer);
    const int64_t saved = 4 * d + attention + (moe ? experts : dense);
    total += options.recompute ? d : saved;
    largest = std::max(largest, saved);
    largest_backward = std::max({largest_backward, attention_backward, moe ? experts_backward : dense});
  }
  total += 6 * d + largest_backward +
           (options.recompute ? d + largest : 0);  // x, delta, last rows, dx, dy; what backward works in
  return static_cast<size_t>(total * tokens) * SizeOf(state_->dtype);
}

}  // namespace grouper
