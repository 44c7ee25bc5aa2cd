#include "trainer/training_pass.h"

#include <algorithm>
#include <limits>

#include "common/base/check.h"
#include "common/base/failpoint.h"
#include "common/model/pass_memory.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace grouper {

int64_t TrainSequence::num_trained() const { return std::count(trained.begin(), trained.end(), uint8_t{1}); }

TrainingPass::TrainingPass(const Model& model, Stream& stream, const Options& options)
    : model_(model), stream_(stream), options_(options) {}

std::vector<std::pair<size_t, size_t>> TrainingPass::Cut(const std::vector<TrainSequence>& sequences, int64_t micro_batch_tokens) {
  std::vector<std::pair<size_t, size_t>> cuts;
  for (size_t begin = 0; begin < sequences.size();) {
    size_t end = begin;
    int64_t tokens = 0;
    do {
      tokens += static_cast<int64_t>(sequences[end++].token_ids.size());
    } while (end < sequences.size() && tokens + static_cast<int64_t>(sequences[end].token_ids.size()) <= micro_batch_tokens);
    cuts.push_back({begin, end});
    begin = end;
  }
  return cuts;
}

// A micro-batch as the model takes it, and its targets: output row i predicts targets[i].
struct TrainingPass::MicroBatch {
  Batch batch;
  std::vector<int32_t> pages;
  std::vector<int32_t> targets;
  std::vector<kernels::SamplingFilter> filters;
};

void TrainingPass::Prepare(const std::vector<TrainSequence>& sequences, size_t begin, size_t end, MicroBatch& micro) {
  std::vector<int32_t> first_page;
  int32_t pages = 0;
  for (size_t i = begin; i < end; ++i) {
    first_page.push_back(pages);
    pages += static_cast<int32_t>((sequences[i].token_ids.size() + kernels::kPageTokens - 1) / kernels::kPageTokens);
  }
  for (int32_t page = 0; page < pages; ++page) micro.pages.push_back(page);
  for (size_t i = begin; i < end; ++i) {
    const TrainSequence& sequence = sequences[i];
    const int32_t row = static_cast<int32_t>(micro.batch.token_ids.size()), length = static_cast<int32_t>(sequence.token_ids.size());
    CHECK_EQ(sequence.trained.size(), sequence.token_ids.size());
    micro.batch.sequences.push_back({row, length, 0, micro.pages.data() + first_page[i - begin]});
    micro.batch.token_ids.insert(micro.batch.token_ids.end(), sequence.token_ids.begin(), sequence.token_ids.end());
    for (int32_t t = 1; t < length; ++t) {
      if (!sequence.trained[static_cast<size_t>(t)]) continue;
      micro.batch.output_rows.push_back(row + t - 1);
      micro.targets.push_back(sequence.token_ids[static_cast<size_t>(t)]);
      micro.filters.push_back(sequence.filter);
    }
  }
}

int64_t TrainingPass::LogitRows(const Model& model, Device device, const Options& options) {
  const int64_t row = LogitsPitch(model.config(), device) * static_cast<int64_t>(SizeOf(model.dtype()));
  const int64_t bytes = options.logits_bytes > 0 ? options.logits_bytes : int64_t{device.is_cuda() ? 1024 : 64} << 20;
  // What a device's gradients of weights may be cut at without other bits (kernels/README.md).
  const int64_t unit = device.is_cuda() ? 2048 : 1;
  return std::max(unit, bytes / row / unit * unit);
}

int64_t TrainingPass::RoundTokens(const Options& options, int64_t tokens) {
  const int64_t step = std::max<int64_t>(64, options.micro_batch_tokens / 8), up = (tokens + step - 1) / step * step;
  return tokens <= options.micro_batch_tokens ? std::min(up, options.micro_batch_tokens) : up;
}

namespace {

// Attention's plan of a device depends on the number of sequences, which varies: many short ones are allowed for.
PassBytes BytesFor(const Model& model, Device device, const PassSize& pass, int64_t logit_rows, bool recompute, bool backward) {
  PassSize size = pass;
  size.rows = pass.tokens;
  size.sequences = std::max(pass.sequences, pass.tokens / 32 + 1);
  size.logit_rows = std::min(pass.tokens, logit_rows);
  size.whole = true;
  return backward ? TrainingBytes(model.config(), model.dtype(), device, size, recompute)
                  : ForwardBytes(model.config(), model.dtype(), device, size);
}

}  // namespace

TrainingPass::Memory TrainingPass::MemoryFor(const Model& model, Device device, const Options& options, bool backward, int64_t tokens,
                                             int64_t sequences, int64_t longest) {
  const int64_t most = RoundTokens(options, tokens);
  // Each sequence ends with a page that is half full, on average.
  const int64_t pages = most / kernels::kPageTokens + sequences / 2 + 1;
  const PassBytes pass = BytesFor(model, device, {.tokens = most, .sequences = sequences, .longest = longest, .pages = pages},
                                  LogitRows(model, device, options), options.recompute, backward);
  return {pass.arena - pass.logits, pass.logits,
          static_cast<size_t>(pages) * KvPool::BytesPerPage(model.config(), model.dtype()), pass.scratch, pass.largest};
}

void TrainingPass::Reserve(const std::vector<TrainSequence>& sequences, const std::vector<std::pair<size_t, size_t>>& cuts, bool backward) {
  if (cuts.empty()) return;
  int64_t most_tokens = 0, most_sequences = 0, longest = 0;
  int32_t most_pages = 1;
  for (const auto& [begin, end] : cuts) {
    int64_t tokens = 0;
    int32_t pages = 0;
    for (size_t i = begin; i < end; ++i) {
      const int64_t length = static_cast<int64_t>(sequences[i].token_ids.size());
      tokens += length;
      longest = std::max(longest, length);
      pages += static_cast<int32_t>((length + kernels::kPageTokens - 1) / kernels::kPageTokens);
    }
    most_tokens = std::max(most_tokens, tokens);
    most_sequences = std::max(most_sequences, static_cast<int64_t>(end - begin));
    most_pages = std::max(most_pages, pages);
  }
  TurnMemory* const memory = options_.memory;
  if (memory != nullptr) memory->Take(this);
  if (kv_ == nullptr || kv_->num_pages() < most_pages) {
    const int32_t pages = most_pages + (kv_ == nullptr ? 0 : most_pages / 8);
    const size_t size = static_cast<size_t>(pages) * KvPool::BytesPerPage(model_.config(), model_.dtype());
    arena_.reset();
    kv_.reset();  // before the next one is taken
    const bool lent = memory != nullptr && size <= memory->size() / 2;
    kv_ = std::make_unique<KvPool>(model_.config(), model_.dtype(), pages, model_.device(), lent ? memory->data() : nullptr);
    lent_to_kv_ = lent ? (size + 255) / 256 * 256 : 0;
  }
  if (arena_ && most_tokens <= reserved_.tokens && most_sequences <= std::max(reserved_.sequences, reserved_.tokens / 32 + 1) &&
      longest <= reserved_.longest && most_pages <= reserved_.pages) {
    return;
  }
  const auto grow = [](int64_t& reserved, int64_t to) { reserved = std::max(reserved, to); };
  grow(reserved_.tokens, RoundTokens(options_, most_tokens));
  grow(reserved_.sequences, most_sequences);
  grow(reserved_.longest, (longest + 1023) / 1024 * 1024);
  grow(reserved_.pages, most_pages + most_pages / 8);
  const PassBytes bytes = BytesFor(model_, model_.device(), reserved_, LogitRows(model_, model_.device(), options_), options_.recompute, backward);
  arena_.reset();
  if (memory == nullptr) {
    arena_.emplace(model_.device(), stream_.handle);
    arena_->Allocate(bytes.arena);
  } else {
    const size_t lent = (memory->size() - lent_to_kv_) / 256 * 256;
    arena_.emplace(model_.device(), stream_.handle, memory->data() + lent_to_kv_, lent);
    if (bytes.arena > lent) {
      // The rest, and room for a tensor that does not fit where the lent block ends.
      arena_->Allocate(lent);
      arena_->Allocate(bytes.arena - lent + bytes.largest);
    }
  }
  arena_->Reset();
  stream_.Synchronize();
  stream_.scratch.Renew(bytes.scratch);
}

Tensor TrainingPass::OnHost(const Tensor& values) {
  if (!model_.device().is_cuda()) return values;
  const Tensor copy = host_.New(DType::kF32, {values.dim(0)});
  Download(stream_, values, copy);
  return copy;
}

Tensor TrainingPass::OnDevice(const Tensor& values) {
  if (!model_.device().is_cuda()) return values;
  const Tensor copy = arena_->New(DType::kF32, {values.dim(0)});
  UploadAsync(stream_, values, copy);
  return copy;
}

void TrainingPass::Run(const std::vector<TrainSequence>& sequences, Loss loss, Gradients& gradients, ExpertLoad* expert_load) {
  const int64_t width = model_.config().hidden_size, vocab = model_.config().vocab_size;
  CHECK(model_.dtype() != DType::kF64) << "training runs in float32 or bfloat16";
  const int64_t chunk = LogitRows(model_, model_.device(), options_);
  int64_t first = 0;
  const std::vector<std::pair<size_t, size_t>> cuts = Cut(sequences, options_.micro_batch_tokens);
  Reserve(sequences, cuts, /*backward=*/true);
  for (const auto& [begin, end] : cuts) {
    MicroBatch micro;
    Prepare(sequences, begin, end, micro);
    arena_->Reset();
    const int64_t rows = static_cast<int64_t>(micro.targets.size());
    const Tensor hidden = arena_->New(model_.dtype(), {rows, width});
    SavedActivations saved(*arena_, {options_.recompute}, expert_load != nullptr ? expert_load->counts() : Tensor());
    model_.Forward(stream_, micro.batch, *kv_, hidden, &saved);
    const Tensor logprobs = arena_->New(DType::kF32, {rows}), entropies = arena_->New(DType::kF32, {rows}),
                 statistics = arena_->New(DType::kF32, {rows, 2});
    // One chunk's logits are held at a time. Forward goes from the last chunk to the first, which is still there when backward, in ascending order for
    // its sums, begins; the others are computed again.
    const Tensor logits = arena_->New(model_.dtype(), {std::min(rows, chunk), LogitsPitch(model_.config(), model_.device())}).Columns(0, vocab);
    auto filters = [&](int64_t r, int64_t n) {
      return std::vector<kernels::SamplingFilter>(micro.filters.begin() + r, micro.filters.begin() + r + n);
    };
    for (int64_t r = (rows + chunk - 1) / chunk * chunk - chunk; r >= 0; r -= chunk) {
      const int64_t n = std::min(chunk, rows - r);
      model_.Logits(stream_, hidden.Rows(r, r + n), logits.Rows(0, n));
      if (failpoint::HitNan("trainer.logits")) kernels::Fill(stream_, logits.Rows(0, 1), std::numeric_limits<double>::quiet_NaN());
      kernels::TokenLogprobs(stream_, logits.Rows(0, n), filters(r, n), micro.targets.data() + r, logprobs.Rows(r, r + n), entropies.Rows(r, r + n),
                             statistics.Rows(r, r + n));
    }
    const size_t count = static_cast<size_t>(rows);
    host_.Reset();
    const Tensor host_logprobs = OnHost(logprobs), host_entropies = OnHost(entropies), host_slopes = host_.NewZero(DType::kF32, {rows});
    loss(begin, end, first, {host_logprobs.data<float>(), count}, {host_entropies.data<float>(), count}, {host_slopes.data<float>(), count});
    const Tensor slopes = OnDevice(host_slopes);
    first += rows;
    if (rows == 0) continue;
    const Tensor dhidden = arena_->New(model_.dtype(), {rows, width});
    for (int64_t r = 0; r < rows; r += chunk) {
      const int64_t n = std::min(chunk, rows - r);
      const Tensor part = logits.Rows(0, n);
      if (r > 0) model_.Logits(stream_, hidden.Rows(r, r + n), part);
      kernels::TokenLogprobsBackward(stream_, part, filters(r, n), micro.targets.data() + r, slopes.Rows(r, r + n), part, statistics.Rows(r, r + n));
      model_.LogitsBackward(stream_, part, hidden.Rows(r, r + n), dhidden.Rows(r, r + n), gradients);
    }
    model_.Backward(stream_, micro.batch, *kv_, saved, dhidden, gradients);
  }
  EndTurn();
}

void TrainingPass::EndTurn() {
  if (options_.memory == nullptr) return;
  stream_.Synchronize();
  options_.memory->Give(this);
}

std::vector<float> TrainingPass::Score(const std::vector<TrainSequence>& sequences) {
  const int64_t width = model_.config().hidden_size, vocab = model_.config().vocab_size;
  const int64_t chunk = LogitRows(model_, model_.device(), options_);
  std::vector<float> all;
  const std::vector<std::pair<size_t, size_t>> cuts = Cut(sequences, options_.micro_batch_tokens);
  Reserve(sequences, cuts, /*backward=*/false);
  for (const auto& [begin, end] : cuts) {
    MicroBatch micro;
    Prepare(sequences, begin, end, micro);
    arena_->Reset();
    const int64_t rows = static_cast<int64_t>(micro.targets.size());
    const Tensor hidden = arena_->New(model_.dtype(), {rows, width});
    model_.Forward(stream_, micro.batch, *kv_, hidden, nullptr);
    const Tensor logprobs = arena_->New(DType::kF32, {rows});
    const Tensor logits = arena_->New(model_.dtype(), {std::min(rows, chunk), LogitsPitch(model_.config(), model_.device())}).Columns(0, vocab);
    for (int64_t r = 0; r < rows; r += chunk) {
      const int64_t n = std::min(chunk, rows - r);
      model_.Logits(stream_, hidden.Rows(r, r + n), logits.Rows(0, n));
      kernels::TokenLogprobs(stream_, logits.Rows(0, n),
                             std::vector<kernels::SamplingFilter>(micro.filters.begin() + r, micro.filters.begin() + r + n),
                             micro.targets.data() + r, logprobs.Rows(r, r + n), {});
    }
    host_.Reset();
    const float* values = OnHost(logprobs).data<float>();
    all.insert(all.end(), values, values + rows);
  }
  EndTurn();
  return all;
}

}  // namespace grouper
