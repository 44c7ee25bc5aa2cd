#include "rollout/decode_ahead.h"

#include <algorithm>
#include <cstring>

#include "common/base/check.h"
#include "kernels/attention_cuda.h"

namespace grouper {
namespace {

constexpr int32_t kPage = kernels::kPageTokens;
// Attention's grids depend on the longest context in splits of so many tokens: graphs are recorded for powers of two of it.
constexpr int32_t kContextStep = kernels::cuda::kSplitPages * kPage;

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

int32_t PagesOf(int64_t tokens) { return static_cast<int32_t>((tokens + kPage - 1) / kPage); }

}  // namespace

DecodeAhead::Layout::Layout(int32_t rows) {
  const size_t n = static_cast<size_t>(rows);
  size_t end = 0;
  const auto part = [&](size_t bytes) { return std::exchange(end, RoundUp(end + bytes, 256)); };
  sequences = part(n * 4 * sizeof(int32_t));
  requests = part(n * sizeof(kernels::SampleRequest));
  next = part(n * sizeof(kernels::NextToken));
  positions = part(n * sizeof(int32_t));
  pages = end;
}

DecodeAhead::Turn::Turn(Device device, size_t input_bytes, size_t rows)
    : input(device, input_bytes), sampled(device, rows * sizeof(kernels::SampledToken)), done(device) {}

DecodeAhead::DecodeAhead(const Model& model, Stream& stream, KvPool& kv, Arena& memory, int32_t max_rows)
    : model_(model),
      stream_(stream),
      kv_(kv),
      max_rows_(max_rows),
      max_pages_(PagesOf(model.config().max_position_embeddings)),
      padding_page_(kv.Allocate()),
      step_memory_(memory),
      memory_(model.device(), stream.handle) {
  CHECK(max_rows > 0 && padding_page_ >= 0);
  const size_t bytes = Layout(max_rows).pages + static_cast<size_t>(max_rows) * static_cast<size_t>(max_pages_) * sizeof(int32_t);
  memory_.Reserve(bytes + static_cast<size_t>(max_rows) * (sizeof(kernels::SampledToken) + sizeof(int32_t)) + 3 * 256);  // else it takes a whole block
  input_ = static_cast<char*>(memory_.Allocate(bytes));
  sampled_ = static_cast<kernels::SampledToken*>(memory_.Allocate(static_cast<size_t>(max_rows) * sizeof(kernels::SampledToken)));
  token_ids_ = memory_.New(DType::kI32, {max_rows});
  for (int i = 0; i < kMaxInFlight; ++i) turns_.push_back(std::make_unique<Turn>(model.device(), bytes, static_cast<size_t>(max_rows)));
}

// Powers of two and their halves' middles: 1, 2, 4, 8, 12, 16, 24, ...: at most a third is padding.
int32_t DecodeAhead::PaddedRows(int32_t rows) const {
  int32_t size = 1;
  while (size < rows) size *= 2;
  if (size >= 16 && rows <= size / 4 * 3) size = size / 4 * 3;
  return std::min(size, max_rows_);
}

void DecodeAhead::Ops(int32_t rows, int32_t context) {
  const Device device = model_.device();
  const Layout at(rows);
  step_memory_.Reset();
  const Tensor ids = token_ids_.Rows(0, rows);
  kernels::NextTokens(stream_, sampled_, reinterpret_cast<const kernels::NextToken*>(input_ + at.next), ids);
  DecodeBatch batch;
  batch.token_ids = ids;
  batch.positions = Tensor(input_ + at.positions, DType::kI32, {rows}, device);
  batch.attention = {Tensor(input_ + at.sequences, DType::kI32, {rows, 4}, device),
                     Tensor(input_ + at.pages, DType::kI32, {int64_t{rows} * max_pages_}, device), rows, /*max_q_len=*/1, context};
  const Tensor hidden = step_memory_.New(model_.dtype(), {rows, model_.config().hidden_size});
  model_.Forward(stream_, batch, kv_, hidden);
  const Tensor logits = step_memory_.New(model_.dtype(), {rows, model_.config().vocab_size});
  model_.Logits(stream_, hidden, logits);
  kernels::SampleRows(stream_, logits, reinterpret_cast<const kernels::SampleRequest*>(input_ + at.requests), sampled_);
}

Graph& DecodeAhead::GraphFor(int32_t rows, int32_t context) {
  std::unique_ptr<Graph>& graph = graphs_[{rows, context}];
  if (graph == nullptr) {
    // Once as it is, so that kernels are loaded and scratch memory has its size. Input and sampled tokens are as of now: whatever this run
    // writes, the launch that follows writes again, from the same input.
    if (model_.device().is_cuda()) {
      const size_t bytes = static_cast<size_t>(max_rows_) * sizeof(kernels::SampledToken);
      PinnedMemory keep(model_.device(), bytes);
      keep.CopyFromDevice(stream_, sampled_, bytes);
      Ops(rows, context);
      keep.CopyToDevice(stream_, sampled_, bytes);
      stream_.Synchronize();
    }
    graph = std::make_unique<Graph>(stream_, [this, rows, context] { Ops(rows, context); });
  }
  return *graph;
}

void DecodeAhead::Launch(absl::Span<const Row> rows) {
  const int32_t count = static_cast<int32_t>(rows.size());
  CHECK(count > 0 && count <= max_rows_ && in_flight_ < kMaxInFlight);
  const int32_t padded = PaddedRows(count);
  Turn& turn = *turns_[static_cast<size_t>(next_turn_)];
  next_turn_ = (next_turn_ + 1) % kMaxInFlight;
  turn.rows = rows.size();

  const Layout at(padded);
  char* const input = turn.input.data();
  auto* const sequences = reinterpret_cast<int32_t*>(input + at.sequences);
  auto* const requests = reinterpret_cast<kernels::SampleRequest*>(input + at.requests);
  auto* const next = reinterpret_cast<kernels::NextToken*>(input + at.next);
  auto* const positions = reinterpret_cast<int32_t*>(input + at.positions);
  auto* const pages = reinterpret_cast<int32_t*>(input + at.pages);
  int32_t num_pages = 0, longest = 1;
  for (int32_t i = 0; i < padded; ++i) {
    const bool own = i < count;
    const int32_t position = own ? rows[static_cast<size_t>(i)].position : 0, needed = PagesOf(int64_t{position} + 1);
    const int32_t row[4] = {i, 1, position, num_pages};
    std::memcpy(sequences + 4 * i, row, sizeof row);
    positions[i] = position;
    if (!own) {
      pages[num_pages++] = padding_page_;
      requests[i] = {};
      requests[i].filter.temperature = 0;
      next[i] = {-1, 0};
      continue;
    }
    const Row& r = rows[static_cast<size_t>(i)];
    CHECK(static_cast<int32_t>(r.pages->size()) >= needed && needed <= max_pages_);
    std::copy_n(r.pages->begin(), needed, pages + num_pages);
    num_pages += needed;
    longest = std::max(longest, position + 1);
    requests[i] = r.request;
    next[i] = r.token;
  }
  turn.input.CopyToDevice(stream_, input_, at.pages + static_cast<size_t>(num_pages) * sizeof(int32_t));
  int32_t context = kContextStep;
  while (context < longest) context *= 2;
  GraphFor(padded, context).Launch(stream_);
  turn.sampled.CopyFromDevice(stream_, sampled_, rows.size() * sizeof(kernels::SampledToken));
  turn.done.Record(stream_);
  ++in_flight_;
  ++launched_;
}

absl::Span<const kernels::SampledToken> DecodeAhead::Collect() {
  CHECK_GT(in_flight_, 0);
  Turn& turn = *turns_[static_cast<size_t>((next_turn_ + kMaxInFlight - in_flight_) % kMaxInFlight)];
  --in_flight_;
  turn.done.Wait();
  return {reinterpret_cast<const kernels::SampledToken*>(turn.sampled.data()), turn.rows};
}

}  // namespace grouper
