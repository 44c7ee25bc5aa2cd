// A run: all stages of a recipe, with evaluation, checkpoints, metrics, and exact resume.
//
// RUN/
//   recipe.textproto      the resolved recipe
//   metrics.jsonl         one object a step
//   completions.jsonl     every training completion (logging.completions)
//   tensorboard/          event files (logging.tensorboard)
//   checkpoints/step_N/   run_checkpoint.h
//   model/                at the end: a Hugging Face directory
//   run.json              at the end: digests and the last step
//
// A run has finished when run.json is there and model/ has the weights that it names. Resuming one that lost a part of this makes it again from the
// last checkpoint; a model/ with other weights is replaced.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/model/model_directory.h"
#include "proto/recipe.pb.h"
#include "trainer/evaluate.h"
#include "trainer/reward_client.h"
#include "trainer/rollout_client.h"
#include "trainer/run_control.h"

namespace grouper {

// What a run tells whoever watches it. All may be empty; called on the run's thread.
struct RunObserver {
  std::function<void(const std::string& text)> message;
  std::function<void(const v1::Stage& stage, const char* type, int64_t done, int64_t steps)> stage_started;
  std::function<void(int64_t sampled_tokens)> sampling;  // within a step
  std::function<void(int64_t done, int64_t steps, const MetricsRow& metrics)> step_done;
  std::function<void(const std::string& stage, int64_t step, const EvaluationResult& result)> evaluated;
  std::function<void(const v1::Stage& stage)> stage_ended;
};

struct RunParts {
  v1::Recipe recipe;       // loaded and checked
  std::string directory;   // RUN
  bool resume = false;
  LoadedModel& loaded;
  ThreadPool& threads;
  RolloutClient& rollout;
  RewardClient& reward;
  std::function<absl::Status(const json::Json& row)> check_row;  // the reward rules' opinion of a data row
  FileSystem& fs;
  Clock& clock;
  RunControl& control;
  RunObserver observer;
  std::function<absl::Status()> ready;  // asked after the checks, before RUN is touched: are the services there? May be empty
  TurnMemory* memory = nullptr;  // TrainingPass::Options::memory
};

// Runs to the end, or to a requested stop: OK, and a checkpoint was saved, if anything was begun; an evaluation under way is cut off, and made after
// --resume. Where a step or an evaluation fails, the finished steps are saved before its error is returned, unless some of that step's updates are in
// the weights already. Every stage's data is read and checked before the first stage begins and before RUN is touched. AlreadyExists: RUN has a run and
// resume is off, or files of a run without its recipe. FailedPrecondition: the recipe, the data, the tokenizer or the model differ from those that RUN
// was started with, or it has finished and neither its model nor a checkpoint is left. DataLoss: a damaged checkpoint. The caller makes sure that nobody
// else runs in RUN.
absl::Status RunRecipe(RunParts& parts);

// What RunRecipe checks before it writes anything, services apart, with its errors: --dry-run. Returns a text about the stages and what a resumption
// finds.
absl::StatusOr<std::string> CheckRun(RunParts& parts);

// The digests of a run directory, finished or not: from run.json, else from its newest checkpoint. NotFound without either.
struct RunDigests {
  int64_t step = 0;
  bool finished = false;
  std::string weights, completions;
  std::string inputs;  // of a finished run: RunState::inputs_digest; empty in a run.json of an earlier program
};
absl::StatusOr<RunDigests> ReadRunDigests(FileSystem& fs, const std::string& directory);

}  // namespace grouper
