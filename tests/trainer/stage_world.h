// A GRPO stage over scripted services: what was sampled and how it was scored is the test's word, everything between is real.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "common/recipe/load_recipe.h"
#include "gtest/gtest.h"
#include "trainer/grpo_stage.h"
#include "trainer/scored_groups.h"

namespace grouper {

// What a sample is scored: a reward, or none because its rule failed.
struct Scripted {
  std::optional<double> reward = std::nullopt;
  std::string extracted = "";
  bool truncated = false;
  bool broken = false;  // its logits were not numbers after two tokens
};
using Script = std::function<Scripted(uint64_t group, uint32_t sample)>;

// Each sample is two digits and, unless truncated, the end-of-sequence token.
class ScriptedRollout : public RolloutClient {
 public:
  ScriptedRollout(Script script, int32_t stop) : script_(std::move(script)), stop_(stop) {}

  absl::Status UpdateWeights(const Model&, uint64_t version, ThreadPool&) override {
    version_ = version;
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::vector<v1::Sample>>> Generate(const std::vector<v1::GenerateRequest>& groups,
                                                               std::function<void(const v1::Sample&)>, AtStop) override {
    std::vector<std::vector<v1::Sample>> all;
    for (const v1::GenerateRequest& group : groups) {
      serials.push_back(group.group_serial());
      std::vector<v1::Sample>& samples = all.emplace_back();
      for (uint32_t index : group.sample_indices()) {
        v1::Sample& sample = samples.emplace_back();
        sample.mutable_id()->set_group_serial(group.group_serial());
        sample.mutable_id()->set_sample_index(index);
        for (int32_t token : group.prompt_token_ids()) Append(sample, token, false);
        const Scripted script = script_(group.group_serial(), index);
        Append(sample, 5 + static_cast<int32_t>(index % 3), true);
        Append(sample, 6, true);
        if (!script.truncated && !script.broken) Append(sample, stop_, true);
        sample.set_finish_reason(script.broken      ? v1::FINISH_REASON_NOT_FINITE
                                 : script.truncated ? v1::FINISH_REASON_LENGTH
                                                    : v1::FINISH_REASON_STOP_TOKEN);
      }
    }
    return all;
  }
  RolloutFaults faults() const override { return {}; }

  std::vector<uint64_t> serials;  // of all groups asked for

 private:
  static void Append(v1::Sample& sample, int32_t token, bool sampled) {
    sample.add_token_ids(token);
    sample.add_sampled(sampled);
    sample.add_rollout_logprobs(sampled ? -2.5f : 0);
  }
  Script script_;
  int32_t stop_;
  uint64_t version_ = 0;
};

class ScriptedReward : public RewardClient {
 public:
  explicit ScriptedReward(Script script) : script_(std::move(script)) {}

  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request, AtStop) override {
    ++calls;
    v1::ScoreResponse response;
    for (const std::string& name : rule_names) {
      response.add_rule_names(name);
      response.add_weights(1);
    }
    for (const v1::ScoreGroup& group : request.groups()) {
      v1::GroupScore* scores = response.add_groups();
      for (int i = 0; i < group.completions_size(); ++i) {
        const Scripted s = script_(group.group_serial(), static_cast<uint32_t>(i));
        v1::CompletionScore* score = scores->add_completions();
        score->set_has_reward(s.reward.has_value());
        score->set_reward(s.reward.value_or(0));
        for (size_t r = 1; r < rule_names.size(); ++r) score->add_rules()->set_status(v1::RULE_STATUS_NOT_APPLICABLE);
        v1::RuleResult* rule = score->add_rules();
        rule->set_status(s.reward ? v1::RULE_STATUS_SCORED : v1::RULE_STATUS_ERROR);
        rule->set_score(s.reward.value_or(0));
        rule->set_extracted(s.extracted);
      }
    }
    return response;
  }
  std::vector<std::string> RuleNames() override { return rule_names; }
  int64_t retries() const override { return 0; }

  int calls = 0;
  std::vector<std::string> rule_names = {"correct"};  // the script is the last one's word, the others are not applicable

 private:
  Script script_;
};

// The quickstart's model and an addition stage of 2 prompts with 4 samples each; `overrides` as in --set.
struct StageWorld {
  explicit StageWorld(Script script, std::vector<std::string> overrides = {}) : threads(1), stream(threads), reward(script) {
    for (const char* fixed : {"exact_on_policy=false", "stages[rl].grpo.prompts_per_step=2", "stages[rl].grpo.group_size=4",
                              "stages[rl].grpo.kl_coef=0", "stages[rl].optimizer.warmup_steps=0"}) {
      overrides.insert(overrides.begin(), fixed);
    }
    auto made = LoadRecipe(std::string(GROUPER_SOURCE_DIR) + "/tests/e2e/tiny.textproto", overrides);
    EXPECT_TRUE(made.ok()) << made.status();
    recipe = *made;
    LoadOptions options;
    options.tokenizer = recipe.model().tokenizer();
    options.max_context = recipe.model().max_context();
    options.dtype = recipe.model().dtype() == "bfloat16" ? DType::kBF16 : DType::kF32;
    auto model = InitModel(recipe.model().config(), options, 1, threads);
    EXPECT_TRUE(model.ok()) << model.status();
    loaded = std::move(*model);
    rollout = std::make_unique<ScriptedRollout>(script, loaded.stop_token_ids[0]);
    publisher = std::make_unique<WeightPublisher>(*loaded.model, *rollout, threads);
    data = *Dataset::Open(recipe.stages(1).data(), recipe.seed(), 1, "");
    encoder = std::make_unique<PromptEncoder>(*PromptEncoder::Create(recipe.prompt(), loaded.tokenizer));
    context.reset(new StageContext{recipe, 1, loaded, stream, *rollout, reward, *publisher, *data, *encoder, RealClock(), {}});
    optimizer = std::make_unique<OptimizerState>(*loaded.model, stream);
  }

  absl::Status Step() {
    if (stage == nullptr) {
      auto made = MakeGrpoStage(*context, recipe.stages(1).steps());
      EXPECT_TRUE(made.ok()) << made.status();
      stage = *std::move(made);
    }
    result = {};
    return stage->Step(state, *optimizer, result);
  }
  double Metric(const std::string& name) const { return result.metrics.Number(name, -1); }
  std::string WeightBits() { return Hex(WeightsDigest(*loaded.model, threads)); }
  // Weights, moments and the number of steps taken.
  std::string TrainingBits() {
    Sha256Stream bits;
    bits.Update(WeightBits());
    for (const OptimizerState::Named& named : optimizer->tensors()) {
      bits.Update({static_cast<const char*>(named.tensor.raw()), static_cast<size_t>(named.tensor.size()) * SizeOf(named.tensor.dtype())});
    }
    return absl::StrCat(Hex(bits.Finish()), " ", optimizer->steps_applied());
  }

  v1::Recipe recipe;
  ThreadPool threads;
  Stream stream;
  LoadedModel loaded;
  ScriptedReward reward;
  std::unique_ptr<ScriptedRollout> rollout;
  std::unique_ptr<WeightPublisher> publisher;
  std::unique_ptr<Dataset> data;
  std::unique_ptr<PromptEncoder> encoder;
  std::unique_ptr<StageContext> context;
  std::unique_ptr<OptimizerState> optimizer;
  std::unique_ptr<Stage> stage;
  StageState state;
  StepResult result;
};

}  // namespace grouper
