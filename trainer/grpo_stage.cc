#include "trainer/grpo_stage.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/model/weight_rows.h"
#include "kernels/elementwise.h"
#include "trainer/advantages.h"
#include "trainer/expert_load.h"
#include "trainer/learning_rate.h"
#include "trainer/policy_loss.h"
#include "trainer/scored_groups.h"

namespace grouper {
namespace {

constexpr char kPrompt[] = "a prompt";
constexpr int64_t kProbedRows = 16;  // of a generator
constexpr int64_t kCopiedAtOnce = 1 << 18;  // elements of the weights, by a thread

// One token less than the context: a completion needs room.
int64_t MostPromptTokens(const StageContext& context) { return context.loaded.model->config().max_position_embeddings - 1; }

// One sample on its way into the loss.
struct Trajectory {
  const v1::Sample* sample = nullptr;
  uint64_t serial = 0;
  double advantage = 0;
  double weight = 0;  // of each of its tokens
  TrainSequence sequence;
  std::vector<float> rollout_logprobs, ref_logprobs;  // of its trained tokens
};

Trajectory MakeTrajectory(const v1::Sample& sample, uint64_t serial, double advantage, const kernels::SamplingFilter& filter) {
  Trajectory t;
  t.sample = &sample;
  t.serial = serial;
  t.advantage = advantage;
  t.sequence.filter = filter;
  t.sequence.token_ids.assign(sample.token_ids().begin(), sample.token_ids().end());
  for (int i = 0; i < sample.token_ids_size(); ++i) {
    t.sequence.trained.push_back(sample.sampled(i));
    if (sample.sampled(i)) t.rollout_logprobs.push_back(sample.rollout_logprobs(i));
  }
  return t;
}

void AppendBytes(std::string& out, const void* data, size_t size) { out.append(static_cast<const char*>(data), size); }

// What went into the loss, for the metrics.
struct UpdateSums {
  LossSums loss;
  double entropy = 0;
  double diff_max = 0, diff_sum = 0;
  int64_t diff_tokens = 0;
  double grad_norm = 0;
  int64_t trained_tokens = 0;
  ExpertCounts expert_load;
};

class GrpoStage : public Stage {
 public:
  GrpoStage(StageContext& context, int64_t steps)
      : c_(context),
        g_(context.config().grpo()),
        steps_(steps),
        filter_{static_cast<float>(g_.sampling().temperature()), g_.sampling().top_k(), static_cast<float>(g_.sampling().top_p())},
        pass_(*context.loaded.model, context.stream, context.pass_options()),
        gradients_(*context.loaded.model, context.gradients_dtype()),
        expert_load_(*context.loaded.model) {}

  absl::Status MakeReference() {
    if (g_.kl_coef() == 0) return absl::OkStatus();
    Model& model = *c_.loaded.model;
    ASSIGN_OR_RETURN(reference_, Model::Create(model.config(), model.dtype(), model.device(), WeightUse::kForward));
    c_.stream.threads.ParallelForDynamic(static_cast<int64_t>(model.tensors().size()), [&](int64_t i) {
      const auto tensor = static_cast<size_t>(i);
      const LogicalTensor& from = model.tensors()[tensor];
      const int64_t rows = from.value.dim(0), at_once = std::max<int64_t>(1, kCopiedAtOnce / ColumnsOf(from));
      std::string bytes;
      for (int64_t begin = 0; begin < rows; begin += at_once) {
        const int64_t end = std::min(rows, begin + at_once);
        bytes.resize(static_cast<size_t>((end - begin) * ColumnsOf(from)) * SizeOf(from.value.dtype()));
        model.ReadRows(tensor, begin, end, bytes.data());
        reference_->WriteRows(tensor, begin, end, bytes.data());
      }
    });
    reference_->WeightsChanged(c_.stream);
    reference_pass_ = std::make_unique<TrainingPass>(*reference_, c_.stream, c_.pass_options());
    return absl::OkStatus();
  }

  const char* type() const override { return "grpo"; }
  int64_t steps() const override { return steps_; }
  Model* reference() override { return reference_.get(); }

  // prompts -> samples -> rewards -> advantages -> loss -> weights
  absl::Status Step(StageState& state, OptimizerState& optimizer, StepResult& result) override {
    const absl::Time start = c_.clock.Now();
    StageState next = state;
    Timings time;
    ASSIGN_OR_RETURN(Batch batch, Collect(next, time));
    std::vector<std::vector<std::optional<double>>> rewards;
    for (const ScoredGroup& group : batch.groups) rewards.push_back(group.rewards());
    const std::vector<std::vector<double>> advantages = Advantages(rewards, ParseAdvantageStd(g_.advantage_std()));
    RETURN_IF_ERROR(failpoint::Hit("trainer.advantage"));

    UpdateSums sums;
    std::string not_finite = batch.not_finite.empty() ? NotFiniteAdvantage(batch, advantages) : batch.not_finite;
    const std::string no_rewards = not_finite.empty() ? NoRewards(batch.all(), batch.rule_names) : "";
    const bool trains = not_finite.empty() && no_rewards.empty();
    const absl::Time train_start = c_.clock.Now();
    const size_t groups = batch.groups.size(), updates = trains ? std::min<size_t>(groups, static_cast<size_t>(g_.updates_per_batch())) : 0;
    for (size_t u = 0; u < updates; ++u) {
      std::vector<Trajectory> part = Trajectories(batch, rewards, advantages, groups * u / updates, groups * (u + 1) / updates);
      ASSIGN_OR_RETURN(const std::string what, Update(part, u == 0, state.step, optimizer, sums));
      if (not_finite.empty() && !what.empty()) not_finite = updates > 1 ? absl::StrCat(what, ", in update ", u + 1, " of ", updates) : what;
    }
    RETURN_IF_ERROR(CountSkipped(c_, not_finite.empty() ? no_rewards : absl::StrCat("not finite: ", not_finite), next, result.metrics));
    const absl::Time end = c_.clock.Now();
    ReportUpdates(sums, trains, updates, state.step, result.metrics);
    if (trains || !batch.groups.empty() || !batch.dropped.empty()) ReportSamples(batch, rewards, advantages, state.step, result);
    result.tokens = sums.trained_tokens;
    result.metrics.Set("time/step", absl::ToDoubleSeconds(end - start));
    result.metrics.Set("time/rollout", absl::ToDoubleSeconds(time.rollout));
    result.metrics.Set("time/reward", absl::ToDoubleSeconds(time.reward));
    result.metrics.Set("time/sync", absl::ToDoubleSeconds(time.sync));
    result.metrics.Set("time/train", absl::ToDoubleSeconds(end - train_start));
    result.metrics.Set("perf/rollout_tokens_per_second",
                       static_cast<double>(sampled_tokens_) / std::max(1e-9, absl::ToDoubleSeconds(time.rollout)));
    result.metrics.Set("perf/train_tokens_per_second",
                       static_cast<double>(sums.trained_tokens) / std::max(1e-9, absl::ToDoubleSeconds(end - train_start)));
    const RolloutFaults faults = c_.rollout.faults();
    result.metrics.Set("fault/worker_losses", faults.worker_losses);
    result.metrics.Set("fault/timeouts", faults.timeouts);
    result.metrics.Set("fault/retried_samples", faults.retried_samples);
    result.metrics.Set("fault/late_answers", faults.late_answers);
    result.metrics.Set("fault/reward_retries", c_.reward.retries());
    ++next.step;
    state = next;
    return absl::OkStatus();
  }

 private:
  // What a step has sampled: `groups` are trained on, `dropped` ones had nothing to teach (dynamic sampling) or were too many.
  struct Batch : ScoredGroups {
    std::vector<ScoredGroup> dropped;
    std::vector<const ScoredGroup*> all() const {
      std::vector<const ScoredGroup*> both;
      for (const ScoredGroup& group : groups) both.push_back(&group);
      for (const ScoredGroup& group : dropped) both.push_back(&group);
      return both;
    }
  };

  struct Timings {
    absl::Duration rollout, reward, sync;
  };

  // The next prompts that fit the context.
  absl::StatusOr<std::vector<PromptRequest>> TakePrompts(StageState& state, int count) {
    std::vector<PromptRequest> prompts;
    int64_t skipped = 0;
    while (static_cast<int>(prompts.size()) < count) {
      RETURN_IF_ERROR(failpoint::Hit("trainer.prompt_taken"));
      PromptRequest prompt;
      prompt.row = c_.data.TrainRow(state.data_position++);
      ASSIGN_OR_RETURN(prompt.prompt, c_.encoder.EncodePrompt(prompt.row));
      if (const int64_t tokens = static_cast<int64_t>(prompt.prompt.token_ids.size()); tokens > MostPromptTokens(c_)) {
        RETURN_IF_ERROR(SkipTooLong(c_.config(), prompt.row, kPrompt, tokens, MostPromptTokens(c_), &skipped));
        continue;
      }
      skipped = 0;
      prompt.serial = state.group_serial++;
      prompts.push_back(std::move(prompt));
    }
    return prompts;
  }

  // A batch of scored groups; with dynamic sampling only groups that can teach something, as far as the allowed batches go. It ends where something
  // was not finite.
  absl::StatusOr<Batch> Collect(StageState& state, Timings& time) {
    Batch all;
    const int wanted = g_.prompts_per_step(), most = std::max(1, g_.dynamic_sampling_max_batches());
    sampled_tokens_ = 0;
    for (int round = 0; round < most && static_cast<int>(all.groups.size()) < wanted; ++round) {
      ASSIGN_OR_RETURN(std::vector<PromptRequest> prompts, TakePrompts(state, wanted));
      ASSIGN_OR_RETURN(ScoredGroups fresh, SampleAndScore(c_, std::move(prompts), g_.group_size(), g_.sampling(),
                                                          static_cast<uint32_t>(c_.index), g_.failed_reward() == "retry", AtStop::kFinish));
      time.rollout += fresh.rollout_time;
      time.reward += fresh.reward_time;
      time.sync += fresh.sync_time;
      all.not_finite = fresh.not_finite;
      if (!fresh.groups.empty()) {
        all.rule_names = fresh.rule_names;
        all.rule_weights = fresh.rule_weights;
      }
      for (ScoredGroup& group : fresh.groups) {
        for (const v1::Sample& sample : group.samples) {
          for (bool flag : sample.sampled()) sampled_tokens_ += flag;
        }
        const bool keep = g_.dynamic_sampling_max_batches() == 0 || HasSignal(group.rewards());
        (keep && static_cast<int>(all.groups.size()) < wanted ? all.groups : all.dropped).push_back(std::move(group));
      }
      if (!all.not_finite.empty()) break;
    }
    return all;
  }

  // The samples of groups [begin, end) that enter the loss, with their tokens' weights.
  std::vector<Trajectory> Trajectories(const ScoredGroups& batch, const std::vector<std::vector<std::optional<double>>>& rewards,
                                       const std::vector<std::vector<double>>& advantages, size_t begin, size_t end) {
    std::vector<Trajectory> all;
    int64_t tokens = 0;
    for (size_t g = begin; g < end; ++g) {
      for (size_t i = 0; i < batch.groups[g].samples.size(); ++i) {
        const v1::Sample& sample = batch.groups[g].samples[i];
        if (!rewards[g][i]) continue;
        if (g_.truncated() == "mask" && sample.finish_reason() == v1::FINISH_REASON_LENGTH) continue;
        all.push_back(MakeTrajectory(sample, batch.groups[g].serial, advantages[g][i], filter_));
        tokens += static_cast<int64_t>(all.back().rollout_logprobs.size());
      }
    }
    const LossReduction reduction = ParseLossReduction(g_.loss_reduction());
    for (Trajectory& t : all) {
      t.weight = TokenWeight(reduction, static_cast<int64_t>(t.rollout_logprobs.size()), tokens, static_cast<int64_t>(all.size()),
                             g_.sampling().max_new_tokens());
    }
    // Without a KL term a zero advantage has no slope: the denominators have counted it, the passes need not see it.
    if (reference_ == nullptr) std::erase_if(all, [](const Trajectory& t) { return t.advantage == 0; });
    return all;
  }

  // One optimizer step, of which something may not be finite: then it is skipped, and what it was is returned. first: the weights are those that
  // sampled.
  absl::StatusOr<std::string> Update(std::vector<Trajectory>& part, bool first, int64_t step, OptimizerState& optimizer, UpdateSums& sums) {
    const v1::Optimizer& config = c_.config().optimizer();
    std::vector<TrainSequence> sequences;
    for (Trajectory& t : part) {
      sums.trained_tokens += static_cast<int64_t>(t.sequence.token_ids.size());
      sequences.push_back(std::move(t.sequence));
    }
    if (reference_ != nullptr) {
      // The KL is taken against the whole reference distribution at the same temperature: a token that the policy's filter kept may lie outside
      // the reference's own top-k or top-p.
      std::vector<TrainSequence> unfiltered = sequences;
      for (TrainSequence& sequence : unfiltered) sequence.filter = {filter_.temperature, 0, 1};
      const std::vector<float> all = reference_pass_->Score(unfiltered);
      size_t at = 0;
      for (Trajectory& t : part) {
        t.ref_logprobs.assign(all.begin() + static_cast<int64_t>(at), all.begin() + static_cast<int64_t>(at + t.rollout_logprobs.size()));
        at += t.rollout_logprobs.size();
      }
    }
    const PolicyLossOptions options{ParsePolicyLoss(g_.policy_loss()), g_.clip_low(), g_.clip_high(), g_.kl_coef()};
    absl::Status mismatch;
    std::string not_finite;
    LossSums loss;
    gradients_.Zero(c_.stream);
    expert_load_.Zero(c_.stream);
    pass_.Run(sequences,
              [&](size_t begin, size_t end, int64_t, absl::Span<const float> logprobs, absl::Span<const float> entropies, absl::Span<float> slopes) {
                size_t at = 0;
                for (size_t i = begin; i < end; ++i) {
                  const Trajectory& t = part[i];
                  const size_t n = t.rollout_logprobs.size();
                  if (not_finite.empty()) not_finite = NotFiniteLogits(t, logprobs.subspan(at, n));
                  if (first) CompareWithSampler(t, logprobs.subspan(at, n), step, sums, mismatch);
                  SequenceLoss(options, {t.advantage, t.weight, logprobs.subspan(at, n), t.rollout_logprobs, t.ref_logprobs}, loss,
                               slopes.subspan(at, n));
                  at += n;
                }
                for (float entropy : entropies) sums.entropy += static_cast<double>(entropy);
              },
              gradients_, &expert_load_);
    if (!mismatch.ok()) return mismatch;
    RETURN_IF_ERROR(failpoint::Hit("trainer.backward"));
    if (failpoint::HitNan("trainer.loss")) loss.loss = std::numeric_limits<double>::quiet_NaN();
    gradients_.Finish(c_.stream);
    if (failpoint::HitNan("trainer.gradient")) kernels::Fill(c_.stream, gradients_.tensor(0), std::numeric_limits<double>::infinity());
    sums.loss.loss += loss.loss;
    sums.loss.kl += loss.kl;
    sums.loss.clipped_low += loss.clipped_low;
    sums.loss.clipped_high += loss.clipped_high;
    sums.loss.tokens += loss.tokens;
    OptimizerState::Outcome outcome;
    if (not_finite.empty() && !std::isfinite(loss.loss)) not_finite = "the loss";
    if (not_finite.empty()) {
      outcome = optimizer.Step(c_.stream, config, LearningRate(config, step, steps_), gradients_);
      not_finite = outcome.not_finite;
    }
    sums.grad_norm += outcome.grad_norm;
    if (outcome.applied) {
      expert_load_.UpdateBiases(c_.stream, g_.expert_bias_rate());
      c_.loaded.model->WeightsChanged(c_.stream);
      c_.publisher.MarkChanged();
    }
    AddExpertCounts(expert_load_.Read(c_.stream), sums.expert_load);
    RETURN_IF_ERROR(failpoint::Hit("trainer.optimizer"));
    return not_finite;
  }

  // In words; empty: there is none. Two finite rewards may lie too far apart.
  static std::string NotFiniteAdvantage(const ScoredGroups& batch, const std::vector<std::vector<double>>& advantages) {
    for (size_t g = 0; g < advantages.size(); ++g) {
      for (size_t i = 0; i < advantages[g].size(); ++i) {
        if (std::isfinite(advantages[g][i])) continue;
        const ScoredGroup& group = batch.groups[g];
        return absl::StrCat("the advantage of group ", group.serial, " sample ", i, " (", group.row.source, "), ", advantages[g][i]);
      }
    }
    return "";
  }

  // The first token whose log-probability is NaN, in words; empty: there is none.
  static std::string NotFiniteLogits(const Trajectory& t, absl::Span<const float> logprobs) {
    const auto found = std::find_if(logprobs.begin(), logprobs.end(), [](float logprob) { return std::isnan(logprob); });
    if (found == logprobs.end()) return "";
    return absl::StrCat("the trainer's logits: group ", t.serial, " sample ", t.sample->id().sample_index(), ", token ", found - logprobs.begin(),
                        " of the completion");
  }

  void CompareWithSampler(const Trajectory& t, absl::Span<const float> logprobs, int64_t step, UpdateSums& sums, absl::Status& mismatch) {
    for (size_t i = 0; i < logprobs.size(); ++i) {
      const double diff = std::abs(static_cast<double>(logprobs[i]) - static_cast<double>(t.rollout_logprobs[i]));
      sums.diff_sum += diff;
      ++sums.diff_tokens;
      if (diff > sums.diff_max || diff != diff) sums.diff_max = diff;
      // NaN here is no other number of the same kernels but a step to be skipped.
      if (!(diff == 0) && !std::isnan(logprobs[i]) && c_.recipe.exact_on_policy() && mismatch.ok()) {
        mismatch = absl::InternalError(absl::StrFormat(
            "exact_on_policy: stage %s step %d, group %d sample %d, token %d of the completion: the sampler's log-probability is %.9g, the trainer's %.9g",
            c_.config().name(), c_.RunStep(step), t.serial, t.sample->id().sample_index(), i, t.rollout_logprobs[i], logprobs[i]));
      }
    }
  }

  // trains: false when nothing was computed, because what would have entered the loss was not finite.
  void ReportUpdates(const UpdateSums& sums, bool trains, size_t updates, int64_t step, MetricsRow& m) {
    const double steps = static_cast<double>(std::max<size_t>(1, updates)), tokens = static_cast<double>(std::max<int64_t>(1, sums.loss.tokens));
    m.Set("loss", trains ? sums.loss.loss / steps : std::numeric_limits<double>::quiet_NaN());
    m.Set("lr", LearningRate(c_.config().optimizer(), step, steps_));
    if (!trains) return;
    m.Set("grad_norm", sums.grad_norm / steps);
    if (sums.loss.tokens > 0) {
      m.Set("policy/entropy", sums.entropy / tokens);
      m.Set("policy/kl", sums.loss.kl / tokens);
      m.Set("policy/clip_low", static_cast<double>(sums.loss.clipped_low) / tokens);
      m.Set("policy/clip_high", static_cast<double>(sums.loss.clipped_high) / tokens);
    }
    m.Set("sampling/logprob_diff_max", sums.diff_max);
    m.Set("sampling/logprob_diff_mean", sums.diff_tokens > 0 ? sums.diff_sum / static_cast<double>(sums.diff_tokens) : 0.0);
    if (const double most = MaxExpertLoad(sums.expert_load); most > 0) m.Set("moe/max_load", most);
  }

  // Metrics are over all that was sampled, records of what was trained on.
  void ReportSamples(const Batch& batch, const std::vector<std::vector<std::optional<double>>>& rewards,
                     const std::vector<std::vector<double>>& advantages, int64_t step, StepResult& result) {
    MetricsRow& m = result.metrics;
    std::vector<double> scored;
    int64_t equal = 0, without = 0, samples = 0, length_sum = 0, length_max = 0, truncated = 0;
    std::vector<double> rule_sum(batch.rule_names.size(), 0);
    std::vector<int64_t> rule_count(batch.rule_names.size(), 0), rule_missing(batch.rule_names.size(), 0);
    std::vector<int64_t> rule_errors(batch.rule_names.size(), 0), rule_timeouts(batch.rule_names.size(), 0);
    int64_t errors = 0, timeouts = 0;
    const std::vector<const ScoredGroup*> all = batch.all();
    for (const ScoredGroup* sampled : all) {
      const ScoredGroup& group = *sampled;
      const std::vector<std::optional<double>> of_group = group.rewards();
      equal += !HasSignal(of_group);
      for (size_t i = 0; i < group.samples.size(); ++i) {
        ++samples;
        if (of_group[i]) {
          scored.push_back(*of_group[i]);
        } else {
          ++without;
        }
        int64_t length = 0;
        for (bool flag : group.samples[i].sampled()) length += flag;
        length_sum += length;
        length_max = std::max(length_max, length);
        truncated += group.samples[i].finish_reason() == v1::FINISH_REASON_LENGTH;
        for (size_t r = 0; r < batch.rule_names.size(); ++r) {
          const v1::RuleResult& rule = group.scores[i].rules(static_cast<int>(r));
          if (rule.status() == v1::RULE_STATUS_SCORED) {
            rule_sum[r] += rule.score();
            ++rule_count[r];
          }
          rule_missing[r] += rule.status() == v1::RULE_STATUS_NOT_APPLICABLE;
          rule_errors[r] += rule.status() == v1::RULE_STATUS_ERROR;
          rule_timeouts[r] += rule.status() == v1::RULE_STATUS_TIMEOUT;
        }
      }
    }
    double mean = 0, variance = 0;
    for (double r : scored) mean += r / static_cast<double>(scored.size());
    for (double r : scored) variance += (r - mean) * (r - mean) / static_cast<double>(std::max<size_t>(1, scored.size() - 1));
    const double n = static_cast<double>(std::max<int64_t>(1, samples));
    if (!scored.empty()) {
      m.Set("reward/mean", mean);
      m.Set("reward/std", std::sqrt(variance));
    }
    m.Set("reward/frac_zero_std", static_cast<double>(equal) / static_cast<double>(std::max<size_t>(1, all.size())));
    for (size_t r = 0; r < batch.rule_names.size(); ++r) {
      if (rule_count[r] > 0) m.Set("rewards/" + batch.rule_names[r] + "/mean", rule_sum[r] / static_cast<double>(rule_count[r]));
      m.Set("rewards/" + batch.rule_names[r] + "/not_applicable", static_cast<double>(rule_missing[r]) / n);
    }
    m.Set("completions/mean_length", static_cast<double>(length_sum) / n);
    m.Set("completions/max_length", length_max);
    m.Set("completions/clipped_ratio", static_cast<double>(truncated) / n);
    m.Set("fault/samples_without_reward", without);
    for (size_t r = 0; r < batch.rule_names.size(); ++r) {
      m.Set("fault/rewards/" + batch.rule_names[r] + "/errors", rule_errors[r]);
      m.Set("fault/rewards/" + batch.rule_names[r] + "/timeouts", rule_timeouts[r]);
      errors += rule_errors[r];
      timeouts += rule_timeouts[r];
    }
    m.Set("fault/reward_errors", errors);
    m.Set("fault/reward_timeouts", timeouts);

    for (size_t g = 0; g < batch.groups.size(); ++g) {
      for (size_t i = 0; i < batch.groups[g].samples.size(); ++i) {
        AppendRecord(batch.groups[g], i, rewards[g][i], advantages[g][i], batch.rule_names, step, result);
      }
    }
  }

  // A line of completions.jsonl, and the sample's share of completions_digest.
  void AppendRecord(const ScoredGroup& group, size_t i, const std::optional<double>& reward, double advantage,
                    const std::vector<std::string>& rules, int64_t step, StepResult& result) {
    const v1::Sample& sample = group.samples[i];
    std::string& digest = result.digest_input;
    const uint64_t head[4] = {static_cast<uint64_t>(c_.index), group.serial, sample.id().sample_index(), static_cast<uint64_t>(sample.token_ids_size())};
    AppendBytes(digest, head, sizeof head);
    AppendBytes(digest, sample.token_ids().data(), sizeof(int32_t) * static_cast<size_t>(sample.token_ids_size()));
    AppendBytes(digest, sample.rollout_logprobs().data(), sizeof(float) * static_cast<size_t>(sample.rollout_logprobs_size()));
    const double value = reward.value_or(std::numeric_limits<double>::quiet_NaN());
    AppendBytes(digest, &value, sizeof value);
    if (!c_.recipe.logging().completions()) return;
    json::OrderedJson record;
    record["stage"] = c_.config().name();
    record["stage_step"] = step;
    record["group"] = group.serial;
    record["sample"] = sample.id().sample_index();
    record["source"] = group.row.source;
    record["prompt"] = group.prompt.text;
    record["completion"] = group.completions[i];
    record["finish"] = sample.finish_reason() == v1::FINISH_REASON_LENGTH       ? "length"
                       : sample.finish_reason() == v1::FINISH_REASON_STOP_TOKEN ? "stop_token"
                                                                                : "stop_string";
    int64_t tokens = 0;
    double logprob = 0;
    for (int t = 0; t < sample.token_ids_size(); ++t) {
      tokens += sample.sampled(t);
      logprob += static_cast<double>(sample.rollout_logprobs(t));
    }
    record["tokens"] = tokens;
    record["logprob"] = logprob;
    record["reward"] = reward ? json::OrderedJson(*reward) : json::OrderedJson(nullptr);
    record["advantage"] = advantage;
    for (size_t r = 0; r < rules.size(); ++r) {
      const v1::RuleResult& rule = group.scores[i].rules(static_cast<int>(r));
      json::OrderedJson& entry = record["rules"][rules[r]];
      entry["score"] = rule.status() == v1::RULE_STATUS_SCORED ? json::OrderedJson(rule.score()) : json::OrderedJson(nullptr);
      if (!rule.reason().empty()) entry["reason"] = rule.reason();
      if (!rule.extracted().empty()) entry["extracted"] = rule.extracted();
    }
    result.completions.push_back(json::Dump(record));
  }

  StageContext& c_;
  const v1::Grpo& g_;
  int64_t steps_;
  kernels::SamplingFilter filter_;
  TrainingPass pass_;
  Gradients gradients_;
  ExpertLoad expert_load_;
  std::unique_ptr<Model> reference_;
  std::unique_ptr<TrainingPass> reference_pass_;
  int64_t sampled_tokens_ = 0;  // of the present step
};

}  // namespace

absl::StatusOr<int64_t> CheckGrpoData(const StageContext& context, const std::function<absl::Status(const json::Json&)>& check_row) {
  constexpr int kShown = 5;
  const v1::Stage& config = context.config();
  const int64_t most = MostPromptTokens(context), generated = context.data.epoch_size() == 0 ? kProbedRows : 0;
  RETURN_IF_ERROR(StopTokenIds(context.loaded, config.grpo().sampling()).status());
  if (config.grpo().group_size() == 1 && config.grpo().kl_coef() == 0) {
    LOG(WARNING) << "stages[" << config.name() << "].grpo.group_size: 1: a completion without others to compare with has advantage 0, nothing will be learned";
  }
  int64_t fitting = 0, skipped = 0, unscorable = 0;
  UnknownTokens unknown;
  absl::Status first_unscorable;
  auto check = [&](const DataRow& row) -> absl::Status {
    ASSIGN_OR_RETURN(const PromptEncoder::Prompt prompt, context.encoder.EncodePrompt(row, &unknown));
    if (const int64_t tokens = static_cast<int64_t>(prompt.token_ids.size()); tokens > most) {
      ++skipped;
      int64_t here = 0;
      return SkipTooLong(config, row, kPrompt, tokens, most, &here);
    }
    ++fitting;
    const absl::Status scorable = Annotate(check_row(row.columns), row.source);
    if (scorable.ok()) return absl::OkStatus();
    if (first_unscorable.ok()) first_unscorable = scorable;
    if (unscorable++ < kShown) LOG(WARNING) << scorable.message();
    return absl::OkStatus();
  };
  for (const DataRow& row : context.data.file_rows()) RETURN_IF_ERROR(check(row));
  for (int64_t i = 0; i < generated; ++i) RETURN_IF_ERROR(check(context.data.TrainRow(i)));
  unknown.Warn(config.data().train().empty() ? "the generator's rows" : config.data().train());
  if (fitting == 0 && generated == 0) return absl::InvalidArgumentError(absl::StrCat(config.data().train(), ": no prompt fits the context"));
  if (fitting > 0 && unscorable == fitting) return Annotate(first_unscorable, "no row can be scored");
  if (context.data.epoch_size() > 0) {
    if (unscorable > 0) LOG(WARNING) << unscorable << " of " << fitting << " rows cannot be scored by some rule; their completions have no score from it";
    if (skipped > 0) LOG(WARNING) << config.data().train() << ": " << skipped << " prompts are longer than " << most << " tokens and are skipped";
  }
  const int64_t per_step = config.grpo().prompts_per_step();
  return config.steps() > 0 ? config.steps() : (fitting + per_step - 1) / per_step;
}

absl::StatusOr<std::unique_ptr<Stage>> MakeGrpoStage(StageContext& context, int64_t steps) {
  auto stage = std::make_unique<GrpoStage>(context, steps);
  RETURN_IF_ERROR(stage->MakeReference());
  return stage;
}

}  // namespace grouper
