#include "rollout/pass_queue.h"

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

template <typename T>
T* At(char* input, size_t offset) {
  return reinterpret_cast<T*>(input + offset);
}

}  // namespace

PassQueue::Layout::Layout(const Shape& shape) {
  size_t end = 0;
  const auto part = [&](int32_t count, size_t size) { return std::exchange(end, RoundUp(end + static_cast<size_t>(count) * size, 256)); };
  sequences = part(shape.sequences, 4 * sizeof(int32_t));
  requests = part(shape.samples, sizeof(kernels::SampleRequest));
  next = part(shape.tokens, sizeof(kernels::NextToken));
  positions = part(shape.tokens, sizeof(int32_t));
  output_rows = part(shape.samples, sizeof(int32_t));
  pages = end;
}

PassQueue::Turn::Turn(Device device, size_t input_bytes, size_t samples)
    : input(device, input_bytes), sampled(device, samples * sizeof(kernels::SampledToken)), done(device) {}

PassQueue::PassQueue(const Model& model, Stream& stream, KvPool& kv, Arena& memory, const Options& options)
    : model_(model),
      stream_(stream),
      kv_(kv),
      options_(options),
      max_pages_(PagesOf(model.config().max_position_embeddings)),
      padding_page_(options.graphs ? kv.Allocate() : -1),
      pass_memory_(memory),
      memory_(model.device(), stream.handle) {
  CHECK(options.max_sequences > 0 && options.max_tokens >= options.max_sequences && (!options.graphs || padding_page_ >= 0));
  const size_t rows = static_cast<size_t>(options.max_sequences), bytes = InputBytes(model.config(), options);
  memory_.Reserve(DeviceBytes(model.config(), options));  // else it takes a whole block
  input_ = static_cast<char*>(memory_.Allocate(bytes));
  sampled_ = static_cast<kernels::SampledToken*>(memory_.Allocate(rows * sizeof(kernels::SampledToken)));
  token_ids_ = memory_.New(DType::kI32, {options.max_tokens});
  for (int i = 0; i < kMaxInFlight; ++i) turns_.push_back(std::make_unique<Turn>(model.device(), bytes, rows));
}

size_t PassQueue::InputBytes(const ModelConfig& config, const Options& options) {
  Shape largest;
  largest.sequences = largest.samples = options.max_sequences;
  largest.tokens = options.max_tokens;
  return Layout(largest).pages + static_cast<size_t>(options.max_sequences) * static_cast<size_t>(PagesOf(config.max_position_embeddings)) * sizeof(int32_t);
}

size_t PassQueue::DeviceBytes(const ModelConfig& config, const Options& options) {
  constexpr size_t kHuge = size_t{2} << 20;  // what an arena reserves is a multiple of it
  return RoundUp(InputBytes(config, options) + static_cast<size_t>(options.max_sequences) * sizeof(kernels::SampledToken) +
                     static_cast<size_t>(options.max_tokens) * sizeof(int32_t) + 3 * 256, kHuge);
}

size_t PassQueue::PinnedBytes(const ModelConfig& config, const Options& options) {
  return kMaxInFlight * (InputBytes(config, options) + static_cast<size_t>(options.max_sequences) * sizeof(kernels::SampledToken));
}

// Powers of two and from 12 on the middles between them: 1, 2, 4, 8, 12, 16, 24, ...
int32_t PassQueue::PaddedRows(int32_t rows) const {
  int32_t size = 1;
  while (size < rows) size *= 2;
  if (size >= 16 && rows <= size / 4 * 3) size = size / 4 * 3;
  return std::min(size, options_.max_sequences);
}

PassQueue::Shape PassQueue::ShapeOf(absl::Span<const Item> items) const {
  Shape shape;
  shape.sequences = static_cast<int32_t>(items.size());
  for (const Item& item : items) {
    CHECK(item.size() > 0 && item.from < last_samples_);
    shape.tokens += item.size();
    shape.samples += item.sample ? 1 : 0;
    shape.max_q_len = std::max(shape.max_q_len, item.size());
    shape.max_context = std::max(shape.max_context, item.context + item.size());
    shape.partial_rows += kernels::cuda::PartialRows({0, item.size(), item.context}, kv_.layout(), model_.config().num_attention_heads);
  }
  CHECK(shape.sequences > 0 && shape.sequences <= options_.max_sequences && shape.tokens <= options_.max_tokens);
  if (!options_.graphs || !shape.decodes()) return shape;
  shape.sequences = shape.tokens = shape.samples = PaddedRows(shape.sequences);
  shape.partial_rows = -1;
  int32_t context = kContextStep;
  while (context < shape.max_context) context *= 2;
  shape.max_context = std::min(context, static_cast<int32_t>(model_.config().max_position_embeddings));
  return shape;
}

size_t PassQueue::Write(absl::Span<const Item> items, const Shape& shape, char* input) const {
  const Layout at(shape);
  auto* const sequences = At<int32_t>(input, at.sequences);
  auto* const requests = At<kernels::SampleRequest>(input, at.requests);
  auto* const next = At<kernels::NextToken>(input, at.next);
  auto* const positions = At<int32_t>(input, at.positions);
  auto* const output_rows = At<int32_t>(input, at.output_rows);
  auto* const pages = At<int32_t>(input, at.pages);
  int32_t token = 0, sample = 0, num_pages = 0;
  const auto add = [&](int32_t i, int32_t context, absl::Span<const int32_t> tokens, int32_t from) {
    const int32_t size = static_cast<int32_t>(tokens.size()) + (from >= 0 ? 1 : 0), row[4] = {token, size, context, num_pages};
    std::memcpy(sequences + 4 * i, row, sizeof row);
    for (int32_t k = 0; k < size; ++k) positions[token + k] = context + k;
    for (const int32_t id : tokens) next[token++] = {-1, id};
    if (from >= 0) next[token++] = {from, 0};
  };
  const auto draw = [&](const kernels::SampleRequest& request) {
    output_rows[sample] = token - 1;
    requests[sample++] = request;
  };
  int32_t i = 0;
  for (const Item& item : items) {
    const int32_t needed = PagesOf(int64_t{item.context} + item.size());
    CHECK(static_cast<int32_t>(item.pages->size()) >= needed && needed <= max_pages_);
    add(i++, item.context, item.tokens, item.from);
    num_pages = static_cast<int32_t>(std::copy_n(item.pages->begin(), needed, pages + num_pages) - pages);
    if (item.sample) draw(*item.sample);
  }
  kernels::SampleRequest any;
  any.filter.temperature = 0;
  for (; i < shape.sequences; ++i) {
    add(i, 0, {0}, -1);
    pages[num_pages++] = padding_page_;
    draw(any);
  }
  return at.pages + static_cast<size_t>(num_pages) * sizeof(int32_t);
}

void PassQueue::Run(const Shape& shape) {
  const Device device = model_.device();
  const Layout at(shape);
  const auto integers = [&](size_t offset, std::initializer_list<int64_t> dims) { return Tensor(input_ + offset, DType::kI32, dims, device); };
  pass_memory_.Reset();
  DeviceBatch batch;
  batch.token_ids = token_ids_.Rows(0, shape.tokens);
  batch.positions = integers(at.positions, {shape.tokens});
  if (!shape.decodes()) batch.output_rows = integers(at.output_rows, {shape.samples});
  batch.attention = {integers(at.sequences, {shape.sequences, 4}), integers(at.pages, {int64_t{shape.sequences} * max_pages_}), shape.tokens,
                     shape.max_q_len, shape.max_context, shape.partial_rows};
  kernels::NextTokens(stream_, sampled_, At<kernels::NextToken>(input_, at.next), batch.token_ids);
  const Tensor hidden = pass_memory_.New(model_.dtype(), {shape.samples, model_.config().hidden_size});
  model_.Forward(stream_, batch, kv_, hidden);
  if (shape.samples == 0) return;
  const Tensor logits = pass_memory_.New(model_.dtype(), {shape.samples, model_.config().vocab_size});
  model_.Logits(stream_, hidden, logits);
  kernels::SampleRows(stream_, logits, At<kernels::SampleRequest>(input_, at.requests), sampled_);
}

Graph& PassQueue::GraphFor(const Shape& shape) {
  std::unique_ptr<Graph>& graph = graphs_[{shape.sequences, shape.max_context}];
  if (graph == nullptr) {
    // Once as it is, so that kernels are loaded and scratch memory has its size. Input and sampled tokens are as of now: whatever this run
    // writes, the launch that follows writes again, from the same input.
    if (model_.device().is_cuda()) {
      const size_t bytes = static_cast<size_t>(options_.max_sequences) * sizeof(kernels::SampledToken);
      PinnedMemory keep(model_.device(), bytes);
      keep.CopyFromDevice(stream_, sampled_, bytes);
      Run(shape);
      keep.CopyToDevice(stream_, sampled_, bytes);
      stream_.Synchronize();
    }
    graph = std::make_unique<Graph>(stream_, [this, shape] { Run(shape); });
  }
  return *graph;
}

void PassQueue::Launch(absl::Span<const Item> items) {
  CHECK_LT(in_flight_, kMaxInFlight);
  const Shape shape = ShapeOf(items);
  Turn& turn = *turns_[static_cast<size_t>(next_turn_)];
  next_turn_ = (next_turn_ + 1) % kMaxInFlight;
  turn.input.CopyToDevice(stream_, input_, Write(items, shape, turn.input.data()));
  if (options_.graphs && shape.decodes()) {
    GraphFor(shape).Launch(stream_);
  } else {
    Run(shape);
  }
  last_samples_ = static_cast<int32_t>(std::count_if(items.begin(), items.end(), [](const Item& item) { return item.sample.has_value(); }));
  turn.samples = static_cast<size_t>(last_samples_);
  turn.sampled.CopyFromDevice(stream_, sampled_, turn.samples * sizeof(kernels::SampledToken));
  turn.done.Record(stream_);
  ++in_flight_;
}

absl::Span<const kernels::SampledToken> PassQueue::Collect() {
  CHECK_GT(in_flight_, 0);
  Turn& turn = *turns_[static_cast<size_t>((next_turn_ + kMaxInFlight - in_flight_) % kMaxInFlight)];
  --in_flight_;
  turn.done.Wait();
  return {At<kernels::SampledToken>(turn.sampled.data(), 0), turn.samples};
}

}  // namespace grouper
