// Experts on the GPU: routes, orders, combinations and their gradients have the CPU's bits.
#include <array>
#include <cmath>
#include <random>

#include "kernels/moe.h"
#include "tests/testing/cuda_world.h"

namespace grouper::kernels {
namespace {

using grouper::testing::CudaWorld;
using grouper::testing::Get;
using grouper::testing::Same;
using grouper::testing::Set;

using Scoring = RouterConfig::Scoring;
using GroupScore = RouterConfig::GroupScore;

struct Router {
  const char* name;
  RouterConfig config;
  bool bias;
};
const Router kRouters[] = {
    {"Qwen3-MoE", {128, 8, Scoring::kSoftmax, 1, 1, GroupScore::kMax, true, 1}, false},
    {"DeepSeek-V2-Lite", {64, 6, Scoring::kSoftmax, 1, 1, GroupScore::kMax, false, 1}, false},
    {"DeepSeek-V2", {160, 6, Scoring::kSoftmax, 8, 3, GroupScore::kMax, false, 16}, false},
    {"DeepSeek-V3", {256, 8, Scoring::kSigmoid, 8, 4, GroupScore::kTop2Sum, true, 2.5}, true},
    {"quickstart-sized", {7, 2, Scoring::kSigmoid, 1, 1, GroupScore::kTop2Sum, true, 1}, true},
    {"groups of one", {4, 2, Scoring::kSigmoid, 4, 3, GroupScore::kTop2Sum, false, 1}, true},
    {"40 groups", {80, 3, Scoring::kSoftmax, 40, 33, GroupScore::kTop2Sum, false, 1}, true},
    {"one expert", {1, 1, Scoring::kSoftmax, 1, 1, GroupScore::kMax, true, 1}, false},
    {"every expert", {33, 33, Scoring::kSoftmax, 1, 1, GroupScore::kMax, true, 1}, false},
    {"1000 experts", {1000, 40, Scoring::kSigmoid, 1, 1, GroupScore::kMax, true, 1}, true},
};

enum class Kind { kRandom, kTies, kEqual, kSpecial };
const char* const kKinds[] = {"random", "ties", "all equal", "NaN and infinities"};

Tensor Logits(CudaWorld& world, int64_t tokens, int64_t experts, Kind kind) {
  const Tensor logits = world.memory.Random(DType::kF32, {tokens, experts}, "logits", 2);
  std::mt19937 random(5);
  const double special[] = {NAN, INFINITY, -INFINITY, 3e38, -3e38, 0, -0.0, 1};
  for (int64_t i = 0; i < logits.size(); ++i) {
    if (kind == Kind::kTies) Set(logits, i, random() % 3);
    if (kind == Kind::kEqual) Set(logits, i, 0.5);
    // Rows with few and with many of them.
    if (kind == Kind::kSpecial && static_cast<int64_t>(random() % 16) <= i / experts % 17) Set(logits, i, special[random() % 8]);
  }
  return logits;
}

TEST(MoeCudaTest, RoutesAndTheirGradients) {
  GROUPER_NEEDS_CUDA();
  for (const Router& router : kRouters) {
    for (const int64_t tokens : {0, 1, 9, 131}) {
      for (Kind kind : {Kind::kRandom, Kind::kTies, Kind::kEqual, Kind::kSpecial}) {
        SCOPED_TRACE(std::string(router.name) + ", " + std::to_string(tokens) + " tokens, " + kKinds[static_cast<int>(kind)]);
        const RouterConfig& c = router.config;
        CudaWorld world;
        auto& m = world.memory;
        const Tensor logits = Logits(world, tokens, c.num_experts, kind);
        const Tensor bias = router.bias ? m.Random(DType::kF32, {c.num_experts}, "bias", 0.2) : Tensor();
        const Tensor ids = m.New(DType::kI32, {tokens, c.top_k}), weights = m.New(DType::kF32, {tokens, c.top_k}),
                     scores = m.New(DType::kF32, {tokens, c.num_experts});
        const Tensor gpu_ids = world.Put(ids), gpu_weights = world.Put(weights), gpu_scores = world.Put(scores);
        Route(world.cpu, c, logits, bias, ids, weights, scores);
        Route(world.gpu, c, world.Put(logits), world.Put(bias), gpu_ids, gpu_weights, gpu_scores);
        EXPECT_TRUE(Same(world.Get(gpu_scores), scores)) << "scores";
        EXPECT_TRUE(Same(world.Get(gpu_ids), ids)) << "ids";
        EXPECT_TRUE(Same(world.Get(gpu_weights), weights)) << "weights";
        const Tensor dweights = m.Random(DType::kF32, {tokens, c.top_k}, "dweights"), dlogits = m.New(DType::kF32, {tokens, c.num_experts});
        const Tensor gpu_dlogits = world.Put(dlogits);
        RouteBackward(world.cpu, c, scores, ids, dweights, dlogits);
        RouteBackward(world.gpu, c, world.Put(scores), world.Put(ids), world.Put(dweights), gpu_dlogits);
        EXPECT_TRUE(Same(world.Get(gpu_dlogits), dlogits)) << "dlogits";
      }
    }
  }
}

// Ids [tokens, top_k], distinct in a row. One: everything to experts 0, 1, ..
Tensor Ids(CudaWorld& world, int64_t tokens, int64_t top_k, int64_t experts, bool one) {
  const Tensor ids = world.memory.New(DType::kI32, {tokens, top_k});
  std::mt19937 random(6);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t start = one ? 0 : static_cast<int64_t>(random() % static_cast<uint32_t>(experts));
    for (int64_t k = 0; k < top_k; ++k) Set(ids, t * top_k + k, static_cast<double>((start + k * (one ? 1 : 5)) % experts));
  }
  return ids;
}

TEST(MoeCudaTest, OrdersAndBiases) {
  GROUPER_NEEDS_CUDA();
  for (const auto& [tokens, top_k, experts] : {std::array<int64_t, 3>{0, 2, 4}, {1, 1, 1}, {1, 6, 64}, {37, 2, 7}, {1000, 8, 256}, {5000, 3, 31}}) {
    for (const bool one : {false, true}) {
      SCOPED_TRACE(std::to_string(tokens) + " x " + std::to_string(top_k) + " of " + std::to_string(experts) + (one ? ", one place" : ""));
      CudaWorld world;
      const Tensor ids = Ids(world, tokens, top_k, experts, one);
      const int n = static_cast<int>(experts);
      const ExpertOrder want = SortByExpert(world.cpu, ids, n, world.cpu.scratch),
                        got = SortByExpert(world.gpu, world.Put(ids), n, world.gpu.scratch);
      EXPECT_TRUE(Same(world.Get(got.offsets), want.offsets));
      EXPECT_TRUE(Same(world.Get(got.token), want.token));
      EXPECT_TRUE(Same(world.Get(got.row_of), want.row_of));

      const Tensor load = world.memory.Zero(DType::kI32, {experts}), gpu_load = world.Put(load);
      for (int i = 0; i < 2; ++i) {
        AddExpertLoad(world.cpu, want.offsets, load);
        AddExpertLoad(world.gpu, got.offsets, gpu_load);
      }
      EXPECT_TRUE(Same(world.Get(gpu_load), load));
      const Tensor bias = world.memory.Random(DType::kF32, {experts}, "bias"), gpu_bias = world.Put(bias);
      UpdateExpertBias(world.cpu, load, 1e-3, bias);
      UpdateExpertBias(world.gpu, gpu_load, 1e-3, gpu_bias);
      EXPECT_TRUE(Same(world.Get(gpu_bias), bias));
    }
  }
}

// Loads at the mean, next to it, none, and as large as a count can be.
TEST(MoeCudaTest, BiasesMoveByTheSignOfTheLoad) {
  GROUPER_NEEDS_CUDA();
  const std::vector<std::vector<int32_t>> loads = {{5}, {0}, {0, 0, 0}, {3, 3, 3}, {3, 4, 5}, {3, 3, 4}, {0, 0, 1}, {INT32_MAX, 0, INT32_MAX, 1}, std::vector<int32_t>(300, INT32_MAX)};
  for (const std::vector<int32_t>& values : loads) {
    for (const double rate : {1e-3, -0.1, 1e-12, 3e38}) {
      SCOPED_TRACE(::testing::PrintToString(values) + " rate " + std::to_string(rate));
      CudaWorld world;
      const int64_t experts = static_cast<int64_t>(values.size());
      const Tensor load = world.memory.New(DType::kI32, {experts}), bias = world.memory.Random(DType::kF32, {experts}, "bias");
      for (int64_t e = 0; e < experts; ++e) load.data<int32_t>()[e] = values[static_cast<size_t>(e)];
      const Tensor gpu_bias = world.Put(bias);
      UpdateExpertBias(world.gpu, world.Put(load), rate, gpu_bias);
      UpdateExpertBias(world.cpu, load, rate, bias);
      EXPECT_TRUE(Same(world.Get(gpu_bias), bias));
    }
  }
}

TEST(MoeCudaTest, CombinationsAndTheirGradients) {
  GROUPER_NEEDS_CUDA();
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [tokens, top_k, experts, width] :
         {std::array<int64_t, 4>{0, 2, 4, 8}, {1, 1, 1, 1}, {5, 6, 64, 33}, {37, 2, 7, 576}, {23, 6, 16, 136}, {131, 8, 16, 257}, {64, 11, 12, 2048}}) {
      SCOPED_TRACE(std::string(Name(dtype)) + " " + std::to_string(tokens) + " x " + std::to_string(top_k) + " of " +
                   std::to_string(experts) + ", width " + std::to_string(width));
      CudaWorld world;
      auto& m = world.memory;
      const Tensor ids = Ids(world, tokens, top_k, experts, false);
      const ExpertOrder order = SortByExpert(world.cpu, ids, static_cast<int>(experts), world.cpu.scratch),
                        gpu_order = SortByExpert(world.gpu, world.Put(ids), static_cast<int>(experts), world.gpu.scratch);
      const Tensor expert_out = m.Random(dtype, {tokens * top_k, width}, "out"), weights = m.Random(DType::kF32, {tokens, top_k}, "weights");
      const Tensor y = m.Random(dtype, {tokens, width}, "y"), dy = m.Random(dtype, {tokens, width}, "dy");
      const Tensor gpu_out = world.Put(expert_out), gpu_weights = world.Put(weights), gpu_y = world.Put(y), gpu_dy = world.Put(dy);
      for (const bool accumulate : {true, false}) {
        CombineExperts(world.cpu, order, expert_out, weights, y, accumulate);
        CombineExperts(world.gpu, gpu_order, gpu_out, gpu_weights, gpu_y, accumulate);
        EXPECT_TRUE(Same(world.Get(gpu_y), y)) << "accumulate " << accumulate;
      }
      const Tensor d_out = m.New(dtype, {tokens * top_k, width}), dweights = m.New(DType::kF32, {tokens, top_k});
      const Tensor gpu_d_out = world.Put(d_out), gpu_dweights = world.Put(dweights);
      CombineExpertsBackward(world.cpu, order, dy, expert_out, weights, d_out, dweights);
      CombineExpertsBackward(world.gpu, gpu_order, gpu_dy, gpu_out, gpu_weights, gpu_d_out, gpu_dweights);
      EXPECT_TRUE(Same(world.Get(gpu_d_out), d_out)) << "d_expert_out";
      EXPECT_TRUE(Same(world.Get(gpu_dweights), dweights)) << "dweights";
      ScatterExpertRows(world.cpu, order, d_out, static_cast<int>(top_k), y);
      ScatterExpertRows(world.gpu, gpu_order, gpu_d_out, static_cast<int>(top_k), gpu_y);
      EXPECT_TRUE(Same(world.Get(gpu_y), y)) << "scattered";
    }
  }
}

TEST(MoeCudaTest, RoutedOnTheDeviceAloneIsTheSame) {
  GROUPER_NEEDS_CUDA();
  CudaWorld world;
  auto& m = world.memory;
  const RouterConfig c = kRouters[3].config;
  constexpr int64_t kTokens = 77, kWidth = 96;
  const Tensor logits = m.Random(DType::kF32, {kTokens, c.num_experts}, "logits"), bias = m.Random(DType::kF32, {c.num_experts}, "bias", 0.1);
  const Tensor ids = m.New(DType::kI32, {kTokens, c.top_k}), weights = m.New(DType::kF32, {kTokens, c.top_k}),
               scores = m.New(DType::kF32, {kTokens, c.num_experts}), out = m.Random(DType::kBF16, {kTokens * c.top_k, kWidth}, "out"),
               y = m.New(DType::kBF16, {kTokens, kWidth});
  const Tensor gpu_ids = world.Put(ids), gpu_weights = world.Put(weights), gpu_y = world.Put(y);
  Route(world.gpu, c, world.Put(logits), world.Put(bias), gpu_ids, gpu_weights, world.Put(scores));
  const ExpertOrder order = SortByExpert(world.gpu, gpu_ids, c.num_experts, world.gpu.scratch);
  CombineExperts(world.gpu, order, world.Put(out), gpu_weights, gpu_y, false);
  Route(world.cpu, c, logits, bias, ids, weights, scores);
  CombineExperts(world.cpu, SortByExpert(world.cpu, ids, c.num_experts, world.cpu.scratch), out, weights, y, false);
  EXPECT_TRUE(Same(world.Get(gpu_y), y));
}

}  // namespace
}  // namespace grouper::kernels
