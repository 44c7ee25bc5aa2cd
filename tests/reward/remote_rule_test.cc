// The fourth way of docs/custom_rules.md: the example server in Python answers our protocol. Skips where grpcio is not installed.
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc/context.h"
#include "common/rpc/server.h"
#include "gtest/gtest.h"
#include "proto/reward.grpc.pb.h"
#include "reward/child_process.h"
#include "reward/score_file.h"

namespace grouper {
namespace {

// Runs a shell command that prints one line.
std::string FirstLine(const std::string& command) {
  auto child = ChildProcess::Start({{"/bin/sh", "-c", absl::StrCat("read line; ", command)}, 0});
  if (!child.ok()) return "";
  const auto line = (*child)->Ask("go", absl::Seconds(60));
  return line.ok() ? *line : "";
}

TEST(RemoteRule, TheExampleServerInPythonAnswersOurProtocol) {
  if (FirstLine("/usr/bin/python3 -c 'import grpc, grpc_tools.protoc; print(\"there\")'") != "there") {
    GTEST_SKIP() << "python3-grpcio and python3-grpc-tools are not installed";
  }
  const std::string folder = absl::StrCat(testing::TempDir(), "/grouper_remote_rule_", getpid());
  const std::string generated = FirstLine(absl::StrCat("mkdir -p ", folder, " && cd ", GROUPER_SOURCE_DIR, " && /usr/bin/python3 -m grpc_tools.protoc -I . --python_out=", folder,
                                                       " --grpc_python_out=", folder, " proto/reward.proto && echo done"));
  ASSERT_EQ(generated, "done");
  const int port = 20000 + getpid() % 20000;
  const std::string address = absl::StrCat("127.0.0.1:", port);
  auto server = ChildProcess::Start({{"/bin/sh", "-c", absl::StrCat("cd ", folder, " && read line && exec /usr/bin/python3 ", GROUPER_SOURCE_DIR,
                                                                   "/recipes/rules/examples/remote_rule_server.py --listen ", address)}, 0});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto ready = (*server)->Ask("go", absl::Seconds(60));
  ASSERT_TRUE(ready.ok()) << ready.status();
  EXPECT_EQ(*ready, absl::StrCat("listening on ", address));

  auto channel = OpenChannel(address, v1::Credentials());
  ASSERT_TRUE(channel.ok()) << channel.status();
  // A first connection may fail: gRPC 1.51 reads errno after it was overwritten (grpc/grpc#35064).
  ASSERT_TRUE((*channel)->WaitForConnected(absl::ToChronoTime(absl::Now() + absl::Seconds(30))));
  const auto stub = v1::RewardService::NewStub(*channel);
  v1::ScoreRequest request;
  request.set_request_id(7);
  v1::ScoreGroup* group = request.add_groups();
  group->set_group_serial(3);
  group->set_row_json(R"({"answer": "4"})");
  for (const int tokens : {50, 150}) {
    v1::ScoreCompletion* completion = group->add_completions();
    completion->set_text("\xff any bytes");
    completion->set_num_tokens(static_cast<uint32_t>(tokens));
  }
  v1::ScoreResponse response;
  const auto context = MakeClientContext(absl::Seconds(30));
  const grpc::Status status = stub->Score(context.get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.request_id(), 7u);
  ASSERT_EQ(response.groups_size(), 1);
  EXPECT_EQ(response.groups(0).group_serial(), 3u);
  ASSERT_EQ(response.groups(0).completions_size(), 2);
  EXPECT_EQ(response.groups(0).completions(0).reward(), 1);
  EXPECT_EQ(response.groups(0).completions(1).reward(), 0);
  EXPECT_TRUE(response.groups(0).completions(1).has_reward());
  v1::RewardStatus state;
  const auto status_context = MakeClientContext(absl::Seconds(30));
  ASSERT_TRUE(stub->GetStatus(status_context.get(), {}, &state).ok());
  EXPECT_EQ(state.rule_names(0), "short");

  // `grouper score` over it: the names come with the answers.
  const std::string input = testing::TempDir() + "/remote_cases.jsonl", output = testing::TempDir() + "/remote_scores.jsonl";
  std::ofstream(input) << "{\"completion\": \"a b c\"}\n{\"completion\": \"x\", \"num_tokens\": 101}\n";
  const Scorer scorer = [&](const v1::ScoreRequest& cases) -> absl::StatusOr<v1::ScoreResponse> {
    v1::ScoreResponse scores;
    const auto score_context = MakeClientContext(absl::Seconds(30));
    if (!stub->Score(score_context.get(), cases, &scores).ok()) return absl::InternalError("the call failed");
    return scores;
  };
  const auto summary = ScoreFile(scorer, input, output);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->lines, 2u);
  EXPECT_EQ(summary->reward_sum, 1);
  ASSERT_EQ(summary->rule_names.size(), 1u);
  EXPECT_EQ(summary->rule_names[0], "short");
}

}  // namespace
}  // namespace grouper
