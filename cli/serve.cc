#include <cstdio>

#include "cli/commands.h"
#include "cli/composition.h"
#include "cli/memory_plan.h"
#include "cli/stop_signal.h"
#include "common/base/address.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/recipe/load_recipe.h"
#include "common/rpc/credentials.h"
#include "reward/reward_service.h"
#include "rollout/rollout_service.h"

namespace grouper::cli {
namespace {

// Serves until SIGTERM or SIGINT.
absl::Status ServeUntilStopped(const std::string& what, const std::string& listen, const v1::Credentials& tls, grpc::Service* service) {
  StopFlag();
  ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server, RpcServer::Start(listen, tls, {service}));
  std::printf("%s service listening on %s\n", what.c_str(), server->ListensOn().c_str());
  WaitForStop();
  LOG(INFO) << what << " service stopping";
  server->Shutdown(5.0);
  return absl::OkStatus();
}

absl::Status Serve(const Arguments& arguments, const v1::Recipe& recipe) {
  const std::string listen = arguments.Get("listen"), what = arguments.positional(0);
  if (what != "reward" && what != "rollout") return absl::InvalidArgumentError("serve " + what + ": expected rollout or reward");
  const v1::Credentials& tls = what == "reward" ? recipe.reward().tls() : recipe.rollout().tls();
  RETURN_IF_ERROR(ReadCredentials(tls, what + ".tls").status());  // before a model is loaded, and by the field's name
  ThreadPool threads(recipe.threads());
  if (what == "reward") {
    ASSIGN_OR_RETURN(const std::unique_ptr<RuleSet> rules, RuleSet::Create(recipe.reward(), "", arguments.GetAll("rules-library")));
    const auto service = CreateRewardService(rules.get(), &threads);
    return ServeUntilStopped(what, listen, tls, service.get());
  }
  // The weights are replaced by the trainer's first update; until then nothing is served.
  ASSIGN_OR_RETURN(LoadedModel loaded, LoadRecipeModel(recipe, threads, WeightUse::kForward));
  RETURN_IF_ERROR(PlanWorkerMemory(recipe, *loaded.model, MeasureMachine(*loaded.model)).Check("the worker"));
  RolloutServiceOptions options;
  options.engine.max_batch_tokens = recipe.rollout().max_batch_tokens();
  options.engine.max_sequences = recipe.rollout().max_sequences();
  options.engine.cache_pages = recipe.rollout().cache_pages();
  ASSIGN_OR_RETURN(const auto service, MakeRolloutService(*loaded.model, loaded.tokenizer, threads, options));
  return ServeUntilStopped(what, listen, tls, service.get());
}

absl::Status Run(const Arguments& arguments) {
  RETURN_IF_ERROR(Annotate(CheckListenAddress(arguments.Get("listen")), "--listen"));
  TextLocations locations;
  ASSIGN_OR_RETURN(const v1::Recipe recipe, LoadRecipe(arguments.Get("recipe"), arguments.GetAll("set"), &locations));
  return locations.Locate(recipe, Serve(arguments, recipe));
}

}  // namespace

const Command kServe = {
    "serve",
    "SERVICE",
    "run one service of a recipe: rollout or reward",
    "The trainer reaches it by --set rollout.addresses=HOST:PORT,... or --set reward.address=HOST:PORT. Without TLS in the recipe the address\n"
    "must be loopback. Stops on SIGTERM.",
    {
        {.name = "recipe", .placeholder = "RECIPE", .help = "the run's recipe", .default_text = "", .required = true},
        {.name = "listen", .placeholder = "HOST:PORT", .help = "address to listen on, or unix:PATH; port 0: any free one", .default_text = "", .required = true},
        {.name = "set", .placeholder = "FIELD=VALUE", .help = "override a field of the recipe", .default_text = "", .repeated = true},
        {.name = "rules-library", .placeholder = "FILE", .help = "shared library for library rules without a path", .default_text = "", .repeated = true},
    },
    Run,
};

}  // namespace grouper::cli
