#include "cli/bench_work.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "common/model/kv_pool.h"
#include "common/tensor/host_memory.h"

namespace grouper::cli {

double TrainingFlops(const ModelConfig& config, int64_t sequences, int64_t length, int64_t targets) {
  const int64_t head = config.vocab_size * config.hidden_size;
  const int64_t widths = config.mla ? config.mla->qk_nope_head_dim + config.mla->qk_rope_head_dim + config.mla->v_head_dim : 2 * config.head_dim;
  const double pairs = static_cast<double>(length) * static_cast<double>(length + 1) / 2;
  const double attention = 6.0 * static_cast<double>(config.num_hidden_layers * config.num_attention_heads * widths) * pairs;
  return static_cast<double>(sequences) * (6.0 * static_cast<double>((config.NumActiveParameters() - head) * length + head * targets) + attention);
}

double DecodeStepBytes(const Model& model, int64_t batch, int64_t group, int64_t prompt, double context) {
  const ModelConfig& config = model.config();
  double hit = 1;  // of the experts
  if (config.moe) {
    const kernels::RouterConfig& router = config.moe->router;
    hit = 1 - std::pow(1 - static_cast<double>(router.top_k) / router.num_experts, static_cast<double>(batch));
  }
  double bytes = 0;
  for (const LogicalTensor& tensor : model.tensors()) {
    double part = 1;
    if (absl::StrContains(tensor.name, ".experts.")) part = hit;
    if (tensor.name == "model.embed_tokens.weight" && !config.tie_word_embeddings) {
      part = std::min(1.0, static_cast<double>(batch) / static_cast<double>(config.vocab_size));
    }
    bytes += part * static_cast<double>(NumBytes(tensor.value));
  }
  const double token = static_cast<double>(KvPool::BytesPerPage(config, model.dtype())) / kernels::kPageTokens;
  const auto shared = static_cast<double>(group > 1 ? (prompt - 1) / kernels::kPageTokens * kernels::kPageTokens : 0);
  const auto sequences = static_cast<double>(batch), groups = std::ceil(sequences / static_cast<double>(group));
  return bytes + token * (sequences * (context - shared) + groups * shared);
}

}  // namespace grouper::cli
