#include "rollout/engine.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/failpoint.h"
#include "common/base/status.h"
#include "common/model/pass_memory.h"
#include "common/tensor/cuda.h"
#include "rollout/pass_queue.h"
#include "rollout/scheduler.h"
#include "rollout/sequence.h"

namespace grouper {

namespace {

// Ahead, one place in so many stands empty before those that wait interrupt those that decode.
constexpr int32_t kPlacesAFreeOne = 32;

bool RunsAhead(const Model& model, const EngineOptions& options) {
  using Ahead = EngineOptions::Ahead;
  return options.ahead == Ahead::kAlways ||
         (options.ahead == Ahead::kOnCuda && model.device().is_cuda());
}

PassQueue::Options QueueOptions(const EngineOptions& options, bool graphs) {
  return {options.max_sequences, std::max(options.max_batch_tokens, options.max_sequences), graphs};  // tokens: padding included
}

}  // namespace

struct Engine::State {
  State(const Model& model, std::shared_ptr<const Tokenizer> tokenizer, ThreadPool& threads, const EngineOptions& options, int32_t pages)
      : model(model),
        tokenizer(std::move(tokenizer)),
        stream(threads, model.device()),
        memory(options.memory),
        kv(model.config(), model.dtype(), pages, model.device(), memory == nullptr ? nullptr : memory->data()),
        runs_ahead(RunsAhead(model, options)),
        scheduler(kv, stream, options, model.config().max_position_embeddings, runs_ahead ? options.max_sequences / kPlacesAFreeOne : 0),
        arena(model.device(), stream.handle) {
    if (model.device().is_cuda()) Reserve(options);
    passes.emplace(model, stream, kv, arena, QueueOptions(options, runs_ahead));
    pages_for_sequences = kv.free_pages();
  }

  // Takes the memory of the largest pass at once, so that it is known from the start.
  void Reserve(const EngineOptions& options) {
    const PassBytes bytes = ForwardBytes(model.config(), model.dtype(), model.device(), LargestPass(model.config(), options));
    arena.Allocate(bytes.arena);
    arena.Reset();
    const Arena::Mark mark = stream.scratch.mark();
    stream.scratch.Allocate(bytes.scratch);
    stream.scratch.Release(mark);
  }

  absl::Status Launch(const std::vector<Scheduler::Work>& work);
  // Waits for the tokens of the oldest pass under way and puts them at the ends of their sequences.
  absl::Status Collect();
  // Puts a sampled token at the end of its sequence, and finishes the sequence if it ends there, or if the token's logits were not numbers.
  absl::Status Take(Sequence& sequence, const kernels::SampledToken& token);
  // Waits for what is under way and throws it away.
  void DropUnderWay();
  // With nothing left to do: from now on others may change the weights and use the memory.
  void Rest();

  const Model& model;
  std::shared_ptr<const Tokenizer> tokenizer;
  Stream stream;
  std::shared_ptr<TurnMemory> memory;
  KvPool kv;
  const bool runs_ahead;
  Scheduler scheduler;
  Arena arena;
  Stats stats;
  std::optional<PassQueue> passes;                               // when `arena` has its size
  std::deque<std::vector<std::shared_ptr<Sequence>>> under_way;  // whose tokens the passes in flight sample
  int32_t pages_for_sequences = 0;
  std::vector<PassQueue::Item> items;  // of the present pass; kept for its memory
};

namespace {

absl::Status CheckRequest(const v1::GenerateRequest& request, const Model& model, bool has_tokenizer) {
  const int64_t prompt = request.prompt_token_ids_size(), context = model.config().max_position_embeddings;
  if (prompt == 0) return absl::InvalidArgumentError("prompt_token_ids: empty, expected at least one token");
  if (prompt >= context) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt_token_ids: ", prompt, " tokens, expected fewer than the context of ", context));
  }
  for (int32_t id : request.prompt_token_ids()) {
    if (id < 0 || id >= model.config().vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("prompt_token_ids: id ", id, ", expected 0..", model.config().vocab_size - 1));
    }
  }
  const v1::SamplingParams& sampling = request.sampling();
  const float temperature = sampling.temperature();
  if ((temperature != 0 && !(temperature >= kernels::kMinTemperature)) || !std::isfinite(temperature)) {
    return absl::InvalidArgumentError(absl::StrCat("sampling.temperature: ", temperature, ", expected 0 (greedy) or at least 1e-6"));
  }
  if (!(sampling.top_p() > 0 && sampling.top_p() <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("sampling.top_p: ", sampling.top_p(), ", expected more than 0 and at most 1"));
  }
  if (sampling.top_k() > INT32_MAX) return absl::InvalidArgumentError("sampling.top_k: too large");
  if (sampling.max_new_tokens() == 0) return absl::InvalidArgumentError("sampling.max_new_tokens: 0, expected at least 1");
  if (sampling.stop_strings_size() > 0 && !has_tokenizer) return absl::InvalidArgumentError("sampling.stop_strings: no tokenizer here");
  for (const std::string& stop : sampling.stop_strings()) {
    if (stop.empty()) return absl::InvalidArgumentError("sampling.stop_strings: an empty string");
  }
  if (request.sample_indices_size() == 0) return absl::InvalidArgumentError("sample_indices: none");
  std::vector<uint32_t> indices(request.sample_indices().begin(), request.sample_indices().end());
  std::sort(indices.begin(), indices.end());
  const auto doubled = std::adjacent_find(indices.begin(), indices.end());
  if (doubled != indices.end()) return absl::InvalidArgumentError(absl::StrCat("sample_indices: ", *doubled, " twice"));
  return absl::OkStatus();
}

// Pages for every sequence's full context, as far as memory allows.
int32_t DefaultPages(const Model& model, const EngineOptions& options) {
  const ModelConfig& config = model.config();
  const int64_t one = (config.max_position_embeddings + kernels::kPageTokens - 1) / kernels::kPageTokens + 1;
  // On a device pages are taken at once: a third of what is free leaves room for training.
  const Device device = model.device();
  const int64_t memory = device.is_cuda() ? static_cast<int64_t>(cuda::Memory(device.index).free / 3)
                                                            : static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE) / 4;
  const int64_t affordable = memory / static_cast<int64_t>(KvPool::BytesPerPage(config, model.dtype()));
  return static_cast<int32_t>(std::clamp(one * options.max_sequences, one, std::max(one, std::min<int64_t>(affordable, INT32_MAX))));
}

}  // namespace

absl::Status CheckFinite(const v1::Sample& sample) {
  if (sample.finish_reason() != v1::FINISH_REASON_NOT_FINITE) return absl::OkStatus();
  const int64_t token = std::count(sample.sampled().begin(), sample.sampled().end(), true);
  return absl::InternalError(absl::StrCat("the logits are not finite: group ", sample.id().group_serial(), " sample ", sample.id().sample_index(),
                                          ", token ", token, " of the completion"));
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() { state_->Rest(); }  // the copies under way, and what was lent

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Model& model, std::shared_ptr<const Tokenizer> tokenizer, ThreadPool& threads,
                                                       const EngineOptions& options) {
  if (options.max_batch_tokens < 1) return absl::InvalidArgumentError("rollout.max_batch_tokens: expected at least 1");
  if (options.max_sequences < 1) return absl::InvalidArgumentError("rollout.max_sequences: expected at least 1");
  const int64_t context = model.config().max_position_embeddings;
  const int64_t least = (context + kernels::kPageTokens - 1) / kernels::kPageTokens + 1;
  if (options.cache_pages != 0 && options.cache_pages < least) {
    return absl::InvalidArgumentError(absl::StrCat("rollout.cache_pages: ", options.cache_pages, ", expected at least ", least,
                                                   " for one context of ", context, " tokens (or a smaller model.max_context)"));
  }
  int32_t pages = options.cache_pages != 0 ? options.cache_pages : DefaultPages(model, options);
  const int32_t padding = RunsAhead(model, options) ? 1 : 0;  // a page of the recorded passes' own
  if (options.memory != nullptr) {
    const int64_t there = static_cast<int64_t>(options.memory->size() / KvPool::BytesPerPage(model.config(), model.dtype())) - padding;
    if (there < least) {
      return absl::InvalidArgumentError(absl::StrCat("the cache's memory holds ", there, " pages, expected at least ", least));
    }
    pages = static_cast<int32_t>(std::min<int64_t>(there, options.cache_pages != 0 ? options.cache_pages : INT32_MAX - 1));
  }
  return std::unique_ptr<Engine>(new Engine(std::make_unique<State>(model, std::move(tokenizer), threads, options, pages + padding)));
}

PassSize Engine::LargestPass(const ModelConfig& config, const EngineOptions& options) {
  PassSize size;
  size.sequences = size.rows = size.logit_rows = options.max_sequences;
  size.tokens = std::max(options.max_batch_tokens, options.max_sequences);
  size.longest = config.max_position_embeddings;  // graphs keep their addresses: what they use must not grow
  return size;
}

Engine::InputBytes Engine::PassInputBytes(const ModelConfig& config, const EngineOptions& options) {
  const PassQueue::Options queue = QueueOptions(options, false);
  return {PassQueue::DeviceBytes(config, queue), PassQueue::PinnedBytes(config, queue)};
}

size_t Engine::CacheBytes(const Model& model, const EngineOptions& options) {
  const int32_t pages = options.cache_pages != 0 ? options.cache_pages : DefaultPages(model, options);
  return static_cast<size_t>(pages + (RunsAhead(model, options) ? 1 : 0)) * KvPool::BytesPerPage(model.config(), model.dtype());
}

int64_t Engine::max_context() const { return state_->model.config().max_position_embeddings; }

absl::Status Engine::Add(const v1::GenerateRequest& request, uint64_t weight_version, OnFinished on_finished, OnToken on_token,
                         const void* owner) {
  RETURN_IF_ERROR(Annotate(CheckRequest(request, state_->model, state_->tokenizer != nullptr),
                           absl::StrCat("group ", request.group_serial())));
  if (state_->memory != nullptr) state_->memory->Take(state_.get());
  auto group = std::make_shared<Group>();
  group->request = request;
  group->weight_version = weight_version;
  group->key = kernels::SamplingKey(request.seed(), request.stage(), request.group_serial());
  group->filter = {request.sampling().temperature(), static_cast<int32_t>(request.sampling().top_k()), request.sampling().top_p()};
  group->on_finished = std::move(on_finished);
  group->on_token = std::move(on_token);
  group->owner = owner;
  for (const std::string& stop : request.sampling().stop_strings()) group->longest_stop = std::max(group->longest_stop, stop.size());
  group->prompt.assign(request.prompt_token_ids().begin(), request.prompt_token_ids().end());
  group->unstarted = request.sample_indices_size();
  for (uint32_t index : request.sample_indices()) {
    auto sequence = std::make_shared<Sequence>();
    sequence->group = group;
    sequence->sample_index = index;
    sequence->tokens = group->prompt;
    if (request.sampling().stop_strings_size() > 0) sequence->decoder.emplace(state_->tokenizer, /*skip_special=*/false);
    state_->scheduler.Add(std::move(sequence));
  }
  return absl::OkStatus();
}

namespace {

// Why the sequence ends with its newest token, if it does.
v1::FinishReason FinishOf(Sequence& sequence, int64_t max_context) {
  const v1::SamplingParams& sampling = sequence.group->request.sampling();
  const int32_t token = sequence.tokens.back();
  for (int32_t stop : sampling.stop_token_ids()) {
    if (token == stop) return v1::FINISH_REASON_STOP_TOKEN;
  }
  if (sequence.decoder) {
    // A stop string may begin in earlier text: look back by the longest one.
    const size_t from = sequence.text.size() - std::min(sequence.text.size(), sequence.group->longest_stop);
    sequence.text += sequence.decoder->Add(token);
    for (const std::string& stop : sampling.stop_strings()) {
      if (sequence.text.find(stop, from) != std::string::npos) return v1::FINISH_REASON_STOP_STRING;
    }
  }
  const size_t sampled = sequence.logprobs.size();
  if (sampled >= sampling.max_new_tokens() || sequence.size() >= max_context) return v1::FINISH_REASON_LENGTH;
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::SampleId IdOf(const Sequence& sequence) {
  v1::SampleId id;
  id.set_stage(sequence.group->request.stage());
  id.set_group_serial(sequence.group->request.group_serial());
  id.set_sample_index(sequence.sample_index);
  id.set_attempt(sequence.group->request.attempt());
  return id;
}

v1::Sample MakeSample(const Sequence& sequence, v1::FinishReason reason) {
  v1::Sample sample;
  *sample.mutable_id() = IdOf(sequence);
  const int32_t size = sequence.size(), prompt = static_cast<int32_t>(sequence.group->prompt.size());
  sample.mutable_token_ids()->Add(sequence.tokens.begin(), sequence.tokens.end());
  sample.mutable_sampled()->Reserve(size);
  sample.mutable_rollout_logprobs()->Reserve(size);
  for (int32_t i = 0; i < size; ++i) {
    sample.add_sampled(i >= prompt);
    sample.add_rollout_logprobs(i >= prompt ? sequence.logprobs[i - prompt] : 0);
  }
  v1::WeightVersionSpan* span = sample.add_weight_versions();
  span->set_weight_version(sequence.group->weight_version);
  span->set_num_tokens(static_cast<uint32_t>(size - prompt));
  sample.set_finish_reason(reason);
  return sample;
}

}  // namespace

absl::Status Engine::State::Take(Sequence& sequence, const kernels::SampledToken& token) {
  v1::FinishReason reason = v1::FINISH_REASON_NOT_FINITE;
  if (!failpoint::HitNan("rollout.logits") && token.token >= 0) {
    if (sequence.logprobs.empty()) RETURN_IF_ERROR(failpoint::Hit("rollout.first_token"));
    sequence.tokens.push_back(token.token);
    sequence.logprobs.push_back(token.logprob);
    ++stats.sampled_tokens;
    if (sequence.group->on_token) sequence.group->on_token(IdOf(sequence), token.token);
    reason = FinishOf(sequence, model.config().max_position_embeddings);
  }
  if (reason == v1::FINISH_REASON_UNSPECIFIED) return absl::OkStatus();
  RETURN_IF_ERROR(failpoint::Hit("rollout.sample_finished"));
  const std::shared_ptr<Group> group = sequence.group;
  v1::Sample sample = MakeSample(sequence, reason);
  scheduler.Finish(&sequence);
  // Whoever gets the last sample may go on to train at once.
  if (scheduler.running() + scheduler.waiting() == 0) Rest();
  group->on_finished(std::move(sample));
  return absl::OkStatus();
}

void Engine::State::DropUnderWay() {
  while (passes->in_flight() > 0) passes->Collect();
  under_way.clear();
}

void Engine::State::Rest() {
  DropUnderWay();
  stream.Synchronize();
  if (memory != nullptr) memory->Give(this);
}

absl::Status Engine::State::Launch(const std::vector<Scheduler::Work>& work) {
  items.clear();
  std::vector<std::shared_ptr<Sequence>> sampling;
  uint64_t prefill = 0;
  for (const Scheduler::Work& w : work) {
    Sequence& sequence = *w.sequence;
    const int32_t known = std::min(w.tokens, sequence.size() - sequence.computed);
    PassQueue::Item& item = items.emplace_back();
    item.tokens = absl::MakeConstSpan(sequence.tokens).subspan(static_cast<size_t>(sequence.computed), static_cast<size_t>(known));
    if (known < w.tokens) item.from = sequence.row;
    item.context = sequence.computed;
    item.pages = &sequence.pages;
    if (w.tokens > 1) prefill += static_cast<uint64_t>(w.tokens);
    if (w.tokens < sequence.remaining()) continue;  // a chunk of a longer prompt
    item.sample = {sequence.group->filter, sequence.group->key, sequence.sample_index, static_cast<uint32_t>(sequence.length())};
    sampling.push_back(w.sequence);
  }
  RETURN_IF_ERROR(failpoint::Hit(prefill > 0 ? "rollout.prefill" : "rollout.decode"));
  stats.ahead += passes->in_flight() > 0 ? 1 : 0;
  ++stats.steps;
  stats.prefill_tokens += prefill;
  passes->Launch(items);
  scheduler.Computed(work);
  for (size_t i = 0; i < sampling.size(); ++i) {
    sampling[i]->row = static_cast<int32_t>(i);
    ++sampling[i]->ahead;
  }
  under_way.push_back(std::move(sampling));
  return absl::OkStatus();
}

absl::Status Engine::State::Collect() {
  const std::vector<std::shared_ptr<Sequence>> sequences = std::move(under_way.front());
  under_way.pop_front();
  const absl::Span<const kernels::SampledToken> collected = passes->Collect();
  const std::vector<kernels::SampledToken> tokens(collected.begin(), collected.end());  // Take may drop what is under way
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = *sequences[i];
    --sequence.ahead;
    if (!sequence.over) RETURN_IF_ERROR(Take(sequence, tokens[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Engine::Step() {
  State& s = *state_;
  const std::vector<Scheduler::Work> work = s.scheduler.Schedule(s.passes->in_flight() > 0);
  const bool launches = !work.empty();
  if (launches) RETURN_IF_ERROR(s.Launch(work));
  const int in_flight = s.passes->in_flight();
  if (in_flight == 0) return false;
  if (!launches || in_flight == (s.runs_ahead ? PassQueue::kMaxInFlight : 1)) RETURN_IF_ERROR(s.Collect());
  return true;
}

void Engine::Abort() {
  state_->scheduler.DropIf([](const Group&) { return true; });
  state_->Rest();
}

// What is being sampled for the dropped ones is thrown away when it comes.
void Engine::AbortOwner(const void* owner) {
  state_->scheduler.DropIf([owner](const Group& group) { return group.owner == owner; });
  if (state_->scheduler.running() + state_->scheduler.waiting() == 0) state_->Rest();
}

Engine::Stats Engine::stats() const {
  Stats stats = state_->stats;
  stats.running = state_->scheduler.running();
  stats.waiting = state_->scheduler.waiting();
  stats.preemptions = state_->scheduler.preemptions();
  stats.free_pages = state_->kv.free_pages();
  stats.total_pages = state_->pages_for_sequences;
  return stats;
}

}  // namespace grouper
