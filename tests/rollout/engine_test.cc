#include "rollout/engine.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/failpoint.h"
#include "gmock/gmock.h"
#include "kernels/sampling.h"
#include "tests/rollout/rollout_world.h"

namespace grouper {
namespace {

using testing::HasSubstr;

class EngineFamilies : public testing::TestWithParam<std::tuple<std::string, DType, Device::Kind>> {
 protected:
  void SetUp() override {
    device_.kind = std::get<2>(GetParam());
    if (device_.is_cuda() && NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
    local_.emplace(threads_, device_);
    model_ = TinyModel(std::get<0>(GetParam()), std::get<1>(GetParam()), *local_);
  }
  ThreadPool threads_{1};
  Device device_;
  std::optional<Stream> local_;
  std::unique_ptr<Model> model_;
};

TEST_P(EngineFamilies, ASampleIsTheSameBitsHoweverItIsBatched) {
  const std::vector<v1::GenerateRequest> groups = MixedGroups();
  const Samples expected = BitsOf(RunAll(*MakeEngine(*model_, threads_), groups));
  ASSERT_EQ(expected.size(), 18u);
  ThreadPool two(2);
  const struct {
    const char* name;
    EngineOptions options;
    ThreadPool& threads;
  } cases[] = {
      {"small batches", {.max_batch_tokens = 7}, threads_},
      {"one token a pass", {.max_batch_tokens = 1}, threads_},
      {"64 tokens a pass", {.max_batch_tokens = 64}, threads_},
      {"one sequence", {.max_sequences = 1}, threads_},
      {"three sequences", {.max_sequences = 3}, threads_},
      {"no shared prefix", {.share_prefix = false}, threads_},
      {"fewest pages", {.cache_pages = 5}, threads_},
      {"few pages", {.cache_pages = 9}, two},
      {"few pages, own prefixes", {.cache_pages = 7, .share_prefix = false}, threads_},
      {"few pages, small batches", {.max_batch_tokens = 33, .cache_pages = 6}, two},
      {"two threads", {}, two},
      {"decoding ahead", {.ahead = EngineOptions::Ahead::kAlways}, threads_},
      {"decoding ahead, three sequences", {.max_sequences = 3, .ahead = EngineOptions::Ahead::kAlways}, two},
      {"decoding ahead, few pages", {.cache_pages = 6, .ahead = EngineOptions::Ahead::kAlways}, threads_},
      {"not ahead", {.ahead = EngineOptions::Ahead::kNever}, threads_},
      {"decoding ahead, small batches", {.max_batch_tokens = 7, .ahead = EngineOptions::Ahead::kAlways}, threads_},
  };
  for (const auto& c : cases) EXPECT_EQ(BitsOf(RunAll(*MakeEngine(*model_, c.threads, c.options), groups)), expected) << c.name;
}

TEST_P(EngineFamilies, ASampleDoesNotDependOnItsCompany) {
  const std::vector<v1::GenerateRequest> groups = MixedGroups();
  const Samples together = BitsOf(RunAll(*MakeEngine(*model_, threads_), groups));
  Samples alone;
  for (const v1::GenerateRequest& group : groups) {
    for (uint32_t index : group.sample_indices()) {
      v1::GenerateRequest one = group;
      one.clear_sample_indices();
      one.add_sample_indices(index);
      one.set_attempt(7);
      for (const v1::Sample& sample : RunAll(*MakeEngine(*model_, threads_), {one})) AddTo(alone, sample);
    }
  }
  EXPECT_EQ(alone, together);
}

TEST_P(EngineFamilies, RecordedLogprobsEqualTeacherForcedScoring) {
  int checked = 0;
  const std::vector<v1::GenerateRequest> groups = MixedGroups();
  for (const v1::Sample& sample : RunAll(*MakeEngine(*model_, threads_, {.cache_pages = 9}), groups)) {
    const v1::SamplingParams& sampling = groups[sample.id().group_serial() - 100].sampling();
    const int32_t n = sample.token_ids_size();
    Batch batch;
    batch.token_ids.assign(sample.token_ids().begin(), sample.token_ids().end());
    const std::vector<int32_t> pages = {0, 1, 2, 3};
    batch.sequences = {{0, n, 0, pages.data()}};
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i + 1 < n; ++i) {
      batch.output_rows.push_back(i);
      tokens.push_back(batch.token_ids[static_cast<size_t>(i) + 1]);
    }
    const std::vector<kernels::SamplingFilter> filters(
        tokens.size(), {sampling.temperature(), static_cast<int32_t>(sampling.top_k()), sampling.top_p()});
    KvPool kv(model_->config(), model_->dtype(), 4, device_);
    Arena arena(device_, local_->handle);
    const Tensor hidden = arena.New(model_->dtype(), {n - 1, model_->config().hidden_size});
    const Tensor logits = arena.New(model_->dtype(), {n - 1, model_->config().vocab_size});
    const Tensor logprobs = arena.New(DType::kF32, {n - 1}), entropies = arena.New(DType::kF32, {n - 1});
    model_->Forward(*local_, batch, kv, hidden, nullptr);
    model_->Logits(*local_, hidden, logits);
    kernels::TokenLogprobs(*local_, logits, filters, tokens.data(), logprobs, entropies);
    local_->Synchronize();
    const HostBytes scored(logprobs);
    for (int32_t i = 1; i < n; ++i) {
      if (!sample.sampled(i)) continue;
      EXPECT_EQ(sample.rollout_logprobs(i), scored.tensor().data<float>()[i - 1]) << sample.id().ShortDebugString() << " position " << i;
      ++checked;
    }
  }
  EXPECT_GT(checked, 500);
}

// Contexts of three splits (ten minutes on the emulator): in passes that decode as graphs, in passes with prompts in them, and as a whole.
TEST(EngineCudaTest, LongContextsHaveTheSameBitsInEveryPass) {
  Device device;
  device.kind = Device::Kind::kCuda;
  if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  ThreadPool threads(1);
  Stream stream(threads, device);
  for (const std::string& family : TensorCoreFamilies()) {
    const std::unique_ptr<Model> model = TinyModel(family, DType::kBF16, stream, 4500);
    // The long ones' last tokens come while the short ones' prompts are computed, and the other way round.
    const std::vector<v1::GenerateRequest> groups = {MakeGroup(1, 4200, 3, 90), MakeGroup(2, 2040, 3, 40), MakeGroup(3, 70, 2, 200), MakeGroup(4, 2100, 2, 60)};
    const auto run = [&](const EngineOptions& options) { return BitsOf(RunAll(*MakeEngine(*model, threads, options), groups)); };
    const Samples expected = run({.max_batch_tokens = 16384, .ahead = EngineOptions::Ahead::kNever});
    ASSERT_EQ(expected.size(), 10u);
    EXPECT_EQ(run({.max_batch_tokens = 16384}), expected) << family;
    EXPECT_EQ(run({.max_batch_tokens = 100}), expected) << family << ", small passes";
    EXPECT_EQ(run({.max_batch_tokens = 500, .cache_pages = 100}), expected) << family << ", few pages";
    EXPECT_EQ(run({.max_batch_tokens = 1000, .share_prefix = false}), expected) << family << ", own prompts";
  }
}

std::string NameOf(const testing::TestParamInfo<EngineFamilies::ParamType>& info) {
  return std::get<0>(info.param) + "_" + Name(std::get<1>(info.param)) +
         (std::get<2>(info.param) == Device::Kind::kCuda ? "_cuda" : "");
}
INSTANTIATE_TEST_SUITE_P(Families, EngineFamilies,
                         testing::Combine(testing::Values("llama", "qwen3_moe", "deepseek_v3"), testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(Device::Kind::kCpu, Device::Kind::kCuda)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(TensorCores, EngineFamilies,
                         testing::Combine(testing::ValuesIn(TensorCoreFamilies()), testing::Values(DType::kBF16),
                                          testing::Values(Device::Kind::kCuda)),
                         NameOf);

// Whether decoding runs ahead or not.
class EngineTest : public testing::TestWithParam<EngineOptions::Ahead> {
 protected:
  EngineTest() : threads_(1), stream_(threads_), model_(TinyModel("llama", DType::kF32, stream_)) {}
  ~EngineTest() override { EXPECT_TRUE(failpoint::Arm("").ok()); }
  std::unique_ptr<Engine> Make(EngineOptions options = {}) {
    options.ahead = GetParam();
    return MakeEngine(*model_, threads_, options);
  }
  ThreadPool threads_;
  Stream stream_;
  std::unique_ptr<Model> model_;
};

TEST_P(EngineTest, FewPagesPreemptAndAllPagesComeBack) {
  const std::unique_ptr<Engine> engine = Make({.cache_pages = 6});
  RunAll(*engine, MixedGroups());
  EXPECT_GT(engine->stats().preemptions, 0u);
  EXPECT_EQ(engine->stats().free_pages, 6);
  EXPECT_EQ(engine->stats().running + engine->stats().waiting, 0);
}

TEST_P(EngineTest, ManyGroupsWithOneTokenEachDoNotStarveOnKeptPrompts) {
  std::vector<v1::GenerateRequest> groups;
  for (uint64_t i = 0; i < 20; ++i) groups.push_back(MakeGroup(i, 64, 4, 1));
  const std::unique_ptr<Engine> engine = Make({.max_batch_tokens = 256, .cache_pages = 5});
  EXPECT_EQ(RunAll(*engine, groups).size(), 80u);
  EXPECT_EQ(engine->stats().free_pages, 5);
}

TEST_P(EngineTest, ItsCacheMayBeLentMemoryThatIsFreeWhenNothingRuns) {
  const Samples expected = BitsOf(RunAll(*Make(), MixedGroups()));
  EngineOptions options;
  options.cache_pages = 9;
  options.ahead = GetParam();
  options.memory = std::make_shared<TurnMemory>(Device{}, Engine::CacheBytes(*model_, options));
  const std::unique_ptr<Engine> engine = MakeEngine(*model_, threads_, options);
  int other;
  for (int round = 0; round < 2; ++round) {
    Samples samples;
    size_t finished = 0;
    for (const v1::GenerateRequest& group : MixedGroups()) {
      const absl::Status status = engine->Add(group, 1, [&](v1::Sample sample) {
        AddTo(samples, sample);
        if (++finished < 18) return;
        options.memory->Take(&other);  // whoever gets the last sample may begin
        options.memory->Give(&other);
      });
      ASSERT_TRUE(status.ok()) << status;
    }
    EXPECT_DEATH(options.memory->Take(&other), "still in use");
    while (*engine->Step()) {
    }
    EXPECT_EQ(samples, expected);
    EXPECT_EQ(engine->stats().free_pages, 9);
  }
  engine->Add(MakeGroup(1, 5, 1, 4), 1, [](v1::Sample) {}).IgnoreError();
  engine->Abort();
  options.memory->Take(&other);
}

TEST_P(EngineTest, AGroupsPromptIsComputedOnce) {
  const v1::GenerateRequest group = MakeGroup(1, 200, 8, 4);
  const std::unique_ptr<Engine> shared = Make();
  RunAll(*shared, {group});
  EXPECT_LT(shared->stats().prefill_tokens, 210u);
  const std::unique_ptr<Engine> own = Make({.share_prefix = false});
  RunAll(*own, {group});
  EXPECT_EQ(own->stats().prefill_tokens, 1600u);
}

// Prompts in pieces, others' tokens beside them, samples that begin and end: the device always has the next pass before its last results are read.
TEST_P(EngineTest, AheadNoPassWaitsForTheResultsOfTheOneBefore) {
  const std::unique_ptr<Engine> engine = Make({.max_batch_tokens = 48});
  RunAll(*engine, {MakeGroup(1, 130, 4, 9), MakeGroup(2, 5, 3, 40), MakeGroup(3, 64, 2, 25), MakeGroup(4, 200, 2, 40)});
  EXPECT_GT(engine->stats().steps, 40u);
  EXPECT_EQ(engine->stats().ahead, GetParam() == EngineOptions::Ahead::kAlways ? engine->stats().steps - 1 : 0);
}

TEST_P(EngineTest, TheContextEndsASampleAsTruncated) {
  const std::vector<v1::Sample> samples = RunAll(*Make(), {MakeGroup(1, 250, 2, 100)});
  ASSERT_EQ(samples.size(), 2u);
  for (const v1::Sample& sample : samples) {
    EXPECT_EQ(sample.token_ids_size(), 256);
    EXPECT_EQ(sample.finish_reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(sample.weight_versions(0).num_tokens(), 6u);
  }
}

TEST_P(EngineTest, AStopTokenIsKeptAsTheLastToken) {
  v1::GenerateRequest group = MakeGroup(1, 5, 8, 200);
  group.mutable_sampling()->add_stop_token_ids(7);
  group.mutable_sampling()->add_stop_token_ids(9);
  int stopped = 0;
  for (const v1::Sample& sample : RunAll(*Make(), {group})) {
    for (int i = 5; i + 1 < sample.token_ids_size(); ++i) EXPECT_THAT(sample.token_ids(i), testing::AllOf(testing::Ne(7), testing::Ne(9)));
    if (sample.finish_reason() != v1::FINISH_REASON_STOP_TOKEN) continue;
    ++stopped;
    EXPECT_THAT(sample.token_ids(sample.token_ids_size() - 1), testing::AnyOf(7, 9));
  }
  EXPECT_GT(stopped, 4);
}

TEST_P(EngineTest, AStopStringIsFoundOverTokenBorders) {
  const std::shared_ptr<const Tokenizer> tokenizer = TinyTokenizer();
  v1::GenerateRequest group = MakeGroup(1, 5, 1, 200);
  const v1::Sample free = RunAll(*Make(), {group})[0];
  // Three characters somewhere in the middle, each a token of its own: the sample must end with them.
  const std::vector<int32_t> tokens(free.token_ids().begin() + 5, free.token_ids().end());
  size_t at = 40;
  auto plain = [&](size_t i) { return tokens[i] >= 7 && tokens[i] <= 30; };
  while (!(plain(at) && plain(at + 1) && plain(at + 2))) ASSERT_LT(++at + 3, tokens.size());
  const std::string stop = tokenizer->Decode({tokens.data() + at, 3}, false);
  const std::string text = tokenizer->Decode({tokens.data(), at + 3}, false);
  ASSERT_EQ(stop.size(), 3u);
  ASSERT_EQ(text.find(stop), text.size() - 3) << "the string comes earlier too; choose another seed";
  group.mutable_sampling()->add_stop_strings("never to be seen");
  group.mutable_sampling()->add_stop_strings(stop);
  const v1::Sample stopped = RunAll(*Make(), {group})[0];
  EXPECT_EQ(stopped.finish_reason(), v1::FINISH_REASON_STOP_STRING);
  ASSERT_EQ(stopped.token_ids_size(), static_cast<int>(5 + at + 3));
  for (int i = 0; i < stopped.token_ids_size(); ++i) EXPECT_EQ(stopped.token_ids(i), free.token_ids(i));
}

TEST_P(EngineTest, TokensAreSeenInOrderAsTheyAreSampled) {
  std::vector<int32_t> seen;
  v1::Sample finished;
  const std::unique_ptr<Engine> engine = Make();
  ASSERT_TRUE(engine->Add(MakeGroup(1, 5, 1, 30), 1, [&](v1::Sample sample) { finished = std::move(sample); },
                          [&](const v1::SampleId&, int32_t token) { seen.push_back(token); }).ok());
  while (*engine->Step()) {
  }
  EXPECT_THAT(seen, testing::ElementsAreArray(finished.token_ids().begin() + 5, finished.token_ids().end()));
  EXPECT_EQ(seen.size(), 30u);
}

TEST_P(EngineTest, BadRequestsNameGroupAndField) {
  const struct {
    const char* field;
    std::function<void(v1::GenerateRequest&)> spoil;
  } cases[] = {
      {"prompt_token_ids: empty", [](auto& r) { r.clear_prompt_token_ids(); }},
      {"expected fewer than the context of 256", [](auto& r) { r.mutable_prompt_token_ids()->Resize(256, 1); }},
      {"prompt_token_ids: id 41", [](auto& r) { r.set_prompt_token_ids(2, 41); }},
      {"prompt_token_ids: id -1", [](auto& r) { r.set_prompt_token_ids(0, -1); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(-1); }},
      {"sampling.temperature: 9.99995e-41, expected 0 (greedy) or at least 1e-6", [](auto& r) { r.mutable_sampling()->set_temperature(1e-40f); }},
      {"sampling.temperature: 9e-07", [](auto& r) { r.mutable_sampling()->set_temperature(9e-7f); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(std::numeric_limits<float>::quiet_NaN()); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(std::numeric_limits<float>::infinity()); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(0); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(1.5f); }},
      {"sampling.top_k", [](auto& r) { r.mutable_sampling()->set_top_k(3000000000u); }},
      {"sampling.max_new_tokens", [](auto& r) { r.mutable_sampling()->set_max_new_tokens(0); }},
      {"sampling.stop_strings", [](auto& r) { r.mutable_sampling()->add_stop_strings(""); }},
      {"sample_indices: none", [](auto& r) { r.clear_sample_indices(); }},
      {"sample_indices: 1 twice", [](auto& r) { r.add_sample_indices(1); }},
  };
  const std::unique_ptr<Engine> engine = Make();
  for (const auto& c : cases) {
    v1::GenerateRequest request = MakeGroup(77, 5, 2, 4);
    c.spoil(request);
    const absl::Status status = engine->Add(request, 1, [](v1::Sample) {});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(std::string(status.message()), testing::AllOf(HasSubstr(c.field), HasSubstr("group 77")));
  }
  EXPECT_FALSE(*engine->Step());
}

TEST_P(EngineTest, ACacheTooSmallForOneContextIsRefused) {
  const auto engine = Engine::Create(*model_, nullptr, threads_, {.cache_pages = 4});
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("rollout.cache_pages: 4, expected at least 5"));
}

TEST_P(EngineTest, AbortOwnerDropsOnlyItsWork) {
  const Samples expected = BitsOf(RunAll(*Make(), {MakeGroup(1, 70, 4, 40)}));
  const std::unique_ptr<Engine> engine = Make({.cache_pages = 8});
  Samples samples;
  int mine, other;
  ASSERT_TRUE(engine->Add(MakeGroup(2, 70, 4, 40), 1, [](v1::Sample) { ADD_FAILURE(); }, {}, &other).ok());
  ASSERT_TRUE(engine->Add(MakeGroup(1, 70, 4, 40), 1, [&](v1::Sample s) { AddTo(samples, s); }, {}, &mine).ok());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(*engine->Step());
  engine->AbortOwner(&other);
  while (*engine->Step()) {
  }
  EXPECT_EQ(samples, expected);
  EXPECT_EQ(engine->stats().free_pages, 8);
}

TEST_P(EngineTest, WhatIsBeingSampledForDroppedOnesIsThrownAway) {
  const Samples expected = BitsOf(RunAll(*Make(), {MakeGroup(1, 30, 3, 12)}));
  for (int steps = 1; steps < 8; ++steps) {
    const std::unique_ptr<Engine> engine = Make();
    Samples samples;
    int mine, other;
    bool dropped = false;
    const auto not_dropped = [&] { EXPECT_FALSE(dropped) << "after " << steps << " steps"; };
    ASSERT_TRUE(engine->Add(MakeGroup(2, 20, 3, 4), 1, [&](v1::Sample) { not_dropped(); }, [&](const v1::SampleId&, int32_t) { not_dropped(); }, &other).ok());
    ASSERT_TRUE(engine->Add(MakeGroup(1, 30, 3, 12), 1, [&](v1::Sample s) { AddTo(samples, s); }, {}, &mine).ok());
    for (int i = 0; i < steps; ++i) ASSERT_TRUE(*engine->Step());
    engine->AbortOwner(&other);
    dropped = true;
    while (*engine->Step()) {
    }
    EXPECT_EQ(samples, expected);
    EXPECT_EQ(engine->stats().free_pages, engine->stats().total_pages);
  }
}

TEST_P(EngineTest, WhereAllIsDroppedOrTheEngineGoesLentMemoryIsFree) {
  EngineOptions options;
  options.cache_pages = 9;
  options.ahead = GetParam();
  options.memory = std::make_shared<TurnMemory>(Device{}, Engine::CacheBytes(*model_, options));
  int owner, other;
  for (const bool destroyed : {false, true}) {
    std::unique_ptr<Engine> engine = MakeEngine(*model_, threads_, options);
    ASSERT_TRUE(engine->Add(MakeGroup(1, 20, 2, 50), 1, [](v1::Sample) { ADD_FAILURE(); }, {}, &owner).ok());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(*engine->Step());
    if (destroyed) {
      engine.reset();
    } else {
      engine->AbortOwner(&owner);
      EXPECT_FALSE(*engine->Step());
    }
    options.memory->Take(&other);
    options.memory->Give(&other);
  }
}

TEST_P(EngineTest, WhoComesWhileOthersRunBeginsSoon) {
  const std::unique_ptr<Engine> engine = Make({.max_batch_tokens = 16});
  const auto add = [&](uint64_t serial) { ASSERT_TRUE(engine->Add(MakeGroup(serial, 20, 1, 60), 1, [](v1::Sample) {}).ok()); };
  add(1);
  add(2);  // two passes for each prompt
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(*engine->Step());
  EXPECT_EQ(engine->stats().waiting, 0);
  add(3);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(*engine->Step());
  EXPECT_EQ(engine->stats().waiting, 0);
}

// The last sequence lacks a page, and there is nobody behind it to take one from: the first goes on without it, and without a wait.
TEST_P(EngineTest, WhoWaitsForAPageDoesNotMakeTheOthersWait) {
  const std::unique_ptr<Engine> engine = Make({.cache_pages = 5, .share_prefix = false});
  RunAll(*engine, {MakeGroup(1, 129, 1, 60), MakeGroup(2, 126, 1, 60)});
  EXPECT_EQ(engine->stats().preemptions, 0u);
  EXPECT_EQ(engine->stats().free_pages, 5);
  if (GetParam() == EngineOptions::Ahead::kAlways) {
    EXPECT_GE(engine->stats().ahead + 4, engine->stats().steps);
  }
}

// With many sequences, those that decode are interrupted when two places in 64 are free, not one; one by one the waiting begin at once.
TEST_P(EngineTest, PlacesAreFilledSeveralAtATimeWherePassesRunAhead) {
  const std::unique_ptr<Engine> engine = Make({.max_sequences = 32, .share_prefix = false});
  RunAll(*engine, {MakeGroup(1, 3, 1, 5), MakeGroup(2, 3, 31, 30), MakeGroup(3, 3, 1, 40)});
  if (GetParam() == EngineOptions::Ahead::kAlways) {
    EXPECT_GE(engine->stats().steps, 68u);
  } else {
    EXPECT_LE(engine->stats().steps, 50u);
  }
}

TEST_P(EngineTest, LogitsThatAreNotNumbersEndTheirSamplesAndNothingElse) {
  for (const char* family : {"llama", "qwen3_moe", "deepseek_v3"}) {
    const std::unique_ptr<Model> model = TinyModel(family, DType::kF32, stream_);
    EngineOptions options;
    options.ahead = GetParam();
    const std::unique_ptr<Engine> engine = MakeEngine(*model, threads_, options);
    const Samples expected = BitsOf(RunAll(*engine, MixedGroups()));
    // In the keys and values of all tokens, the prompt's too.
    float& weight = model->tensors()[static_cast<size_t>(model->FindTensor("model.layers.0.input_layernorm.weight"))].value.data<float>()[3];
    for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      const float good = std::exchange(weight, poison);
      model->WeightsChanged(stream_);
      const std::vector<v1::Sample> broken = RunAll(*engine, MixedGroups());
      EXPECT_EQ(broken.size(), expected.size());
      for (const v1::Sample& sample : broken) {
        EXPECT_EQ(sample.finish_reason(), v1::FINISH_REASON_NOT_FINITE);
        EXPECT_EQ(std::count(sample.sampled().begin(), sample.sampled().end(), true), 0);
        EXPECT_THAT(std::string(CheckFinite(sample).message()),
                    HasSubstr(absl::StrCat("group ", sample.id().group_serial(), " sample ", sample.id().sample_index(), ", token 0")));
      }
      weight = good;
      model->WeightsChanged(stream_);
      EXPECT_EQ(BitsOf(RunAll(*engine, MixedGroups())), expected) << family << ": of " << poison << " nothing is left in the pages";
    }
  }
}

TEST_P(EngineTest, ASampleThatMeetsNoNumbersEndsThereAndTheOthersKeepTheirBits) {
  const std::vector<v1::Sample> undisturbed = RunAll(*Make(), MixedGroups());
  std::map<std::pair<uint64_t, uint32_t>, const v1::Sample*> whole;
  for (const v1::Sample& sample : undisturbed) {
    EXPECT_TRUE(CheckFinite(sample).ok());
    whole[{sample.id().group_serial(), sample.id().sample_index()}] = &sample;
  }
  for (const char* where : {"rollout.logits:1:nan", "rollout.logits:50:nan", "rollout.logits:333:nan"}) {
    ASSERT_TRUE(failpoint::Arm(where).ok());
    const std::unique_ptr<Engine> engine = Make();
    int broken = 0;
    for (const v1::Sample& sample : RunAll(*engine, MixedGroups())) {
      const v1::Sample& want = *whole[{sample.id().group_serial(), sample.id().sample_index()}];
      if (sample.finish_reason() != v1::FINISH_REASON_NOT_FINITE) {
        EXPECT_EQ(sample.SerializeAsString(), want.SerializeAsString());
        continue;
      }
      ++broken;
      EXPECT_LT(sample.token_ids_size(), want.token_ids_size());
      EXPECT_TRUE(std::equal(sample.token_ids().begin(), sample.token_ids().end(), want.token_ids().begin()));
      EXPECT_EQ(sample.rollout_logprobs_size(), sample.token_ids_size());
      EXPECT_FALSE(CheckFinite(sample).ok());
    }
    EXPECT_EQ(broken, 1) << where;
    EXPECT_EQ(engine->stats().free_pages, engine->stats().total_pages);
  }
}

INSTANTIATE_TEST_SUITE_P(Decoding, EngineTest, testing::Values(EngineOptions::Ahead::kNever, EngineOptions::Ahead::kAlways),
                         [](const auto& info) { return info.param == EngineOptions::Ahead::kAlways ? "Ahead" : "AtOnce"; });

}  // namespace
}  // namespace grouper
