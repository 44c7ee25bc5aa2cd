#include "cli/bench_check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/bench_weights.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "common/tensor/cuda.h"
#include "common/tensor/host_memory.h"
#include "kernels/sampling.h"
#include "trainer/training_pass.h"

namespace grouper::cli {
namespace {

constexpr int kDraws = 4;
constexpr double kShare = 0.01;  // of all gradients: what a smaller tensor's differences are measured by

// What is checked: sequences, each of their tokens but the first a target, with a random slope.
struct Case {
  std::vector<TrainSequence> sequences;
  std::vector<float> slopes;
  std::vector<std::pair<size_t, float>> sampled;  // among the targets: what the sampler recorded
};

// A group of 3 with a prompt of more than a page, one of 2 with a short one, as far as the context goes.
absl::StatusOr<Case> DrawCase(const Model& model, ThreadPool& threads, const ReferenceOptions& options, int draw) {
  const int64_t context = model.config().max_position_embeddings;
  EngineOptions engine_options;
  engine_options.max_sequences = 8;
  engine_options.max_batch_tokens = 48;
  engine_options.cache_pages = static_cast<int32_t>(context / kernels::kPageTokens + 32);
  engine_options.ahead = options.ahead;
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(model, nullptr, threads, engine_options));
  PhiloxStream random(MakePhiloxKey(static_cast<uint64_t>(draw), "bench reference"));
  std::vector<v1::Sample> samples;
  for (const auto& [size, prompt] : {std::pair<uint32_t, int64_t>{3, 70}, {2, 5}}) {
    v1::GenerateRequest request;
    request.set_seed(static_cast<uint64_t>(draw));
    request.set_group_serial(size);
    for (uint32_t i = 0; i < size; ++i) request.add_sample_indices(i);
    for (int64_t t = 0; t < std::min(prompt, std::max<int64_t>(1, context / 2)); ++t) {
      request.add_prompt_token_ids(static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(model.config().vocab_size))));
    }
    request.mutable_sampling()->set_temperature(1);
    request.mutable_sampling()->set_top_p(1);
    request.mutable_sampling()->set_max_new_tokens(12);
    RETURN_IF_ERROR(engine->Add(request, 1, [&samples](v1::Sample sample) { samples.push_back(std::move(sample)); }));
  }
  while (true) {
    ASSIGN_OR_RETURN(const bool more, engine->Step());
    if (!more) break;
  }
  Case drawn;
  for (const v1::Sample& sample : samples) {
    RETURN_IF_ERROR(CheckFinite(sample));
    TrainSequence& sequence = drawn.sequences.emplace_back();
    sequence.token_ids.assign(sample.token_ids().begin(), sample.token_ids().end());
    sequence.trained.assign(sequence.token_ids.size(), 1);
    sequence.trained[0] = 0;
    for (int i = 1; i < sample.token_ids_size(); ++i) {
      if (sample.sampled(i)) drawn.sampled.push_back({drawn.slopes.size(), sample.rollout_logprobs(i)});
      drawn.slopes.push_back(static_cast<float>(random.NextNormal()));
    }
  }
  for (float& slope : drawn.slopes) slope /= static_cast<float>(drawn.slopes.size());
  return drawn;
}

double Element(const Tensor& t, int64_t i) {
  switch (t.dtype()) {
    case DType::kF64: return t.data<double>()[i];
    case DType::kBF16: return static_cast<double>(static_cast<float>(t.data<bf16>()[i]));
    default: return static_cast<double>(t.data<float>()[i]);
  }
}

std::vector<double> Values(const Tensor& t) {
  const HostBytes bytes(t);
  std::vector<double> values(static_cast<size_t>(t.size()));
  for (int64_t i = 0; i < t.size(); ++i) values[static_cast<size_t>(i)] = Element(bytes.tensor(), i);
  return values;
}

void TakeGradients(const Gradients& gradients, Stream& stream, PassResult& result) {
  stream.Synchronize();
  for (size_t i = 0; i < gradients.size(); ++i) result.gradients.push_back(Values(gradients.tensor(i)));
}

PassResult InTrainingPass(const Model& model, ThreadPool& threads, const Case& drawn, DType gradient_type, bool recompute) {
  Stream stream(threads, model.device());
  Gradients gradients(model, gradient_type);
  gradients.Zero(stream);
  ExpertLoad load(model);
  load.Zero(stream);
  PassResult result;
  // Several micro-batches, so that gradients are written and added to.
  TrainingPass pass(model, stream, {.micro_batch_tokens = 256, .recompute = recompute});
  pass.Run(drawn.sequences,
           [&](size_t, size_t, int64_t first, absl::Span<const float> logprobs, absl::Span<const float>, absl::Span<float> slopes) {
             result.logprobs.insert(result.logprobs.end(), logprobs.begin(), logprobs.end());
             std::copy_n(drawn.slopes.begin() + first, slopes.size(), slopes.begin());
           },
           gradients, &load);
  gradients.Finish(stream);
  result.expert_load = load.Read(stream);
  TakeGradients(gradients, stream, result);
  return result;
}

// The same in double, on the CPU, in one batch.
PassResult InDouble(const Model& model, ThreadPool& threads, const Case& drawn) {
  Stream stream(threads);
  const ModelConfig& config = model.config();
  int32_t pages = 0;
  for (const TrainSequence& sequence : drawn.sequences) pages += static_cast<int32_t>(sequence.token_ids.size() / kernels::kPageTokens + 1);
  KvPool kv(config, DType::kF64, pages);
  Batch batch;
  std::vector<std::vector<int32_t>> tables;
  std::vector<int32_t> targets;
  for (const TrainSequence& sequence : drawn.sequences) {
    const auto length = static_cast<int32_t>(sequence.token_ids.size());
    std::vector<int32_t>& table = tables.emplace_back();
    for (int32_t t = 0; t < length; t += kernels::kPageTokens) table.push_back(kv.Allocate());
    batch.sequences.push_back({static_cast<int32_t>(batch.token_ids.size()), length, 0, table.data()});
    for (int32_t t = 0; t < length; ++t) {
      if (t > 0) targets.push_back(sequence.token_ids[static_cast<size_t>(t)]);
      if (t + 1 < length) batch.output_rows.push_back(static_cast<int32_t>(batch.token_ids.size()));
      batch.token_ids.push_back(sequence.token_ids[static_cast<size_t>(t)]);
    }
  }
  const auto rows = static_cast<int64_t>(targets.size());
  Arena arena;
  const Tensor hidden = arena.New(DType::kF64, {rows, config.hidden_size}), dhidden = arena.New(DType::kF64, {rows, config.hidden_size});
  const Tensor logits = arena.New(DType::kF64, {rows, config.vocab_size});
  const Tensor logprobs = arena.New(DType::kF64, {rows}), entropies = arena.New(DType::kF64, {rows}), slopes = arena.New(DType::kF64, {rows});
  std::copy(drawn.slopes.begin(), drawn.slopes.end(), slopes.data<double>());
  Gradients gradients(model);
  gradients.Zero(stream);
  ExpertLoad load(model);
  load.Zero(stream);
  SavedActivations saved(arena, {}, load.counts());
  model.Forward(stream, batch, kv, hidden, &saved);
  model.Logits(stream, hidden, logits);
  const std::vector<kernels::SamplingFilter> filters(targets.size());
  kernels::TokenLogprobs(stream, logits, filters, targets.data(), logprobs, entropies);
  kernels::TokenLogprobsBackward(stream, logits, filters, targets.data(), slopes, logits);
  model.LogitsBackward(stream, logits, hidden, dhidden, gradients);
  model.Backward(stream, batch, kv, saved, dhidden, gradients);
  gradients.Finish(stream);
  PassResult result;
  result.logprobs = Values(logprobs);
  result.expert_load = load.Read(stream);
  TakeGradients(gradients, stream, result);
  return result;
}

void Set(const Tensor& t, int64_t row, int64_t column, float value) {
  const int64_t i = row * t.dim(1) + column;
  if (t.dtype() == DType::kBF16) {
    t.data<bf16>()[i] = bf16(value);
  } else {
    t.data<float>()[i] = value;
  }
}

// Makes a token's id choose its experts, so that rounding does not: random routers leave scores so near one another that one token in a hundred
// goes elsewhere when bf16 sums are rounded in another order. Four columns of the embedding say which of four classes a token belongs to, and the
// router's prefer top_k experts of each, from a group's first one on where there are groups.
void SteerRouters(const Model& model) {
  constexpr int64_t kClasses = 4;
  const ModelConfig& config = model.config();
  if (!config.moe || config.hidden_size < kClasses) return;
  const kernels::RouterConfig& router = config.moe->router;
  for (const LogicalTensor& tensor : model.tensors()) {
    const Tensor& value = tensor.value;
    if (tensor.name == "model.embed_tokens.weight") {
      for (int64_t id = 0; id < value.dim(0); ++id) {
        for (int64_t c = 0; c < kClasses; ++c) Set(value, id, c, id % kClasses == c ? 8.0f : 0.0f);
      }
    } else if (absl::EndsWith(tensor.name, ".mlp.gate.weight")) {
      for (int64_t e = 0; e < value.dim(0); ++e) {
        for (int64_t k = kClasses; k < value.dim(1); ++k) Set(value, e, k, 0.25f * static_cast<float>(Element(value, e * value.dim(1) + k)));
        for (int64_t c = 0; c < kClasses; ++c) {
          const int64_t first = router.num_groups > 1 ? c % router.num_groups * (router.num_experts / router.num_groups) : c * router.top_k;
          const bool preferred = (e - first % router.num_experts + router.num_experts) % router.num_experts < router.top_k;
          Set(value, e, c, preferred ? 0.15f : -0.15f);
        }
      }
    }
  }
}

// `from`'s weights in another type or on another device.
absl::StatusOr<std::unique_ptr<Model>> CopyModel(const Model& from, DType dtype, Device device, ThreadPool& threads) {
  ASSIGN_OR_RETURN(std::unique_ptr<Model> copy, Model::Create(from.config(), dtype, device));
  for (size_t i = 0; i < from.tensors().size(); ++i) {
    const Tensor &source = from.tensors()[i].value, &to = copy->tensors()[i].value;
    if (dtype == from.dtype()) {
      CopyTensor(source, to);
    } else {
      const std::vector<double> values = Values(source);
      std::copy(values.begin(), values.end(), to.data<double>());
    }
  }
  Stream stream(threads, device);
  copy->WeightsChanged(stream);
  return copy;
}

double NormOf(const std::vector<double>& values) {
  double sum = 0;
  for (double x : values) sum += x * x;
  return std::sqrt(sum);
}

double NormOf(const std::vector<std::vector<double>>& tensors) {
  double sum = 0;
  for (const std::vector<double>& values : tensors) sum += std::pow(NormOf(values), 2);
  return std::sqrt(sum);
}

absl::Status CheckType(const ModelConfig& config, DType dtype, Device device, ThreadPool& threads, const ReferenceOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> cpu, Model::Create(config, dtype));
  {
    Stream stream(threads);
    FillWeights(*cpu, stream, 0.1f);
    SteerRouters(*cpu);
    cpu->WeightsChanged(stream);
  }
  // The benchmark's model, and the reference's.
  std::unique_ptr<Model> other;
  if (device.is_cuda()) {
    ASSIGN_OR_RETURN(other, CopyModel(*cpu, dtype, device, threads));
  } else {
    ASSIGN_OR_RETURN(other, CopyModel(*cpu, DType::kF64, {}, threads));
  }
  const Model& model = device.is_cuda() ? *other : *cpu;
  const Tolerance allowed = dtype == DType::kBF16 ? kNarrow : (device.is_cuda() ? Tolerance{} : kFloat);
  const bool exact = allowed.logprob == 0;
  const DType gradients = dtype == DType::kBF16 ? options.gradients : DType::kF32;
  const std::string what = absl::StrCat("check of ", Name(dtype), " on ", Name(device), " against ",
                                        device.is_cuda() ? "the CPU" : "double on the CPU");
  for (int draw = 1;; ++draw) {
    ASSIGN_OR_RETURN(const Case drawn, Annotate(DrawCase(model, threads, options, draw), what));
    const PassResult got = InTrainingPass(model, threads, drawn, gradients, options.recompute);
    for (const auto& [target, recorded] : drawn.sampled) {
      if (got.logprobs[target] == static_cast<double>(recorded)) continue;
      return absl::InternalError(absl::StrCat(what, ": log-probability of token ", target, " is ", recorded, " in the sampler and ",
                                              got.logprobs[target], " in the trainer"));
    }
    const PassResult want = device.is_cuda() ? InTrainingPass(*cpu, threads, drawn, DType::kF32, false) : InDouble(*other, threads, drawn);
    if (!exact && got.expert_load != want.expert_load && draw < kDraws) continue;
    ASSIGN_OR_RETURN(const std::string result, Annotate(Compare(got, want, model.tensors(), allowed), what));
    std::printf("%s, %ld layers: %s\n", what.c_str(), static_cast<long>(config.num_hidden_layers), result.c_str());
    return absl::OkStatus();
  }
}

}  // namespace

ModelConfig CutDown(const ModelConfig& config) {
  ModelConfig cut = config;
  bool dense = false, experts = false;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) (config.IsMoeLayer(layer) ? experts : dense) = true;
  cut.num_hidden_layers = std::min<int64_t>(2, config.num_hidden_layers);
  cut.vocab_size = std::min<int64_t>(2048, config.vocab_size);
  cut.hidden_size = std::min<int64_t>(2048, config.hidden_size);
  cut.intermediate_size = std::min<int64_t>(1024, config.intermediate_size);
  cut.max_position_embeddings = std::min<int64_t>(2048, config.max_position_embeddings);
  cut.num_nextn_predict_layers = 0;
  cut.eos_token_ids.clear();
  cut.bos_token_id.reset();
  cut.pad_token_id.reset();
  if (!config.moe) return cut;
  cut.tie_word_embeddings = false;  // SteerRouters' columns would be the head's
  MoeConfig& moe = *cut.moe;
  kernels::RouterConfig& router = moe.router;
  moe.moe_intermediate_size = std::min<int64_t>(256, moe.moe_intermediate_size);
  moe.decoder_sparse_step = 1;
  moe.mlp_only_layers.clear();
  moe.first_k_dense_replace = !experts ? cut.num_hidden_layers : (dense ? 1 : 0);
  const auto over = [](int a, int b) { return (a + b - 1) / b; };
  const int of_a_group = std::max({2, over(16, router.num_groups), over(router.top_k, router.topk_groups)});
  router.num_experts = std::min(router.num_experts, of_a_group * router.num_groups);
  return cut;
}

absl::StatusOr<std::string> Compare(const PassResult& got, const PassResult& want, const std::vector<LogicalTensor>& tensors, const Tolerance& allowed) {
  for (size_t layer = 0; layer < want.expert_load.size(); ++layer) {
    for (size_t e = 0; e < want.expert_load[layer].size(); ++e) {
      if (got.expert_load[layer][e] == want.expert_load[layer][e]) continue;
      return absl::InternalError(absl::StrCat("layer ", layer, " sent ", got.expert_load[layer][e], " tokens to expert ", e, ", expected ", want.expert_load[layer][e]));
    }
  }
  double largest = 0;
  for (size_t i = 0; i < want.logprobs.size(); ++i) {
    const double difference = std::abs(got.logprobs[i] - want.logprobs[i]);
    largest = std::max(largest, difference);
    if (difference <= allowed.logprob) continue;
    return absl::InternalError(absl::StrFormat("log-probability of token %d is %.9g, expected %.9g%s", i, got.logprobs[i], want.logprobs[i],
                                               allowed.logprob > 0 ? absl::StrFormat(" within %g", allowed.logprob) : ""));
  }
  const double all = NormOf(want.gradients);
  double largest_gradient = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<double>&a = got.gradients[i], &b = want.gradients[i];
    std::vector<double> difference(b.size());
    size_t worst = 0;
    for (size_t k = 0; k < b.size(); ++k) {
      difference[k] = std::abs(a[k] - b[k]);
      if (!std::isnan(difference[worst]) && !(difference[k] <= difference[worst])) worst = k;
    }
    const double scale = std::max(NormOf(b), kShare * all), relative = NormOf(difference) / (scale > 0 ? scale : 1);
    if (relative <= allowed.gradient) {
      largest_gradient = std::max(largest_gradient, relative);
      continue;
    }
    return absl::InternalError(absl::StrFormat("gradient of %s: element %d is %.9g, expected %.9g; the difference's norm is %.3g of the gradient's, expected at most %g",
                                               tensors[i].name, worst, a[worst], b[worst], relative, allowed.gradient));
  }
  if (allowed.logprob == 0) {
    return absl::StrFormat("%d log-probabilities and the gradients of %d weights equal, bit for bit; norm %.6g", want.logprobs.size(), tensors.size(), all);
  }
  return absl::StrFormat("%d log-probabilities within %g (largest difference %.2g), gradients of %d weights within %g (%.2g), norm %.6g and %.6g",
                         want.logprobs.size(), allowed.logprob, largest, tensors.size(), allowed.gradient, largest_gradient, NormOf(got.gradients), all);
}

absl::Status CheckAgainstCpu(const ModelConfig& config, DType dtype, Device device, ThreadPool& threads, const ReferenceOptions& options) {
  const ModelConfig cut = CutDown(config);
  RETURN_IF_ERROR(CheckType(cut, dtype, device, threads, options));
  if (device.is_cuda() && dtype != DType::kF32) RETURN_IF_ERROR(CheckType(cut, DType::kF32, device, threads, options));
  return absl::OkStatus();
}

}  // namespace grouper::cli
