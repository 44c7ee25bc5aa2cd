// Composition: the parts of a run, wired as the recipe says. What has an address is reached there; the rest runs in this process behind an
// in-process channel, so that there is one code path.
//
//   recipe ─► model + tokenizer ─► RolloutService ─► RolloutClient ┐
//             rules ─► RewardService ─► RewardClient ──────────────┴─► the trainer
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/thread_pool.h"
#include "common/model/model_directory.h"
#include "common/tensor/turn_memory.h"
#include "common/rpc/server.h"
#include "proto/recipe.pb.h"
#include "proto/reward.grpc.pb.h"
#include "proto/rollout.grpc.pb.h"
#include "reward/rule.h"
#include "trainer/reward_client.h"
#include "trainer/rollout_client.h"

namespace grouper::cli {

// The recipe's model, from its path or at random from its config.
// use: kForward where nothing trains it.
absl::StatusOr<LoadedModel> LoadRecipeModel(const v1::Recipe& recipe, ThreadPool& threads, WeightUse use);

class Composition {
 public:
  // Loads everything and connects. Rules are made (and thereby checked) in any case; a remote reward service must have the same rules.
  // rules_folder: where relative paths in the rules begin (LoadRecipe has made a recipe's absolute).
  // rules_libraries: --rules-library.
  // use: of the model's weights, LoadRecipeModel's.
  // loaded: called when the model is there and before anything else takes memory; its error ends the creation. May be empty.
  // stop_requested: ends a wait for services that are away. May be empty.
  static absl::StatusOr<std::unique_ptr<Composition>> Create(const v1::Recipe& recipe, const std::string& rules_folder = "",
                                                             const std::vector<std::string>& rules_libraries = {},
                                                             const std::function<absl::Status(const LoadedModel&)>& loaded = {},
                                                             WeightUse use = WeightUse::kTrain, std::function<bool()> stop_requested = {});
  ~Composition();

  ThreadPool& threads() { return *threads_; }
  LoadedModel& loaded() { return loaded_; }
  const RuleSet& rules() const { return *rules_; }
  RolloutClient& rollout() { return *rollout_client_; }
  RewardClient& reward() { return *reward_client_; }
  // The in-process worker's cache, which training may have while nothing is sampled; null on the CPU and with workers elsewhere.
  TurnMemory* memory() { return memory_.get(); }

  // Waits until the remote reward service and one of the remote rollout workers can be reached, and asks all that answer whether they are what the
  // recipe needs (trainer/service_check.h). Unavailable: not within `patience`; the message names them. A run asks before it begins: a wrong address
  // should not cost the stages before the one that needs it.
  absl::Status WaitForServices(absl::Duration patience) const;
  // The addresses of the remote services with their fields in the recipe, for people; empty: there is none.
  std::string RemoteServices() const;

 private:
  Composition() = default;
  std::unique_ptr<ThreadPool> threads_;
  LoadedModel loaded_;
  std::shared_ptr<TurnMemory> memory_;
  std::unique_ptr<RuleSet> rules_;
  std::unique_ptr<v1::RolloutService::Service> rollout_service_;
  std::unique_ptr<v1::RewardService::Service> reward_service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<RolloutClient> rollout_client_;
  std::unique_ptr<RewardClient> reward_client_;
  std::vector<std::pair<std::string, std::shared_ptr<grpc::Channel>>> remote_workers_, remote_rewards_;  // by address
  bool exact_on_policy_ = true;
  std::function<bool()> stop_requested_;
};

}  // namespace grouper::cli
