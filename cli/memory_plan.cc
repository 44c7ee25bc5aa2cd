#include "cli/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/model/kv_pool.h"

namespace grouper::cli {
namespace {

std::string Line(const std::string& what, int64_t bytes) { return absl::StrFormat("  %-44s %10.1f MB\n", what, static_cast<double>(bytes) / 1e6); }

}  // namespace

std::string MemoryPlan(const v1::Recipe& recipe, const Model& model) {
  int64_t weights = 0, trained = 0;
  for (const LogicalTensor& tensor : model.tensors()) {
    weights += tensor.value.size() * static_cast<int64_t>(SizeOf(tensor.value.dtype()));
    if (tensor.trainable) trained += tensor.value.size();
  }
  const int64_t item = static_cast<int64_t>(SizeOf(model.dtype()));
  int64_t train = 0, reference = 0, sequences = 0, longest = 1;
  bool samples = false;
  for (const v1::Stage& stage : recipe.stages()) {
    if (stage.has_grpo() && stage.grpo().kl_coef() > 0) reference = 2 * weights;
    if (stage.has_grpo() || stage.has_sft()) {
      const int64_t tokens = std::max<int64_t>(stage.optimizer().micro_batch_tokens(), 1);
      const int64_t logits = std::min<int64_t>(64 << 20, tokens * model.config().vocab_size * 4);
      train = std::max(train, static_cast<int64_t>(model.SavedBytes(tokens, {recipe.model().recompute()})) + logits);
    }
    if (stage.has_grpo()) {
      samples = true;
      sequences = std::max<int64_t>(sequences, int64_t{stage.grpo().prompts_per_step()} * stage.grpo().group_size());
      longest = std::max<int64_t>(longest, stage.grpo().sampling().max_new_tokens());
    }
    samples |= stage.has_eval() || stage.has_evaluate();
  }
  // The cache fills as sequences grow; sequences end at their length limit, with some prompt before it.
  const int64_t pages_each = (std::min<int64_t>(model.config().max_position_embeddings, longest * 2) + kernels::kPageTokens - 1) / kernels::kPageTokens;
  const int64_t pages = std::min<int64_t>(recipe.rollout().max_sequences(), std::max<int64_t>(sequences, 1)) * pages_each;
  const int64_t cache = samples ? pages * static_cast<int64_t>(KvPool::BytesPerPage(model.config(), model.dtype())) : 0;
  const int64_t optimizer = trained * (item == 2 ? 12 : 8), gradients = trained * 4, packed = weights;
  std::string text = "memory, predicted:\n";
  absl::StrAppend(&text, Line("weights", weights), Line("weights, packed for the kernels", packed), Line("gradients", gradients),
                  Line("optimizer state", optimizer));
  if (reference > 0) absl::StrAppend(&text, Line("reference policy", reference));
  absl::StrAppend(&text, Line("activations of a micro-batch", train));
  if (cache > 0) absl::StrAppend(&text, Line("key-value cache when full", cache));
  absl::StrAppend(&text, Line("in all", weights + packed + gradients + optimizer + reference + train + cache));
  return text;
}

}  // namespace grouper::cli
