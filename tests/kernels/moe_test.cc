#include "kernels/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::Get;
using grouper::testing::GradientMatches;
using grouper::testing::Memory;
using grouper::testing::Near;
using grouper::testing::RowInvariant;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;

using Scoring = RouterConfig::Scoring;
using GroupScore = RouterConfig::GroupScore;

struct Router {
  const char* name;
  RouterConfig config;
  bool bias;
};

const Router kRouters[] = {
    {"Qwen3-MoE", {128, 8, Scoring::kSoftmax, 1, 1, GroupScore::kMax, true, 1}, false},
    {"DeepSeek-V2-Lite, greedy", {64, 6, Scoring::kSoftmax, 1, 1, GroupScore::kMax, false, 1}, false},
    {"DeepSeek-V2, group-limited", {160, 6, Scoring::kSoftmax, 8, 3, GroupScore::kMax, false, 16}, false},
    {"DeepSeek-V3", {256, 8, Scoring::kSigmoid, 8, 4, GroupScore::kTop2Sum, true, 2.5}, true},
    {"Moonlight", {64, 6, Scoring::kSigmoid, 1, 1, GroupScore::kTop2Sum, true, 2.446}, true},
    {"quickstart-sized", {7, 2, Scoring::kSigmoid, 1, 1, GroupScore::kTop2Sum, true, 1}, true},
    {"groups of one", {4, 2, Scoring::kSigmoid, 4, 3, GroupScore::kTop2Sum, false, 1}, true},
    {"one expert", {1, 1, Scoring::kSoftmax, 1, 1, GroupScore::kMax, true, 1}, false},
    {"every expert", {8, 8, Scoring::kSoftmax, 1, 1, GroupScore::kMax, true, 1}, false},
};

struct Routes {
  Tensor ids, weights, scores;
};

Routes NewRoutes(Memory& memory, const RouterConfig& c, DType dtype, int64_t tokens) {
  return {memory.New(DType::kI32, {tokens, c.top_k}), memory.New(dtype, {tokens, c.top_k}),
          memory.New(dtype, {tokens, c.num_experts})};
}

Tensor BiasOf(Memory& memory, const Router& router, DType dtype) {
  return router.bias ? memory.Random(dtype, {router.config.num_experts}, "bias", 0.2) : Tensor();
}

// The modelling code of transformers (route_tokens_to_experts, get_topk_indices), one token, in double.
struct Choice {
  std::vector<double> scores;
  std::vector<int> ids;
  std::vector<double> weights;
};

Choice Reference(const RouterConfig& c, const Tensor& logits, int64_t token, const Tensor& bias) {
  Choice r;
  r.scores.resize(static_cast<size_t>(c.num_experts));
  double most = -1e300, sum = 0;
  for (int e = 0; e < c.num_experts; ++e) most = std::max(most, Get(logits, token * c.num_experts + e));
  for (int e = 0; e < c.num_experts; ++e) {
    const double x = Get(logits, token * c.num_experts + e);
    r.scores[e] = c.scoring == Scoring::kSigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x - most);
    sum += r.scores[e];
  }
  if (c.scoring == Scoring::kSoftmax) {
    for (double& s : r.scores) s /= sum;
  }
  std::vector<double> choice = r.scores;
  if (!bias.empty()) {
    for (int e = 0; e < c.num_experts; ++e) choice[e] += Get(bias, e);
  }
  if (c.num_groups > 1) {
    const int size = c.num_experts / c.num_groups;
    std::vector<double> group_scores;
    for (int g = 0; g < c.num_groups; ++g) {
      std::vector<double> members(choice.begin() + g * size, choice.begin() + (g + 1) * size);
      std::sort(members.rbegin(), members.rend());
      group_scores.push_back(c.group_score == GroupScore::kTop2Sum && size > 1 ? members[0] + members[1] : members[0]);
    }
    std::vector<int> groups(c.num_groups);
    std::iota(groups.begin(), groups.end(), 0);
    std::stable_sort(groups.begin(), groups.end(), [&](int a, int b) { return group_scores[a] > group_scores[b]; });
    for (int i = c.topk_groups; i < c.num_groups; ++i) std::fill_n(choice.begin() + groups[i] * size, size, -1e300);
  }
  std::vector<int> order(c.num_experts);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return choice[a] > choice[b]; });
  r.ids.assign(order.begin(), order.begin() + c.top_k);
  double chosen = 0;
  for (int e : r.ids) chosen += r.scores[e];
  for (int e : r.ids)
    r.weights.push_back(r.scores[e] / (c.norm_topk_prob ? chosen + 1e-20 : 1) * c.routed_scaling_factor);
  return r;
}

TEST(RouteTest, ChoosesAndWeighsAsTheModellingCodeDoes) {
  constexpr int64_t kTokens = 70;
  for (const Router& router : kRouters) {
    const RouterConfig& c = router.config;
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      Memory memory;
      TestStream test(2);
      const Tensor logits = memory.Random(dtype, {kTokens, c.num_experts}, "logits", 1.5),
                   bias = BiasOf(memory, router, dtype);
      const Routes got = NewRoutes(memory, c, dtype, kTokens);
      Route(test.stream, c, logits, bias, got.ids, got.weights, got.scores);
      for (int64_t t = 0; t < kTokens; ++t) {
        const Choice want = Reference(c, logits, t, bias);
        for (int e = 0; e < c.num_experts; ++e)
          ASSERT_NEAR(Get(got.scores, t * c.num_experts + e), want.scores[e], 1e-6) << router.name;
        for (int k = 0; k < c.top_k; ++k) {
          // Logits of equal value give equal scores: the lower id comes first in both.
          ASSERT_EQ(Get(got.ids, t * c.top_k + k), want.ids[k]) << router.name << ", token " << t;
          ASSERT_NEAR(Get(got.weights, t * c.top_k + k), want.weights[k], 1e-5 * c.routed_scaling_factor)
              << router.name << ", token " << t;
        }
      }
    }
  }
}

TEST(RouteTest, BiasMovesTheChoiceButNotTheWeights) {
  Memory memory;
  TestStream test(1);
  const RouterConfig c = {4, 2, Scoring::kSigmoid, 1, 1, GroupScore::kTop2Sum, false, 1};
  const Tensor logits = memory.Zero(DType::kF32, {1, 4}), bias = memory.Zero(DType::kF32, {4});
  Set(logits, 0, 2);
  Set(bias, 3, 10);
  const Routes got = NewRoutes(memory, c, DType::kF32, 1);
  Route(test.stream, c, logits, bias, got.ids, got.weights, got.scores);
  EXPECT_EQ(Get(got.ids, 0), 3);
  EXPECT_EQ(Get(got.ids, 1), 0);
  EXPECT_EQ(Get(got.weights, 0), 0.5);
  EXPECT_NEAR(Get(got.weights, 1), 1 / (1 + std::exp(-2.0)), 1e-7);
}

TEST(RouteTest, ExpertsOfOtherGroupsAreNeverChosenEvenWithNegativeScores) {
  Memory memory;
  TestStream test(1);
  const RouterConfig c = {8, 4, Scoring::kSigmoid, 2, 1, GroupScore::kTop2Sum, true, 1};
  const Tensor logits = memory.Zero(DType::kF32, {1, 8}), bias = memory.New(DType::kF32, {8});
  for (int e = 0; e < 8; ++e) Set(bias, e, e < 4 ? -2 : -3);  // biased scores: -1.5 and -2.5
  const Routes got = NewRoutes(memory, c, DType::kF32, 1);
  Route(test.stream, c, logits, bias, got.ids, got.weights, got.scores);
  for (int k = 0; k < 4; ++k) {
    EXPECT_EQ(Get(got.ids, k), k);
    EXPECT_EQ(Get(got.weights, k), 0.25);
  }
}

TEST(RouteTest, EqualScoresGoToTheLowerIds) {
  Memory memory;
  TestStream test(1);
  const RouterConfig c = {16, 4, Scoring::kSoftmax, 4, 2, GroupScore::kMax, true, 1};
  const Tensor logits = memory.Zero(DType::kF32, {1, 16});
  const Routes got = NewRoutes(memory, c, DType::kF32, 1);
  Route(test.stream, c, logits, Tensor(), got.ids, got.weights, got.scores);
  for (int k = 0; k < 4; ++k) EXPECT_EQ(Get(got.ids, k), k);
}

TEST(RouteTest, ExtremeAndNanLogitsStillGiveDistinctValidExperts) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const Router& router : kRouters) {
    const RouterConfig& c = router.config;
    for (const double fill : {nan, -infinity, infinity, 1e30, -1e30}) {
      Memory memory;
      TestStream test(1);
      const Tensor logits = memory.Random(DType::kF32, {3, c.num_experts}, "logits"),
                   bias = BiasOf(memory, router, DType::kF32);
      for (int e = 0; e < c.num_experts; ++e) Set(logits, e, fill);
      Set(logits, 2 * c.num_experts - 1, fill);
      const Routes got = NewRoutes(memory, c, DType::kF32, 3);
      Route(test.stream, c, logits, bias, got.ids, got.weights, got.scores);
      for (int64_t t = 0; t < 3; ++t) {
        std::vector<bool> seen(static_cast<size_t>(c.num_experts), false);
        for (int k = 0; k < c.top_k; ++k) {
          const int id = static_cast<int>(Get(got.ids, t * c.top_k + k));
          ASSERT_TRUE(id >= 0 && id < c.num_experts && !seen[id]) << router.name << ", logits of " << fill;
          seen[id] = true;
        }
      }
    }
  }
}

TEST(RouteTest, IsRowInvariant) {
  for (const Router& router : kRouters) {
    const RouterConfig& c = router.config;
    Memory memory;
    const Tensor logits = memory.Random(DType::kF32, {130, c.num_experts}, "logits"),
                 bias = BiasOf(memory, router, DType::kF32);
    EXPECT_TRUE(RowInvariant(130, memory.New(DType::kF32, {130, c.top_k}),
                             [&](Stream& stream, int64_t begin, int64_t end, const Tensor& out) {
                               const Routes routes = NewRoutes(memory, c, DType::kF32, end - begin);
                               Route(stream, c, logits.Rows(begin, end), bias, routes.ids, out, routes.scores);
                             }))
        << router.name;
  }
}

TEST(RouteBackwardTest, MatchesCentralDifferences) {
  for (const Router& router : kRouters) {
    const RouterConfig& c = router.config;
    Memory memory;
    TestStream test(2);
    const Tensor logits = memory.Random(DType::kF64, {5, c.num_experts}, "logits"),
                 bias = BiasOf(memory, router, DType::kF64);
    const Tensor dweights = memory.Random(DType::kF64, {5, c.top_k}, "dweights"),
                 dlogits = memory.New(DType::kF64, {5, c.num_experts});
    const Routes routes = NewRoutes(memory, c, DType::kF64, 5);
    // No two logits alike: at a tie the choice jumps.
    for (int64_t i = 0; i < logits.size(); ++i)
      Set(logits, i, Get(logits, i) + 1e-4 * static_cast<double>(i % c.num_experts));
    const auto loss = [&] {
      Route(test.stream, c, logits, bias, routes.ids, routes.weights, routes.scores);
      double sum = 0;
      for (int64_t i = 0; i < dweights.size(); ++i) sum += Get(routes.weights, i) * Get(dweights, i);
      return sum;
    };
    loss();
    RouteBackward(test.stream, c, routes.scores, routes.ids, dweights, dlogits);
    EXPECT_TRUE(GradientMatches(loss, logits, dlogits)) << router.name;
  }
}

// Expert ids of 37 tokens with 3 slots over 6 experts, one of which nobody chose.
Tensor SomeIds(Memory& memory) {
  const Tensor ids = memory.New(DType::kI32, {37, 3});
  for (int64_t t = 0; t < 37; ++t) {
    for (int64_t k = 0; k < 3; ++k) {
      const int64_t id = (t * t + 2 * k) % 5;
      Set(ids, t * 3 + k, static_cast<double>(id == 2 ? 5 : id));
    }
  }
  return ids;
}

TEST(SortByExpertTest, IsStableAndComplete) {
  Memory memory;
  TestStream test(1);
  const Tensor ids = SomeIds(memory);
  const ExpertOrder order = SortByExpert(test.stream, ids, 6, test.stream.scratch);
  const int32_t* const offsets = order.offsets.data<int32_t>();
  ASSERT_EQ(offsets[0], 0);
  ASSERT_EQ(offsets[6], 111);
  EXPECT_EQ(offsets[2], offsets[3]);
  for (int e = 0; e < 6; ++e) {
    std::vector<int32_t> want;
    for (int64_t i = 0; i < ids.size(); ++i) {
      if (Get(ids, i) == e) want.push_back(static_cast<int32_t>(i));
    }
    ASSERT_EQ(offsets[e + 1] - offsets[e], static_cast<int32_t>(want.size()));
    for (size_t j = 0; j < want.size(); ++j) {
      EXPECT_EQ(order.token.data<int32_t>()[offsets[e] + static_cast<int32_t>(j)], want[j] / 3);
      EXPECT_EQ(order.row_of.data<int32_t>()[want[j]], offsets[e] + static_cast<int32_t>(j));
    }
  }
}

TEST(SortByExpertTest, TakesABatchWithoutTokens) {
  Memory memory;
  TestStream test(1);
  const ExpertOrder order = SortByExpert(test.stream, memory.New(DType::kI32, {0, 2}), 3, test.stream.scratch);
  for (int e = 0; e <= 3; ++e) EXPECT_EQ(order.offsets.data<int32_t>()[e], 0);
  EXPECT_EQ(order.token.size(), 0);
}

TEST(CombineExpertsTest, IsOneFusedChainOverSlots) {
  for (const int64_t width : {1, 8, 21, 64}) {
    Memory memory;
    TestStream test(2);
    const ExpertOrder order = SortByExpert(test.stream, SomeIds(memory), 6, test.stream.scratch);
    const Tensor rows = memory.Random(DType::kF32, {111, width}, "rows"),
                 weights = memory.Random(DType::kF32, {37, 3}, "weights");
    const Tensor start = memory.Random(DType::kF32, {37, width}, "start"), want = memory.New(DType::kF32, {37, width});
    for (const bool accumulate : {false, true}) {
      const Tensor got = accumulate ? memory.Clone(start) : memory.New(DType::kF32, {37, width});
      CombineExperts(test.stream, order, rows, weights, got, accumulate);
      for (int64_t i = 0; i < want.size(); ++i) {
        const int64_t t = i / width;
        float sum = accumulate ? static_cast<float>(Get(start, i)) : 0;
        for (int64_t k = 0; k < 3; ++k) {
          sum = std::fma(static_cast<float>(Get(weights, t * 3 + k)),
                         static_cast<float>(Get(rows, order.row_of.data<int32_t>()[t * 3 + k] * width + i % width)), sum);
        }
        Set(want, i, sum);
      }
      EXPECT_TRUE(Same(got, want)) << width;
    }
  }
}

TEST(CombineExpertsBackwardTest, MatchesCentralDifferences) {
  Memory memory;
  TestStream test(2);
  const ExpertOrder order = SortByExpert(test.stream, SomeIds(memory), 6, test.stream.scratch);
  const Tensor rows = memory.Random(DType::kF64, {111, 13}, "rows"),
               weights = memory.Random(DType::kF64, {37, 3}, "weights");
  const Tensor dy = memory.Random(DType::kF64, {37, 13}, "dy");
  const auto loss = [&] {
    const Tensor y = memory.New(DType::kF64, {37, 13});
    CombineExperts(test.stream, order, rows, weights, y, false);
    double sum = 0;
    for (int64_t i = 0; i < y.size(); ++i) sum += Get(y, i) * Get(dy, i);
    return sum;
  };
  const Tensor drows = memory.New(DType::kF64, {111, 13}), dweights = memory.New(DType::kF64, {37, 3});
  CombineExpertsBackward(test.stream, order, dy, rows, weights, drows, dweights);
  EXPECT_TRUE(GradientMatches(loss, rows, drows));
  EXPECT_TRUE(GradientMatches(loss, weights, dweights));
}

TEST(ScatterExpertRowsTest, AddsSlotsAscendingToWhatIsThere) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    Memory memory;
    TestStream test(3);
    const ExpertOrder order = SortByExpert(test.stream, SomeIds(memory), 6, test.stream.scratch);
    const Tensor rows = memory.Random(dtype, {111, 19}, "rows"), got = memory.Random(dtype, {37, 19}, "start"),
                 want = memory.Clone(got);
    ScatterExpertRows(test.stream, order, rows, 3, got);
    for (int64_t i = 0; i < want.size(); ++i) {
      double wide = Get(want, i);
      float narrow = static_cast<float>(wide);
      for (int64_t k = 0; k < 3; ++k) {
        const double x = Get(rows, order.row_of.data<int32_t>()[i / 19 * 3 + k] * 19 + i % 19);
        wide += x;
        narrow += static_cast<float>(x);
      }
      Set(want, i, dtype == DType::kF64 ? wide : static_cast<double>(narrow));
    }
    EXPECT_TRUE(Same(got, want));
  }
}

TEST(CombineExpertsTest, Bf16RoundsTheFloatResultOnce) {
  Memory memory;
  TestStream test(1);
  const ExpertOrder order = SortByExpert(test.stream, SomeIds(memory), 6, test.stream.scratch);
  const Tensor rows = memory.Random(DType::kBF16, {111, 20}, "rows"),
               weights = memory.Random(DType::kF32, {37, 3}, "weights");
  const Tensor got = memory.New(DType::kBF16, {37, 20}), want = memory.New(DType::kF32, {37, 20});
  CombineExperts(test.stream, order, rows, weights, got, false);
  CombineExperts(test.stream, order, memory.Convert(rows, DType::kF32), weights, want, false);
  EXPECT_TRUE(Same(got, memory.Convert(want, DType::kBF16)));
}

TEST(AddExpertLoadTest, AddsWhatAnOrderHas) {
  Memory memory;
  TestStream test(1);
  const ExpertOrder order = SortByExpert(test.stream, SomeIds(memory), 6, test.stream.scratch);
  const Tensor load = memory.Zero(DType::kI32, {6});
  for (int i = 0; i < 2; ++i) AddExpertLoad(test.stream, order.offsets, load);
  const int32_t* const offsets = order.offsets.data<int32_t>();
  for (int e = 0; e < 6; ++e) EXPECT_EQ(Get(load, e), 2 * (offsets[e + 1] - offsets[e]));
}

TEST(UpdateExpertBiasTest, RaisesTheIdleAndLowersTheBusyByOneRate) {
  Memory memory;
  TestStream test(1);
  const Tensor bias = memory.Zero(DType::kF64, {4}), load = memory.New(DType::kI32, {4});
  for (int e = 0; e < 4; ++e) Set(load, e, std::array{10, 30, 20, 20}[static_cast<size_t>(e)]);
  UpdateExpertBias(test.stream, load, 0.001, bias);
  EXPECT_EQ(Get(bias, 0), 0.001);
  EXPECT_EQ(Get(bias, 1), -0.001);
  EXPECT_EQ(Get(bias, 2), 0);
  EXPECT_EQ(Get(bias, 3), 0);
}

TEST(MoeTest, EmptyBatchesDoNothing) {
  Memory memory;
  TestStream test(2);
  const RouterConfig c = kRouters[0].config;
  const Routes routes = NewRoutes(memory, c, DType::kF32, 0);
  const Tensor none = memory.New(DType::kF32, {0, 16}), logits = memory.New(DType::kF32, {0, c.num_experts});
  Route(test.stream, c, logits, Tensor(), routes.ids, routes.weights, routes.scores);
  RouteBackward(test.stream, c, routes.scores, routes.ids, routes.weights, logits);
  const ExpertOrder order = SortByExpert(test.stream, routes.ids, c.num_experts, test.stream.scratch);
  CombineExperts(test.stream, order, none, routes.weights, none, false);
  CombineExpertsBackward(test.stream, order, none, none, routes.weights, none, routes.weights);
  ScatterExpertRows(test.stream, order, none, c.top_k, none);
  EXPECT_EQ(order.offsets.data<int32_t>()[c.num_experts], 0);
}

}  // namespace
}  // namespace grouper::kernels
