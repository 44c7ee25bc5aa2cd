#include "cli/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/process_memory.h"
#include "common/model/kv_pool.h"
#include "common/model/pass_memory.h"
#include "common/tensor/cuda.h"
#include "rollout/engine.h"
#include "trainer/optimizer.h"
#include "trainer/training_pass.h"

namespace grouper::cli {
namespace {

// Rows of JSON take several times their text; every stage that reads a file holds it.
constexpr int64_t kRowFactor = 4;
// Of a sample of an evaluation, or of a step, until its group is scored, written and trained on; and of each of its tokens (the prompt's too): token,
// log-probability, text, scores by rule. Measured: evaluations of 128,000 to 800,000 samples of the quickstart with problems of 4 digits, steps of
// 32,768 to 98,304 of smoke.textproto.
constexpr int64_t kEvaluationSampleBytes = 2400, kStepSampleBytes = 2900, kSampleTokenBytes = 12;
// What KvPool keeps of each page, used or not: a reference count and a place in the list of free pages.
constexpr int64_t kPageTableBytes = 2 * sizeof(int32_t);
// The CUDA context grows while kernels are loaded; cudaMalloc rounds.
constexpr int64_t kDeviceMargin = int64_t{256} << 20;
// What the host has of kernels, loaded when they first run, and of recorded graphs: 45 to 60 MB after the first steps of three recipes on an H100.
constexpr int64_t kCudaHostBytes = int64_t{55} << 20;

double Gigabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }
int64_t Pages(double tokens) { return static_cast<int64_t>(std::ceil(tokens / kernels::kPageTokens)); }

// Sampling of a stage: groups of samples, from prompts.
struct Sampling {
  int64_t groups = 0, samples = 0, prompt = 0, longest = 0;  // of a group; mean tokens of a prompt; tokens of the longest sequence
  double mean_length = 0;                                     // prompt and completion
  bool evaluation = false;
};

class Planner {
 public:
  Planner(const v1::Recipe& recipe, const Model& model, const std::vector<StageLengths>& lengths, const MachineMemory& machine)
      : recipe_(recipe), model_(model), config_(model.config()), lengths_(lengths), machine_(machine) {}

  MemoryPlan PlanRun() {
    std::vector<MemoryUse::Part> parts;
    int64_t data = 0;
    for (const StageLengths& stage : lengths_) data += stage.data_bytes * kRowFactor;
    if (data > 0) parts.push_back({"rows of the data", data, "data.max_rows"});
    MemoryUse::Part samples = {"samples and their scores", 0, ""};
    for (int i = 0; i < recipe_.stages_size(); ++i) {
      for (const Sampling& s : SamplingsOf(i)) {
        const int64_t fixed = s.evaluation ? kEvaluationSampleBytes : kStepSampleBytes;
        const int64_t bytes = s.groups * s.samples * (fixed + static_cast<int64_t>(kSampleTokenBytes * s.mean_length));
        if (bytes > samples.bytes) samples = {samples.what, bytes, absl::StrCat("stages[", recipe_.stages(i).name(), s.evaluation ? "].eval.samples" : "].grpo.prompts_per_step")};
      }
    }
    if (samples.bytes > 0) parts.push_back(samples);
    // A checkpoint holds a tensor's master while it is written.
    if (OnCuda()) parts.push_back({"staging of weights", LargestTensor() * static_cast<int64_t>(sizeof(float)), ""});
    if (OnCuda() && recipe_.rollout().addresses_size() == 0) parts.push_back(PinnedPassInput());
    return PlanOf(LargestStage(), parts);
  }

  MemoryPlan PlanWorker() {
    MemoryUse worker;
    AddWeights(worker.parts);
    AddEngine(PoolPages(), {LargestPass()}, worker.parts);
    // An update's tensor is verified on the host.
    std::vector<MemoryUse::Part> parts = {{"staging of weights", LargestTensor() * static_cast<int64_t>(SizeOf(model_.dtype())), ""}};
    if (OnCuda()) parts.push_back(PinnedPassInput());
    return PlanOf(worker, parts);
  }

 private:
  // `use`: where the model is. host: beside it, on the host.
  MemoryPlan PlanOf(MemoryUse use, const std::vector<MemoryUse::Part>& host_parts) const {
    MemoryPlan plan;
    MemoryUse host;
    host.where = "host";
    host.limit = machine_.host_limit;
    const int64_t model_here = OnCuda() ? 0 : WeightBytes() + PackedBytes();
    host.parts.push_back({"program, libraries, tokenizer", std::max<int64_t>(0, machine_.host_resident - model_here), ""});
    host.parts.insert(host.parts.end(), host_parts.begin(), host_parts.end());
    if (OnCuda()) {
      host.parts.push_back({"CUDA's kernels and graphs", kCudaHostBytes, ""});
      use.where = Name(machine_.device);
      use.limit = machine_.device_taken + machine_.device_free - kDeviceMargin;
      plan.uses.push_back(use);
    } else {
      host.stage = use.stage;
      host.parts.insert(host.parts.end(), use.parts.begin(), use.parts.end());
    }
    plan.uses.push_back(host);
    return plan;
  }

  bool OnCuda() const { return machine_.device.is_cuda(); }
  int64_t LargestTensor() const {
    int64_t largest = 0;
    for (const LogicalTensor& tensor : model_.tensors()) largest = std::max(largest, tensor.value.size());
    return largest;
  }
  int64_t WeightBytes() const { return static_cast<int64_t>(model_.WeightBytes()); }
  int64_t PackedBytes() const { return OnCuda() ? 0 : static_cast<int64_t>(model_.PackedBytes()); }

  std::vector<Sampling> SamplingsOf(int index) const {
    const v1::Stage& stage = recipe_.stages(index);
    const StageLengths& lengths = lengths_[static_cast<size_t>(index)];
    const auto sampling = [&](int64_t groups, int64_t samples, const Lengths& prompts, const v1::Sampling& config, bool evaluation) {
      const double length = std::min<double>(static_cast<double>(config_.max_position_embeddings), prompts.mean + config.max_new_tokens());
      const int64_t longest = std::min<int64_t>(config_.max_position_embeddings, prompts.longest + config.max_new_tokens());
      return Sampling{groups, samples, static_cast<int64_t>(std::ceil(prompts.mean)), longest, length, evaluation};
    };
    std::vector<Sampling> all;
    if (stage.has_grpo()) {
      all.push_back(sampling(stage.grpo().prompts_per_step(), stage.grpo().group_size(), lengths.prompts, stage.grpo().sampling(), false));
    }
    if (lengths.eval_rows > 0) {
      all.push_back(sampling(lengths.eval_rows, std::max(1, stage.eval().samples()), lengths.eval_prompts, stage.eval().sampling(), true));
    }
    return all;
  }

  // The pool's pages, as Engine::Create chooses them.
  int64_t PoolPages() const {
    if (recipe_.rollout().cache_pages() > 0) return recipe_.rollout().cache_pages();
    const int64_t one = (config_.max_position_embeddings + kernels::kPageTokens - 1) / kernels::kPageTokens + 1;
    const int64_t memory = OnCuda() ? machine_.device_free / 3 : machine_.host_limit / 4;
    const int64_t affordable = memory / static_cast<int64_t>(KvPool::BytesPerPage(config_, model_.dtype()));
    return std::clamp(one * recipe_.rollout().max_sequences(), one, std::max(one, std::min<int64_t>(affordable, std::numeric_limits<int32_t>::max())));
  }

  // Pages that sampling fills at once: full completions, prompts shared within a group.
  int64_t FilledPages(const Sampling& s) const {
    const int64_t running = std::min<int64_t>(recipe_.rollout().max_sequences(), s.groups * s.samples);
    const int64_t shared = std::max<int64_t>(0, s.prompt - 1) / kernels::kPageTokens;
    const int64_t groups = s.samples > 1 ? (running + s.samples - 1) / s.samples : 0;
    const int64_t own = Pages(s.mean_length) - (s.samples > 1 ? shared : 0);
    return running * own + groups * shared;
  }

  EngineOptions SizesOfPasses() const {
    EngineOptions options;
    options.max_batch_tokens = recipe_.rollout().max_batch_tokens();
    options.max_sequences = recipe_.rollout().max_sequences();
    return options;
  }
  PassSize LargestPass() const { return Engine::LargestPass(config_, SizesOfPasses()); }
  Engine::InputBytes PassInput() const { return Engine::PassInputBytes(config_, SizesOfPasses()); }
  // On the host beside a device's engine.
  MemoryUse::Part PinnedPassInput() const {
    return {"passes' input", static_cast<int64_t>(PassInput().pinned), "rollout.max_sequences, model.max_context"};
  }

  // Adds the engine's parts: so many pages of the cache filled, and these passes.
  void AddEngine(int64_t filled, const std::vector<PassSize>& passes, std::vector<MemoryUse::Part>& parts) const {
    int64_t arena = 0, scratch = 0;
    for (const PassSize& size : passes) {
      const PassBytes bytes = ForwardBytes(config_, model_.dtype(), machine_.device, size);
      arena = std::max(arena, Held(bytes.arena));
      scratch = std::max(scratch, Held(bytes.scratch));
    }
    const int64_t page = static_cast<int64_t>(KvPool::BytesPerPage(config_, model_.dtype()));
    // A device gives a pool's pages at once, the host when they are written; the table of all pages is written at once.
    const int64_t bytes = OnCuda() ? (PoolPages() + 1) * page : std::min(filled, PoolPages()) * page + PoolPages() * kPageTableBytes;
    parts.push_back({"key-value cache", bytes, "rollout.cache_pages, rollout.max_sequences, model.max_context"});
    parts.push_back({"a pass of the engine", arena + scratch, "rollout.max_batch_tokens, rollout.max_sequences"});
    if (OnCuda()) parts.push_back({"passes' input", static_cast<int64_t>(PassInput().device), "rollout.max_sequences, model.max_context"});
  }

  // The same for all sampling up to and with stage `index`.
  void AddEngineOf(int index, std::vector<MemoryUse::Part>& parts) const {
    if (recipe_.rollout().addresses_size() > 0) return;
    int64_t filled = 0;
    std::vector<PassSize> passes;
    if (OnCuda()) passes.push_back(LargestPass());
    for (int i = 0; i <= index; ++i) {
      for (const Sampling& s : SamplingsOf(i)) {
        filled = std::max(filled, FilledPages(s));
        if (OnCuda()) continue;
        PassSize size;
        size.sequences = size.rows = size.logit_rows = std::min<int64_t>(recipe_.rollout().max_sequences(), s.groups * s.samples);
        size.tokens = std::min<int64_t>(recipe_.rollout().max_batch_tokens(), s.groups * s.prompt + size.sequences);
        size.longest = s.longest;
        passes.push_back(size);
      }
    }
    AddEngine(filled, passes, parts);
  }

  void AddWeights(std::vector<MemoryUse::Part>& parts) const {
    parts.push_back({absl::StrCat("weights, ", Name(model_.dtype())), WeightBytes(), "model.dtype"});
    if (PackedBytes() > 0) parts.push_back({"weights, packed for the kernels", PackedBytes(), ""});
  }

  int64_t Held(size_t bytes) const { return static_cast<int64_t>(HeldBytes(bytes, machine_.device)); }

  // Tokens of a stage's largest micro-batch.
  struct MicroBatch {
    int64_t tokens = 0, sequences = 1, longest = 0;
  };
  MicroBatch LargestMicroBatch(int index) const {
    const v1::Stage& stage = recipe_.stages(index);
    const StageLengths& lengths = lengths_[static_cast<size_t>(index)];
    double mean = 1, list = 0;  // mean: of what is likely short, since many sequences end with more pages that are half empty
    MicroBatch micro;
    if (stage.has_sft()) {
      const double n = stage.sft().batch_size();
      mean = std::max(1.0, lengths.examples.mean);
      micro.longest = lengths.examples.longest;
      list = n * mean + 3 * std::sqrt(n) * lengths.examples.deviation;
    } else {
      const Sampling s = SamplingsOf(index).front();
      const double prompt = static_cast<double>(s.prompt);
      mean = std::max(1.0, prompt + (s.mean_length - prompt) / 3);
      micro.longest = s.longest;
      list = static_cast<double>(s.groups * s.samples / std::max(1, stage.grpo().updates_per_batch())) * std::max(1.0, s.mean_length);
    }
    const int64_t limit = stage.optimizer().micro_batch_tokens();
    micro.tokens = std::max(micro.longest, std::min(limit, static_cast<int64_t>(list)));
    micro.sequences = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(micro.tokens) / mean));
    return micro;
  }

  // What a training pass takes beside the cache's memory when that is its own for a turn.
  int64_t BeyondCache(const TrainingPass::Memory& pass) const {
    const int64_t cache = (PoolPages() + 1) * static_cast<int64_t>(KvPool::BytesPerPage(config_, model_.dtype()));
    const auto keys = static_cast<int64_t>(pass.keys_and_values), arena = static_cast<int64_t>(pass.activations + pass.logits);
    const bool keys_lie_there = keys <= cache / 2;
    const int64_t lent = cache - (keys_lie_there ? keys : 0);
    return (arena > lent ? Held(static_cast<size_t>(arena - lent) + pass.largest) : 0) + (keys_lie_there ? 0 : keys);
  }

  // Adds the parts of training in stage `index`.
  void AddTraining(int index, std::vector<MemoryUse::Part>& parts) const {
    const v1::Stage& stage = recipe_.stages(index);
    const std::string micro_field = absl::StrCat("stages[", stage.name(), "].optimizer.micro_batch_tokens");
    const Device device = machine_.device;
    const bool narrow = recipe_.model().gradients() == "bfloat16";
    parts.push_back({narrow ? "gradients, bfloat16" : "gradients, float",
                     static_cast<int64_t>(Gradients::Bytes(model_, device, narrow ? DType::kBF16 : DType::kF32)),
                     narrow || !device.is_cuda() ? "" : "model.gradients"});
    parts.push_back({model_.dtype() == DType::kBF16 ? "AdamW: m, v, float weights" : "AdamW: m, v",
                     static_cast<int64_t>(OptimizerState::Bytes(model_, device)), ""});
    const TrainingPass::Options options = {stage.optimizer().micro_batch_tokens(), recipe_.model().recompute()};
    const MicroBatch micro = LargestMicroBatch(index);
    // On a device a pass has its turn in the cache's memory, and takes what it needs beyond it (TrainingPass::Options::memory).
    const bool in_turn = OnCuda() && recipe_.rollout().addresses().empty();
    TrainingPass::Memory pass = TrainingPass::MemoryFor(model_, device, options, true, micro.tokens, micro.sequences, micro.longest);
    if (stage.has_grpo() && stage.grpo().kl_coef() > 0) {
      const TrainingPass::Memory reference = TrainingPass::MemoryFor(model_, device, options, false, micro.tokens, micro.sequences, micro.longest);
      pass.scratch = std::max(pass.scratch, reference.scratch);
      const int64_t of_pass = in_turn ? BeyondCache(reference)
                                      : Held(reference.activations + reference.logits) + static_cast<int64_t>(reference.keys_and_values);
      parts.push_back({"reference policy", static_cast<int64_t>(model_.ForwardWeightBytes()) + of_pass, absl::StrCat("stages[", stage.name(), "].grpo.kl_coef")});
    }
    const std::string activations_field = absl::StrCat(micro_field, recipe_.model().recompute() ? "" : ", model.recompute");
    if (in_turn) {
      parts.push_back({"activations of a micro-batch beyond the cache", BeyondCache(pass), activations_field});
    } else {
      const auto logits = static_cast<int64_t>(pass.logits);
      parts.push_back({"activations of a micro-batch", Held(pass.activations + pass.logits) - logits, activations_field});
      parts.push_back({"logits of a micro-batch", logits, micro_field});
      parts.push_back({"keys and values of a micro-batch", static_cast<int64_t>(pass.keys_and_values), micro_field});
    }
    parts.push_back({"scratch of the ops", Held(pass.scratch), micro_field});
  }

  MemoryUse LargestStage() const {
    MemoryUse largest;
    for (int i = 0; i < recipe_.stages_size(); ++i) {
      MemoryUse use;
      use.stage = recipe_.stages(i).name();
      AddWeights(use.parts);
      AddEngineOf(i, use.parts);
      if (!recipe_.stages(i).has_evaluate()) AddTraining(i, use.parts);
      if (use.total() > largest.total()) largest = use;
    }
    return largest;
  }

  const v1::Recipe& recipe_;
  const Model& model_;
  const ModelConfig& config_;
  const std::vector<StageLengths>& lengths_;
  const MachineMemory& machine_;
};

std::string Percent(int64_t predicted, int64_t measured) {
  return absl::StrFormat("%+.1f%%", 100 * (static_cast<double>(predicted) / static_cast<double>(std::max<int64_t>(1, measured)) - 1));
}

}  // namespace

int64_t MemoryUse::total() const {
  int64_t sum = 0;
  for (const Part& part : parts) sum += part.bytes;
  return sum;
}

std::string MemoryPlan::Text() const {
  std::string text;
  for (const MemoryUse& use : uses) {
    absl::StrAppend(&text, "memory of ", use.where, ", predicted", use.stage.empty() ? "" : absl::StrCat(" at most, in stage ", use.stage), ":\n");
    for (const MemoryUse::Part& part : use.parts) {
      absl::StrAppend(&text, absl::StrFormat("  %-34s %10.1f MB%s\n", part.what, static_cast<double>(part.bytes) / 1e6,
                                             part.field.empty() ? "" : absl::StrCat("   ", part.field)));
    }
    absl::StrAppend(&text, absl::StrFormat("  %-34s %10.1f MB   of %.1f MB that it may take\n", "in all", static_cast<double>(use.total()) / 1e6,
                                           static_cast<double>(use.limit) / 1e6));
  }
  return text;
}

absl::Status MemoryPlan::Check(const std::string& who) const {
  for (const MemoryUse& use : uses) {
    if (use.total() <= use.limit) continue;
    std::vector<MemoryUse::Part> parts = use.parts;
    std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
    std::vector<std::string> largest;
    for (size_t i = 0; i < parts.size() && largest.size() < 4; ++i) {
      largest.push_back(absl::StrFormat("%s %.2f GB%s", parts[i].what, Gigabytes(parts[i].bytes),
                                        parts[i].field.empty() ? "" : absl::StrCat(" (lower or change ", parts[i].field, ")")));
    }
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s would take %.2f GB of %s%s, which has %.2f GB for it; the largest parts: %s", who, Gigabytes(use.total()), use.where,
        use.stage.empty() ? "" : absl::StrCat(" in stage ", use.stage), Gigabytes(use.limit), absl::StrJoin(largest, "; ")));
  }
  return absl::OkStatus();
}

MachineMemory MeasureMachine(const Model& model) {
  MachineMemory machine;
  machine.host_resident = ResidentBytes();
  machine.host_limit = MemoryLimitBytes();
  machine.device = model.device();
  if (machine.device.is_cuda()) {
    machine.device_taken = static_cast<int64_t>(cuda::Allocated(machine.device.index).now);
    machine.device_free = static_cast<int64_t>(cuda::Memory(machine.device.index).free);
  }
  return machine;
}

MemoryPlan PlanMemory(const v1::Recipe& recipe, const Model& model, const std::vector<StageLengths>& stages, const MachineMemory& machine) {
  return Planner(recipe, model, stages, machine).PlanRun();
}

MemoryPlan PlanWorkerMemory(const v1::Recipe& recipe, const Model& model, const MachineMemory& machine) {
  return Planner(recipe, model, {}, machine).PlanWorker();
}

std::string MemoryReport(const MemoryPlan& plan, Device device) {
  std::vector<std::string> memories;
  for (const MemoryUse& use : plan.uses) {
    const int64_t measured = use.where == "host" ? PeakResidentBytes() : static_cast<int64_t>(cuda::Allocated(device.index).peak);
    memories.push_back(absl::StrFormat("%s %.3f GB at most, predicted %.3f GB (%s)", use.where, Gigabytes(measured), Gigabytes(use.total()),
                                       Percent(use.total(), measured)));
    if (use.where != "host") {
      const cuda::MemoryInfo info = cuda::Memory(device.index);
      const int64_t others = static_cast<int64_t>(info.total - info.free) - static_cast<int64_t>(cuda::Allocated(device.index).now);
      absl::StrAppend(&memories.back(), absl::StrFormat(", beside %.3f GB of CUDA's context and other programs", Gigabytes(others)));
    }
  }
  return absl::StrCat("memory: ", absl::StrJoin(memories, "; "));
}

}  // namespace grouper::cli
