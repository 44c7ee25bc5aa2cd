#include "trainer/sft_stage.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kernels/elementwise.h"
#include "trainer/expert_load.h"
#include "trainer/learning_rate.h"

namespace grouper {
namespace {

constexpr char kExample[] = "an example";
constexpr int64_t kProbedRows = 16;  // of a generator

int64_t MaxTokens(const StageContext& context) { return context.loaded.model->config().max_position_embeddings; }

// The first trained token whose log-probability is NaN, in words; `logprobs` are those of the sequences from `begin` on. Empty: there is none.
std::string NotFiniteLogits(const std::vector<TrainSequence>& batch, const std::vector<std::string>& sources, size_t begin,
                            absl::Span<const float> logprobs) {
  const auto found = std::find_if(logprobs.begin(), logprobs.end(), [](float logprob) { return std::isnan(logprob); });
  if (found == logprobs.end()) return "";
  int64_t token = found - logprobs.begin();
  size_t i = begin;
  while (token >= batch[i].num_trained()) token -= batch[i++].num_trained();
  return absl::StrCat("the logits: ", sources[i], ", trained token ", token);
}

class SftStage : public Stage {
 public:
  SftStage(StageContext& context, int64_t steps)
      : c_(context),
        steps_(steps),
        pass_(*context.loaded.model, context.stream, context.pass_options()),
        gradients_(*context.loaded.model, context.gradients_dtype()),
        expert_load_(*context.loaded.model) {}

  const char* type() const override { return "sft"; }
  int64_t steps() const override { return steps_; }

  absl::Status Step(StageState& state, OptimizerState& optimizer, StepResult& result) override {
    const v1::Stage& config = c_.config();
    const absl::Time start = c_.clock.Now();
    StageState next = state;
    std::vector<TrainSequence> batch;
    std::vector<std::string> sources;
    int64_t trained = 0, skipped = 0;
    while (static_cast<int>(batch.size()) < config.sft().batch_size()) {
      RETURN_IF_ERROR(failpoint::Hit("trainer.prompt_taken"));
      const DataRow row = c_.data.TrainRow(next.data_position++);
      ASSIGN_OR_RETURN(TrainSequence example, c_.encoder.EncodeExample(row, config.sft().train_on_prompt()));
      if (static_cast<int64_t>(example.token_ids.size()) > MaxTokens(c_)) {
        RETURN_IF_ERROR(SkipTooLong(config, row, kExample, static_cast<int64_t>(example.token_ids.size()), MaxTokens(c_), &skipped));
        continue;
      }
      skipped = 0;
      trained += example.num_trained();
      result.tokens += static_cast<int64_t>(example.token_ids.size());
      batch.push_back(std::move(example));
      sources.push_back(row.source);
    }

    // loss = -1/N sum logp
    const float slope = -1.0f / static_cast<float>(trained);
    double sum = 0, entropy = 0;
    std::string not_finite;
    gradients_.Zero(c_.stream);
    expert_load_.Zero(c_.stream);
    pass_.Run(batch,
              [&](size_t begin, size_t, int64_t, absl::Span<const float> logprobs, absl::Span<const float> entropies, absl::Span<float> slopes) {
                if (not_finite.empty()) not_finite = NotFiniteLogits(batch, sources, begin, logprobs);
                for (size_t i = 0; i < logprobs.size(); ++i) {
                  sum -= static_cast<double>(logprobs[i]);
                  entropy += static_cast<double>(entropies[i]);
                  slopes[i] = slope;
                }
              },
              gradients_, &expert_load_);
    RETURN_IF_ERROR(failpoint::Hit("trainer.backward"));
    double loss = sum / static_cast<double>(trained);
    if (failpoint::HitNan("trainer.loss")) loss = std::numeric_limits<double>::quiet_NaN();
    gradients_.Finish(c_.stream);
    if (failpoint::HitNan("trainer.gradient")) kernels::Fill(c_.stream, gradients_.tensor(0), std::numeric_limits<double>::infinity());

    const double lr = LearningRate(config.optimizer(), state.step, steps_);
    OptimizerState::Outcome outcome;
    if (not_finite.empty() && !std::isfinite(loss)) not_finite = "the loss";
    if (not_finite.empty()) {
      outcome = optimizer.Step(c_.stream, config.optimizer(), lr, gradients_);
      not_finite = outcome.not_finite;
    }
    RETURN_IF_ERROR(CountSkipped(c_, not_finite.empty() ? "" : absl::StrCat("not finite: ", not_finite), next, result.metrics));
    if (outcome.applied) {
      expert_load_.UpdateBiases(c_.stream, config.sft().expert_bias_rate());
      c_.loaded.model->WeightsChanged(c_.stream);
      c_.publisher.MarkChanged();
    }
    RETURN_IF_ERROR(failpoint::Hit("trainer.optimizer"));

    MetricsRow& m = result.metrics;
    m.Set("loss", loss);
    m.Set("lr", lr);
    m.Set("grad_norm", outcome.grad_norm);
    m.Set("policy/entropy", entropy / static_cast<double>(trained));
    if (const double most = MaxExpertLoad(expert_load_.Read(c_.stream)); most > 0) m.Set("moe/max_load", most);
    const double seconds = absl::ToDoubleSeconds(c_.clock.Now() - start);
    m.Set("time/step", seconds);
    m.Set("time/train", seconds);
    m.Set("perf/train_tokens_per_second", static_cast<double>(result.tokens) / std::max(seconds, 1e-9));
    ++next.step;
    state = next;
    return absl::OkStatus();
  }

 private:
  StageContext& c_;
  int64_t steps_;
  TrainingPass pass_;
  Gradients gradients_;
  ExpertLoad expert_load_;
};

}  // namespace

absl::StatusOr<int64_t> CheckSftData(const StageContext& context) {
  const v1::Stage& config = context.config();
  const int64_t limit = MaxTokens(context), generated = context.data.epoch_size() == 0 ? kProbedRows : 0;
  int64_t fitting = 0, skipped = 0;
  UnknownTokens unknown;
  auto check = [&](const DataRow& row) -> absl::Status {
    if (!row.HasCompletion()) {
      return absl::InvalidArgumentError(absl::StrCat(row.source, ": expected an SFT row: prompt and completion, messages that end with the assistant, or text"));
    }
    ASSIGN_OR_RETURN(const TrainSequence example, context.encoder.EncodeExample(row, config.sft().train_on_prompt(), &unknown));
    const int64_t tokens = static_cast<int64_t>(example.token_ids.size());
    if (tokens <= limit) {
      ++fitting;
      return absl::OkStatus();
    }
    ++skipped;
    int64_t here = 0;
    return SkipTooLong(config, row, kExample, tokens, limit, &here);
  };
  for (const DataRow& row : context.data.file_rows()) RETURN_IF_ERROR(check(row));
  for (int64_t i = 0; i < generated; ++i) RETURN_IF_ERROR(check(context.data.TrainRow(i)));
  unknown.Warn(config.data().train().empty() ? "the generator's rows" : config.data().train());
  if (context.data.epoch_size() > 0) {
    if (fitting == 0) return absl::InvalidArgumentError(absl::StrCat(config.data().train(), ": no row fits the context"));
    if (skipped > 0) LOG(WARNING) << config.data().train() << ": " << skipped << " rows are longer than " << limit << " tokens and are skipped";
  }
  const int64_t batch = config.sft().batch_size();
  return config.steps() > 0 ? config.steps() : (fitting + batch - 1) / batch;
}

std::unique_ptr<Stage> MakeSftStage(StageContext& context, int64_t steps) { return std::make_unique<SftStage>(context, steps); }

}  // namespace grouper
