// `grouper bench`: each benchmark checks its result first, then prints one line a shape.
#include "kernels/bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/bench_exactness.h"
#include "cli/commands.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/model/model_directory.h"
#include "common/tensor/cuda.h"
#include "common/tensor/host_memory.h"
#include "kernels/adamw.h"
#include "rollout/engine.h"
#include "trainer/optimizer.h"
#include "trainer/training_pass.h"

namespace grouper::cli {
namespace {

constexpr int kRounds = 7;

struct Shape {
  int64_t batch, length, group, prompt, new_tokens, batch_tokens;
  bool recompute, optimizer;
  DType gradients;
  EngineOptions::Ahead ahead;
};

// Weights of the sizes that Model::InitRandom gives, from a table of random numbers that every tensor reads from another place: seconds for
// billions of weights instead of minutes.
void FillWeights(Model& model, Stream& stream) {
  std::vector<float> table(size_t{1} << 22);
  PhiloxStream random(MakePhiloxKey(1, "weights"));
  for (float& value : table) value = static_cast<float>(random.NextNormal());
  const double residual = 1 / std::sqrt(2.0 * static_cast<double>(model.config().num_hidden_layers));
  stream.threads.ParallelForDynamic(static_cast<int64_t>(model.tensors().size()), [&](int64_t index) {
    const LogicalTensor& tensor = model.tensors()[static_cast<size_t>(index)];
    const Tensor& value = tensor.value;
    std::string bytes(NumBytes(value), '\0');
    const Tensor host = value.At(bytes.data(), {});
    const bool matrix = value.rank() >= 2, last = absl::EndsWith(tensor.name, "o_proj.weight") || absl::EndsWith(tensor.name, "down_proj.weight");
    const float scale = matrix ? static_cast<float>((last ? residual : 1) / std::sqrt(static_cast<double>(value.dim(-1)))) : 0;
    const float constant = !matrix && absl::EndsWith(tensor.name, "norm.weight") ? 1 : 0;
    size_t at = static_cast<size_t>(index) * 7919;
    for (int64_t i = 0; i < value.size(); ++i) {
      const float x = table[at++ % table.size()] * scale + constant;
      if (host.dtype() == DType::kBF16) {
        host.data<bf16>()[i] = bf16(x);
      } else {
        host.data<float>()[i] = x;
      }
    }
    CopyTensor(host, value);
  });
  model.WeightsChanged(stream);
}

// A config.json gives random weights, everything else is a model to load.
absl::StatusOr<LoadedModel> BenchModel(const std::string& path, const std::string& device, ThreadPool& threads) {
  if (path.empty()) return absl::InvalidArgumentError("expected --model MODEL (a config.json, a directory, or a GGUF file)");
  LoadOptions options;
  ASSIGN_OR_RETURN(options.device, Annotate(FindDevice(device), "--device"));
  if (options.device.is_cuda()) options.dtype = DType::kBF16;
  if (!absl::EndsWith(path, ".json")) return LoadModel(path, options, threads);
  // Shapes alone are enough here: no tokenizer.
  ASSIGN_OR_RETURN(const std::string text, DefaultFileSystem().ReadFile(path, uint64_t{16} << 20));
  ASSIGN_OR_RETURN(const json::Json parsed, Annotate(json::Parse(text), path));
  ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::FromHuggingFace(parsed, path));
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.model, Model::Create(config, options.dtype, options.device));
  Stream stream(threads, options.device);
  FillWeights(*loaded.model, stream);
  loaded.source = path;
  return loaded;
}

std::string Where(const Model& model, const ThreadPool& threads) {
  return model.device().is_cuda() ? absl::StrCat(Name(model.device()), " ", Name(model.dtype()))
                                                    : absl::StrCat(threads.num_threads(), " threads");
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
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

absl::Status BenchTrain(LoadedModel& loaded, ThreadPool& threads, const Shape& shape) {
  Model& model = *loaded.model;
  const int64_t context = model.config().max_position_embeddings;
  if (shape.length > context) return absl::InvalidArgumentError(absl::StrCat("--length: ", shape.length, ", expected 2..", context));
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
    TrainingPass narrow(model, stream, {shape.length * 3, shape.recompute});
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
  const double flops = 6.0 * static_cast<double>(model.config().NumActiveParameters()) * rate;
  std::printf("%s %s %ld x %ld, %s: %.0f tok/s, %.1f ms a step, %.1f GFLOP/s of 6 N\n",
              shape.optimizer ? "train" : "forward and backward", model.config().architecture.c_str(),
              static_cast<long>(shape.batch), static_cast<long>(shape.length), Where(model, threads).c_str(), rate, 1e3 * Median(seconds), flops / 1e9);
  return absl::OkStatus();
}

// An engine for the shape's sequences; one for all rounds, as a run has one for all steps.
absl::StatusOr<std::unique_ptr<Engine>> BenchEngine(const LoadedModel& loaded, ThreadPool& threads, const Shape& shape) {
  const int64_t longest = shape.prompt + shape.new_tokens, context = loaded.model->config().max_position_embeddings;
  if (longest > context) return absl::InvalidArgumentError(absl::StrCat("--prompt and --new-tokens: ", longest, " tokens, the model's context is ", context));
  EngineOptions options;
  options.max_sequences = static_cast<int32_t>(shape.batch);
  options.max_batch_tokens = static_cast<int32_t>(shape.batch_tokens);
  options.decode_ahead = shape.ahead;
  return Engine::Create(*loaded.model, loaded.tokenizer, threads, options);
}

// The shape's samples, of random prompts: the same in every round.
// all_decode: when every sequence had its first token, from where on there is nothing but decoding. May be null.
absl::StatusOr<std::vector<v1::Sample>> Generate(Engine& engine, const Model& model, const Shape& shape, absl::Time* all_decode = nullptr) {
  PhiloxStream random(MakePhiloxKey(1, "bench"));
  const uint64_t before = engine.stats().sampled_tokens;
  std::vector<v1::Sample> samples;
  for (int64_t i = 0; i < shape.batch; i += shape.group) {
    v1::GenerateRequest request;
    request.set_seed(1);
    request.set_group_serial(static_cast<uint64_t>(i));
    for (int64_t sample = 0; sample < std::min(shape.group, shape.batch - i); ++sample) request.add_sample_indices(static_cast<uint32_t>(sample));
    for (int64_t t = 0; t < shape.prompt; ++t) request.add_prompt_token_ids(RandomToken(random, model));
    request.mutable_sampling()->set_temperature(1);
    request.mutable_sampling()->set_top_p(1);
    request.mutable_sampling()->set_max_new_tokens(static_cast<uint32_t>(shape.new_tokens));
    RETURN_IF_ERROR(engine.Add(request, 1, [&samples](v1::Sample sample) { samples.push_back(std::move(sample)); }));
  }
  bool decoding = false;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, engine.Step());
    if (!decoding && static_cast<int64_t>(engine.stats().sampled_tokens - before) >= shape.batch && engine.stats().waiting == 0) {
      decoding = true;
      if (all_decode != nullptr) *all_decode = absl::Now();
    }
    if (!more) break;
  }
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

absl::Status BenchRollout(LoadedModel& loaded, ThreadPool& threads, const Shape& shape) {
  Model& model = *loaded.model;
  std::vector<double> seconds, decoding;
  uint64_t first_hash = 0;
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, BenchEngine(loaded, threads, shape));
  for (int round = 0; round <= kRounds; ++round) {  // the first one warms up and is not counted
    const absl::Time start = absl::Now();
    absl::Time all_decode;
    ASSIGN_OR_RETURN(const std::vector<v1::Sample> samples, Generate(*engine, model, shape, &all_decode));
    const uint64_t hash = HashOf(samples);
    // Check: every round samples the same tokens.
    if (round == 0) {
      first_hash = hash;
    } else {
      seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
      decoding.push_back(absl::ToDoubleSeconds(absl::Now() - all_decode));
    }
    if (hash != first_hash) return absl::InternalError("bench rollout: two rounds sampled different tokens");
  }
  const double rate = static_cast<double>(shape.batch * shape.new_tokens) / Median(seconds);
  std::printf("rollout %s batch %ld, %ld a prompt, %ld + %ld, %s: %.0f tok/s, %.1f ms; decoding alone %.0f tokens/s\n",
              model.config().architecture.c_str(), static_cast<long>(shape.batch), static_cast<long>(shape.group), static_cast<long>(shape.prompt),
              static_cast<long>(shape.new_tokens), Where(model, threads).c_str(), rate, 1e3 * Median(seconds),
              static_cast<double>(shape.batch * (shape.new_tokens - 1)) / Median(decoding));
  return absl::OkStatus();
}

// A GRPO step: samples, then one update on them with random advantages. Rewards, data and services are left out.
absl::Status BenchStep(LoadedModel& loaded, ThreadPool& threads, const Shape& shape) {
  Model& model = *loaded.model;
  Stream stream(threads, model.device());
  Gradients gradients(model, shape.gradients);
  OptimizerState optimizer(model, stream);
  TrainingPass pass(model, stream, {shape.batch_tokens, shape.recompute});
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, BenchEngine(loaded, threads, shape));
  std::vector<double> all, rollout, train;
  int64_t checked = 0;
  for (int round = 0; round <= kRounds; ++round) {
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const std::vector<v1::Sample> samples, Generate(*engine, model, shape));
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
    train.push_back(absl::ToDoubleSeconds(end - sampled));
  }
  std::printf("step %s %ld x %ld, %ld + %ld, %s: %.1f ms a step (rollout %.1f, train %.1f), log-probabilities of %ld tokens equal\n",
              model.config().architecture.c_str(), static_cast<long>(shape.batch / shape.group), static_cast<long>(shape.group),
              static_cast<long>(shape.prompt), static_cast<long>(shape.new_tokens), Where(model, threads).c_str(), 1e3 * Median(all),
              1e3 * Median(rollout), 1e3 * Median(train), static_cast<long>(checked));
  return absl::OkStatus();
}

absl::StatusOr<EngineOptions::Ahead> ParseAhead(const std::string& name) {
  if (name == "auto") return EngineOptions::Ahead::kOnCuda;
  if (name == "always") return EngineOptions::Ahead::kAlways;
  if (name == "never") return EngineOptions::Ahead::kNever;
  return absl::InvalidArgumentError("--decode-ahead " + name + ": expected auto, always or never");
}

absl::Status Run(const Arguments& arguments) {
  const std::string what = arguments.positional(0);
  ASSIGN_OR_RETURN(const int64_t num_threads, arguments.GetInt("threads", 0, 4096));
  if (what == "kernels") {
    kernels::BenchOptions options;
    options.threads = static_cast<int>(num_threads);
    options.filter = arguments.Get("filter");
    return kernels::BenchKernels(options);
  }
  if (what != "train" && what != "rollout" && what != "step" && what != "exactness") {
    return absl::InvalidArgumentError("bench " + what + ": expected kernels, train, rollout, step or exactness");
  }
  Shape shape;
  std::vector<int64_t> batches;
  for (const absl::string_view part : absl::StrSplit(arguments.Get("batch"), ',')) {
    int64_t batch = 0;
    if (!absl::SimpleAtoi(part, &batch) || batch < 1 || batch > (1 << 20)) {
      return absl::InvalidArgumentError(absl::StrCat("--batch ", arguments.Get("batch"), ": expected numbers from 1 to ", 1 << 20, ", separated by commas"));
    }
    batches.push_back(batch);
  }
  ASSIGN_OR_RETURN(const int64_t tokens, arguments.GetInt("tokens", 1, int64_t{1} << 40));
  ASSIGN_OR_RETURN(shape.length, arguments.GetInt("length", 2, 1 << 20));
  ASSIGN_OR_RETURN(shape.group, arguments.GetInt("group", 1, 1 << 20));
  ASSIGN_OR_RETURN(shape.prompt, arguments.GetInt("prompt", 1, 1 << 20));
  ASSIGN_OR_RETURN(shape.new_tokens, arguments.GetInt("new-tokens", 1, 1 << 20));
  shape.recompute = arguments.Has("recompute");
  shape.optimizer = !arguments.Has("no-optimizer");
  const std::string gradients = arguments.Get("gradients");
  if (gradients != "float32" && gradients != "bfloat16") {
    return absl::InvalidArgumentError("--gradients " + gradients + ": expected float32 or bfloat16");
  }
  shape.gradients = gradients == "bfloat16" ? DType::kBF16 : DType::kF32;
  ASSIGN_OR_RETURN(shape.ahead, ParseAhead(arguments.Get("decode-ahead")));
  ThreadPool threads(static_cast<int>(num_threads));
  ASSIGN_OR_RETURN(LoadedModel loaded, BenchModel(arguments.Get("model"), arguments.Get("device"), threads));
  ASSIGN_OR_RETURN(shape.batch_tokens, arguments.GetInt("batch-tokens", 0, 1 << 24));
  if (shape.gradients == DType::kBF16 && !loaded.model->device().is_cuda()) {
    return absl::InvalidArgumentError("--gradients bfloat16: expected a GPU");
  }
  if (shape.batch_tokens == 0) shape.batch_tokens = loaded.model->device().is_cuda() ? 16384 : 2048;
  if (what == "exactness") return BenchExactness(loaded, threads, {tokens, shape.length, shape.batch_tokens});
  for (int64_t batch : batches) {
    shape.batch = batch;
    RETURN_IF_ERROR(what == "step"    ? BenchStep(loaded, threads, shape)
                    : what == "train" ? BenchTrain(loaded, threads, shape)
                                      : BenchRollout(loaded, threads, shape));
  }
  return absl::OkStatus();
}

}  // namespace

const Command kBench = {
    "bench",
    "NAME",
    "measure: kernels, train, rollout, step, exactness",
    "Each benchmark checks its result first. scripts/bench_reference.py runs the same models in PyTorch and prints the ratio.",
    {
        {.name = "model", .placeholder = "MODEL", .help = "for all but kernels: a config.json (random weights), a directory or a GGUF file", .default_text = ""},
        {.name = "batch", .placeholder = "N,...", .help = "sequences; several numbers: one after another", .default_text = "96"},
        {.name = "length", .placeholder = "N", .help = "train: tokens a sequence; exactness: of the longest", .default_text = "34"},
        {.name = "tokens", .placeholder = "N", .help = "exactness: sampled tokens to compare, at least", .default_text = "20000"},
        {.name = "group", .placeholder = "N", .help = "rollout, step: samples a prompt", .default_text = "1"},
        {.name = "prompt", .placeholder = "N", .help = "rollout, step: prompt tokens", .default_text = "9"},
        {.name = "new-tokens", .placeholder = "N", .help = "rollout, step: sampled tokens", .default_text = "32"},
        {.name = "batch-tokens", .placeholder = "N", .help = "tokens a pass or micro-batch; 0: 2048, on a GPU 16384", .default_text = "0"},
        {.name = "device", .placeholder = "DEVICE", .help = "all but kernels: auto (a GPU if there is one), cpu, cuda or cuda:N", .default_text = "auto"},
        {.name = "recompute", .placeholder = "", .help = "train, step: blocks are computed again for their gradients", .default_text = ""},
        {.name = "no-optimizer", .placeholder = "", .help = "train: forward and backward alone", .default_text = ""},
        {.name = "gradients", .placeholder = "DTYPE", .help = "train, step: of the blocks' matrices, float32 or bfloat16 (on a GPU)", .default_text = "float32"},
        {.name = "decode-ahead", .placeholder = "WHEN", .help = "rollout, step: decode steps before the results of the last: auto (on a GPU, as graphs), always, never", .default_text = "auto"},
        {.name = "filter", .placeholder = "TEXT", .help = "kernels: only lines whose name contains this", .default_text = ""},
        {.name = "threads", .placeholder = "N", .help = "0: one per core", .default_text = "0"},
    },
    Run,
};

}  // namespace grouper::cli
