// What a training stage needs and what it leaves. The stages themselves: sft_stage.h, grpo_stage.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/data/dataset.h"
#include "common/metrics/metrics.h"
#include "common/model/model_directory.h"
#include "proto/recipe.pb.h"
#include "trainer/optimizer.h"
#include "trainer/prompt_encoder.h"
#include "trainer/reward_client.h"
#include "trainer/rollout_client.h"
#include "trainer/training_pass.h"

namespace grouper {

// Everything about a stage's progress that its next step depends on, weights and optimizer apart. A checkpoint holds it.
struct StageState {
  int64_t step = 0;             // steps done in this stage
  int64_t data_position = 0;    // training rows consumed
  uint64_t group_serial = 0;    // groups issued, all of them consumed between steps
  int64_t skipped_in_row = 0;   // steps skipped because something was not finite, up to now
};

// Gives the present weights to all rollout workers when they have changed since the last time.
class WeightPublisher {
 public:
  WeightPublisher(Model& model, RolloutClient& rollout, ThreadPool& threads) : model_(model), rollout_(rollout), threads_(threads) {}

  void MarkChanged() { changed_ = true; }
  absl::Status Publish();
  uint64_t version() const { return version_; }
  void set_version(uint64_t version) { version_ = version; }

 private:
  Model& model_;
  RolloutClient& rollout_;
  ThreadPool& threads_;
  uint64_t version_ = 0;
  bool changed_ = true;
};

// Shared by a run's stages; lives as long as the run.
struct StageContext {
  const v1::Recipe& recipe;
  int index;                // of the stage
  LoadedModel& loaded;
  Stream& stream;
  RolloutClient& rollout;
  RewardClient& reward;
  WeightPublisher& publisher;
  Dataset& data;
  const PromptEncoder& encoder;
  Clock& clock;
  // Progress inside a step, for people: tokens sampled so far in it.
  std::function<void(int64_t sampled_tokens)> on_tokens;

  TurnMemory* memory = nullptr;  // TrainingPass::Options::memory
  int64_t steps_before = 0;      // of the run, in the stages before this one

  // The number that the step after `done` steps of this stage has in metrics.jsonl and in messages.
  int64_t RunStep(int64_t done) const { return steps_before + done + 1; }
  const v1::Stage& config() const { return recipe.stages(index); }
  TrainingPass::Options pass_options() const {
    TrainingPass::Options options;
    options.micro_batch_tokens = config().optimizer().micro_batch_tokens();
    options.recompute = recipe.model().recompute();
    options.memory = memory;
    return options;
  }
  DType gradients_dtype() const { return recipe.model().gradients() == "bfloat16" ? DType::kBF16 : DType::kF32; }
};

// What a step hands on.
struct StepResult {
  MetricsRow metrics;                    // without step and stage
  int64_t tokens = 0;                    // trained on
  std::vector<std::string> completions;  // one JSON object each
  std::string digest_input;              // bytes that enter completions_digest
};

class Stage {
 public:
  virtual ~Stage() = default;
  virtual const char* type() const = 0;  // the metrics' `stage`
  virtual int64_t steps() const = 0;
  // One optimizer step (or several updates on one batch). Advances `state` as the last thing it does.
  virtual absl::Status Step(StageState& state, OptimizerState& optimizer, StepResult& result) = 0;
  // The frozen reference policy, when the stage has one: part of a checkpoint.
  virtual Model* reference() { return nullptr; }
};

// What becomes of a training row of `tokens` tokens that does not fit the context: an error that names it (data.too_long: "error"), or OK: it is
// skipped. kMostSkipped in a row are an error too, since a generator's rows never end. *skipped counts; the caller sets it to 0 at a row that fits.
inline constexpr int64_t kMostSkipped = 10000;
absl::Status SkipTooLong(const v1::Stage& stage, const DataRow& row, const char* what, int64_t tokens, int64_t most, int64_t* skipped);

// Counts a step that changed no weight because something was not finite, or rules failed on all completions (`why`, in words; empty: neither),
// says so in a line, and ends the run when there were more than optimizer.max_skipped_steps in a row.
absl::Status CountSkipped(const StageContext& context, const std::string& why, StageState& state, MetricsRow& metrics);

}  // namespace grouper
