// Who is computed next, and in what order, without a model: passes are said to have run.
#include "rollout/scheduler.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace grouper {
namespace {

constexpr int32_t kPages = 16;

class SchedulerTest : public testing::Test {
 protected:
  SchedulerTest() : threads_(1), stream_(threads_), kv_(Config(), DType::kF32, kPages), scheduler_(kv_, stream_, Options()) {}

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
  void Add(const std::string& name, int prompt, int samples = 1) {
    auto group = std::make_shared<Group>();
    group->prompt.assign(static_cast<size_t>(prompt), 1);
    group->unstarted = samples;
    group->request.mutable_sampling()->set_max_new_tokens(1000);
    for (int i = 0; i < samples; ++i) {
      auto sequence = std::make_shared<Sequence>();
      sequence->group = group;
      sequence->tokens = group->prompt;
      sequence->text = absl::StrCat(name, i);
      sequences_.push_back(sequence);
      scheduler_.Add(sequence);
    }
  }

  // One pass, in which every sequence that has been computed to its end gets a token: "a0:150 b0:362".
  std::string Step() {
    const std::vector<Scheduler::Work> work = scheduler_.Schedule();
    std::string text;
    for (const Scheduler::Work& w : work) absl::StrAppend(&text, text.empty() ? "" : " ", w.sequence->text, ":", w.tokens);
    scheduler_.Computed(work);
    for (const Scheduler::Work& w : work) {
      if (w.sequence->remaining() == 0) w.sequence->tokens.push_back(1);
    }
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

}  // namespace
}  // namespace grouper
