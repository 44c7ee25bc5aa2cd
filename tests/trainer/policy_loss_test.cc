// Every objective against a reference written from its paper's formula in long double, and its slopes against central differences of that reference.
#include "trainer/policy_loss.h"

#include <cmath>
#include <functional>

#include "common/base/philox.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

struct Sequence {
  double advantage = 0;
  std::vector<float> logprobs, rollout, ref;
};

// Ratios from about 0.5 to 2, so that both clips are met.
Sequence RandomSequence(uint64_t seed, int tokens, double advantage, bool with_ref) {
  PhiloxStream random(MakePhiloxKey(seed, "policy loss"));
  Sequence s;
  s.advantage = advantage;
  for (int t = 0; t < tokens; ++t) {
    s.rollout.push_back(static_cast<float>(-0.1 - std::abs(random.NextNormal())));
    s.logprobs.push_back(s.rollout.back() + static_cast<float>(0.3 * random.NextNormal()));
    if (with_ref) s.ref.push_back(s.logprobs.back() + static_cast<float>(0.5 * random.NextNormal()));
  }
  return s;
}

long double Clip(long double x, const PolicyLossOptions& o) {
  return std::min(std::max(x, 1 - static_cast<long double>(o.clip_low)), 1 + static_cast<long double>(o.clip_high));
}

// The sequence's loss as a function of its log-probabilities. For CISPO the clipped ratio is a constant taken at `at`.
long double Reference(const PolicyLossOptions& o, const Sequence& s, double weight, const std::vector<double>& logp, const std::vector<double>& at) {
  const size_t n = logp.size();
  long double mean = 0;
  for (size_t t = 0; t < n; ++t) mean += (logp[t] - s.rollout[t]) / static_cast<long double>(n);
  long double sum = 0;
  for (size_t t = 0; t < n; ++t) {
    const long double ratio = o.loss == PolicyLoss::kGspo ? std::exp(mean) : std::exp(static_cast<long double>(logp[t]) - s.rollout[t]);
    if (o.loss == PolicyLoss::kCispo) {
      sum += -s.advantage * Clip(std::exp(static_cast<long double>(at[t]) - s.rollout[t]), o) * logp[t];
    } else {
      sum += -std::min(s.advantage * ratio, s.advantage * Clip(ratio, o));
    }
    if (!s.ref.empty()) {
      const long double d = static_cast<long double>(s.ref[t]) - logp[t];
      sum += o.kl_coef * (std::exp(d) - d - 1);
    }
  }
  return weight * sum;
}

void ExpectValueAndSlopes(const PolicyLossOptions& options, const Sequence& s, double weight) {
  LossSums sums;
  std::vector<float> slopes(s.logprobs.size());
  SequenceLoss(options, {s.advantage, weight, s.logprobs, s.rollout, s.ref}, sums, absl::MakeSpan(slopes));
  const std::vector<double> logp(s.logprobs.begin(), s.logprobs.end());
  EXPECT_NEAR(sums.loss, static_cast<double>(Reference(options, s, weight, logp, logp)), 1e-12);
  EXPECT_EQ(sums.tokens, static_cast<int64_t>(logp.size()));
  for (size_t t = 0; t < logp.size(); ++t) {
    constexpr double kStep = 1e-6;
    std::vector<double> up = logp, down = logp;
    up[t] += kStep;
    down[t] -= kStep;
    const double slope = static_cast<double>((Reference(options, s, weight, up, logp) - Reference(options, s, weight, down, logp)) / (2 * kStep));
    EXPECT_NEAR(slopes[t], slope, 1e-6 * (1 + std::abs(slope))) << "token " << t;
  }
}

class PolicyLossTest : public ::testing::TestWithParam<PolicyLoss> {};

TEST_P(PolicyLossTest, ValueAndSlopesFollowTheFormula) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    PolicyLossOptions options;
    options.loss = GetParam();
    options.clip_high = seed % 2 ? 0.28 : 0.2;  // DAPO's clip-higher
    options.kl_coef = seed % 3 ? 0 : 0.05;
    const double advantage = seed % 2 ? 1.3 : -0.7;
    ExpectValueAndSlopes(options, RandomSequence(seed, 7, advantage, options.kl_coef > 0), 0.25);
  }
}

TEST_P(PolicyLossTest, OnPolicyTheSlopeIsMinusTheAdvantage) {
  Sequence s = RandomSequence(3, 5, 0.8, false);
  s.logprobs = s.rollout;
  PolicyLossOptions options;
  options.loss = GetParam();
  LossSums sums;
  std::vector<float> slopes(5);
  SequenceLoss(options, {s.advantage, 0.5, s.logprobs, s.rollout, {}}, sums, absl::MakeSpan(slopes));
  for (float slope : slopes) EXPECT_EQ(slope, static_cast<float>(-0.8 * 0.5));
  EXPECT_EQ(sums.clipped_low, 0);
  EXPECT_EQ(sums.clipped_high, 0);
}

TEST_P(PolicyLossTest, NoAdvantageNoSlope) {
  PolicyLossOptions options;
  options.loss = GetParam();
  const Sequence s = RandomSequence(4, 6, 0, false);
  LossSums sums;
  std::vector<float> slopes(6, 9);
  SequenceLoss(options, {0, 1, s.logprobs, s.rollout, {}}, sums, absl::MakeSpan(slopes));
  EXPECT_EQ(sums.loss, 0);
  for (float slope : slopes) EXPECT_EQ(slope, 0);
}

TEST_P(PolicyLossTest, ATokenThatLeftTheFilterHasNoSlopeAndNoNan) {
  PolicyLossOptions options;
  options.loss = GetParam();
  options.kl_coef = 0.1;
  for (double advantage : {1.0, -1.0}) {
    Sequence s = RandomSequence(5, 4, advantage, true);
    s.logprobs[1] = -std::numeric_limits<float>::infinity();
    LossSums sums;
    std::vector<float> slopes(4, 9);
    SequenceLoss(options, {advantage, 1, s.logprobs, s.rollout, s.ref}, sums, absl::MakeSpan(slopes));
    EXPECT_TRUE(std::isfinite(sums.loss));
    EXPECT_EQ(slopes[1], 0);
    for (float slope : slopes) EXPECT_TRUE(std::isfinite(slope));
  }
}

INSTANTIATE_TEST_SUITE_P(All, PolicyLossTest, ::testing::Values(PolicyLoss::kPpoClip, PolicyLoss::kGspo, PolicyLoss::kCispo),
                         [](const auto& info) {
                           return std::string(info.param == PolicyLoss::kPpoClip ? "PpoClip" : info.param == PolicyLoss::kGspo ? "Gspo" : "Cispo");
                         });

// One token with the given ratio.
LossSums OneToken(double ratio, double advantage, float* slope, double clip_low = 0.2, double clip_high = 0.28) {
  const float rollout = -1, logp = static_cast<float>(-1 + std::log(ratio));
  LossSums sums;
  SequenceLoss({PolicyLoss::kPpoClip, clip_low, clip_high, 0}, {advantage, 1, {&logp, 1}, {&rollout, 1}, {}}, sums, {slope, 1});
  return sums;
}

TEST(PpoClipTest, HoldsOnlyTheSideThatWouldGoTooFar) {
  float slope;
  EXPECT_EQ(OneToken(1.5, 1, &slope).clipped_high, 1);  // better already, and far enough
  EXPECT_EQ(slope, 0);
  EXPECT_EQ(OneToken(1.5, -1, &slope).clipped_high, 0);  // worse, and grown: pushed back
  EXPECT_NEAR(slope, 1.5, 1e-6);
  EXPECT_EQ(OneToken(0.5, -1, &slope).clipped_low, 1);
  EXPECT_EQ(slope, 0);
  EXPECT_EQ(OneToken(0.5, 1, &slope).clipped_low, 0);
  EXPECT_NEAR(slope, -0.5, 1e-6);
}

TEST(PpoClipTest, ClipHigherLeavesMoreRoomAbove) {
  float slope;
  EXPECT_EQ(OneToken(1.25, 1, &slope, 0.2, 0.28).clipped_high, 0);
  EXPECT_NEAR(slope, -1.25, 1e-6);
  EXPECT_EQ(OneToken(1.25, 1, &slope, 0.2, 0.2).clipped_high, 1);
  EXPECT_EQ(slope, 0);
}

TEST(KlTest, IsK3AgainstTheReference) {
  const float logp = -1, ref = -1.5f, rollout = -1;
  LossSums sums;
  float slope;
  SequenceLoss({PolicyLoss::kPpoClip, 0.2, 0.2, 0.1}, {0, 1, {&logp, 1}, {&rollout, 1}, {&ref, 1}}, sums, {&slope, 1});
  EXPECT_NEAR(sums.kl, std::exp(-0.5) + 0.5 - 1, 1e-12);
  EXPECT_NEAR(sums.loss, 0.1 * sums.kl, 1e-12);
  EXPECT_NEAR(slope, 0.1 * (1 - std::exp(-0.5)), 1e-7);
}

TEST(ReductionTest, WeightsOfATokenByName) {
  // A batch of 3 sequences and 30 tokens, ours has 5, at most 20 new tokens.
  EXPECT_DOUBLE_EQ(TokenWeight(LossReduction::kTokenMean, 5, 30, 3, 20), 1.0 / 30);
  EXPECT_DOUBLE_EQ(TokenWeight(LossReduction::kSequenceMean, 5, 30, 3, 20), 1.0 / 15);
  EXPECT_DOUBLE_EQ(TokenWeight(LossReduction::kConstant, 5, 30, 3, 20), 1.0 / 60);
  EXPECT_EQ(ParseLossReduction("token_mean"), LossReduction::kTokenMean);
  EXPECT_EQ(ParseLossReduction("sequence_mean"), LossReduction::kSequenceMean);
  EXPECT_EQ(ParseLossReduction("constant"), LossReduction::kConstant);
  EXPECT_EQ(ParsePolicyLoss("gspo"), PolicyLoss::kGspo);
  EXPECT_EQ(ParsePolicyLoss("cispo"), PolicyLoss::kCispo);
  EXPECT_EQ(ParsePolicyLoss("ppo_clip"), PolicyLoss::kPpoClip);
}

TEST(ReductionTest, AnEmptyBatchDividesByNothing) {
  for (LossReduction r : {LossReduction::kTokenMean, LossReduction::kSequenceMean, LossReduction::kConstant}) {
    EXPECT_TRUE(std::isfinite(TokenWeight(r, 0, 0, 0, 0)));
  }
}

}  // namespace
}  // namespace grouper
