#include "trainer/run.h"

#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/failpoint.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/base/process_memory.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_directory.h"
#include "common/recipe/load_recipe.h"
#include "common/tensor/cuda.h"
#include "kernels/peak_flops.h"
#include "trainer/grpo_stage.h"
#include "trainer/run_checkpoint.h"
#include "trainer/sft_stage.h"

namespace grouper {
namespace {

std::string CheckpointsOf(const std::string& run) { return JoinPath(run, "checkpoints"); }

bool HasEvaluation(const v1::Stage& stage) {
  return stage.has_evaluate() || stage.eval().every() > 0 || stage.eval().at_start() || stage.eval().at_end();
}

absl::StatusOr<RunDigests> ReadSummary(FileSystem& fs, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(path, 1 << 20));
  ASSIGN_OR_RETURN(const json::Json summary, Annotate(json::Parse(text), path));
  RunDigests digests;
  ASSIGN_OR_RETURN(digests.step, Annotate(json::GetInt(summary, "step", 0, int64_t{1} << 62), path));
  ASSIGN_OR_RETURN(digests.weights, Annotate(json::GetString(summary, "weights_digest"), path));
  ASSIGN_OR_RETURN(digests.completions, Annotate(json::GetString(summary, "completions_digest"), path));
  if (json::Has(summary, "inputs_digest")) {
    ASSIGN_OR_RETURN(digests.inputs, Annotate(json::GetString(summary, "inputs_digest"), path));
  }
  digests.finished = true;
  return digests;
}

class Run {
 public:
  explicit Run(RunParts& parts)
      : p_(parts), stream_(parts.threads, parts.loaded.model->device()), publisher_(*parts.loaded.model, parts.rollout, parts.threads) {
    state_.completions_digest = std::string(64, '0');
    state_.numerics_id = NumericsId(parts.loaded.model->dtype(), parts.loaded.model->device());
  }

  absl::Status Execute() {
    ASSIGN_OR_RETURN(const bool finished, Examine());
    if (finished) {
      Say(absl::StrCat(p_.directory, ": the run has finished already"));
      return absl::OkStatus();
    }
    if (p_.ready && StagesLeft()) RETURN_IF_ERROR(p_.ready());
    if (StagesLeft()) RETURN_IF_ERROR(CheckDecidingRules());
    RETURN_IF_ERROR(Begin());
    for (; state_.stage_index < p_.recipe.stages_size(); ++state_.stage_index, state_.stage = {}) {
      ASSIGN_OR_RETURN(const bool stopped, RunStage(static_cast<int>(state_.stage_index)));
      if (stopped) return absl::OkStatus();
    }
    return Finish();
  }

  absl::StatusOr<std::string> Check() {
    ASSIGN_OR_RETURN(const bool finished, Examine());
    std::string report;
    for (int i = 0; i < p_.recipe.stages_size(); ++i) {
      const v1::Stage& config = p_.recipe.stages(i);
      const Dataset& data = *stages_[static_cast<size_t>(i)].data;
      const char* type = config.has_sft() ? "sft" : "grpo";
      absl::StrAppend(&report, "stage ", config.name(), ": ",
                      config.has_evaluate() ? "evaluate" : absl::StrCat(type, ", ", stages_[static_cast<size_t>(i)].steps, " steps"), ", ",
                      data.has_train() ? (data.epoch_size() > 0 ? absl::StrCat(data.epoch_size(), " training rows") : "generated rows")
                                       : "no training rows",
                      ", ", data.eval_rows().size(), " held-out rows\n");
    }
    if (finished) {
      absl::StrAppend(&report, p_.directory, ": the run has finished already\n");
    } else if (latest_) {
      absl::StrAppend(&report, "goes on after step ", saved_.step, " from ", latest_->directory(), "\n");
    }
    return report;
  }

 private:
  // A stage's data, read and checked, before anything is made for training.
  struct PreparedStage {
    std::unique_ptr<Dataset> data;
    std::unique_ptr<StageContext> context;
    int64_t steps = 0;
  };

  void Say(const std::string& text) {
    if (p_.observer.message) p_.observer.message(text);
  }

  // --- beginning -----------------------------------------------------------------------------------------------------------

  // All that can be said before anything is written. True: the run has finished.
  absl::StatusOr<bool> Examine() {
    ASSIGN_OR_RETURN(const std::optional<RunDigests> finished, Look());
    RETURN_IF_ERROR(PrepareStages());
    if (finished) {
      if (!finished->inputs.empty()) RETURN_IF_ERROR(CheckInputs(SummaryPath(), finished->inputs));
      return true;
    }
    RETURN_IF_ERROR(FindCheckpoint());
    return false;
  }

  // Whether RUN may be used: by a fresh run when it holds nothing of a run, by --resume when it holds this one. Its digests: that has
  // finished, and its model is there.
  absl::StatusOr<std::optional<RunDigests>> Look() {
    FileSystem& fs = p_.fs;
    const std::string recipe_path = JoinPath(p_.directory, "recipe.textproto");
    if (!fs.Exists(recipe_path)) {
      // Whatever these are, they are not ours to truncate or to go on from.
      for (const char* name : {"checkpoints", "metrics.jsonl", "completions.jsonl", "model", "run.json"}) {
        const std::string path = JoinPath(p_.directory, name);
        if (fs.Exists(path)) return absl::AlreadyExistsError(absl::StrCat(path, " is there, but no recipe.textproto beside it; choose another --out"));
      }
      return std::nullopt;
    }
    if (!p_.resume) {
      return absl::AlreadyExistsError(absl::StrCat(p_.directory, ": a run is there already; go on with --resume, or choose another --out"));
    }
    v1::Recipe old_recipe;
    RETURN_IF_ERROR(ParseTextProtoFile(recipe_path, &old_recipe));
    const std::string difference = RecipeDifference(old_recipe, p_.recipe);
    if (!difference.empty()) {
      return absl::FailedPreconditionError(absl::StrCat("--resume with a changed recipe (only placement and speed may change):\n", difference));
    }
    if (!fs.Exists(SummaryPath())) return std::nullopt;
    const absl::StatusOr<RunDigests> digests = ReadSummary(fs, SummaryPath());
    not_whole_ = digests.ok() ? CheckModel(digests->weights) : digests.status();
    if (!not_whole_.ok()) return std::nullopt;
    return *digests;
  }

  std::string ModelPath() const { return JoinPath(p_.directory, "model"); }
  std::string SummaryPath() const { return JoinPath(p_.directory, "run.json"); }

  // OK: RUN/model is whole and has the weights of this digest.
  absl::Status CheckModel(const std::string& weights_digest) {
    ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(ModelPath(), {}));
    ASSIGN_OR_RETURN(const Sha256Digest digest, Annotate(WeightsDigestLike(*p_.loaded.model, *opened.weights, p_.threads), ModelPath()));
    if (Hex(digest) != weights_digest) {
      return absl::DataLossError(absl::StrCat(ModelPath(), ": weights_digest ", Hex(digest), ", expected the run's, ", weights_digest));
    }
    return absl::OkStatus();
  }

  // Opens and checks all stages' data, so that what is wrong in the last stage is said before the first has run.
  absl::Status PrepareStages() {
    ASSIGN_OR_RETURN(encoder_, PromptEncoder::Create(p_.recipe.prompt(), p_.loaded.tokenizer));
    Sha256Stream digest;
    digest.Update(p_.loaded.tokenizer->ToJson());
    for (int i = 0; i < p_.recipe.stages_size(); ++i) {
      RETURN_IF_ERROR(Annotate(PrepareStage(i), absl::StrCat("stages[", p_.recipe.stages(i).name(), "]")));
      const Dataset& data = *stages_.back().data;
      for (const std::vector<DataRow>* rows : {&data.file_rows(), &data.eval_rows()}) {
        digest.Update(absl::StrCat("\n", rows->size(), "\n"));
        for (const DataRow& row : *rows) digest.Update(json::Dump(row.columns));
      }
    }
    state_.inputs_digest = Hex(digest.Finish());
    return absl::OkStatus();
  }

  absl::Status PrepareStage(int index) {
    const v1::Stage& config = p_.recipe.stages(index);
    PreparedStage& stage = stages_.emplace_back();
    ASSIGN_OR_RETURN(stage.data, Dataset::Open(config.data(), p_.recipe.seed(), static_cast<uint32_t>(index), ""));
    stage.context.reset(new StageContext{p_.recipe, index, p_.loaded, stream_, p_.rollout, p_.reward, publisher_, *stage.data, *encoder_, p_.clock,
                                         p_.observer.sampling});
    stage.context->memory = p_.memory;
    if (config.has_sft()) {
      ASSIGN_OR_RETURN(stage.steps, CheckSftData(*stage.context));
    } else if (config.has_grpo()) {
      ASSIGN_OR_RETURN(stage.steps, CheckGrpoData(*stage.context, p_.check_row));
    }
    if (HasEvaluation(config)) RETURN_IF_ERROR(CheckEvaluation(*stage.context, stage.data->eval_rows(), config.eval(), p_.check_row));
    return absl::OkStatus();
  }

  // Whether a remote reward service has the rules that decide the evaluations, as far as it says.
  absl::Status CheckDecidingRules() {
    const v1::Reward& reward = p_.recipe.reward();
    if (reward.address().empty()) return absl::OkStatus();
    const std::vector<std::string> names = p_.reward.RuleNames();
    for (const v1::Stage& stage : p_.recipe.stages()) {
      if (names.empty() || !HasEvaluation(stage)) continue;
      const std::string where = absl::StrCat("stages[", stage.name(), "]");
      ASSIGN_OR_RETURN(const std::string deciding, Annotate(DecidingRule(reward, stage.eval().rule()), where));
      if (!deciding.empty()) RETURN_IF_ERROR(Annotate(FindDecidingRule(reward, deciding, names, {}).status(), where));
    }
    return absl::OkStatus();
  }

  absl::Status CheckInputs(const std::string& path, const std::string& digest) const {
    if (digest == state_.inputs_digest) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(path, ": made with other data or another tokenizer than the recipe's files hold now; --resume needs "
                                                      "the same"));
  }

  // The newest checkpoint of RUN, if any: may this program go on from it with the files as they are now?
  absl::Status FindCheckpoint() {
    ASSIGN_OR_RETURN(latest_, FindLatestCheckpoint(p_.fs, CheckpointsOf(p_.directory)));
    if (!latest_ && !not_whole_.ok()) {
      return absl::FailedPreconditionError(absl::StrCat(not_whole_.message(), ". The run has finished, but not all of it is there, and ", CheckpointsOf(p_.directory),
                                                        " has no checkpoint to make it from: remove run.json to train it again from the beginning, or choose "
                                                        "another --out"));
    }
    if (!latest_) return absl::OkStatus();
    ASSIGN_OR_RETURN(saved_, ReadRunState(*latest_));
    RETURN_IF_ERROR(CheckInputs(latest_->directory(), saved_.inputs_digest));
    if (latest_->Has("config.json")) {
      ASSIGN_OR_RETURN(const std::string config, latest_->ReadFile("config.json"));
      if (config != ConfigText(*p_.loaded.model, p_.loaded.stop_token_ids)) {
        return absl::FailedPreconditionError(absl::StrCat(latest_->directory(), "/config.json: another model than ", p_.loaded.source,
                                                          " is now; --resume needs the same architecture and stop tokens"));
      }
    }
    if (saved_.numerics_id != state_.numerics_id && p_.recipe.exact_on_policy()) {
      return absl::FailedPreconditionError(absl::StrCat(latest_->directory(), ": made with numerics \"", saved_.numerics_id, "\", this program has \"",
                                                        state_.numerics_id, "\": the bits would differ (exact_on_policy)"));
    }
    if (saved_.stage_index > p_.recipe.stages_size()) {
      return absl::DataLossError(absl::StrCat(latest_->directory(), "/state.json: stage_index beyond the recipe's stages"));
    }
    return absl::OkStatus();
  }

  bool StagesLeft() const { return saved_.stage_index < p_.recipe.stages_size(); }

  // A fresh directory, or the newest checkpoint of an old one.
  absl::Status Begin() {
    FileSystem& fs = p_.fs;
    const std::string recipe_path = JoinPath(p_.directory, "recipe.textproto");
    if (!fs.Exists(recipe_path)) {
      RETURN_IF_ERROR(fs.CreateDirectories(p_.directory));
      RETURN_IF_ERROR(WriteFileAtomically(fs, recipe_path, RecipeText(p_.recipe)));
    }
    if (!not_whole_.ok()) {
      Say(absl::StrCat(not_whole_.message(), "; the run is finished again"));
      RETURN_IF_ERROR(fs.RemoveFile(SummaryPath()));
    }
    if (latest_) {
      RETURN_IF_ERROR(Restore(*latest_));
      Say(absl::StrCat("resuming after step ", state_.step, " from ", latest_->directory()));
    } else if (p_.resume) {
      RETURN_IF_ERROR(WriteFileAtomically(fs, recipe_path, RecipeText(p_.recipe)));  // its files may lie elsewhere now
      Say(absl::StrCat(p_.directory, ": no checkpoint yet, starting at the beginning"));
    }
    ASSIGN_OR_RETURN(metrics_, JsonLinesFile::Open(fs, JoinPath(p_.directory, "metrics.jsonl"), state_.metrics_bytes));
    if (p_.recipe.logging().completions()) {
      ASSIGN_OR_RETURN(completions_, JsonLinesFile::Open(fs, JoinPath(p_.directory, "completions.jsonl"), state_.completions_bytes));
    }
    if (p_.recipe.logging().tensorboard() && StagesLeft()) {
      ASSIGN_OR_RETURN(tensorboard_, OpenTensorBoardSink(fs, JoinPath(p_.directory, "tensorboard"),
                                                         absl::ToDoubleSeconds(p_.clock.Now() - absl::UnixEpoch())));
    }
    return absl::OkStatus();
  }

  absl::Status Restore(const CheckpointReader& checkpoint) {
    const std::string own = state_.numerics_id;
    state_ = saved_;
    state_.numerics_id = own;
    // Evaluated without keep_best, or removed by hand.
    if (!p_.fs.Exists(CheckpointPath(CheckpointsOf(p_.directory), state_.best_step))) ForgetBest();
    RETURN_IF_ERROR(ReadWeights(checkpoint, "model.safetensors", *p_.loaded.model));
    p_.loaded.model->WeightsChanged(stream_);
    publisher_.set_version(state_.weight_version);
    if (state_.stage.step > 0) restored_ = checkpoint;
    saved_step_ = state_.step;
    return absl::OkStatus();
  }

  // --- a stage ---------------------------------------------------------------------------------------------------------------

  // True: a stop was requested and the state is saved.
  absl::StatusOr<bool> RunStage(int index) {
    const v1::Stage& config = p_.recipe.stages(index);
    PreparedStage& prepared = stages_[static_cast<size_t>(index)];
    StageContext& context = *prepared.context;
    context.steps_before = state_.step - state_.stage.step;
    p_.control.SetStatus(StatusIn(config));
    metrics_at_beginning_ = metrics_->size();
    if (config.has_evaluate()) {
      MetricsRow row;
      row.Set("step", state_.step);
      row.Set("stage", std::string("evaluate"));
      if (const absl::StatusOr<EvaluationResult> result = EvaluateInto(context, row); !result.ok()) return EndEarly(result.status(), nullptr, nullptr);
      RETURN_IF_ERROR(WriteRow(row));
      return false;
    }
    std::unique_ptr<Stage> made;
    if (config.has_sft()) {
      made = MakeSftStage(context, prepared.steps);
    } else {
      ASSIGN_OR_RETURN(made, MakeGrpoStage(context, prepared.steps));
    }
    Stage& stage = *made;
    OptimizerState optimizer(*p_.loaded.model, stream_);
    if (restored_) {
      stream_.Synchronize();  // the masters that it has just made
      RETURN_IF_ERROR(ReadOptimizer(*restored_, optimizer));
      optimizer.set_steps_applied(state_.optimizer_steps);
      if (stage.reference() != nullptr) {
        RETURN_IF_ERROR(ReadWeights(*restored_, "reference.safetensors", *stage.reference()));
        stage.reference()->WeightsChanged(stream_);
      }
      restored_.reset();
    }
    if (state_.stage.step == 0) ForgetBest();
    if (p_.observer.stage_started) p_.observer.stage_started(config, stage.type(), state_.stage.step, stage.steps());
    if (state_.stage.step == 0 && config.eval().at_start()) {
      MetricsRow row;
      row.Set("step", state_.step);
      row.Set("stage", std::string(stage.type()));
      const absl::StatusOr<EvaluationResult> result = EvaluateInto(context, row);
      if (!result.ok()) return EndEarly(result.status(), &optimizer, stage.reference());
      // The run's beginning has no checkpoint, a later stage's is the end of the one before.
      if (saved_step_ == state_.step) TakeIfBest(*result);
      RETURN_IF_ERROR(WriteRow(row));
    }
    // The loop: step, evaluate, write, save. It may begin with an evaluation that an earlier process did not finish.
    while (!state_.unfinished_row.empty() || state_.stage.step < stage.steps()) {
      MetricsRow row;
      if (state_.unfinished_row.empty()) {
        while (p_.control.WaitWhilePaused()) RETURN_IF_ERROR(Save(&optimizer, stage.reference()));
        const int64_t applied = optimizer.steps_applied();
        StepResult result;
        if (const absl::Status stepped = stage.Step(state_.stage, optimizer, result); !stepped.ok()) {
          if (optimizer.steps_applied() == applied) return EndEarly(stepped, &optimizer, stage.reference());
          return stepped;  // in the middle of a step: some of its updates are in the weights
        }
        ++state_.step;
        state_.num_tokens += result.tokens;
        state_.optimizer_steps = optimizer.steps_applied();
        row = RowOf(stage.type(), result);
        RETURN_IF_ERROR(WriteCompletions(result));
      } else {
        ASSIGN_OR_RETURN(row, MetricsRow::FromJson(state_.unfinished_row));
      }
      const bool last = state_.stage.step == stage.steps();
      bool best = false;
      if ((config.eval().every() > 0 && state_.stage.step % config.eval().every() == 0) || (last && config.eval().at_end())) {
        state_.unfinished_row = row.ToJson();
        const absl::StatusOr<EvaluationResult> evaluated = EvaluateInto(context, row);
        if (!evaluated.ok()) return EndEarly(evaluated.status(), &optimizer, stage.reference());
        state_.unfinished_row.clear();
        best = TakeIfBest(*evaluated) && p_.recipe.checkpoint().keep_best();
      }
      RETURN_IF_ERROR(WriteRow(row));
      if (p_.observer.step_done) p_.observer.step_done(state_.stage.step, stage.steps(), row);
      p_.control.StepDone(StatusIn(config), row.ToJson());
      RETURN_IF_ERROR(failpoint::Hit("trainer.step_end"));
      const bool stop = p_.control.StopRequested();
      const int64_t every = p_.recipe.checkpoint().every();
      const bool due = every > 0 && state_.stage.step % every == 0;
      if (last) break;  // saved below, as the next stage's beginning
      if (due || stop || best || p_.control.CheckpointWanted()) RETURN_IF_ERROR(Save(&optimizer, stage.reference()));
      if (stop) return Stopped();
    }
    if (p_.observer.stage_ended) p_.observer.stage_ended(config);
    // Between stages: the next one starts with its own optimizer and reference.
    RunState here = state_;
    ++state_.stage_index;
    state_.stage = {};
    metrics_at_beginning_ = metrics_->size();
    const absl::Status saved = Save(nullptr, nullptr);
    state_.stage_index = here.stage_index;
    state_.stage = here.stage;
    RETURN_IF_ERROR(saved);
    if (p_.control.StopRequested() && index + 1 < p_.recipe.stages_size()) return Stopped();
    return false;
  }

  bool Stopped() {
    Say(absl::StrCat("stopped after step ", state_.step, state_.unfinished_row.empty() ? "" : " and before its evaluation", "; go on with --resume --out ",
                     p_.directory));
    return true;
  }

  // After a step or an evaluation that ended with `why`, and the weights are those of the last finished step. True: it was a stop, and what is
  // finished is saved. Else `why`, whatever becomes of saving: earlier checkpoints stay, for who would rather go back further.
  absl::StatusOr<bool> EndEarly(const absl::Status& why, const OptimizerState* optimizer, const Model* reference) {
    if (absl::IsCancelled(why) && p_.control.StopRequested()) {
      Say(std::string(why.message()));
      RETURN_IF_ERROR(Save(optimizer, reference));
      return Stopped();
    }
    if (state_.step == 0) return why;
    const absl::Status saved = saved_step_ == state_.step ? absl::OkStatus() : WriteCheckpoint(optimizer, reference);
    Say(saved.ok() ? absl::StrCat("the steps up to ", state_.step, " are saved; go on with --resume --out ", p_.directory)
                   : absl::StrCat("could not save the steps up to ", state_.step, ": ", saved.message()));
    return why;
  }

  MetricsRow RowOf(const char* type, const StepResult& result) const {
    MetricsRow row;
    row.Set("step", state_.step);
    row.Set("stage", std::string(type));
    for (const auto& metric : result.metrics.values()) std::visit([&](const auto& value) { row.Set(metric.first, value); }, metric.second);
    row.Set("num_tokens", state_.num_tokens);
    // Forward and backward are 6 operations a token and active parameter.
    const double rate = row.Number("perf/train_tokens_per_second", 0) * 6 * static_cast<double>(p_.loaded.model->config().NumActiveParameters());
    row.Set("perf/mfu", rate / peak_flops_);
    row.Set("perf/host_memory_peak_bytes", PeakResidentBytes());
    if (const Device device = p_.loaded.model->device(); device.is_cuda()) {
      row.Set("perf/device_memory_peak_bytes", static_cast<int64_t>(cuda::Allocated(device.index).peak));
    }
    return row;
  }

  // Adds eval/* to the row.
  absl::StatusOr<EvaluationResult> EvaluateInto(StageContext& context, MetricsRow& row) {
    const v1::Evaluation& config = context.config().eval();
    const std::string where = absl::StrCat("stage ", context.config().name(), " after step ", state_.step);
    if (p_.control.StopRequested()) return absl::CancelledError(absl::StrCat(where, ": the evaluation was not begun, a stop was asked for"));
    const absl::Time start = p_.clock.Now();
    ASSIGN_OR_RETURN(const EvaluationResult result, Annotate(Evaluate(context, context.data.eval_rows(), config), where));
    row.Set("eval/accuracy", result.accuracy);
    row.Set("eval/pass_at_k", result.pass_at_k);
    row.Set("eval/k", result.samples);
    row.Set("eval/problems", result.problems);
    row.Set("time/eval", absl::ToDoubleSeconds(p_.clock.Now() - start));
    if (p_.observer.evaluated) p_.observer.evaluated(context.config().name(), state_.step, result);
    return result;
  }

  void ForgetBest() {
    state_.best_accuracy = -1;
    state_.best_step = -1;
  }

  // Of an evaluation at a step that has a checkpoint, or gets one now if this is true: is it the best of this stage so far?
  bool TakeIfBest(const EvaluationResult& result) {
    if (result.accuracy <= state_.best_accuracy) return false;
    state_.best_accuracy = result.accuracy;
    state_.best_step = state_.step;
    return true;
  }

  // --- writing ----------------------------------------------------------------------------------------------------------------

  absl::Status WriteCompletions(const StepResult& result) {
    if (!result.digest_input.empty()) {
      Sha256Stream chain;
      chain.Update(state_.completions_digest);
      chain.Update(result.digest_input);
      state_.completions_digest = Hex(chain.Finish());
    }
    if (completions_ == nullptr) return absl::OkStatus();
    for (const std::string& line : result.completions) {
      RETURN_IF_ERROR(completions_->AppendLine(line));
      RETURN_IF_ERROR(failpoint::Hit("trainer.completions_line"));
    }
    return absl::OkStatus();
  }

  absl::Status WriteRow(const MetricsRow& row) {
    RETURN_IF_ERROR(metrics_->AppendLine(row.ToJson()));
    if (tensorboard_ != nullptr) RETURN_IF_ERROR(tensorboard_->Write(row));
    return failpoint::Hit("trainer.metrics_line");
  }

  v1::TrainerStatus StatusIn(const v1::Stage& stage) const {
    v1::TrainerStatus status;
    status.set_run(p_.recipe.name());
    status.set_stage(stage.name());
    status.set_step(static_cast<uint64_t>(state_.step));
    for (const PreparedStage& prepared : stages_) status.set_total_steps(status.total_steps() + static_cast<uint64_t>(prepared.steps));
    status.set_weight_version(publisher_.version());
    return status;
  }

  absl::Status Save(const OptimizerState* optimizer, const Model* reference) {
    const std::string directory = CheckpointsOf(p_.directory);
    if (saved_step_ == state_.step) {
      p_.control.CheckpointSaved(CheckpointPath(directory, state_.step));
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(WriteCheckpoint(optimizer, reference));
    std::vector<int64_t> keep;
    if (p_.recipe.checkpoint().keep_best() && state_.best_step >= 0) keep.push_back(state_.best_step);
    return PruneCheckpoints(p_.fs, directory, p_.recipe.checkpoint().keep_last(), keep);
  }

  // Saves, and leaves the older ones alone.
  absl::Status WriteCheckpoint(const OptimizerState* optimizer, const Model* reference) {
    const std::string directory = CheckpointsOf(p_.directory);
    RETURN_IF_ERROR(metrics_->Sync());
    if (completions_ != nullptr) RETURN_IF_ERROR(completions_->Sync());
    state_.metrics_bytes = state_.stage.step == 0 ? metrics_at_beginning_ : metrics_->size();
    if (completions_ != nullptr) state_.completions_bytes = completions_->size();
    state_.weight_version = publisher_.version();
    state_.weights_digest = Hex(WeightsDigest(*p_.loaded.model, p_.threads));
    const absl::Status saved = SaveRunCheckpoint(p_.fs, directory, {*p_.loaded.model, optimizer, reference, p_.recipe, state_, &p_.loaded});
    if (!saved.ok()) return Annotate(saved, absl::StrCat("checkpoint of step ", state_.step, " (earlier ones are untouched)"));
    saved_step_ = state_.step;
    p_.control.CheckpointSaved(CheckpointPath(directory, state_.step));
    return absl::OkStatus();
  }

  absl::Status WriteModel() {
    const std::string dtype = p_.loaded.model->dtype() == DType::kBF16 ? "bfloat16" : "float32";
    return SaveHuggingFace(p_.fs, ModelRows(*p_.loaded.model), *p_.loaded.tokenizer, p_.loaded.stop_token_ids, ModelPath(), dtype);
  }

  absl::Status Finish() {
    RETURN_IF_ERROR(metrics_->Sync());
    if (completions_ != nullptr) RETURN_IF_ERROR(completions_->Sync());
    const std::string digest = Hex(WeightsDigest(*p_.loaded.model, p_.threads));
    if (!p_.fs.Exists(ModelPath())) {
      RETURN_IF_ERROR(WriteModel());
    } else if (const absl::Status there = CheckModel(digest); !there.ok()) {
      Say(absl::StrCat(there.message(), "; it is written again"));
      // Away in one piece, under the name that WriteModel clears.
      const std::string unfinished = ModelPath() + kUnfinishedModel;
      RETURN_IF_ERROR(p_.fs.RemoveAll(unfinished));
      RETURN_IF_ERROR(p_.fs.Rename(ModelPath(), unfinished));
      RETURN_IF_ERROR(WriteModel());
    }
    json::OrderedJson summary;
    summary["finished"] = true;
    summary["step"] = state_.step;
    summary["weights_digest"] = digest;
    summary["completions_digest"] = state_.completions_digest;
    summary["inputs_digest"] = state_.inputs_digest;
    return WriteFileAtomically(p_.fs, SummaryPath(), summary.dump(1) + "\n");
  }

  RunParts& p_;
  Stream stream_;
  WeightPublisher publisher_;
  std::optional<PromptEncoder> encoder_;
  std::vector<PreparedStage> stages_;
  RunState state_;
  absl::Status not_whole_;                    // why a run with a run.json has not finished; OK without one
  std::optional<CheckpointReader> latest_;    // FindCheckpoint's
  RunState saved_;                            // in it
  std::optional<CheckpointReader> restored_;  // to be taken by the stage that it was saved in
  int64_t saved_step_ = -1;
  uint64_t metrics_at_beginning_ = 0;  // of the stage: resuming there evaluates it again
  const double peak_flops_ = kernels::PeakFlops(stream_, p_.loaded.model->dtype());
  std::unique_ptr<JsonLinesFile> metrics_, completions_;
  std::unique_ptr<MetricsSink> tensorboard_;
};

}  // namespace

absl::Status RunRecipe(RunParts& parts) {
  absl::Status status = Run(parts).Execute();
  if (absl::IsCancelled(status) && parts.control.StopRequested()) {
    // Before the first step.
    const std::string what = parts.resume ? absl::StrCat("go on with --resume --out ", parts.directory) : "nothing was begun";
    if (parts.observer.message) parts.observer.message(absl::StrCat(status.message(), "; ", what));
    status = absl::OkStatus();
  }
  parts.control.Ended();
  return status;
}

absl::StatusOr<std::string> CheckRun(RunParts& parts) { return Run(parts).Check(); }

absl::StatusOr<RunDigests> ReadRunDigests(FileSystem& fs, const std::string& directory) {
  const std::string summary = JoinPath(directory, "run.json");
  if (fs.Exists(summary)) return ReadSummary(fs, summary);
  ASSIGN_OR_RETURN(const std::optional<CheckpointReader> latest, FindLatestCheckpoint(fs, CheckpointsOf(directory)));
  if (!latest) return absl::NotFoundError(absl::StrCat(directory, ": no finished run and no checkpoint"));
  ASSIGN_OR_RETURN(const RunState state, ReadRunState(*latest));
  RunDigests digests;
  digests.step = state.step;
  digests.weights = state.weights_digest;
  digests.completions = state.completions_digest;
  return digests;
}

}  // namespace grouper
