// Every subcommand as a user types it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <tuple>

#include "common/base/json.h"
#include "tests/testing/process.h"

namespace grouper::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAreArray;

Outcome Grouper(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), GrouperBinary());
  return RunProgram(arguments, 60);
}

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string directory = FreshDirectory("cli");
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/" + name, std::ios::binary) << text;
  return directory + "/" + name;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string TinyRecipe() { return SourcePath("tests/e2e/tiny.textproto"); }

// A finished run, made once.
const std::string& FinishedRun() {
  static const std::string directory = [] {
    const std::string out = FreshDirectory("cli_run");
    const Outcome outcome = Grouper({"run", TinyRecipe(), "--out", out});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return out;
  }();
  return directory;
}

TEST(CommandsTest, EachHasHelpFromOnePlace) {
  const Outcome all = Grouper({"--help"});
  EXPECT_EQ(all.exit_code, 0);
  for (const char* command : {"run", "eval", "generate", "score", "serve", "convert", "inspect", "bench"}) {
    EXPECT_THAT(all.output, HasSubstr(std::string("  ") + command));
    const Outcome help = Grouper({command, "--help"});
    EXPECT_EQ(help.exit_code, 0) << command;
    EXPECT_THAT(help.output, HasSubstr(std::string("grouper ") + command));
    EXPECT_EQ(help.output.find("options:") != std::string::npos, std::string(command) != "inspect") << help.output;
  }
  EXPECT_EQ(Grouper({"help", "run"}).output, Grouper({"run", "--help"}).output);
  EXPECT_EQ(Grouper({"help", "frobnicate"}).exit_code, 2);
  EXPECT_THAT(Grouper({"--version"}).output, HasSubstr("grouper "));
}

TEST(CommandsTest, WrongUseExitsWithTwoAndSaysWhereHelpIs) {
  const struct {
    std::vector<std::string> arguments;
    std::string expected;
  } cases[] = {
      {{}, "usage: grouper COMMAND"},
      {{"frobnicate"}, "unknown command \"frobnicate\" (see grouper --help)"},
      {{"run"}, "expected RECIPE (see grouper run --help)"},
      {{"run", "a", "b"}, "see grouper run --help"},
      {{"run", "a", "--nope"}, "unknown option --nope"},
      {{"run", "a", "--out"}, "--out"},
      {{"generate", "--prompt", "x"}, "--model"},
      {{"generate", "--model", "m"}, "--prompt"},
      {{"eval", "--model", "m"}, "--data"},
      {{"score", "--rules", "r"}, "--input"},
      {{"convert", "--from", "m"}, "--to"},
      {{"inspect"}, "expected PATH"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Grouper(c.arguments);
    EXPECT_EQ(outcome.exit_code, 2) << c.expected << "\n" << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(c.expected));
  }
}

TEST(CommandsTest, WrongValuesExitWithOneAndNameTheOption) {
  const std::string& run = FinishedRun();
  const struct {
    std::vector<std::string> arguments;
    std::string expected;
  } cases[] = {
      {{"generate", "--model", "/nonexistent", "--prompt", "x"}, "/nonexistent"},
      {{"generate", "--model", run, "--prompt", "1", "--temperature", "warm"}, "--temperature"},
      {{"generate", "--model", run, "--prompt", "1", "--top-p", "7"}, "top-p"},
      {{"generate", "--model", run, "--prompt", "1", "--max-new-tokens", "-4"}, "--max-new-tokens"},
      {{"generate", "--model", run, "--prompt", "1", "--template", "nope"}, "nope"},
      {{"generate", "--model", run, "--prompt", "1", "--chat", "--template", "plain"}, "--chat and --template"},
      {{"generate", "--model", run, "--prompt", "1", "--system", "x"}, "--system"},
      {{"generate", "--model", run, "--prompt", std::string(5000, '1')}, "--prompt: 5001 tokens"},
      {{"generate", "--model", run, "--prompt", "", "--template", "plain"}, "--prompt: the prompt has no tokens"},
      {{"generate", "--model", run, "--prompt", "caf\xc3"}, "--prompt \"caf\\xc3\": expected UTF-8"},
      {{"generate", "--model", run, "--prompt", "1", "--chat", "--system", "\xff"}, "--system \"\\xff\": expected UTF-8"},
      {{"generate", "--model", run, "--prompt", "1", "--prefill", "\xff"}, "--prefill"},
      {{"generate", "--model", run, "--prompt", "1", "--stop", "\xff"}, "--stop"},
      {{"generate", "--model", run, "--prompt", "1", "--stop", ""}, "--stop: expected a text"},
      {{"generate", "--model", run, "--prompt", "1", "--temperature", "nan"}, "--temperature nan: expected a number in 0..100"},
      {{"generate", "--model", run, "--prompt", "1", "--temperature", "-1"}, "--temperature -1"},
      {{"generate", "--model", run, "--prompt", "1", "--temperature", "1e-40"}, "--temperature 1e-40: expected 0 (greedy) or 1e-6..100"},
      {{"generate", "--model", run, "--prompt", "1", "--temperature", "1e-400"}, "--temperature 1e-400: expected a number in 0..100"},
      {{"eval", "--model", run, "--data", "d", "--rules", "r", "--temperature", "1e-7"}, "--temperature 1e-7: expected 0 (greedy) or 1e-6..100"},
      {{"eval", "--model", run, "--data", "d", "--rules", TinyRecipe(), "--field", "=answer"}, "--field =answer: expected OUR_NAME=COLUMN"},
      {{"eval", "--model", run, "--data", "d", "--rules", TinyRecipe(), "--field", "answer="}, "--field answer=: expected OUR_NAME=COLUMN"},
      {{"generate", "--model", run, "--prompt", "abc"}, "--prompt: the tokenizer has no token for \"a\", \"b\", \"c\""},
      {{"serve", "reward", "--recipe", TinyRecipe(), "--listen", "127.0.0.1:0", "--set", "reward.tls.certificate=" + TinyRecipe(), "--set",
        "reward.tls.key=" + TinyRecipe()},
       "--set reward.tls.certificate=" + TinyRecipe() + ": reward.tls.certificate: " + TinyRecipe() + ": no certificate in PEM"},
      {{"serve", "rollout", "--recipe", TinyRecipe(), "--listen", "unix:/nonexistent/socket"}, "unix:/nonexistent/socket: there is no folder /nonexistent"},
      {{"run", TinyRecipe(), "--dry-run", "--out", FreshDirectory("x"), "--set", "rollout.addresses=127.0.0.1:9", "--set", "rollout.tls.ca=" + TinyRecipe()},
       ": rollout.tls.ca: " + TinyRecipe() + ": no certificate in PEM"},
      {{"run", TinyRecipe(), "--dry-run", "--out", FreshDirectory("x"), "--set", "stages[rl].sft.batch_size=3"},
       "--set stages[rl].sft.batch_size=3: field sft is asked for, but field grpo is set"},
      {{"generate", "--model", run, "--prompt", "1", "--dtype", "float16"}, "--dtype float16: expected float32 or bfloat16"},
      {{"eval", "--model", run, "--data", "d", "--rules", "r", "--dtype", "float16"}, "--dtype float16: expected float32 or bfloat16"},
      {{"eval", "--model", run, "--data", "d", "--rules", "r", "--samples", "4", "--temperature", "0"}, "--temperature 0"},
      {{"eval", "--model", run, "--data", "d", "--rules", "r", "--chat", "--template", "plain"}, "--chat and --template"},
      {{"convert", "--from", run, "--to", run + "/model"}, run + "/model"},
      {{"convert", "--from", run, "--to", FreshDirectory("x"), "--dtype", "float7"}, "float7"},
      {{"convert", "--from", run, "--to", FreshDirectory("x"), "--dtype", ""}, "--dtype : expected float32 or bfloat16"},
      {{"convert", "--from", run, "--to", ""}, "--to: expected a path"},
      {{"convert", "--from", run, "--to", TinyRecipe()}, "a model is written into a new directory"},
      {{"convert", "--from", run, "--to", FreshDirectory("x"), "--format", "onnx"}, "onnx"},
      {{"inspect", "/nonexistent"}, "/nonexistent"},
      {{"serve", "nothing", "--recipe", TinyRecipe(), "--listen", "127.0.0.1:0"}, "nothing"},
      {{"serve", "rollout", "--recipe", TinyRecipe(), "--listen", "127.0.0.1:0", "--set", "rollout.cache_pages=100000000"},
       "the largest parts: key-value cache 3072.80 GB (lower or change rollout.cache_pages, rollout.max_sequences, model.max_context)"},
      {{"serve", "reward", "--recipe", "/nonexistent", "--listen", "127.0.0.1:0"}, "/nonexistent"},
      {{"serve", "reward", "--recipe", TinyRecipe(), "--listen", "127.0.0.1"}, "--listen: \"127.0.0.1\", expected HOST:PORT with a port of 0..65535"},
      {{"serve", "reward", "--recipe", TinyRecipe(), "--listen", "127.0.0.1:foo"}, "--listen: \"127.0.0.1:foo\", expected HOST:PORT"},
      {{"bench", "nothing"}, "nothing"},
      {{"bench", "train", "--model", run + "/model", "--length", "100000", "--batch", "1"}, "--length: 100000, expected 2.."},
      {{"run", "/nonexistent.textproto"}, "/nonexistent.textproto"},
      {{"run", TinyRecipe(), "--set", "nonsense", "--out", FreshDirectory("x")}, "nonsense"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Grouper(c.arguments);
    EXPECT_EQ(outcome.exit_code, 1) << c.expected << "\n" << outcome.output;
    EXPECT_FALSE(outcome.timed_out);
    EXPECT_THAT(outcome.output, HasSubstr(c.expected));
  }
}

TEST(CommandsTest, DryRunChecksEverythingPredictsMemoryAndTrainsNothing) {
  const std::string out = FreshDirectory("dry");
  const Outcome outcome = Grouper({"run", TinyRecipe(), "--out", out, "--dry-run"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("MB"));
  EXPECT_FALSE(std::filesystem::exists(out + "/metrics.jsonl"));
  const Outcome wrong = Grouper({"run", TinyRecipe(), "--out", out, "--dry-run", "--set", "stages[rl].data.train=/nonexistent.jsonl"});
  EXPECT_EQ(wrong.exit_code, 1) << wrong.output;
}

TEST(CommandsTest, DryRunSaysWhichServicesItDidNotAsk) {
  const std::string out = FreshDirectory("dry_remote");
  EXPECT_THAT(Grouper({"run", TinyRecipe(), "--out", out, "--dry-run"}).output, HasSubstr("dry run: everything loads and fits\n"));
  const Outcome outcome = Grouper({"run", TinyRecipe(), "--out", out, "--dry-run", "--set", "rollout.addresses=127.0.0.1:1,127.0.0.1:2", "--set",
                                   "reward.address=unix:/tmp/nobody"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("dry run: everything here loads and fits; not asked: rollout.addresses 127.0.0.1:1, 127.0.0.1:2, reward.address "
                                        "unix:/tmp/nobody\n"));
}

TEST(CommandsTest, AStartThatIsRefusedLeavesNothing) {
  const std::string root = FreshDirectory("refused"), wrong = "stages[sft].data.train=/nonexistent";
  const auto refused = [&](const std::string& out) {
    const Outcome outcome = Grouper({"run", TinyRecipe(), "--set", wrong, "--out", out});
    EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("/nonexistent"));
  };
  refused(root + "/runs/one/");
  EXPECT_FALSE(std::filesystem::exists(root));
  // What was there before stays.
  std::filesystem::create_directories(root + "/mine");
  refused(root + "/mine");
  EXPECT_TRUE(std::filesystem::is_empty(root + "/mine"));
  std::ofstream(root + "/mine/.lock") << "";
  refused(root + "/mine");
  EXPECT_TRUE(std::filesystem::exists(root + "/mine/.lock"));
  std::filesystem::remove(root + "/mine/.lock");
  std::ofstream(root + "/mine/notes") << "mine";
  refused(root + "/mine/new");
  refused(root + "/mine");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(root + "/mine"), {}), 1);
  // Where a run is, its lock file is.
  EXPECT_TRUE(std::filesystem::exists(FinishedRun() + "/.lock"));
}

TEST(CommandsTest, WhatListensSaysWhere) {
  const std::string socket = FreshDirectory("socket");
  Process reward({GrouperBinary(), "serve", "reward", "--recipe", TinyRecipe(), "--listen", "unix:" + socket});
  EXPECT_TRUE(reward.WaitForOutput("reward service listening on unix:" + socket + "\n", 30)) << reward.Output();
  const Outcome run = Grouper({"run", TinyRecipe(), "--out", FreshDirectory("steered"), "--set", "logging.trainer_address=127.0.0.1:0", "--set",
                               "stages[sft].steps=1", "--set", "stages[rl].steps=1", "--set", "reward.address=unix:" + socket});
  EXPECT_EQ(run.exit_code, 0) << run.output;
  EXPECT_THAT(run.output, ContainsRegex("trainer service listening on port [1-9][0-9]+\n"));
}

TEST(CommandsTest, DryRunTriesTheDirectoryAndLeavesNothing) {
  // Root may write where a mode says no, so these are places where nobody can: what cannot be made, what is no directory, where no file can be.
  const std::string parent = FreshDirectory("dry_parent");
  std::filesystem::create_directories(parent);
  std::ofstream(parent + "/file") << "text";
  for (const std::string& out : {std::string("/proc/nonexistent/run"), std::string("/proc"), parent + "/file", parent + "/file/run", parent + "/" + std::string(300, 'n')}) {
    const Outcome dry = Grouper({"run", TinyRecipe(), "--out", out, "--dry-run"}), real = Grouper({"run", TinyRecipe(), "--out", out});
    EXPECT_EQ(dry.exit_code, 1) << out << "\n" << dry.output;
    EXPECT_EQ(real.exit_code, 1) << out << "\n" << real.output;
    EXPECT_THAT(dry.output, Not(HasSubstr("everything loads and fits")));
  }
  EXPECT_THAT(Grouper({"run", TinyRecipe(), "--out", "/proc/nonexistent/run", "--dry-run"}).output, HasSubstr("/proc/nonexistent: cannot create directory"));
  EXPECT_EQ(Grouper({"run", TinyRecipe(), "--out", parent + "/a/b/c", "--dry-run"}).exit_code, 0);
  EXPECT_EQ(Grouper({"run", TinyRecipe(), "--out", parent, "--dry-run"}).exit_code, 0);
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(parent)) left.push_back(entry.path().filename());
  EXPECT_EQ(left, std::vector<std::string>{"file"});
}

TEST(CommandsTest, RowsThatTheTokenizerCannotSayAreRefusedWhenTheyAreLoaded) {
  const std::string sft = WriteFile("sft.jsonl", "{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n{\"prompt\": \"1+2=\", \"completion\": \"forty two\"}\n");
  const std::string rl = WriteFile("rl.jsonl", "{\"prompt\": \"\u65e5\u672c\", \"answer\": \"3\"}\n");
  const std::pair<std::string, std::string> cases[] = {
      {"stages[sft].data.train=" + sft, sft + ":2: the tokenizer has no token for \"f\", \"o\", \"r\", \"t\", \"y\", \"w\""},
      {"stages[rl].data.train=" + rl, rl + ":1: the tokenizer has no token for \"\u65e5\", \"\u672c\""},
      {"stages[rl].data.eval=" + rl, rl + ":1: the tokenizer has no token for \"\u65e5\", \"\u672c\""},
  };
  for (const auto& [set, expected] : cases) {
    for (const bool dry : {true, false}) {
      std::vector<std::string> arguments = {"run", TinyRecipe(), "--out", FreshDirectory("unknown"), "--set", set};
      if (dry) arguments.push_back("--dry-run");
      const Outcome outcome = Grouper(arguments);
      EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
      EXPECT_THAT(outcome.output, HasSubstr(expected));
    }
  }
  const std::string rules = WriteFile("rules.textproto", "rules { exact {} }\n");
  EXPECT_THAT(Grouper({"eval", "--model", FinishedRun(), "--data", rl, "--rules", rules}).output, HasSubstr(rl + ":1: the tokenizer has no token for"));
}

TEST(CommandsTest, UnknownTokensOfTheirOwnAreSaidOnceAFile) {
  std::string text = ReadFile(SourcePath("recipes/quickstart/tokenizer.json"));
  const size_t unknown = text.find("\"<pad>\"", text.find("\"unk_token\""));
  ASSERT_NE(unknown, std::string::npos);
  const std::string tokenizer = WriteFile("tokenizer.json", text.replace(unknown, 7, "\"?\""));
  const std::string config = ReadFile(SourcePath("recipes/quickstart/tokenizer_config.json"));
  std::ofstream(tokenizer.substr(0, tokenizer.rfind('/')) + "/tokenizer_config.json") << config;
  const std::string sft = WriteFile("sft.jsonl", "{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n{\"prompt\": \"1+b=\", \"completion\": \"ab\"}\n");
  const std::string rl = WriteFile("rl.jsonl", "{\"prompt\": \"a\", \"answer\": \"3\"}\n{\"prompt\": \"b\", \"answer\": \"3\"}\n");
  const std::string held = WriteFile("held.jsonl", "{\"prompt\": \"a\", \"answer\": \"3\"}\n");
  const Outcome outcome = Grouper({"run", TinyRecipe(), "--dry-run", "--out", FreshDirectory("x"), "--set", "model.tokenizer=" + tokenizer, "--set",
                                   "stages[sft].data.train=" + sft, "--set", "stages[rl].data.train=" + rl, "--set", "stages[rl].data.eval=" + held});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  for (const auto& [file, line, count] : {std::tuple(sft, 2, "3 of"), std::tuple(rl, 1, "2 of"), std::tuple(held, 1, "1 of")}) {
    const std::string begin = "] " + file + ": " + count;
    const size_t at = outcome.output.find(begin);
    ASSERT_NE(at, std::string::npos) << begin << "\n" << outcome.output;
    EXPECT_EQ(outcome.output.find("] " + file, at + 1), std::string::npos) << outcome.output;
    EXPECT_THAT(outcome.output.substr(at), HasSubstr("first in " + file + ":" + std::to_string(line) + "\n"));
  }
}

TEST(CommandsTest, DryRunRefusesWhatTheRunWouldRefuse) {
  const std::string& run = FinishedRun();
  const std::string unfinished = FreshDirectory("dry_unfinished");
  RunProgram({GrouperBinary(), "run", TinyRecipe(), "--out", unfinished}, 60, {{"GROUPER_FAIL", "trainer.step_end:7:kill"}});
  const std::string damaged = FreshDirectory("dry_damaged");
  std::filesystem::copy(unfinished, damaged, std::filesystem::copy_options::recursive);
  std::filesystem::resize_file(damaged + "/checkpoints/step_6/state.json", 5);
  const std::string foreign = FreshDirectory("dry_foreign");
  std::filesystem::create_directories(foreign);
  std::ofstream(foreign + "/metrics.jsonl") << "precious\n";
  const struct {
    std::vector<std::string> arguments;
    std::string expected;  // nothing: the run would begin
  } cases[] = {
      {{"--out", run}, "a run is there already"},
      {{"--out", run, "--resume", "--set", "seed=8"}, "--resume with a changed recipe"},
      {{"--out", damaged, "--resume"}, "state.json"},
      {{"--out", foreign}, "is there, but no recipe.textproto"},
      {{"--set", "logging.trainer_address=127.0.0.1", "--out", FreshDirectory("x")}, "logging.trainer_address: \"127.0.0.1\", expected HOST:PORT"},
      {{"--set", "logging.trainer_address=localhost:http", "--out", FreshDirectory("x")}, "expected HOST:PORT"},
      {{"--set", "logging.trainer_address=127.0.0.1:65536", "--out", FreshDirectory("x")}, "expected HOST:PORT"},
      {{"--set", "logging.trainer_address=::1:50060", "--out", FreshDirectory("x")}, "expected HOST:PORT"},
      {{"--set", "logging.trainer_address=0.0.0.0:50060", "--out", FreshDirectory("x")}, "expected an address of this machine alone"},
  };
  for (const auto& c : cases) {
    for (const bool dry : {true, false}) {
      std::vector<std::string> arguments = {"run", TinyRecipe()};
      arguments.insert(arguments.end(), c.arguments.begin(), c.arguments.end());
      if (dry) arguments.push_back("--dry-run");
      const Outcome outcome = Grouper(arguments);
      EXPECT_EQ(outcome.exit_code, 1) << c.expected << outcome.output;
      EXPECT_THAT(outcome.output, HasSubstr(c.expected));
    }
  }
  const Outcome goes_on = Grouper({"run", TinyRecipe(), "--out", unfinished, "--resume", "--dry-run"});
  EXPECT_EQ(goes_on.exit_code, 0) << goes_on.output;
  EXPECT_THAT(goes_on.output, HasSubstr("goes on after step 6 from " + unfinished));
  EXPECT_THAT(Grouper({"run", TinyRecipe(), "--out", run, "--resume", "--dry-run"}).output, HasSubstr("has finished already"));
  const std::string fresh = FreshDirectory("dry_fresh");
  for (const char* address : {"127.0.0.1:0", "[::1]:0", "localhost:0", "unix:/tmp/grouper_dry"}) {
    const Outcome fine = Grouper({"run", TinyRecipe(), "--out", fresh, "--dry-run", "--set", std::string("logging.trainer_address=") + address});
    EXPECT_EQ(fine.exit_code, 0) << fine.output;
  }
  EXPECT_FALSE(std::filesystem::exists(fresh));
}

TEST(CommandsTest, AFinishedRunResumesToNothingAndExitsWithZero) {
  const std::string before = Digests(FinishedRun());
  const Outcome outcome = Grouper({"run", TinyRecipe(), "--out", FinishedRun(), "--resume"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(Digests(FinishedRun()), before);
}

TEST(CommandsTest, ACheckpointIsNoRunDirectory) {
  const std::string& run = FinishedRun();
  const std::string checkpoint = run + "/checkpoints/step_16";
  ASSERT_TRUE(std::filesystem::exists(checkpoint + "/MANIFEST"));
  for (const char* more : {"--resume", "--dry-run"}) {
    for (const char* slash : {"", "/"}) {
      const Outcome outcome = Grouper({"run", TinyRecipe(), more, "--out", checkpoint + slash});
      EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
      EXPECT_THAT(outcome.output, HasSubstr("is a checkpoint, expected the directory of a run: --out " + std::filesystem::canonical(run).string()));
    }
  }
  EXPECT_FALSE(std::filesystem::exists(checkpoint + "/.lock"));
}

TEST(CommandsTest, KeepBestKeepsTheBestCheckpointOfThePresentStage) {
  const std::string quickstart = SourcePath("recipes/quickstart");
  const auto stage = [](const std::string& name, const std::string& more) {
    return "stages { name: \"" + name + "\" data { generator { addition { digits: 2 } eval_problems: 4 } } " + more + "}\n";
  };
  const auto sft = [](int steps, const std::string& more) {
    return "steps: " + std::to_string(steps) + " optimizer { lr: 1e-6 } sft { batch_size: 2 } eval { every: 2 " + more + "sampling { max_new_tokens: 4 } }";
  };
  const std::string evaluate = "evaluate {} eval { sampling { max_new_tokens: 4 } }";
  // Nothing is ever right: the first evaluation that counts stays the best.
  const struct {
    std::string stages;
    std::vector<std::string> kept;
  } cases[] = {
      {stage("e", evaluate) + stage("a", sft(5, "at_start: true ")), {"step_2", "step_5"}},
      {stage("a", sft(5, "")) + stage("e", evaluate) + stage("b", sft(4, "")) + stage("f", evaluate), {"step_7", "step_9"}},
      {stage("a", sft(5, "")) + stage("b", sft(4, "at_start: true ")), {"step_5", "step_9"}},
  };
  for (const auto& c : cases) {
    const std::string recipe = WriteFile("best.textproto", "model { config: \"" + quickstart + "/config.json\" tokenizer: \"" + quickstart +
                                                               "/tokenizer.json\" device: \"cpu\" }\n" + c.stages +
                                                               "reward { rules { exact {} } }\ncheckpoint { keep_last: 1 keep_best: true }\n");
    const std::string out = FreshDirectory("best");
    const Outcome outcome = Grouper({"run", recipe, "--out", out});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    std::vector<std::string> kept;
    for (const auto& entry : std::filesystem::directory_iterator(out + "/checkpoints")) kept.push_back(entry.path().filename());
    EXPECT_THAT(kept, UnorderedElementsAreArray(c.kept)) << c.stages << outcome.output;
  }
}

TEST(CommandsTest, ARecipeThatScoresNothingNeedsNoRules) {
  const std::string quickstart = SourcePath("recipes/quickstart");
  const auto recipe = [&](const std::string& more) {
    return WriteFile("sft.textproto", "model { config: \"" + quickstart + "/config.json\" tokenizer: \"" + quickstart +
                                          "/tokenizer.json\" device: \"cpu\" }\nstages { name: \"sft\" steps: 2 data { generator { addition { digits: 2 } "
                                          "eval_problems: 16 } } optimizer { lr: 1e-3 } sft { batch_size: 4 } " + more + "}\n");
  };
  const Outcome outcome = Grouper({"run", recipe(""), "--out", FreshDirectory("sft_only")});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("finished"));
  const Outcome scored = Grouper({"run", recipe("eval { at_end: true } "), "--out", FreshDirectory("sft_eval")});
  EXPECT_EQ(scored.exit_code, 1);
  EXPECT_THAT(scored.output, HasSubstr("reward.rules: none"));
}

TEST(CommandsTest, InspectTellsRunsCheckpointsAndModelsApart) {
  const std::string& run = FinishedRun();
  EXPECT_THAT(Grouper({"inspect", run}).output,
              AllOf(HasSubstr("status: finished"), HasSubstr("weights_digest: "), HasSubstr("completions_digest: "), HasSubstr("verified")));
  // And of both the model in the checkpoint, the run's newest.
  const auto model = [](const std::string& output) { return output.substr(std::min(output.size(), output.find("model: "))); };
  const std::string of_run = model(Grouper({"inspect", run}).output);
  EXPECT_THAT(of_run, AllOf(HasSubstr("model: " + run + "/checkpoints/step_16\n"), HasSubstr("parameters: "), HasSubstr("active "), HasSubstr("tokenizer: "),
                            HasSubstr("dtype: F32"), HasSubstr("chat_template: "), HasSubstr("kv_bytes_per_token: "), HasSubstr("memory_to_roll_out: "),
                            HasSubstr("memory_to_train: ")));
  EXPECT_EQ(model(Grouper({"inspect", run + "/checkpoints/step_16"}).output), of_run);
  EXPECT_THAT(Grouper({"inspect", run + "/model"}).output, AllOf(HasSubstr("architecture: DeepseekV3ForCausalLM"), HasSubstr("kv_bytes_per_token")));
  EXPECT_THAT(Grouper({"inspect", run + "/checkpoints/step_16"}).output, HasSubstr("weights_digest: "));
}

TEST(CommandsTest, GenerateIsTheSameForTheRunItsModelAndItsConversion) {
  const std::string& run = FinishedRun();
  const std::string converted = FreshDirectory("converted");
  const Outcome convert = Grouper({"convert", "--from", run, "--to", converted});
  ASSERT_EQ(convert.exit_code, 0) << convert.output;
  std::string first;
  for (const std::string& model : {run, run + "/model", converted}) {
    const Outcome outcome = Grouper({"generate", "--model", model, "--prompt", "12+34=", "--add-bos", "--max-new-tokens", "12"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    const size_t statistics = outcome.output.find("12 tokens, ");  // after the text, on stderr
    ASSERT_NE(statistics, std::string::npos) << outcome.output;
    const std::string text = outcome.output.substr(0, statistics);
    if (first.empty()) first = text;
    EXPECT_EQ(text, first) << model;
  }
  EXPECT_GT(first.size(), 3u);
  // A run is asked by its recipe's prompt, which puts bos first; an option of the kind takes its place.
  EXPECT_THAT(Grouper({"generate", "--model", run, "--prompt", "12+34=", "--max-new-tokens", "12"}).output, HasSubstr(first));
  const auto text = [&](const std::string& model) {
    const std::string output = Grouper({"generate", "--model", model, "--prompt", "12+34=", "--template", "plain", "--max-new-tokens", "12"}).output;
    return output.substr(0, output.find(" tokens, "));
  };
  EXPECT_EQ(text(run), text(run + "/model"));
  const Outcome inspect = Grouper({"inspect", converted});
  EXPECT_EQ(inspect.exit_code, 0) << inspect.output;
}

// The last line of inspect's output.
std::string DigestLine(const std::string& output) { return output.substr(std::min(output.size(), output.find("weights_digest: "))); }

TEST(CommandsTest, ConvertShardsAtTheSizeThatIsAskedFor) {
  const std::string& run = FinishedRun();
  const std::string whole = FreshDirectory("whole"), sharded = FreshDirectory("sharded");
  ASSERT_EQ(Grouper({"convert", "--from", run, "--to", whole}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(whole + "/model.safetensors"));
  const Outcome convert = Grouper({"convert", "--from", run, "--to", sharded, "--max-shard-size", "100KB"});
  ASSERT_EQ(convert.exit_code, 0) << convert.output;
  int shards = 0;
  for (const auto& entry : std::filesystem::directory_iterator(sharded)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++shards;
    EXPECT_LT(entry.file_size(), 100'000u + 10'000u) << entry.path();  // and its header
  }
  EXPECT_GT(shards, 2);
  const Outcome one = Grouper({"inspect", whole}), many = Grouper({"inspect", sharded});
  EXPECT_EQ(many.exit_code, 0) << many.output;
  EXPECT_EQ(DigestLine(many.output), DigestLine(one.output));
  EXPECT_NE(DigestLine(one.output), "");
  for (const char* size : {"", "0", "5TB", "-1", "1.5GB", "99999999999999999999", "GB"}) {
    const Outcome refused = Grouper({"convert", "--from", run, "--to", FreshDirectory("refused"), "--max-shard-size", size});
    EXPECT_EQ(refused.exit_code, 1) << size << refused.output;
    EXPECT_THAT(refused.output, HasSubstr("--max-shard-size")) << size;
  }
  const Outcome gguf = Grouper({"convert", "--from", run, "--to", FreshDirectory("one") + ".gguf", "--format", "gguf", "--max-shard-size", "1GB"});
  EXPECT_EQ(gguf.exit_code, 1) << gguf.output;
  EXPECT_THAT(gguf.output, HasSubstr("--max-shard-size: a GGUF file is written whole"));
}

TEST(CommandsTest, ConvertKeepsTheModelsOwnTypeUnlessAnotherIsAskedFor) {
  const std::string& run = FinishedRun();
  const std::string narrow = FreshDirectory("narrow"), again = FreshDirectory("again"), wide = FreshDirectory("wide"), own = FreshDirectory("own");
  const auto convert = [](const std::string& from, const std::string& to, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"convert", "--from", from, "--to", to});
    const Outcome outcome = Grouper(more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return outcome.output;
  };
  EXPECT_THAT(convert(run, own), HasSubstr(" -> " + own + " (float32)"));
  EXPECT_THAT(convert(run, narrow, {"--dtype", "bfloat16"}), HasSubstr("(bfloat16)"));
  EXPECT_THAT(convert(narrow, again), HasSubstr("(bfloat16)"));
  EXPECT_THAT(convert(narrow, wide, {"--dtype", "float32"}), HasSubstr("(float32)"));
  EXPECT_EQ(ReadFile(again + "/model.safetensors"), ReadFile(narrow + "/model.safetensors"));
  EXPECT_THAT(ReadFile(again + "/config.json"), HasSubstr("\"bfloat16\""));
  EXPECT_EQ(DigestLine(Grouper({"inspect", wide}).output), DigestLine(Grouper({"inspect", narrow}).output));
}

TEST(CommandsTest, ConvertFollowsALinkToAnEmptyDirectoryAndNotOneToNothing) {
  const std::string root = FreshDirectory("links");
  std::filesystem::create_directories(root + "/disk");
  std::filesystem::create_symlink(root + "/disk", root + "/link");
  std::filesystem::create_symlink(root + "/nothing", root + "/dangling");
  EXPECT_EQ(Grouper({"convert", "--from", FinishedRun(), "--to", root + "/link"}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::is_symlink(root + "/link"));
  EXPECT_TRUE(std::filesystem::exists(root + "/disk/config.json"));
  const Outcome dangling = Grouper({"convert", "--from", FinishedRun(), "--to", root + "/dangling"});
  EXPECT_EQ(dangling.exit_code, 1);
  EXPECT_THAT(dangling.output, HasSubstr("--to " + root + "/dangling: a symbolic link to nothing"));
}

TEST(CommandsTest, AnOutputThatIsAnInputIsRefusedAndAnOldOneOutlivesAFailure) {
  const std::string good = "{\"prompt\": \"1+1=\", \"completion\": \"2\", \"answer\": \"2\"}\n";
  const std::string data = WriteFile("data.jsonl", good), bad = WriteFile("bad.jsonl", "{\"prompt\": \n"), old = WriteFile("old.jsonl", "earlier\n");
  const std::string text = "rules { name: \"right\" exact {} }\n", rules = WriteFile("rules.textproto", text), link = data + ".link";
  std::filesystem::create_symlink(data, link);
  for (const std::string& path : {data, link}) {
    const Outcome eval = Grouper({"eval", "--model", FinishedRun(), "--data", data, "--rules", rules, "--output", path});
    EXPECT_EQ(eval.exit_code, 1);
    EXPECT_THAT(eval.output, HasSubstr("--output " + path + ": is the file of --data; expected another"));
    const Outcome score = Grouper({"score", "--input", data, "--rules", rules, "--output", path});
    EXPECT_EQ(score.exit_code, 1);
    EXPECT_THAT(score.output, HasSubstr("is the file of --input"));
  }
  EXPECT_THAT(Grouper({"score", "--input", data, "--rules", rules, "--output", rules}).output, HasSubstr("is the file of --rules"));
  EXPECT_EQ(ReadFile(data), good);
  EXPECT_EQ(ReadFile(rules), text);
  EXPECT_EQ(Grouper({"eval", "--model", FinishedRun(), "--data", bad, "--rules", rules, "--output", old}).exit_code, 1);
  EXPECT_EQ(ReadFile(old), "earlier\n");
  EXPECT_EQ(Grouper({"eval", "--model", FinishedRun(), "--data", data, "--rules", rules, "--max-new-tokens", "4", "--output", old}).exit_code, 0);
  EXPECT_THAT(ReadFile(old), AllOf(HasSubstr("\"samples\""), Not(HasSubstr("earlier"))));
}

TEST(CommandsTest, EvalTakesADtypeAsGenerateDoes) {
  const std::string data = WriteFile("data.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n");
  const std::string rules = WriteFile("rules.textproto", "rules { name: \"right\" exact {} }\n");
  for (const char* dtype : {"float32", "bfloat16"}) {
    const Outcome outcome = Grouper({"eval", "--model", FinishedRun(), "--data", data, "--rules", rules, "--max-new-tokens", "8", "--dtype", dtype});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("problems 1"));
  }
  const auto line = [](const std::string& help) { return help.substr(help.find("  --dtype TYPE"), 100); };
  EXPECT_EQ(line(Grouper({"eval", "--help"}).output), line(Grouper({"generate", "--help"}).output));
}

TEST(CommandsTest, GenerateContinuesAConversation) {
  const std::string model = FreshDirectory("long");  // a turn's marks are many tokens of this tokenizer
  std::filesystem::copy(FinishedRun() + "/model", model);
  std::string config = ReadFile(model + "/config.json");
  const std::string context = "\"max_position_embeddings\": 64";
  ASSERT_NE(config.find(context), std::string::npos) << config;
  std::ofstream(model + "/config.json") << config.replace(config.find(context), context.size(), "\"max_position_embeddings\": 256");
  // The marks hold letters that it has no token for; with an unknown token that means nothing else they are taken, and that is said.
  EXPECT_THAT(Grouper({"generate", "--model", model, "--template", "chatml", "--prompt", "1"}).output,
              HasSubstr("--prompt: what prompt's template, system and prefill put around the text: the tokenizer has no token for \"<\", \"|\", \"i\""));
  std::string tokenizer = ReadFile(model + "/tokenizer.json");
  const size_t unknown = tokenizer.find("\"<pad>\"", tokenizer.find("\"unk_token\""));
  ASSERT_NE(unknown, std::string::npos);
  std::ofstream(model + "/tokenizer.json") << tokenizer.replace(unknown, 7, "\"?\"");
  const auto generate = [&](const std::string& history, const std::string& prompt, std::vector<std::string> more = {"--template", "chatml"}) {
    more.insert(more.begin(), {"generate", "--model", model, "--max-new-tokens", "8", "--prompt", prompt});
    if (!history.empty()) more.insert(more.end(), {"--history", WriteFile("history.json", history)});
    const Outcome outcome = Grouper(more);
    if (outcome.exit_code != 0) return "error: " + outcome.output;
    const size_t warning = outcome.output.find("W "), end = outcome.output.find('\n', warning);
    EXPECT_THAT(outcome.output.substr(warning, end - warning), HasSubstr("are the unknown token"));
    const std::string rest = outcome.output.substr(0, warning) + outcome.output.substr(end + 1);
    return rest.substr(0, rest.find(" tokens, "));
  };
  const std::string turns = R"([{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}])";
  const std::string spelt = "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_THAT(generate(turns, "2+2="), Not(HasSubstr("error")));
  EXPECT_EQ(generate(turns, "2+2="), generate("", spelt, {"--template", "plain"}));
  EXPECT_EQ(generate("[]", "2+2="), generate("", "2+2="));
  const std::pair<std::string, std::string> bad[] = {{"{}", "expected an array"},
                                                     {"[1]", "messages[0]"},
                                                     {R"([{"role": "robot", "content": ""}])", "got \"robot\""},
                                                     {"[", "history.json: not JSON at byte"}};
  for (const auto& [text, expected] : bad) EXPECT_THAT(generate(text, "1"), AllOf(HasSubstr("error: "), HasSubstr("history.json"), HasSubstr(expected)));
  EXPECT_THAT(generate(turns, "1", {}), HasSubstr("--history: needs --chat, or a template that has a place for it"));
  EXPECT_THAT(generate(R"([{"role": "system", "content": "x"}])", "1", {"--chat", "--system", "y"}), HasSubstr("and --system is given"));
}

// A full disk, or a pipe that nobody reads any more.
TEST(CommandsTest, WhatCannotBePrintedIsAnError) {
  for (const std::string& command : {"inspect " + FinishedRun(), "generate --model " + FinishedRun() + " --prompt 1 --max-new-tokens 4"}) {
    const Outcome outcome = RunProgram({"/bin/sh", "-c", "exec " + GrouperBinary() + " " + command + " > /dev/full"}, 60);
    EXPECT_EQ(outcome.exit_code, 1) << command;
    EXPECT_THAT(outcome.output, HasSubstr("cannot write to standard output"));
  }
}

TEST(CommandsTest, EvalOfNothingIsAnErrorAndNoAccuracy) {
  const std::string data = WriteFile("long.jsonl", "{\"prompt\": \"" + std::string(5000, '1') + "\", \"answer\": \"2\"}\n");
  const std::string rules = WriteFile("rules.textproto", "rules { name: \"right\" exact {} }\n");
  const Outcome outcome = Grouper({"eval", "--model", FinishedRun(), "--data", data, "--rules", rules, "--max-new-tokens", "8", "--add-bos"});
  EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr(data + ": none of its 1 problems could be scored"));
}

TEST(CommandsTest, EvalWritesALineAProblemAndItsInterval) {
  const std::string data = WriteFile("data.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n{\"prompt\": \"2+2=\", \"answer\": \"4\"}\n");
  const std::string rules = WriteFile("rules.textproto", "rules { name: \"right\" exact {} }\n");
  const std::string output = FreshDirectory("eval") + ".jsonl";
  const Outcome outcome = Grouper({"eval", "--model", FinishedRun(), "--data", data, "--rules", rules, "--samples", "3", "--max-new-tokens", "8",
                                   "--add-bos", "--output", output});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("pass@1"), HasSubstr("pass@3"), HasSubstr("maj@3"), HasSubstr("95% interval")));
  std::istringstream lines(ReadFile(output));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const auto parsed = json::Parse(line);
    ASSERT_TRUE(parsed.ok()) << line;
    ASSERT_EQ((*parsed)["samples"].size(), 3u) << line;
    for (const json::Json& sample : (*parsed)["samples"]) {
      EXPECT_TRUE(sample["completion"].is_string() && sample["score"].is_number() && sample["truncated"].is_boolean()) << line;
    }
  }
  EXPECT_EQ(count, 2);
  std::filesystem::remove(output);
}

TEST(CommandsTest, ScoreWritesALineACaseAndNamesABadLine) {
  const std::string rules = WriteFile("rules.textproto", "rules { name: \"right\" exact {} }\n");
  const std::string cases = WriteFile("cases.jsonl", "{\"completion\": \"<answer>7</answer>\", \"answer\": \"7\"}\n"
                                                     "{\"completion\": \"<answer>8</answer>\", \"answer\": \"7\"}\n");
  const std::string output = FreshDirectory("scores") + ".jsonl";
  ASSERT_EQ(Grouper({"score", "--rules", rules, "--input", cases, "--output", output}).exit_code, 0);
  std::istringstream lines(ReadFile(output));
  std::vector<double> rewards;
  for (std::string line; std::getline(lines, line);) rewards.push_back(json::Parse(line)->at("reward").get<double>());
  EXPECT_EQ(rewards, (std::vector<double>{1, 0}));
  const std::string bad = WriteFile("bad.jsonl", "{\"completion\": \"7\", \"answer\": \"7\"}\n{\"completion\": \n");
  const Outcome outcome = Grouper({"score", "--rules", rules, "--input", bad, "--output", output});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("bad.jsonl:2"));
  std::filesystem::remove(output);
}

TEST(CommandsTest, ScoreSaysWhenNothingWasScored) {
  const std::string rules = WriteFile("rules.textproto", "rules { name: \"right\" exact {} }\n");
  const std::string cases = WriteFile("cases.jsonl", "{\"completion\": \"7\"}\n"), empty = WriteFile("empty.jsonl", ""), output = FreshDirectory("scores") + ".jsonl";
  const Outcome none = Grouper({"score", "--rules", rules, "--input", cases, "--output", output});
  EXPECT_EQ(none.exit_code, 0);
  EXPECT_THAT(none.output, AllOf(HasSubstr("1 lines, none with a reward"), ContainsRegex("right +nothing scored  scored 0"), Not(HasSubstr("mean"))));
  const Outcome outcome = Grouper({"score", "--rules", rules, "--input", empty, "--output", output});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr(empty + ": no rows, expected JSON lines"));
  std::filesystem::remove(output);
}

TEST(CommandsTest, ScoreNamesAnAddressThatIsNone) {
  const std::string rules = WriteFile("remote.textproto", "address: \"127.0.0.1:99999\"\n");
  const std::string rows = WriteFile("remote.jsonl", "{\"completion\": \"7\", \"answer\": \"7\"}\n");
  const Outcome outcome = Grouper({"score", "--rules", rules, "--input", rows, "--output", FreshDirectory("none")});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr(rules + ":1:1: address: \"127.0.0.1:99999\", expected HOST:PORT"));
}

TEST(CommandsTest, TheTableOfAHugePoolOfPagesIsCounted) {
  const Outcome huge = Grouper({"run", TinyRecipe(), "--out", FreshDirectory("x"), "--dry-run", "--set", "model.device=cpu", "--set", "rollout.cache_pages=10000000"});
  EXPECT_THAT(huge.output, ContainsRegex("key-value cache +8[0-9]\\.[0-9] MB"));
}

TEST(CommandsTest, SamplesOfALargeEvaluationAreCounted) {
  const Outcome many = Grouper({"run", TinyRecipe(), "--out", FreshDirectory("x"), "--dry-run", "--set", "stages[rl].eval.samples=50000", "--set", "stages[rl].eval.sampling.temperature=1"});
  EXPECT_THAT(many.output, ContainsRegex("samples and their scores +[0-9]{3,}\\.[0-9] MB   stages\\[rl\\]\\.eval\\.samples"));
}

TEST(CommandsTest, AListThatASetGaveIsBlamedOnTheSet) {
  const Outcome places = Grouper({"run", TinyRecipe(), "--out", FreshDirectory("x"), "--dry-run", "--set", "reward.rules[correct].exact.extraction.places=boxd"});
  EXPECT_EQ(places.exit_code, 1);
  EXPECT_THAT(places.output, HasSubstr("--set reward.rules[correct].exact.extraction.places=boxd: reward.rules[2].exact.extraction.places[0]: \"boxd\", expected one of"));
}

TEST(CommandsTest, ABadValueAmongRulesIsNamedWithItsPlace) {
  const std::string rules = WriteFile("rules.textproto", "rules { exact {} }\nrules { regex { pattern: \"(\" } }\n");
  const std::string holder = WriteFile("holder.textproto", "name: \"r\"\nreward {\n  rules { regex { pattern: \"(\" } }\n}\n");
  const std::string rows = WriteFile("rows.jsonl", "{\"completion\": \"7\", \"prompt\": \"1\", \"answer\": \"7\"}\n"), output = FreshDirectory("none");
  const std::pair<std::string, std::string> cases[] = {{rules, rules + ":2:17: rules[1].regex.pattern: "},
                                                       {holder, holder + ":3:19: reward.rules[0].regex.pattern: "}};
  for (const auto& [file, expected] : cases) {
    for (const std::vector<std::string>& arguments : {std::vector<std::string>{"score", "--rules", file, "--input", rows, "--output", output},
                                                      {"eval", "--model", FinishedRun(), "--data", rows, "--rules", file}}) {
      const Outcome outcome = Grouper(arguments);
      EXPECT_EQ(outcome.exit_code, 1);
      EXPECT_THAT(outcome.output, HasSubstr(expected)) << arguments[0];
    }
  }
}

}  // namespace
}  // namespace grouper::testing
