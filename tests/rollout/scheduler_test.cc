// Who is computed next, and in what order, without a model: passes are said to have run.
#include "rollout/scheduler.h"

#include <gtest/gtest.h>

#include <deque>
#include <string>

#include "absl/strings/str_cat.h"

namespace grouper {
namespace {

constexpr int32_t kPages = 16;
constexpr int64_t kContext = 2000;

class SchedulerTest : public testing::Test {
 protected:
  SchedulerTest() : threads_(1), stream_(threads_), kv_(Config(), DType::kF32, kPages), scheduler_(kv_, stream_, Options(), kContext) {}

  static ModelConfig Config() {
    ModelConfig config;
    config.num_hidden_layers = 1;
    config.num_key_value_heads = 1;
    config.head_dim = 8;
    return config;
  }
  static EngineOptions Options() {
    EngineOptions options;
    options.max_batch_tokens = 512;
    return options;
  }

  // `samples` of one prompt, waiting; they are called NAME0, NAME1, ...
  void Add(const std::string& name, int prompt, int samples = 1, uint32_t max_new_tokens = 1000) {
    auto group = std::make_shared<Group>();
    group->prompt.assign(static_cast<size_t>(prompt), 1);
    group->unstarted = samples;
    group->request.mutable_sampling()->set_max_new_tokens(max_new_tokens);
    for (int i = 0; i < samples; ++i) {
      auto sequence = std::make_shared<Sequence>();
      sequence->group = group;
      sequence->tokens = group->prompt;
      sequence->text = absl::StrCat(name, i);
      sequences_.push_back(sequence);
      scheduler_.Add(sequence);
    }
  }

  // One pass: "a0:150 b0:362". Every sequence that has been computed to its end is being sampled for.
  std::string Launch() {
    const std::vector<Scheduler::Work> work = scheduler_.Schedule(!under_way_.empty());
    std::string text;
    for (const Scheduler::Work& w : work) absl::StrAppend(&text, text.empty() ? "" : " ", w.sequence->text, ":", w.tokens);
    scheduler_.Computed(work);
    if (work.empty()) return text;
    under_way_.emplace_back();
    for (const Scheduler::Work& w : work) {
      if (w.sequence->remaining() > 0) continue;
      ++w.sequence->ahead;
      under_way_.back().push_back(w.sequence);
    }
    return text;
  }
  // The tokens of the oldest pass under way.
  void Collect() {
    for (const std::shared_ptr<Sequence>& sequence : under_way_.front()) {
      --sequence->ahead;
      sequence->tokens.push_back(1);
      sequence->logprobs.push_back(0);
    }
    under_way_.pop_front();
  }
  std::string Step() {
    const std::string text = Launch();
    Collect();
    return text;
  }
  void Finish(const std::string& name) {
    for (const auto& sequence : sequences_) {
      if (sequence->text == name) scheduler_.Finish(sequence.get());
    }
  }

  ThreadPool threads_;
  Stream stream_;
  KvPool kv_;
  Scheduler scheduler_;
  std::vector<std::shared_ptr<Sequence>> sequences_;
  std::deque<std::vector<std::shared_ptr<Sequence>>> under_way_;
};

TEST_F(SchedulerTest, TheSamplesOfAGroupStandTogether) {
  Add("a", 10, 3);
  Add("b", 10, 2);
  Add("c", 10);
  EXPECT_EQ(Step(), "a0:10 b0:10 c0:10");
  // The others join behind their group's first: where a batch goes on, each group is in one piece.
  EXPECT_EQ(Step(), "a0:1 b0:1 c0:1 a1:1 a2:1 b1:1");
  EXPECT_EQ(Step(), "a0:1 a1:1 a2:1 b0:1 b1:1 c0:1");
  Finish("a1");
  EXPECT_EQ(Step(), "a0:1 a2:1 b0:1 b1:1 c0:1");
}

TEST_F(SchedulerTest, APromptThatWaitsForPagesIsNotOvertaken) {
  Add("a", 150);
  Add("b", 900);  // 15 pages
  EXPECT_EQ(Step(), "a0:150 b0:362");
  Add("c", 10);
  // 7 pages are free, 8 wanted. The small one would fit, and the next small one.
  EXPECT_EQ(Step(), "a0:1");
  EXPECT_EQ(Step(), "a0:1");
  Finish("a0");
  EXPECT_EQ(Step(), "b0:512");
  EXPECT_EQ(Step(), "b0:26");
  Finish("b0");
  EXPECT_EQ(Step(), "c0:10");
}

TEST_F(SchedulerTest, WhoIsPreemptedIsTheLastOfTheYoungestGroup) {
  Add("a", 300, 2);  // 4 pages shared, 1 each
  Add("b", 300, 2);
  Step();
  Step();
  EXPECT_EQ(Step(), "a0:1 a1:1 b0:1 b1:1");
  // Samples grow until the pages are used up.
  std::string last;
  for (int i = 0; i < 200 && scheduler_.preemptions() == 0; ++i) last = Step();
  EXPECT_EQ(scheduler_.preemptions(), 1u);
  EXPECT_EQ(last, "a0:1 a1:1 b0:1");
  EXPECT_EQ(scheduler_.waiting(), 1);
}

TEST_F(SchedulerTest, APassIsScheduledBeforeTheTokensOfTheOneBeforeAreKnown) {
  Add("a", 600, 2);  // its prompt in two pieces
  EXPECT_EQ(Launch(), "a0:512");
  EXPECT_EQ(Launch(), "a0:88");
  Add("b", 10, 1, 2);
  EXPECT_EQ(Launch(), "a0:1 a1:1 b0:10");
  Collect();
  Collect();
  EXPECT_EQ(Launch(), "a0:1 a1:1 b0:1");
  // Two tokens are sampled or being sampled for b0, which may have two.
  EXPECT_EQ(Launch(), "a0:1 a1:1");
  Collect();
  EXPECT_EQ(sequences_[0]->size(), 602);
  EXPECT_EQ(sequences_[0]->length(), 604);
}

TEST_F(SchedulerTest, ASequenceAtTheEndOfTheContextIsNotScheduledAgain) {
  Add("a", 510);
  Scheduler scheduler(kv_, stream_, Options(), /*max_context=*/512);
  scheduler.Add(sequences_[0]);
  Sequence& a = *sequences_[0];
  for (int expected : {510, 1}) {
    const std::vector<Scheduler::Work> work = scheduler.Schedule(/*under_way=*/expected == 1);
    ASSERT_EQ(work.size(), 1u);
    EXPECT_EQ(work[0].tokens, expected);
    scheduler.Computed(work);
    ++a.ahead;
  }
  EXPECT_EQ(a.length(), 512);
  EXPECT_TRUE(scheduler.Schedule(/*under_way=*/true).empty());
}

TEST_F(SchedulerTest, WhereAPageLacksTheTokensUnderWayAreWaitedForBeforeAnyoneIsPreempted) {
  Add("a", 508);  // 8 pages
  Add("b", 508);
  EXPECT_EQ(Launch(), "a0:508 b0:4");
  EXPECT_EQ(Launch(), "a0:1 b0:504");
  Collect();
  Collect();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Launch(), "a0:1 b0:1") << i;
    if (i > 0) Collect();
  }
  EXPECT_EQ(sequences_[0]->length(), 513);  // the last token's place would be on a ninth page
  EXPECT_EQ(Launch(), "");
  EXPECT_EQ(scheduler_.preemptions(), 0u);
  Collect();
  EXPECT_EQ(Launch(), "a0:1");
  EXPECT_EQ(scheduler_.preemptions(), 1u);
}

TEST_F(SchedulerTest, FewFreePlacesAreNoReasonToInterruptThoseWhoDecode) {
  EngineOptions options = Options();
  options.max_sequences = 4;
  Add("a", 10, 6);
  Scheduler scheduler(kv_, stream_, options, kContext, /*places_kept_free=*/1);
  for (const auto& sequence : sequences_) {
    sequence->group->prefix = Group::Prefix::kNone;
    scheduler.Add(sequence);
  }
  const auto step = [&] {
    const std::vector<Scheduler::Work> work = scheduler.Schedule();
    std::string text;
    for (const Scheduler::Work& w : work) absl::StrAppend(&text, text.empty() ? "" : " ", w.sequence->text, ":", w.tokens);
    scheduler.Computed(work);
    for (const Scheduler::Work& w : work) w.sequence->tokens.push_back(1);
    return text;
  };
  EXPECT_EQ(step(), "a0:10");
  EXPECT_EQ(step(), "a0:1 a1:1 a2:1 a3:1");
  scheduler.Finish(sequences_[1].get());
  EXPECT_EQ(step(), "a0:1 a2:1 a3:1");
  scheduler.Finish(sequences_[2].get());
  EXPECT_EQ(step(), "a0:1 a3:1 a4:1 a5:1");
}

}  // namespace
}  // namespace grouper
