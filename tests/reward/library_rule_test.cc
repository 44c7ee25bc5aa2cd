// A rule in a shared library: whatever it does costs its own score only.
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/reward/rule_world.h"

namespace grouper {
namespace {

std::string Recipe(const std::string& more = "function: 'misbehave'") {
  return absl::StrCat("rules { name: 'lib' timeout_seconds: 0.5 library { path: '", GROUPER_HOSTILE_PLUGIN, "' ", more,
                      " } }");
}

TEST(LibraryRule, ScoresSeesTheRowAndMayDecline) {
  RuleWorld world(Recipe());
  EXPECT_EQ(world.Score("abc"), "3");
  EXPECT_EQ(world.last().reason(), "length");
  EXPECT_EQ(world.Score("row", R"({"x":1})"), "7");
  EXPECT_EQ(world.Score("skip"), "not_applicable");
  EXPECT_EQ(world.Score(std::string("a\0b", 3)), "3");
}

TEST(LibraryRule, MisbehaviourIsAnErrorAndTheNextCompletionIsScored) {
  RuleWorld world(Recipe());
  const std::pair<const char*, const char*> cases[] = {{"throw", "thrown on purpose"}, {"abort", "signal 6"},
                                                       {"segfault", "signal 11"},      {"exit", "exited with 0"},
                                                       {"nan", "not finite"},          {"silent", "no result"}};
  for (const auto& [text, reason] : cases) {
    EXPECT_EQ(world.Score(text), "error") << text;
    EXPECT_TRUE(absl::StrContains(world.last().reason(), reason)) << text << ": " << world.last().reason();
    EXPECT_EQ(world.Score("ab"), "2") << "after " << text;
  }
}

TEST(LibraryRule, AnEndlessLoopIsStopped) {
  RuleWorld world(Recipe());
  EXPECT_EQ(world.Score("loop"), "timeout");
  EXPECT_EQ(world.Score("ab"), "2");
}

TEST(LibraryRule, ItsOutputCannotForgeAnAnswer) {
  RuleWorld world(Recipe());
  EXPECT_EQ(world.Score("print"), "5");
}

TEST(LibraryRule, AnEmptyPathMeansTheLibraryOfTheCommandLine) {
  v1::Reward config;
  v1::LibraryRule* rule = config.add_rules()->mutable_library();
  rule->set_function("misbehave");
  EXPECT_TRUE(absl::StrContains(RuleSet::Create(config, ".").status().message(), "--rules-library"));
  const auto rules = RuleSet::Create(config, ".", {"/no/such.so", GROUPER_HOSTILE_PLUGIN});
  ASSERT_TRUE(rules.ok()) << rules.status();
  v1::ScoreRequest request;
  request.add_groups()->add_completions()->set_text("abc");
  const auto response = (*rules)->Score(request, nullptr);
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->groups(0).completions(0).reward(), 3);
  rule->set_function("nothing");
  EXPECT_TRUE(absl::StrContains(RuleSet::Create(config, ".", {GROUPER_HOSTILE_PLUGIN}).status().message(), "no --rules-library has this rule"));
  EXPECT_EQ(RuleSet::Create(config, ".", {"/no/such.so"}).status().message(),
            "reward.rules[0].library.path: none is given, and no --rules-library has this rule: /no/such.so is not a file");
}

TEST(LibraryRule, WhatDoesNotLoadIsRefusedAtOnce) {
  const auto absent = MakeRules("rules { library { path: '/no/such.so' } }");
  EXPECT_TRUE(absl::StrContains(absent.status().message(), "reward.rules[0].library.path: /no/such.so"))
      << absent.status();
  const auto function = MakeRules(Recipe("function: 'nothing'"));
  EXPECT_TRUE(absl::StrContains(function.status().message(), "no function \"nothing\"")) << function.status();
  const auto text = MakeRules("rules { library { path: 'CMakeLists.txt' } }", GROUPER_SOURCE_DIR);
  EXPECT_TRUE(absl::StrContains(text.status().message(), "cannot load the library")) << text.status();
}

}  // namespace
}  // namespace grouper
