#include "common/model/forward_parts.h"

#include <algorithm>

namespace grouper {
namespace {

// Weights up to this size stay in a last-level cache.
constexpr int64_t kSmallModelBytes = int64_t{16} << 20;
// With fewer tokens a thread's products have too few rows.
constexpr int64_t kTokensOfPart = 8;
// The longest part may take this much more than the mean.
constexpr double kUneven = 1.15;

struct Part {
  Batch batch;
  int64_t first_output = 0;  // row of `hidden`
};

// Multiply-adds of a sequence's tokens.
double Cost(const ModelConfig& config, double active, double attention, const kernels::AttentionSequence& s) {
  const double tokens = s.q_len;
  return tokens * (active + static_cast<double>(config.num_hidden_layers) * attention * (s.context + 0.5 * tokens));
}

// Consecutive sequences for each of `count` parts, or nothing when one part would be much longer than the others.
std::vector<Part> Cut(const ModelConfig& config, const kernels::KvLayout& layout, const Batch& batch, int64_t count) {
  const double active = static_cast<double>(config.NumActiveParameters());
  const double attention = static_cast<double>(config.num_attention_heads) * (layout.key_dim + layout.value_dim);
  double total = 0;
  for (const kernels::AttentionSequence& s : batch.sequences) total += Cost(config, active, attention, s);
  std::vector<Part> parts;
  double done = 0, start = 0;
  size_t output = 0;
  int32_t row = 0;
  for (size_t i = 0, first = 0; i < batch.sequences.size(); ++i) {
    done += Cost(config, active, attention, batch.sequences[i]);
    const bool last = i + 1 == batch.sequences.size();
    if (!last && done * static_cast<double>(count) < total * static_cast<double>(parts.size() + 1)) continue;
    if ((done - start) * static_cast<double>(count) > kUneven * total) return {};
    Part part;
    part.first_output = static_cast<int64_t>(output);
    const int32_t end = batch.sequences[i].q_begin + batch.sequences[i].q_len;
    part.batch.token_ids.assign(batch.token_ids.begin() + row, batch.token_ids.begin() + end);
    part.batch.sequences.assign(batch.sequences.begin() + static_cast<int64_t>(first), batch.sequences.begin() + static_cast<int64_t>(i) + 1);
    for (kernels::AttentionSequence& s : part.batch.sequences) s.q_begin -= row;
    for (; output < batch.output_rows.size() && batch.output_rows[output] < end; ++output) {
      part.batch.output_rows.push_back(batch.output_rows[output] - row);
    }
    parts.push_back(std::move(part));
    first = i + 1;
    row = end;
    start = done;
  }
  return parts;
}

// A stream of the calling thread alone; its memory is kept for the thread's next part.
Stream& OwnStream() {
  struct Own {
    ThreadPool alone{1};
    Stream stream{alone};
  };
  static thread_local Own own;
  return own.stream;
}

}  // namespace

bool ForwardInParts(const Model& model, Stream& stream, const Batch& batch, KvPool& kv, const Tensor& hidden) {
  const ModelConfig& config = model.config();
  const int64_t threads = stream.threads.num_threads(), tokens = static_cast<int64_t>(batch.token_ids.size());
  if (stream.device.is_cuda() || threads == 1 || tokens < threads * kTokensOfPart) return false;
  if (config.NumParameters() * static_cast<int64_t>(SizeOf(model.dtype())) > kSmallModelBytes) return false;
  const std::vector<Part> parts = Cut(config, kv.layout(), batch, threads);
  if (parts.size() < 2) return false;
  stream.threads.ParallelFor(static_cast<int64_t>(parts.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Part& part = parts[static_cast<size_t>(i)];
      const int64_t outputs = static_cast<int64_t>(part.batch.output_rows.size());
      model.Forward(OwnStream(), part.batch, kv, hidden.Rows(part.first_output, part.first_output + outputs), nullptr);
    }
  });
  return true;
}

}  // namespace grouper
