#include "cli/bench_speed.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/bench_memory.h"
#include "cli/bench_work.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/tensor/cuda.h"
#include "kernels/adamw.h"
#include "trainer/optimizer.h"
#include "trainer/training_pass.h"

namespace grouper::cli {
namespace {

constexpr int kRounds = 7;

std::string Where(const Model& model, const ThreadPool& threads) {
  return model.device().is_cuda() ? absl::StrCat(Name(model.device()), " ", Name(model.dtype()))
                                                    : absl::StrCat(threads.num_threads(), " threads");
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// "512.3 TFLOP/s (71% of a product's)"
std::string Flops(double rate, const kernels::Ceilings& ceilings) {
  return absl::StrFormat("%.4g TFLOP/s (%.0f%% of a product's)", rate / 1e12, 100 * rate / ceilings.product);
}

std::string Bytes(double rate, const kernels::Ceilings& ceilings) {
  return absl::StrFormat("%.4g GB/s (%.0f%% of a copy's)", rate / 1e9, 100 * rate / ceilings.copy);
}

int32_t RandomToken(PhiloxStream& random, const Model& model) {
  return static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(model.config().vocab_size)));
}

v1::Optimizer AdamWOptions() {
  v1::Optimizer config;
  config.set_beta1(0.9);
  config.set_beta2(0.95);
  config.set_eps(1e-8);
  config.set_max_grad_norm(1);
  return config;
}

// One optimizer step on the sequences; returns the gradient norm. Without an optimizer the weights stay.
double TrainStep(TrainingPass& pass, const std::vector<TrainSequence>& sequences, Gradients& gradients, OptimizerState* optimizer,
                 Model& model, Stream& stream, double lr) {
  int64_t trained = 0;
  for (const TrainSequence& sequence : sequences) trained += sequence.num_trained();
  gradients.Zero(stream);
  pass.Run(sequences,
           [&](size_t, size_t, int64_t, absl::Span<const float>, absl::Span<const float>, absl::Span<float> slopes) {
             std::fill(slopes.begin(), slopes.end(), -1.0f / static_cast<float>(trained));
           },
           gradients, nullptr);
  gradients.Finish(stream);
  if (optimizer == nullptr) {
    std::vector<Tensor> all;
    for (size_t i = 0; i < gradients.size(); ++i) all.push_back(gradients.tensor(i).Reshape({gradients.tensor(i).size()}));
    return std::sqrt(kernels::SumOfSquares(stream, all));
  }
  const double norm = optimizer->Step(stream, AdamWOptions(), lr, gradients).grad_norm;
  model.WeightsChanged(stream);
  return norm;
}

// An engine for the shape's sequences; one for all rounds, as a run has one for all steps.
absl::StatusOr<std::unique_ptr<Engine>> BenchEngine(const LoadedModel& loaded, ThreadPool& threads, const BenchShape& shape) {
  EngineOptions options;
  options.max_sequences = static_cast<int32_t>(shape.batch);
  options.max_batch_tokens = static_cast<int32_t>(shape.batch_tokens);
  options.ahead = shape.ahead;
  return Engine::Create(*loaded.model, loaded.tokenizer, threads, options);
}

// When every sequence has its first token, from where on there is nothing but decoding.
struct Decoding {
  double seconds = 0;
  int64_t tokens = 0;
};

// The shape's samples, of random prompts: the same in every round.
absl::StatusOr<std::vector<v1::Sample>> Generate(Engine& engine, const Model& model, const BenchShape& shape, Decoding& alone) {
  PhiloxStream random(MakePhiloxKey(1, "bench"));
  const uint64_t before = engine.stats().sampled_tokens;
  std::vector<v1::Sample> samples;
  for (int64_t i = 0; i < shape.batch; i += shape.group) {
    v1::GenerateRequest request;
    request.set_seed(1);
    request.set_group_serial(static_cast<uint64_t>(i));
    for (int64_t sample = 0; sample < shape.group; ++sample) request.add_sample_indices(static_cast<uint32_t>(sample));
    for (int64_t t = 0; t < shape.prompt; ++t) request.add_prompt_token_ids(RandomToken(random, model));
    request.mutable_sampling()->set_temperature(1);
    request.mutable_sampling()->set_top_p(1);
    request.mutable_sampling()->set_max_new_tokens(static_cast<uint32_t>(shape.new_tokens));
    RETURN_IF_ERROR(engine.Add(request, 1, [&samples](v1::Sample sample) { samples.push_back(std::move(sample)); }));
  }
  std::optional<absl::Time> start;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, engine.Step());
    const auto sampled = static_cast<int64_t>(engine.stats().sampled_tokens - before);
    if (!start && sampled >= shape.batch && engine.stats().waiting == 0) {
      start = absl::Now();
      alone.tokens = shape.batch * shape.new_tokens - sampled;
    }
    if (!more) break;
  }
  alone.seconds = start ? absl::ToDoubleSeconds(absl::Now() - *start) : 0;
  for (const v1::Sample& sample : samples) RETURN_IF_ERROR(CheckFinite(sample));
  return samples;
}

uint64_t HashOf(const std::vector<v1::Sample>& samples) {
  uint64_t hash = 0;
  for (const v1::Sample& sample : samples) {
    const uint64_t place = (sample.id().group_serial() + sample.id().sample_index()) * 2 + 0x9e3779b97f4a7c15ull;
    for (int32_t id : sample.token_ids()) hash += (static_cast<uint64_t>(id) + 1) * place;
  }
  return hash;
}

// "decoding alone 1234 tokens/s, 12.3 GB/s (56% of a copy's)"
std::string DecodingAlone(const Model& model, const BenchShape& shape, int64_t tokens, double seconds, const kernels::Ceilings& ceilings) {
  if (tokens == 0) return "nothing decoded alone";
  const double steps = static_cast<double>(tokens) / static_cast<double>(shape.batch);
  // The last token is sampled from a context of prompt + new_tokens - 1.
  const double context = static_cast<double>(shape.prompt + shape.new_tokens) - (steps + 1) / 2;
  const double bytes = DecodeStepBytes(model, shape.batch, shape.group, shape.prompt, context);
  return absl::StrFormat("decoding alone %.0f tokens/s, %s", static_cast<double>(tokens) / seconds, Bytes(bytes * steps / seconds, ceilings));
}

}  // namespace

absl::Status BenchTrain(LoadedModel& loaded, ThreadPool& threads, const BenchShape& shape, const kernels::Ceilings& ceilings) {
  Model& model = *loaded.model;
  RETURN_IF_ERROR(CheckBenchMemory(BenchKind::kTrain, model, shape));
  Stream stream(threads, model.device());
  PhiloxStream random(MakePhiloxKey(1, "bench"));
  std::vector<TrainSequence> sequences(static_cast<size_t>(shape.batch));
  for (TrainSequence& sequence : sequences) {
    for (int64_t t = 0; t < shape.length; ++t) {
      sequence.token_ids.push_back(RandomToken(random, model));
      sequence.trained.push_back(t > 0);
    }
  }
  Gradients gradients(model, shape.gradients);
  std::optional<OptimizerState> state;
  if (shape.optimizer) state.emplace(model, stream);
  OptimizerState* const optimizer = state ? &*state : nullptr;
  // Check: the gradient's norm does not depend on the cut.
  double a;
  {
    TrainingPass narrow(model, stream, {shape.length * 3 < shape.batch_tokens ? shape.length * 3 : shape.length, shape.recompute});
    a = TrainStep(narrow, sequences, gradients, optimizer, model, stream, 0);
  }
  TrainingPass pass(model, stream, {shape.batch_tokens, shape.recompute});
  const double b = TrainStep(pass, sequences, gradients, optimizer, model, stream, 0);
  const double allowed = model.dtype() == DType::kF32 ? 0 : (shape.gradients == DType::kBF16 ? 1e-2 : 1e-3) * std::abs(b);
  if (!(std::abs(a - b) <= allowed)) return absl::InternalError(absl::StrCat("bench train: gradient norm ", a, " and ", b, " for two cuts into micro-batches"));
  std::vector<double> seconds;
  for (int round = 0; round < kRounds; ++round) {
    const absl::Time start = absl::Now();
    TrainStep(pass, sequences, gradients, optimizer, model, stream, 1e-9);
    seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
  }
  const double rate = static_cast<double>(shape.batch * shape.length) / Median(seconds);
  std::printf("%s %s %ld x %ld, %s: %.0f tok/s, %.1f ms a step, %s\n", shape.optimizer ? "train" : "forward and backward",
              model.config().architecture.c_str(), static_cast<long>(shape.batch), static_cast<long>(shape.length), Where(model, threads).c_str(), rate,
              1e3 * Median(seconds), Flops(TrainingFlops(model.config(), shape.batch, shape.length, shape.length - 1) / Median(seconds), ceilings).c_str());
  return absl::OkStatus();
}

absl::Status BenchRollout(LoadedModel& loaded, ThreadPool& threads, const BenchShape& shape, const kernels::Ceilings& ceilings) {
  Model& model = *loaded.model;
  std::vector<double> seconds, decoding;
  uint64_t first_hash = 0;
  Engine::Stats warm;
  Decoding alone;
  RETURN_IF_ERROR(CheckBenchMemory(BenchKind::kRollout, model, shape));
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, BenchEngine(loaded, threads, shape));
  for (int round = 0; round <= kRounds; ++round) {  // the first one warms up and is not counted
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const std::vector<v1::Sample> samples, Generate(*engine, model, shape, alone));
    const uint64_t hash = HashOf(samples);
    // Check: every round samples the same tokens.
    if (round == 0) {
      first_hash = hash;
      warm = engine->stats();
    } else {
      seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
      decoding.push_back(alone.seconds);
    }
    if (hash != first_hash) return absl::InternalError("bench rollout: two rounds sampled different tokens");
  }
  const double rate = static_cast<double>(shape.batch * shape.new_tokens) / Median(seconds);
  const Engine::Stats stats = engine->stats();
  std::printf("rollout %s batch %ld, %ld a prompt, %ld + %ld, %s: %.0f tok/s, %.1f ms; %s; %lu of %lu passes ahead\n", model.config().architecture.c_str(),
              static_cast<long>(shape.batch), static_cast<long>(shape.group), static_cast<long>(shape.prompt), static_cast<long>(shape.new_tokens),
              Where(model, threads).c_str(), rate, 1e3 * Median(seconds),
              DecodingAlone(model, shape, alone.tokens, Median(decoding), ceilings).c_str(),
              static_cast<unsigned long>((stats.ahead - warm.ahead) / kRounds), static_cast<unsigned long>((stats.steps - warm.steps) / kRounds));
  return absl::OkStatus();
}

absl::Status BenchStep(LoadedModel& loaded, ThreadPool& threads, const BenchShape& shape, const kernels::Ceilings& ceilings) {
  Model& model = *loaded.model;
  RETURN_IF_ERROR(CheckBenchMemory(BenchKind::kStep, model, shape));
  Stream stream(threads, model.device());
  Gradients gradients(model, shape.gradients);
  OptimizerState optimizer(model, stream);
  TrainingPass pass(model, stream, {shape.batch_tokens, shape.recompute});
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, BenchEngine(loaded, threads, shape));
  std::vector<double> all, rollout, train, decoding;
  Decoding alone;
  int64_t checked = 0;
  for (int round = 0; round <= kRounds; ++round) {
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const std::vector<v1::Sample> samples, Generate(*engine, model, shape, alone));
    const absl::Time sampled = absl::Now();
    std::vector<TrainSequence> sequences;
    std::vector<float> recorded;
    for (const v1::Sample& sample : samples) {
      TrainSequence& sequence = sequences.emplace_back();
      sequence.token_ids.assign(sample.token_ids().begin(), sample.token_ids().end());
      for (int i = 0; i < sample.token_ids_size(); ++i) {
        sequence.trained.push_back(sample.sampled(i));
        if (sample.sampled(i)) recorded.push_back(sample.rollout_logprobs(i));
      }
    }
    // Check: the trainer's log-probabilities are the sampler's.
    int64_t different = 0;
    gradients.Zero(stream);
    pass.Run(sequences,
             [&](size_t, size_t, int64_t first, absl::Span<const float> logprobs, absl::Span<const float>, absl::Span<float> slopes) {
               for (size_t i = 0; i < logprobs.size(); ++i) {
                 different += logprobs[i] != recorded[static_cast<size_t>(first) + i];
                 slopes[i] = ((first + static_cast<int64_t>(i)) / shape.new_tokens % 2 == 0 ? 1.0f : -1.0f) / static_cast<float>(recorded.size());
               }
             },
             gradients, nullptr);
    gradients.Finish(stream);
    optimizer.Step(stream, AdamWOptions(), 1e-6, gradients);
    model.WeightsChanged(stream);
    const absl::Time end = absl::Now();
    checked += static_cast<int64_t>(recorded.size());
    if (different > 0) {
      return absl::InternalError(absl::StrCat("bench step: ", different, " of ", recorded.size(), " log-probabilities differ between sampler and trainer"));
    }
    if (round == 0) continue;
    all.push_back(absl::ToDoubleSeconds(end - start));
    rollout.push_back(absl::ToDoubleSeconds(sampled - start));
    decoding.push_back(alone.seconds);
    train.push_back(absl::ToDoubleSeconds(end - sampled));
  }
  std::printf("step %s %ld x %ld, %ld + %ld, %s: %.1f ms a step (rollout %.1f, train %.1f), log-probabilities of %ld tokens equal; train %s; %s\n",
              model.config().architecture.c_str(), static_cast<long>(shape.batch / shape.group), static_cast<long>(shape.group),
              static_cast<long>(shape.prompt), static_cast<long>(shape.new_tokens), Where(model, threads).c_str(), 1e3 * Median(all),
              1e3 * Median(rollout), 1e3 * Median(train), static_cast<long>(checked),
              Flops(TrainingFlops(model.config(), shape.batch, shape.prompt + shape.new_tokens, shape.new_tokens) / Median(train), ceilings).c_str(),
              DecodingAlone(model, shape, alone.tokens, Median(decoding), ceilings).c_str());
  return absl::OkStatus();
}

}  // namespace grouper::cli
