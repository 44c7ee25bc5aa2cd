#include "trainer/run.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/commands.h"
#include "cli/composition.h"
#include "cli/memory_plan.h"
#include "cli/run_lock.h"
#include "cli/stop_signal.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/metrics/progress.h"
#include "common/recipe/load_recipe.h"
#include "common/tensor/cuda.h"
#include "trainer/trainer_service.h"

namespace grouper::cli {
namespace {

// How long the services of a recipe may take to appear when a run begins.
constexpr absl::Duration kFirstContact = absl::Seconds(30);

// Draws a run in the terminal: a bar a stage, a line an evaluation, a curve at the end.
class TerminalView {
 public:
  RunObserver Observer() {
    RunObserver o;
    o.message = [this](const std::string& text) { Line(text); };
    o.stage_started = [this](const v1::Stage& stage, const char* type, int64_t done, int64_t steps) {
      type_ = type;
      done_ = done;
      steps_ = steps;
      note_.clear();
      bar_.emplace(absl::StrFormat("%-4s", stage.name()), steps);
    };
    o.sampling = [this](int64_t tokens) {
      if (bar_) bar_->Update(done_, absl::StrCat(note_, "  sampling ", HumanCount(static_cast<double>(tokens)), " tok"));
    };
    o.step_done = [this](int64_t done, int64_t, const MetricsRow& m) {
      done_ = done;
      const double rate = m.Number("perf/train_tokens_per_second", 0);
      note_ = type_ == "grpo"
                  ? absl::StrFormat("reward %.3f  sample %s tok/s  train %s tok/s", m.Number("reward/mean", NAN),
                                    HumanCount(m.Number("perf/rollout_tokens_per_second", 0)), HumanCount(rate))
                  : absl::StrFormat("loss %.4f  %s tok/s", m.Number("loss", 0), HumanCount(rate));
      if (bar_) bar_->Update(done, note_);
    };
    o.evaluated = [this](const std::string& stage, int64_t step, const EvaluationResult& r) {
      x_.push_back(static_cast<double>(step));
      y_.push_back(r.accuracy);
      std::string text = absl::StrFormat("%-4s step %4d  accuracy %5.1f%%  [%.1f, %.1f]  on %d held-out problems", stage, step, 100 * r.accuracy,
                                         100 * r.interval.low, 100 * r.interval.high, r.problems);
      if (r.samples > 1) absl::StrAppend(&text, absl::StrFormat("  pass@%d %.1f%%", r.samples, 100 * r.pass_at_k));
      Line(text);
    };
    o.stage_ended = [this](const v1::Stage&) { bar_.reset(); };
    return o;
  }

  void Curve() const {
    if (x_.size() > 1) std::fputs(DrawCurve("held-out accuracy over steps", x_, y_, 60, 11).c_str(), stdout);
  }

 private:
  // A line on stdout that does not tear the bar on stderr.
  void Line(const std::string& text) {
    if (bar_) bar_->Hide();
    std::printf("%s\n", text.c_str());
  }

  std::optional<Progress> bar_;
  std::string type_, note_;
  int64_t done_ = 0, steps_ = 0;
  std::vector<double> x_, y_;
};

// A checkpoint is no place for a run, though its files would load.
absl::Status CheckNoCheckpoint(const std::string& out) {
  FileSystem& fs = DefaultFileSystem();
  if (!fs.Exists(JoinPath(out, "MANIFEST"))) return absl::OkStatus();
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(out, error);
  const std::string run = path.parent_path().parent_path();
  const bool known = !error && fs.Exists(JoinPath(run, "recipe.textproto"));
  return absl::InvalidArgumentError(absl::StrCat("--out ", out, ": is a checkpoint, expected the directory of a run", known ? ": --out " + run : ""));
}

absl::Status CheckTrainerAddress(const std::string& address) {
  if (address.empty() || IsLoopback(address)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("logging.trainer_address: \"", address, "\", expected an address of this machine alone, such as "
                                                 "\"127.0.0.1:50060\" (the service knows no credentials)"));
}

absl::Status RunLoaded(const Arguments& arguments, const v1::Recipe& recipe, absl::Time start) {
  const std::string out = arguments.Has("out") ? arguments.Get("out") : "runs/" + recipe.name();
  if (out.empty()) return absl::InvalidArgumentError("--out: empty, expected a directory");
  RETURN_IF_ERROR(CheckNoCheckpoint(out));
  RETURN_IF_ERROR(CheckTrainerAddress(recipe.logging().trainer_address()));
  RunControl control(&StopFlag());
  std::unique_ptr<RunLock> lock;
  if (arguments.Has("dry-run")) {
    RETURN_IF_ERROR(RunLock::Check(out));
  } else {
    ASSIGN_OR_RETURN(lock, RunLock::Acquire(out));
  }
  MemoryPlan memory;
  const auto plan_memory = [&](const LoadedModel& loaded) -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<StageLengths> lengths, MeasureStages(recipe, loaded));
    memory = PlanMemory(recipe, *loaded.model, lengths, MeasureMachine(*loaded.model));
    if (arguments.Has("dry-run")) std::fputs(memory.Text().c_str(), stdout);
    const absl::Status fits = memory.Check("the run");
    return fits.ok() || arguments.Has("dry-run") ? fits : absl::Status(fits.code(), absl::StrCat(fits.message(), ". --dry-run shows all"));
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<Composition> parts,
                   Composition::Create(recipe, "", arguments.GetAll("rules-library"), plan_memory, WeightUse::kTrain,
                                       [&control] { return control.StopRequested(); }));
  TerminalView view;
  RunParts run{recipe,
               out,
               arguments.Has("resume"),
               parts->loaded(),
               parts->threads(),
               parts->rollout(),
               parts->reward(),
               [&](const json::Json& row) { return parts->rules().CheckRow(row); },
               DefaultFileSystem(),
               RealClock(),
               control,
               view.Observer(),
               [&] { return parts->WaitForServices(kFirstContact); },
               parts->memory()};
  const ModelConfig& config = parts->loaded().model->config();
  const Model& model = *parts->loaded().model;
  std::printf("%s: %s, %s parameters (%s active), on %s in %s, %d threads, out %s\n", recipe.name().c_str(), config.architecture.c_str(),
              HumanCount(static_cast<double>(config.NumParameters())).c_str(), HumanCount(static_cast<double>(config.NumActiveParameters())).c_str(),
              Name(model.device()).c_str(), recipe.model().dtype().c_str(), parts->threads().num_threads(), out.c_str());
  if (arguments.Has("dry-run")) {
    ASSIGN_OR_RETURN(const std::string report, CheckRun(run));
    std::fputs(report.c_str(), stdout);
    const std::string remote = parts->RemoteServices();
    std::printf("dry run: everything %sloads and fits%s\n", remote.empty() ? "" : "here ", remote.empty() ? "" : ("; not asked: " + remote).c_str());
    return absl::OkStatus();
  }
  std::unique_ptr<v1::TrainerService::Service> service;
  std::unique_ptr<RpcServer> server;
  if (!recipe.logging().trainer_address().empty()) {
    service = MakeTrainerService(control);
    ASSIGN_OR_RETURN(server, RpcServer::Start(recipe.logging().trainer_address(), {}, {service.get()}));
    std::printf("trainer service listening on %s\n", server->ListensOn().c_str());
  }
  const absl::Status status = RunRecipe(run);
  if (server != nullptr) server->Shutdown(1.0);
  RETURN_IF_ERROR(status);
  view.Curve();
  const bool begun = DefaultFileSystem().Exists(JoinPath(out, "recipe.textproto"));  // else it was stopped while it waited for services
  std::printf("%s in %s%s\n", control.StopRequested() ? "stopped" : "finished", HumanDuration(absl::Now() - start).c_str(),
              begun ? ("; results in " + out).c_str() : "");
  std::printf("%s\n", MemoryReport(memory, parts->loaded().model->device()).c_str());
  return absl::OkStatus();
}

absl::Status Run(const Arguments& arguments) {
  const absl::Time start = absl::Now();
  TextLocations locations;
  ASSIGN_OR_RETURN(const v1::Recipe recipe, LoadRecipe(arguments.positional(0), arguments.GetAll("set"), &locations));
  return locations.Locate(recipe, RunLoaded(arguments, recipe, start));
}

}  // namespace

const Command kRun = {
    "run",
    "RECIPE",
    "run all stages of a recipe",
    "Writes RUN/metrics.jsonl, completions.jsonl, tensorboard/, checkpoints/step_N and, at the end, model/ (a Hugging Face directory).\n"
    "SIGTERM or Ctrl-C finishes the step (an evaluation is cut off, and made after --resume), saves and exits with 0; a second one exits at once.",
    {
        {.name = "set", .placeholder = "FIELD=VALUE", .help = "override a field: stages[rl].steps=5", .default_text = "", .repeated = true},
        {.name = "out", .placeholder = "DIR", .help = "run directory (default: runs/NAME)", .default_text = ""},
        {.name = "rules-library", .placeholder = "FILE", .help = "shared library for library rules without a path", .default_text = "", .repeated = true},
        {.name = "resume", .placeholder = "", .help = "go on from the newest checkpoint of DIR, to the same bits", .default_text = ""},
        {.name = "dry-run", .placeholder = "", .help = "load and check all but remote services, that DIR can be written too, predict memory; leave nothing", .default_text = ""},
    },
    Run,
};

}  // namespace grouper::cli
