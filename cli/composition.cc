#include "cli/composition.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "common/tensor/cuda.h"
#include "reward/reward_service.h"
#include "rollout/rollout_service.h"
#include "trainer/service_check.h"

namespace grouper::cli {
namespace {

// Scoring in this process takes as long as its rules do, each of which has a limit of its own for a completion; this is only the backstop that
// every call has.
constexpr absl::Duration kOwnScoringBackstop = absl::Hours(24);

// Between the first worker that is reached and the others, before all are asked what they are.
constexpr absl::Duration kOthersToo = absl::Seconds(1);

using Peers = std::vector<std::pair<std::string, std::shared_ptr<grpc::Channel>>>;

std::string Names(const Peers& peers) {
  return absl::StrJoin(peers, ", ", [](std::string* out, const auto& peer) { out->append(peer.first); });
}

}  // namespace

absl::StatusOr<LoadedModel> LoadRecipeModel(const v1::Recipe& recipe, ThreadPool& threads, WeightUse use) {
  const v1::ModelSource& source = recipe.model();
  LoadOptions options;
  options.dtype = source.dtype() == "bfloat16" ? DType::kBF16 : DType::kF32;
  ASSIGN_OR_RETURN(options.device, Annotate(FindDevice(source.device()), "model"));
  options.tokenizer = source.tokenizer();
  options.max_context = source.max_context();
  options.use = use;
  if (!source.config().empty()) return InitModel(source.config(), options, recipe.seed(), threads);
  return LoadModel(source.path(), options, threads);
}

absl::StatusOr<std::unique_ptr<Composition>> Composition::Create(const v1::Recipe& recipe, const std::string& rules_folder,
                                                                 const std::vector<std::string>& rules_libraries,
                                                                 const std::function<absl::Status(const LoadedModel&)>& loaded, WeightUse use,
                                                                 std::function<bool()> stop_requested) {
  std::unique_ptr<Composition> parts(new Composition);
  parts->stop_requested_ = std::move(stop_requested);
  parts->exact_on_policy_ = recipe.exact_on_policy();
  parts->threads_ = std::make_unique<ThreadPool>(recipe.threads());
  if (recipe.reward().rules().empty()) {
    parts->rules_ = RuleSet::None();  // nothing is scored, or not here (LoadRecipe)
  } else {
    ASSIGN_OR_RETURN(parts->rules_, RuleSet::Create(recipe.reward(), rules_folder, rules_libraries));
  }
  ASSIGN_OR_RETURN(parts->loaded_, LoadRecipeModel(recipe, *parts->threads_, use));
  if (loaded) RETURN_IF_ERROR(loaded(parts->loaded_));

  std::vector<grpc::Service*> local;
  const bool own_rollout = recipe.rollout().addresses().empty(), own_reward = recipe.reward().address().empty();
  if (own_rollout) {
    RolloutServiceOptions options;
    options.engine.max_batch_tokens = recipe.rollout().max_batch_tokens();
    options.engine.max_sequences = recipe.rollout().max_sequences();
    options.engine.cache_pages = recipe.rollout().cache_pages();
    options.shared_weights = true;
    if (parts->loaded_.model->device().is_cuda()) {
      parts->memory_ = std::make_shared<TurnMemory>(parts->loaded_.model->device(), Engine::CacheBytes(*parts->loaded_.model, options.engine));
      options.engine.memory = parts->memory_;
    }
    ASSIGN_OR_RETURN(parts->rollout_service_,
                     MakeRolloutService(*parts->loaded_.model, parts->loaded_.tokenizer, *parts->threads_, options));
    local.push_back(parts->rollout_service_.get());
  }
  if (own_reward) {
    parts->reward_service_ = CreateRewardService(parts->rules_.get(), parts->threads_.get());
    local.push_back(parts->reward_service_.get());
  }
  if (!local.empty()) {
    ASSIGN_OR_RETURN(parts->server_, RpcServer::Start("", {}, local));
  }

  std::vector<RolloutClient::Worker> workers;
  if (own_rollout) workers.push_back({"in-process rollout worker", parts->server_->InProcessChannel(), true});
  for (const std::string& address : recipe.rollout().addresses()) {
    ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, OpenChannel(address, recipe.rollout().tls(), "rollout.tls"));
    parts->remote_workers_.emplace_back(address, channel);
    workers.push_back({address, std::move(channel), false});
  }
  RolloutClient::Options rollout_options;
  rollout_options.timeout = absl::Seconds(recipe.rollout().timeout_seconds());
  rollout_options.exact_on_policy = recipe.exact_on_policy();
  rollout_options.stop_requested = parts->stop_requested_;
  ASSIGN_OR_RETURN(parts->rollout_client_, RolloutClient::Create(std::move(workers), rollout_options));

  std::shared_ptr<grpc::Channel> reward_channel;
  if (own_reward) {
    reward_channel = parts->server_->InProcessChannel();
  } else {
    ASSIGN_OR_RETURN(reward_channel, OpenChannel(recipe.reward().address(), recipe.reward().tls(), "reward.tls"));
    parts->remote_rewards_.emplace_back(recipe.reward().address(), reward_channel);
  }
  RewardClient::Options reward_options;
  reward_options.timeout = own_reward ? kOwnScoringBackstop : absl::Seconds(recipe.reward().timeout_seconds());
  reward_options.stop_requested = parts->stop_requested_;
  for (const v1::Rule& rule : recipe.reward().rules()) reward_options.recipe_rules.emplace_back(RuleName(rule), RuleWeight(rule));
  parts->reward_client_ = RewardClient::Create(own_reward ? "in-process reward service" : recipe.reward().address(),
                                               std::move(reward_channel), reward_options);
  return parts;
}

absl::Status Composition::WaitForServices(absl::Duration patience) const {
  const absl::Time end = absl::Now() + patience;
  const struct {
    const char* what;
    const char* field;
    const Peers& peers;
  } kinds[] = {{"rollout worker", "rollout.addresses", remote_workers_}, {"reward service", "reward.address", remote_rewards_}};
  for (const auto& kind : kinds) {
    const auto reached = [](const auto& peer) { return peer.second->GetState(/*try_to_connect=*/true) == GRPC_CHANNEL_READY; };
    while (!kind.peers.empty() && std::none_of(kind.peers.begin(), kind.peers.end(), reached)) {
      const std::string names = Names(kind.peers);
      if (stop_requested_ && stop_requested_()) return absl::CancelledError(absl::StrCat("stopped while waiting for a ", kind.what, " (", names, ")"));
      if (absl::Now() >= end) {
        return absl::UnavailableError(absl::StrCat("no ", kind.what, " can be reached within ", absl::FormatDuration(patience), ": ", names, " (", kind.field, ")"));
      }
      // Works on the connection, where sleeping would leave it to gRPC's own poller, which comes by every five seconds.
      for (const auto& peer : kind.peers) peer.second->WaitForConnected(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
    }
  }
  const auto soon = std::chrono::system_clock::now() + absl::ToChronoMilliseconds(kOthersToo);
  for (const auto& [address, channel] : remote_workers_) {
    if (channel->WaitForConnected(soon)) RETURN_IF_ERROR(CheckRolloutWorker(address, channel, *loaded_.model, exact_on_policy_));
  }
  for (const auto& [address, channel] : remote_rewards_) RETURN_IF_ERROR(CheckRewardService(address, channel));
  return absl::OkStatus();
}

std::string Composition::RemoteServices() const {
  std::vector<std::string> all;
  if (!remote_workers_.empty()) all.push_back(absl::StrCat("rollout.addresses ", Names(remote_workers_)));
  if (!remote_rewards_.empty()) all.push_back(absl::StrCat("reward.address ", Names(remote_rewards_)));
  return absl::StrJoin(all, ", ");
}

Composition::~Composition() {
  // Clients first, then the server, then what it serves.
  rollout_client_.reset();
  reward_client_.reset();
  if (server_ != nullptr) server_->Shutdown(1.0);
}

}  // namespace grouper::cli
