#include "reward/score_file.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "cli/output_option.h"
#include "common/base/address.h"
#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/rpc/server.h"
#include "trainer/reward_client.h"

namespace grouper::cli {
namespace {

absl::Status Run(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const int64_t num_threads, arguments.GetInt("threads", 0, 4096));
  RETURN_IF_ERROR(CheckOutput(arguments, {"input", "rules"}));
  ThreadPool threads(static_cast<int>(num_threads));
  ASSIGN_OR_RETURN(const RulesFile file, LoadRulesFile(arguments.Get("rules")));
  const v1::Reward& config = file.reward;
  ScoreSummary summary;
  if (!config.address().empty()) {  // somebody else's service
    RETURN_IF_ERROR(file.Locate(Annotate(CheckPeerAddress(config.address()), "reward.address")));
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = OpenChannel(config.address(), config.tls(), "reward.tls");
    if (!channel.ok()) return file.Locate(channel.status());
    RewardClient::Options options;
    if (config.timeout_seconds() > 0) options.timeout = absl::Seconds(config.timeout_seconds());
    options.give_up = std::min(options.timeout, absl::Seconds(30));
    const std::unique_ptr<RewardClient> client = RewardClient::Create(config.address(), *std::move(channel), options);
    const Scorer scorer = [&](const v1::ScoreRequest& request) { return client->Score(request, AtStop::kFinish); };
    ASSIGN_OR_RETURN(summary, ScoreFile(scorer, arguments.Get("input"), arguments.Get("output")));
  } else {
    ASSIGN_OR_RETURN(const std::unique_ptr<RuleSet> rules, LoadRuleSet(arguments.Get("rules"), arguments.GetAll("rules-library")));
    ASSIGN_OR_RETURN(summary, ScoreFile(*rules, arguments.Get("input"), arguments.Get("output"), &threads));
  }
  const std::string mean = summary.rewarded == 0 ? "none with a reward" :
      absl::StrFormat("mean reward %.4f over %d with a reward", summary.reward_sum / static_cast<double>(summary.rewarded), summary.rewarded);
  std::printf("%llu lines, %s\n", static_cast<unsigned long long>(summary.lines), mean.c_str());
  for (size_t i = 0; i < summary.rules.size(); ++i) {
    const ScoreSummary::RuleSummary& rule = summary.rules[i];
    const std::string rule_mean = rule.scored == 0 ? "nothing scored" : absl::StrFormat("mean %.4f", rule.sum / static_cast<double>(rule.scored));
    std::printf("  %-20s %s  scored %llu  not applicable %llu  errors %llu  time-outs %llu\n", summary.rule_names[i].c_str(),
                rule_mean.c_str(), static_cast<unsigned long long>(rule.scored),
                static_cast<unsigned long long>(rule.not_applicable), static_cast<unsigned long long>(rule.errors),
                static_cast<unsigned long long>(rule.timeouts));
  }
  return absl::OkStatus();
}

}  // namespace

const Command kScore = {
    "score",
    "",
    "score completions in a file by reward rules, offline",
    "RULES is the text of a recipe's `reward` block. An input line has `completion` (or `response`, `prediction`), `answer` (or `gold`) where a\n"
    "rule needs one, and any other column. `num_tokens` is what the length rules (overlong, cosine_length, group_length) count: a line without it counts\n"
    "its words, which are fewer than the tokens that a run counts. An output line has `id`, `reward` and `rules`. See recipes/rules/ for ready blocks.",
    {
        {.name = "rules", .placeholder = "RULES", .help = "rules as protobuf text", .default_text = "", .required = true},
        {.name = "input", .placeholder = "FILE", .help = "cases as JSON lines", .default_text = "", .required = true},
        {.name = "output", .placeholder = "FILE", .help = "scores as JSON lines", .default_text = "", .required = true},
        {.name = "rules-library", .placeholder = "FILE", .help = "shared library for library rules without a path", .default_text = "", .repeated = true},
        {.name = "threads", .placeholder = "N", .help = "CPU threads; 0: one per core", .default_text = "0"},
    },
    Run,
};

}  // namespace grouper::cli
