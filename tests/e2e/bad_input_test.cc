// What a user gets wrong, or the world does: an error that names the place, an exit code that is not 0, no crash, no hang.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/testing/process.h"
#include "tests/testing/service.h"

namespace grouper::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string directory = FreshDirectory("files");
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/" + name, std::ios::binary) << text;
  return directory + "/" + name;
}

Outcome RunTiny(std::vector<std::string> sets, const std::map<std::string, std::string>& environment = {}) {
  std::vector<std::string> argv = {GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", FreshDirectory("bad")};
  for (const std::string& set : sets) {
    argv.push_back("--set");
    argv.push_back(set);
  }
  return RunProgram(argv, 60, environment);
}

TEST(BadInputTest, AnEvaluationByARuleThatTheRewardServiceLacksIsSaidBeforeTheFirstStep) {
  Service reward("reward", 0);
  const Outcome outcome = RunTiny({"reward.address=" + reward.address(), "stages[rl].eval.rule=theirs"});
  EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
  EXPECT_THAT(outcome.output, ::testing::AllOf(HasSubstr("stages[rl]"), HasSubstr("\"theirs\""), HasSubstr(reward.address()),
                                               HasSubstr("\"low_pair\", \"plus\", \"correct\""), ::testing::Not(HasSubstr("step"))));
}

TEST(BadInputTest, AServiceThatIsNotTheRunsIsRefusedBeforeTheFirstStep) {
  const std::string config = SourcePath("tests/golden/models/qwen3/config.json");
  Service good("rollout", 0), rewards("reward", 0), bf16("rollout", 0, {}, {"model.dtype=bfloat16"}), other("rollout", 0, {}, {"model.config=" + config});
  const struct {
    std::string set, expected;
  } cases[] = {
      {"rollout.addresses=" + bf16.address(), "exact_on_policy needs the same"},
      {"rollout.addresses=" + good.address() + "," + other.address(), "other names, types or shapes"},
      {"rollout.addresses=" + rewards.address(), "another service answers at this address"},
      {"reward.address=" + good.address(), "another service answers at this address"},
  };
  for (const auto& c : cases) {
    const std::string out = FreshDirectory("wrong_service"), field = c.set.substr(0, c.set.find('=')), address = c.set.substr(c.set.find_last_of("=,") + 1);
    const Outcome outcome = RunProgram({GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", out, "--set", c.set}, 60);
    EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
    EXPECT_THAT(outcome.output, ::testing::AllOf(HasSubstr("--set " + c.set + ": " + field + ": "), HasSubstr(address), HasSubstr(c.expected)));
    EXPECT_FALSE(std::filesystem::exists(out)) << c.set;
  }
}

TEST(BadInputTest, EveryMistakeIsNamedAndEndsWithOne) {
  const std::string rows = WriteFile("rows.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n{\"prompt\": \"1+2=\", \"answer\": \"3\"\n");
  const std::string no_answer = WriteFile("no_answer.jsonl", "{\"prompt\": \"1+1=\"}\n");
  const std::string long_prompt = WriteFile("long.jsonl", "{\"prompt\": \"" + std::string(100, '1') + "\", \"answer\": \"2\"}\n");
  const std::string no_completion = WriteFile("no_completion.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n");
  const std::string no_prompt = WriteFile("no_prompt.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n{\"answer\": \"2\"}\n");
  const std::string rows_of_good = WriteFile("good.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n");
  const std::string config = WriteFile("config.json", "{\"architectures\": [\"MambaForCausalLM\"]}");
  const std::string tokenizer = WriteFile("tokenizer.json", "{\"model\": {}}");
  const struct {
    std::vector<std::string> sets;
    std::string expected;
  } cases[] = {
      {{"stages[rl].stepz=1"}, "no field \"stepz\""},
      {{"stages[rl].optimizer.lr=-1"}, "--set stages[rl].optimizer.lr=-1: stages[rl].optimizer.lr: -1, expected more than 0"},
      {{"stages[rl].data.generator.addition.digits=77"}, "addition.digits"},
      {{"model.config=/nonexistent/config.json"}, "/nonexistent/config.json"},
      {{"model.config=" + config}, "MambaForCausalLM"},
      {{"model.tokenizer=" + tokenizer}, tokenizer},
      {{"reward.rules[0].regex.pattern=(("}, "pattern"},
      {{"rollout.addresses=127.0.0.1:1"}, "no rollout worker can be reached within 30s: 127.0.0.1:1"},
      {{"reward.address=127.0.0.1:1"}, "no reward service can be reached within 30s: 127.0.0.1:1"},
      {{"stages[rl].data.train=" + rows}, "rows.jsonl:2"},  // in the generator's place
      {{"stages[rl].data.fields[answer]=final"}, "stages[rl].data.fields"},
      {{"rollout.addresses=8.8.8.8:1"}, "not loopback"},
      {{"rollout.cache_pages=1"}, "cache_pages"},
      {{"stages[sft].eval.rule=nope"}, "nope"},
      {{"name=../elsewhere"}, "name"},
      {{"model.max_context=4"}, "addition:0"},  // no generated row fits
      {{"model.max_context=4", "stages[sft].data.too_long=skip"}, "stages[rl]"},  // said before the first stage runs
      {{"stages[rl].eval.sampling.stop_tokens=<nope>"}, "<nope>"},
      {{"stages[rl].grpo.sampling.stop_strings=,"}, "stop_strings"},
      {{"stages[rl].grpo.sampling.top_p=1e-300"}, "top_p"},
      {{"stages[rl].grpo.sampling.temperature=nan"}, "temperature"},
      {{"stages[rl].steps=2147483647"}, "steps"},
      {{"stages[rl].grpo.group_size=-1"}, "group_size"},
      {{"stages[rl].grpo.updates_per_batch=5"}, "updates_per_batch"},
      {{"checkpoint.keep_last=-1"}, "keep_last"},
      {{"threads=-1"}, "threads"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = RunTiny(c.sets);
    EXPECT_EQ(outcome.exit_code, 1) << c.sets[0] << "\n" << outcome.output;
    EXPECT_FALSE(outcome.timed_out) << c.sets[0];
    EXPECT_THAT(outcome.output, HasSubstr(c.expected)) << c.sets[0];
  }
  // Files instead of the generator need a recipe of their own.
  const struct {
    std::string stage, train, expected;
  } files[] = {
      {"grpo { prompts_per_step: 1 group_size: 2 }", rows, "rows.jsonl:2"},
      {"grpo { prompts_per_step: 1 group_size: 2 }", no_answer, "no_answer.jsonl:1"},
      {"grpo { prompts_per_step: 1 group_size: 2 }", long_prompt, "long.jsonl:1"},
      {"sft { batch_size: 1 }", no_completion, "no_completion.jsonl:1"},
      {"sft { batch_size: 1 }", "/nonexistent.jsonl", "/nonexistent.jsonl"},
      {"grpo { prompts_per_step: 1 group_size: 2 }", "/dev/zero", "expected a regular file"},
      // A held-out row that would fail after the last step.
      {"grpo { prompts_per_step: 1 group_size: 2 } eval { at_end: true }", rows_of_good + "\" eval: \"" + no_prompt, "no_prompt.jsonl:2"},
  };
  for (const auto& f : files) {
    const std::string recipe = WriteFile(
        "r.textproto", absl::StrCat("model { config: \"", SourcePath("recipes/quickstart/config.json"), "\" tokenizer: \"",
                                    SourcePath("recipes/quickstart/tokenizer.json"), "\" }\nstages { name: \"s\" steps: 1 data { train: \"", f.train,
                                    "\" } optimizer { lr: 1e-3 } ", f.stage, " }\nreward { rules { name: \"correct\" exact {} } }\n"));
    const Outcome outcome = RunProgram({GrouperBinary(), "run", recipe, "--out", FreshDirectory("bad")}, 60);
    EXPECT_EQ(outcome.exit_code, 1) << f.expected << "\n" << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(f.expected));
    const Outcome dry = RunProgram({GrouperBinary(), "run", recipe, "--dry-run"}, 60);
    EXPECT_EQ(dry.exit_code, 1) << "--dry-run must find it too: " << f.expected;
  }
}

TEST(BadInputTest, WrongUsageEndsWithTwoAndNamesTheOption) {
  const struct {
    std::vector<std::string> words;
    const char* expected;
  } cases[] = {
      {{"frobnicate"}, "unknown command \"frobnicate\""},
      {{"run"}, "expected RECIPE"},
      {{"run", "x", "--colour"}, "unknown option --colour"},
      {{"run", "x", "y"}, "unexpected argument \"y\""},
      {{"serve", "rollout", "--recipe", "r"}, "expected --listen"},
      {{"generate", "--model"}, "--model: expected a value"},
  };
  for (const auto& c : cases) {
    std::vector<std::string> argv = {GrouperBinary()};
    argv.insert(argv.end(), c.words.begin(), c.words.end());
    const Outcome outcome = RunProgram(argv, 20);
    EXPECT_EQ(outcome.exit_code, 2) << c.expected;
    EXPECT_THAT(outcome.output, HasSubstr(c.expected));
  }
}

TEST(BadInputTest, EveryCommandHasHelp) {
  for (const char* command : {"run", "eval", "generate", "score", "serve", "convert", "inspect", "bench"}) {
    const Outcome outcome = RunProgram({GrouperBinary(), command, "--help"}, 20);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.output, HasSubstr(absl::StrCat("grouper ", command)));
  }
}

TEST(BadInputTest, APortInUseIsSaid) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  socklen_t size = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  const Outcome outcome = RunProgram({GrouperBinary(), "serve", "reward", "--recipe", SourcePath("tests/e2e/tiny.textproto"), "--listen",
                               absl::StrCat("127.0.0.1:", ntohs(address.sin_port))},
                              30);
  close(fd);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_FALSE(outcome.timed_out);
  EXPECT_THAT(outcome.output, HasSubstr("in use"));
}

TEST(BadInputTest, AModelThatLiesIsRefusedByInspect) {
  const std::string good = FreshDirectory("model_source");
  ASSERT_EQ(RunProgram({GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", good, "--set", "stages[sft].steps=1", "--set",
                 "stages[rl].steps=1"},
                60)
                .exit_code,
            0);
  EXPECT_EQ(RunProgram({GrouperBinary(), "inspect", good + "/model"}, 20).exit_code, 0);
  std::ifstream in(good + "/model/model.safetensors", std::ios::binary);
  const std::string weights((std::istreambuf_iterator<char>(in)), {});
  const struct {
    std::string bytes;
    const char* what;
  } lies[] = {
      {weights.substr(0, weights.size() / 2), "truncated"},
      {weights.substr(0, 4), "only a beginning"},
      {std::string(8, '\xff') + weights.substr(8), "a header length of 2^64 - 1"},
      {"", "empty"},
  };
  for (const auto& lie : lies) {
    const std::string copy = FreshDirectory("lying_model");
    std::filesystem::copy(good + "/model", copy);
    std::ofstream(copy + "/model.safetensors", std::ios::binary) << lie.bytes;
    const Outcome outcome = RunProgram({GrouperBinary(), "inspect", copy}, 20);
    EXPECT_EQ(outcome.exit_code, 1) << lie.what << "\n" << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("model.safetensors")) << lie.what;
  }
}

TEST(BadInputTest, ADryRunSaysThatADiskIsReadOnly) {
  const std::string mount = FreshDirectory("read_only_disk");
  std::filesystem::create_directories(mount);
  if (RunProgram({"mount", "-t", "tmpfs", "-o", "ro", "tmpfs", mount}, 10).exit_code != 0) GTEST_SKIP() << "cannot mount a read-only file system here";
  for (const std::string& out : {mount, mount + "/run"}) {
    const Outcome outcome = RunProgram({GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--dry-run", "--out", out}, 60);
    EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(out + ": cannot"));
    EXPECT_THAT(outcome.output, HasSubstr("Read-only file system"));
  }
  EXPECT_EQ(RunProgram({"umount", mount}, 10).exit_code, 0);
}

TEST(BadInputTest, AFullDiskKeepsTheOldCheckpointAndSaysWhere) {
  // A file system of 6 MB fills within a few checkpoints of 6 MB.
  const std::string mount = FreshDirectory("small_disk");
  std::filesystem::create_directories(mount);
  if (RunProgram({"mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", mount}, 10).exit_code != 0) GTEST_SKIP() << "cannot mount a small file system here";
  const Outcome outcome = RunProgram({GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", mount + "/run", "--set", "checkpoint.keep_last=9"}, 60);
  EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("No space left"));
  EXPECT_THAT(outcome.output, HasSubstr(mount));
  // What was saved before is whole.
  EXPECT_EQ(RunProgram({GrouperBinary(), "inspect", mount + "/run"}, 30).exit_code, 0);
  // With space again the run goes on from there.
  ASSERT_EQ(RunProgram({"mount", "-o", "remount,size=200m", mount}, 10).exit_code, 0);
  const Outcome resumed = RunProgram({GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", mount + "/run", "--resume"}, 60);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("resuming after step"));
  RunProgram({"umount", mount}, 10);
}

TEST(BadInputTest, AFileBeyondTheProcessesLimitIsAnErrorThatNamesIt) {
  const std::string out = FreshDirectory("file_limit");
  const Outcome outcome = RunProgram({"/bin/bash", "-c", "ulimit -f 64; exec \"$0\" run \"$1\" --out \"$2\" --set threads=1 --set checkpoint.every=1", GrouperBinary(),
                                      SourcePath("tests/e2e/tiny.textproto"), out}, 60);
  EXPECT_EQ(outcome.exit_code, 1) << outcome.output;  // not 128 + SIGXFSZ
  EXPECT_THAT(outcome.output, HasSubstr("File too large"));
  EXPECT_THAT(outcome.output, HasSubstr(out));
}

TEST(GenerateTest, ARunDirectoryGenerates) {
  const std::string out = FreshDirectory("to_generate");
  ASSERT_EQ(RunProgram({GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", out}, 60).exit_code, 0);
  const Outcome outcome = RunProgram({GrouperBinary(), "generate", "--model", out, "--prompt", "12+34=", "--add-bos", "--max-new-tokens", "8"}, 30);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("tok/s"));
}

}  // namespace
}  // namespace grouper::testing
