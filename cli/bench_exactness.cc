#include "cli/bench_exactness.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/tensor/cuda.h"
#include "rollout/engine.h"
#include "trainer/training_pass.h"

namespace grouper::cli {
namespace {

struct Way {
  int32_t sequences;
  bool share_prefix;
  int32_t chunk;  // tokens of a pass; 0: ExactnessOptions::batch_tokens
  EngineOptions::Ahead ahead;
};

constexpr EngineOptions::Ahead kAuto = EngineOptions::Ahead::kOnCuda, kNever = EngineOptions::Ahead::kNever,
                               kAlways = EngineOptions::Ahead::kAlways;
// The last one is repeated until there are enough tokens.
constexpr Way kWays[] = {{1, true, 0, kAuto},    {1, false, 37, kNever},  {7, true, 0, kAlways},    {64, true, 100, kNever}, {64, false, 0, kAuto},
                         {256, true, 777, kAuto}, {256, false, 0, kNever}, {1024, false, 2000, kAuto}, {1024, true, 0, kNever}, {1024, true, 0, kAuto}};

struct Compared {
  int64_t tokens = 0, different = 0;
  double largest = 0;
};

v1::GenerateRequest RandomGroup(PhiloxStream& random, const Model& model, uint64_t serial, int samples, int64_t longest) {
  v1::GenerateRequest request;
  request.set_seed(1);
  request.set_group_serial(serial);
  for (int i = 0; i < samples; ++i) request.add_sample_indices(static_cast<uint32_t>(i));
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(n))); };
  const int64_t prompt = 1 + below(longest / 2), most = longest - prompt;
  for (int64_t t = 0; t < prompt; ++t) request.add_prompt_token_ids(static_cast<int32_t>(below(model.config().vocab_size)));
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_max_new_tokens(static_cast<uint32_t>(1 + below(most)));
  sampling.set_temperature(serial % 5 == 1 ? 0.6f : 1);
  sampling.set_top_p(serial % 5 == 2 ? 0.9f : 1);
  if (serial % 5 == 3) sampling.set_top_k(50);
  return request;
}

absl::Status Compare(const LoadedModel& loaded, ThreadPool& threads, TrainingPass& pass, const ExactnessOptions& options, const Way& way,
                     uint64_t first_serial, Compared& sum) {
  const Model& model = *loaded.model;
  EngineOptions engine_options;
  engine_options.max_sequences = way.sequences;
  engine_options.max_batch_tokens = static_cast<int32_t>(way.chunk > 0 ? way.chunk : options.batch_tokens);
  engine_options.share_prefix = way.share_prefix;
  engine_options.ahead = way.ahead;
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(model, nullptr, threads, engine_options));
  PhiloxStream random(MakePhiloxKey(first_serial, "exactness"));
  std::vector<v1::Sample> samples;
  std::vector<kernels::SamplingFilter> filters;  // of a group
  for (int64_t i = 0; i < std::max(8, way.sequences); i += 8) {
    const v1::GenerateRequest request = RandomGroup(random, model, first_serial + filters.size(), 8, options.longest);
    const v1::SamplingParams& sampling = request.sampling();
    filters.push_back({sampling.temperature(), static_cast<int32_t>(sampling.top_k()), sampling.top_p()});
    RETURN_IF_ERROR(engine->Add(request, 1, [&samples](v1::Sample sample) { samples.push_back(std::move(sample)); }));
  }
  while (true) {
    ASSIGN_OR_RETURN(const bool more, engine->Step());
    if (!more) break;
  }
  std::vector<TrainSequence> sequences;
  std::vector<float> recorded;
  for (const v1::Sample& sample : samples) {
    RETURN_IF_ERROR(CheckFinite(sample));
    TrainSequence& sequence = sequences.emplace_back();
    sequence.filter = filters[static_cast<size_t>(sample.id().group_serial() - first_serial)];
    sequence.token_ids.assign(sample.token_ids().begin(), sample.token_ids().end());
    for (int i = 0; i < sample.token_ids_size(); ++i) {
      sequence.trained.push_back(sample.sampled(i));
      if (sample.sampled(i)) recorded.push_back(sample.rollout_logprobs(i));
    }
  }
  const std::vector<float> scored = pass.Score(sequences);
  for (size_t i = 0; i < recorded.size(); ++i) {
    ++sum.tokens;
    if (scored[i] == recorded[i]) continue;
    ++sum.different;
    sum.largest = std::max(sum.largest, std::abs(static_cast<double>(scored[i]) - static_cast<double>(recorded[i])));
  }
  return absl::OkStatus();
}

const char* Name(EngineOptions::Ahead ahead, bool on_cuda) {
  if (ahead == kNever || (ahead == kAuto && !on_cuda)) return "one by one";
  return on_cuda ? "graphs" : "ahead";
}

}  // namespace

absl::Status BenchExactness(const LoadedModel& loaded, ThreadPool& threads, const ExactnessOptions& options) {
  const Model& model = *loaded.model;
  if (options.longest < 2 || options.longest > model.config().max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("--length: ", options.longest, ", expected 2..", model.config().max_position_embeddings));
  }
  Stream stream(threads, model.device());
  TrainingPass::Options pass_options;
  pass_options.micro_batch_tokens = options.batch_tokens;
  TrainingPass pass(model, stream, pass_options);
  const bool on_cuda = model.device().is_cuda();
  Compared all;
  uint64_t serial = 1;
  for (size_t i = 0; i < std::size(kWays) || all.tokens < options.tokens; ++i) {
    const Way& way = kWays[std::min(i, std::size(kWays) - 1)];
    Compared here;
    const absl::Time start = absl::Now();
    RETURN_IF_ERROR(Compare(loaded, threads, pass, options, way, serial, here));
    serial += 1000;
    std::printf("exactness %s, %4d sequences, prefixes %s, passes of %5ld, %s: %ld tokens, %ld differ, largest difference %g, %.1f s\n",
                model.config().architecture.c_str(), way.sequences, way.share_prefix ? "shared" : "own   ",
                static_cast<long>(way.chunk > 0 ? way.chunk : options.batch_tokens), Name(way.ahead, on_cuda), static_cast<long>(here.tokens),
                static_cast<long>(here.different), here.largest, absl::ToDoubleSeconds(absl::Now() - start));
    all.tokens += here.tokens;
    all.different += here.different;
    all.largest = std::max(all.largest, here.largest);
  }
  std::printf("exactness %s in all: %ld tokens, %ld differ, sampling/logprob_diff_max %g\n", model.config().architecture.c_str(),
              static_cast<long>(all.tokens), static_cast<long>(all.different), all.largest);
  if (all.different > 0) return absl::InternalError(absl::StrCat(all.different, " log-probabilities differ between sampler and trainer"));
  return absl::OkStatus();
}

}  // namespace grouper::cli
