#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::Get;
using grouper::testing::GradientMatches;
using grouper::testing::Memory;
using grouper::testing::Near;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;

const double kInfinity = std::numeric_limits<double>::infinity();
const double kNan = std::numeric_limits<double>::quiet_NaN();

const SamplingFilter kFilters[] = {{1, 0, 1},        {0.7f, 0, 1}, {1, 5, 1},     {1, 0, 0.9f},
                                   {1.3f, 12, 0.8f}, {1, 1, 1},    {0.01f, 0, 1}, {100, 0, 0.5f}};

// log p of one row's filtered distribution in double; -inf outside.
std::vector<double> Formula(const std::vector<double>& logits, const SamplingFilter& f) {
  std::vector<double> z(logits.size());
  for (size_t i = 0; i < z.size(); ++i) z[i] = logits[i] / static_cast<double>(f.temperature);
  std::vector<size_t> order(z.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return z[a] > z[b]; });
  const double most = z[order[0]];
  if (f.top_k > 0 && static_cast<size_t>(f.top_k) < order.size()) order.resize(static_cast<size_t>(f.top_k));
  double total = 0, reached = 0;
  for (size_t i : order) total += std::exp(z[i] - most);
  size_t kept = 0;
  while (kept < order.size() && (f.top_p >= 1 || reached < static_cast<double>(f.top_p) * total))
    reached += std::exp(z[order[kept++]] - most);
  std::vector<double> logprobs(z.size(), -kInfinity);
  for (size_t i = 0; i < kept; ++i) logprobs[order[i]] = z[order[i]] - most - std::log(reached);
  return logprobs;
}

std::vector<double> Row(const Tensor& t, int64_t row) {
  std::vector<double> values;
  for (int64_t i = 0; i < t.dim(1); ++i) values.push_back(Get(t, row * t.dim(1) + i));
  return values;
}

Tensor Logprobs(Memory& memory, Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                const std::vector<int32_t>& tokens, const Tensor& entropies = Tensor()) {
  const Tensor out = memory.New(logits.dtype() == DType::kF64 ? DType::kF64 : DType::kF32, {logits.dim(0)});
  TokenLogprobs(stream, logits, filters, tokens.data(), out, entropies);
  return out;
}

std::vector<SampleRequest> Requests(int64_t rows, const SamplingFilter& filter, uint64_t group = 3) {
  std::vector<SampleRequest> requests;
  for (int64_t r = 0; r < rows; ++r) {
    requests.push_back(
        {filter, SamplingKey(11, 0, group), static_cast<uint32_t>(r % 16), static_cast<uint32_t>(r / 16)});
  }
  return requests;
}

TEST(TokenLogprobsTest, MatchTheFormulaOfEveryFilter) {
  for (const int64_t vocabulary : {1, 8, 31, 1000}) {
    for (const SamplingFilter& filter : kFilters) {
      Memory memory;
      TestStream test(2);
      const Tensor row = memory.Random(DType::kF32, {1, vocabulary}, "logits", 2),
                   logits = memory.New(DType::kF32, {vocabulary, vocabulary});
      std::vector<int32_t> every(static_cast<size_t>(vocabulary));
      std::iota(every.begin(), every.end(), 0);
      for (int64_t i = 0; i < logits.size(); ++i) Set(logits, i, Get(row, i % vocabulary));
      const std::vector<double> want = Formula(Row(row, 0), filter);
      const Tensor entropies = memory.New(DType::kF32, {vocabulary});
      const Tensor got =
          Logprobs(memory, test.stream, logits, std::vector<SamplingFilter>(every.size(), filter), every, entropies);
      double entropy = 0;
      for (double logprob : want) entropy -= logprob > -kInfinity ? std::exp(logprob) * logprob : 0;
      for (int64_t i = 0; i < vocabulary; ++i) {
        if (std::isinf(want[i])) {
          ASSERT_EQ(Get(got, i), -kInfinity) << vocabulary << " ids, token " << i;
        } else {
          ASSERT_NEAR(Get(got, i), want[i], 1e-6 + 4e-7 * std::abs(want[i])) << vocabulary << " ids, token " << i;
        }
        ASSERT_NEAR(Get(entropies, i), entropy, 1e-5) << vocabulary << " ids";
      }
    }
  }
}

TEST(TokenLogprobsTest, WithoutAFilterAreALogSoftmaxUpToLargeVocabularies) {
  for (const int64_t vocabulary : {31, 49152, 150000}) {
    Memory memory;
    TestStream test(2);
    const Tensor logits = memory.Random(DType::kF32, {2, vocabulary}, "logits", 3);
    const std::vector<int32_t> tokens = {0, static_cast<int32_t>(vocabulary - 1)};
    const Tensor got = Logprobs(memory, test.stream, logits, {SamplingFilter(), SamplingFilter()}, tokens);
    for (int64_t r = 0; r < 2; ++r)
      EXPECT_NEAR(Get(got, r), Formula(Row(logits, r), SamplingFilter())[tokens[r]], 2e-6);
  }
}

TEST(TokenLogprobsTest, TiesGoToTheLowerIds) {
  Memory memory;
  TestStream test(1);
  const Tensor logits = memory.New(DType::kF32, {4, 6});
  const double row[] = {1, 3, 3, 1, 3, 1};
  for (int64_t i = 0; i < 24; ++i) Set(logits, i, row[i % 6]);
  const std::vector<SamplingFilter> top_k(4, {1, 2, 1});
  const Tensor k = Logprobs(memory, test.stream, logits, top_k, {1, 2, 4, 0});
  EXPECT_NEAR(Get(k, 0), -std::log(2.0), 1e-6);
  EXPECT_NEAR(Get(k, 1), -std::log(2.0), 1e-6);
  EXPECT_EQ(Get(k, 2), -kInfinity);
  EXPECT_EQ(Get(k, 3), -kInfinity);
  // The three large ones hold 95.7%: 0.5 needs two of them.
  const std::vector<SamplingFilter> top_p(4, {1, 0, 0.5f});
  EXPECT_TRUE(Same(Logprobs(memory, test.stream, logits, top_p, {1, 2, 4, 0}), k));
}

TEST(TokenLogprobsTest, ANucleusAcrossManyEqualLogitsIsThatShareOfThem) {
  Memory memory;
  TestStream test(1);
  const Tensor logits = memory.Zero(DType::kF32, {2, 5000});
  const std::vector<SamplingFilter> filters(2, {1, 0, 0.5f});
  const Tensor got = Logprobs(memory, test.stream, logits, filters, {2499, 2500});
  EXPECT_NEAR(Get(got, 0), -std::log(2500.0), 1e-5);
  EXPECT_EQ(Get(got, 1), -kInfinity);
}

TEST(TokenLogprobsTest, ExtremesStayFinite) {
  Memory memory;
  TestStream test(1);
  const Tensor logits = memory.Zero(DType::kF32, {3, 40});
  Set(logits, 40 + 7, 1e30);                                                  // one huge
  for (int i = 0; i < 40; ++i) Set(logits, 80 + i, i == 9 ? 5 : -kInfinity);  // one possible
  for (const float temperature : {0.01f, 1.0f, 100.0f}) {
    const Tensor got =
        Logprobs(memory, test.stream, logits, std::vector<SamplingFilter>(3, {temperature, 0, 1}), {3, 7, 9});
    EXPECT_NEAR(Get(got, 0), -std::log(40.0), 1e-6);
    EXPECT_EQ(Get(got, 1), 0);
    EXPECT_EQ(Get(got, 2), 0);
  }
}

TEST(TokenLogprobsTest, GreedyIsCertainOfTheArgmax) {
  Memory memory;
  TestStream test(1);
  const Tensor logits = memory.Zero(DType::kF32, {2, 9});
  const std::vector<SamplingFilter> greedy(2, {0, 0, 1});
  const Tensor got = Logprobs(memory, test.stream, logits, greedy, {0, 1});
  EXPECT_EQ(Get(got, 0), 0);
  EXPECT_EQ(Get(got, 1), -kInfinity);
}

TEST(SampleTest, RecordsTheBitsThatTokenLogprobsComputes) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t vocabulary : {31, 32, 33, 4099}) {
      for (const SamplingFilter& filter : kFilters) {
        Memory memory;
        TestStream test(2);
        const Tensor logits = memory.Random(dtype, {40, vocabulary}, "logits", 2);
        std::vector<SampledToken> sampled;
        Sample(test.stream, logits, Requests(40, filter), sampled);
        std::vector<int32_t> tokens;
        for (const SampledToken& t : sampled) tokens.push_back(t.token);
        const Tensor logprobs = Logprobs(memory, test.stream, logits, std::vector<SamplingFilter>(40, filter), tokens);
        for (int64_t r = 0; r < 40; ++r) {
          ASSERT_TRUE(tokens[r] >= 0 && tokens[r] < vocabulary);
          ASSERT_EQ(static_cast<double>(sampled[r].logprob), Get(logprobs, r));
          ASSERT_TRUE(std::isfinite(sampled[r].logprob));
        }
      }
    }
  }
}

// The definition, id by id: the noise of id i is word i % 4 of counter i / 4.
TEST(SampleTest, IsTheArgmaxOfLogitPlusGumbelNoise) {
  for (const int64_t vocabulary : {31, 500, 20000}) {
    Memory memory;
    TestStream test(2);
    const Tensor logits = memory.Random(DType::kF32, {30, vocabulary}, "logits", 2);
    const std::vector<SampleRequest> requests = Requests(30, SamplingFilter());
    std::vector<SampledToken> got;
    Sample(test.stream, logits, requests, got);
    for (int64_t r = 0; r < 30; ++r) {
      double best = -kInfinity;
      int32_t token = -1;
      for (int64_t i = 0; i < vocabulary; ++i) {
        const SampleRequest& q = requests[r];
        const uint32_t bits = Philox(q.key, {static_cast<uint32_t>(i / 4), q.position, q.sample_index, 0})[i % 4];
        const double value =
            Get(logits, r * vocabulary + i) - std::log(-std::log1p(-(static_cast<double>(bits) + 0.5) * 0x1p-32));
        if (value > best) {
          best = value;
          token = static_cast<int32_t>(i);
        }
      }
      EXPECT_EQ(got[r].token, token) << vocabulary << " ids, row " << r;
    }
  }
}

TEST(SampleTest, FrequenciesFollowTheFilteredDistribution) {
  constexpr int64_t kRows = 40000, kVocabulary = 13;
  for (const SamplingFilter& filter :
       {SamplingFilter{1, 0, 1}, SamplingFilter{0.6f, 0, 1}, SamplingFilter{1, 6, 1}, SamplingFilter{1.5f, 0, 0.85f}}) {
    Memory memory;
    TestStream test(2);
    const Tensor row = memory.Random(DType::kF32, {1, kVocabulary}, "logits"),
                 logits = memory.New(DType::kF32, {kRows, kVocabulary});
    for (int64_t i = 0; i < logits.size(); ++i) Set(logits, i, Get(row, i % kVocabulary));
    std::vector<SampledToken> sampled;
    Sample(test.stream, logits, Requests(kRows, filter), sampled);
    std::vector<double> counts(kVocabulary, 0);
    for (const SampledToken& t : sampled) ++counts[static_cast<size_t>(t.token)];
    const std::vector<double> logprobs = Formula(Row(row, 0), filter);
    double chi_square = 0;
    int freedom = -1;
    for (int64_t i = 0; i < kVocabulary; ++i) {
      const double expected = kRows * std::exp(logprobs[i]);
      if (expected == 0) {
        EXPECT_EQ(counts[i], 0) << "token " << i << " is outside the filter";
        continue;
      }
      ++freedom;
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    EXPECT_LT(chi_square, freedom + 4 * std::sqrt(2.0 * freedom));  // four standard deviations; deterministic noise
  }
}

TEST(SampleTest, IndexPositionGroupAndSeedEachChangeTheNoise) {
  Memory memory;
  TestStream test(1);
  const Tensor logits = memory.Zero(DType::kF32, {1, 100000});
  const auto token = [&](PhiloxKey key, uint32_t index, uint32_t position) {
    std::vector<SampledToken> sampled;
    Sample(test.stream, logits, {{SamplingFilter(), key, index, position}}, sampled);
    return sampled[0].token;
  };
  const int32_t base = token(SamplingKey(1, 0, 0), 0, 0);
  EXPECT_EQ(token(SamplingKey(1, 0, 0), 0, 0), base);
  EXPECT_NE(token(SamplingKey(1, 0, 0), 1, 0), base);
  EXPECT_NE(token(SamplingKey(1, 0, 0), 0, 1), base);
  EXPECT_NE(token(SamplingKey(1, 0, 1), 0, 0), base);
  EXPECT_NE(token(SamplingKey(1, 1, 0), 0, 0), base);
  EXPECT_NE(token(SamplingKey(2, 0, 0), 0, 0), base);
}

TEST(SampleTest, NeitherNeighboursNorThreadsNorOrderChangeAToken) {
  for (const SamplingFilter& filter : kFilters) {
    Memory memory;
    TestStream one(1);
    const Tensor logits = memory.Random(DType::kF32, {37, 300}, "logits", 2);
    const std::vector<SampleRequest> requests = Requests(37, filter);
    std::vector<SampledToken> want, got;
    Sample(one.stream, logits, requests, want);
    for (const int threads : {2, 3}) {
      TestStream test(threads);
      Sample(test.stream, logits, requests, got);
      for (size_t r = 0; r < 37; ++r) {
        ASSERT_EQ(got[r].token, want[r].token);
        ASSERT_EQ(got[r].logprob, want[r].logprob);
      }
    }
    for (int64_t r = 36; r >= 0; --r) {
      Sample(one.stream, logits.Rows(r, r + 1), {requests[r]}, got);
      ASSERT_EQ(got[0].token, want[r].token);
      ASSERT_EQ(got[0].logprob, want[r].logprob);
    }
  }
}

TEST(SampleTest, NanRowsGiveNoTokenAndLeaveOthersAlone) {
  for (const SamplingFilter& filter : {SamplingFilter{1, 0, 1}, SamplingFilter{0, 0, 1}, SamplingFilter{1, 3, 0.9f}}) {
    Memory memory;
    TestStream test(1);
    const Tensor logits = memory.Random(DType::kF32, {3, 50}, "logits"), clean = memory.Clone(logits);
    Set(logits, 50 + 49, kNan);
    std::vector<SampledToken> got, want;
    Sample(test.stream, logits, Requests(3, filter), got);
    Sample(test.stream, clean, Requests(3, filter), want);
    EXPECT_EQ(got[1].token, -1);
    for (size_t r : {0, 2}) EXPECT_EQ(got[r].token, want[r].token);
  }
}

TEST(SampleTest, ImpossibleTokensAreNeverDrawn) {
  Memory memory;
  TestStream test(2);
  const Tensor logits = memory.New(DType::kF32, {2000, 37});
  for (int64_t i = 0; i < logits.size(); ++i) Set(logits, i, i % 37 % 5 == 2 ? 0 : -kInfinity);
  for (const SamplingFilter& filter :
       {SamplingFilter{1, 0, 1}, SamplingFilter{100, 20, 1}, SamplingFilter{100, 0, 0.999f}}) {
    std::vector<SampledToken> got;
    Sample(test.stream, logits, Requests(2000, filter), got);
    for (const SampledToken& t : got) ASSERT_EQ(t.token % 5, 2);
  }
  for (int64_t i = 0; i < 37; ++i) Set(logits, i, -kInfinity);
  std::vector<SampledToken> got;
  Sample(test.stream, logits.Rows(0, 1), Requests(1, SamplingFilter()), got);
  EXPECT_EQ(got[0].token, -1);
}

TEST(SampleTest, LogitsThatAreNotNumbersYieldNoTokenGreedyOrNot) {
  Memory memory;
  TestStream test(1);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t ids : {1, 8, 37, 1000}) {
      for (const SamplingFilter& filter : {SamplingFilter{0, 0, 1}, SamplingFilter{1, 0, 1}, SamplingFilter{0.7f, 5, 0.9f}}) {
        for (const int64_t at : {int64_t{0}, ids / 2, ids - 1}) {
          for (const double poison : {kNan, kInfinity, -kInfinity, 0.0}) {
            const Tensor logits = memory.Zero(dtype, {1, ids});
            Set(logits, at, poison);
            std::vector<SampledToken> got;
            Sample(test.stream, logits, Requests(1, filter), got);
            const bool number = poison == 0 || (poison == -kInfinity && ids > 1);
            EXPECT_EQ(got[0].token >= 0, number) << ids << " ids, temperature " << filter.temperature << ", " << poison << " at " << at;
          }
        }
      }
    }
  }
}

TEST(SampleTest, GreedyTakesTheLowestOfEqualLogits) {
  Memory memory;
  TestStream test(1);
  const Tensor logits = memory.Zero(DType::kF32, {2, 100});
  for (int64_t i : {17, 40, 99}) Set(logits, i, 5);
  std::vector<SampledToken> got;
  Sample(test.stream, logits, Requests(2, {0, 0, 1}), got);
  EXPECT_EQ(got[0].token, 17);
  EXPECT_EQ(got[1].token, 0);
  EXPECT_EQ(got[0].logprob, 0);
}

TEST(SampleTest, TheOnlyTokenIsDrawnWhenItsNoiseIsMinusInfinity) {
  Memory memory;
  TestStream test(1);
  const SampleRequest request = {{1, 0, 1}, SamplingKey(11, 0, 3), 0, 5535925};
  ASSERT_GE(Philox(request.key, {0, request.position, 0, 0})[0], 0xffffff80u);  // its u rounds to 1
  for (const int64_t vocabulary : {1, 40}) {
    const Tensor logits = memory.New(DType::kF32, {1, vocabulary});
    for (int64_t i = 0; i < vocabulary; ++i) Set(logits, i, i == 0 ? 2 : -kInfinity);
    std::vector<SampledToken> got;
    Sample(test.stream, logits, {request}, got);
    EXPECT_EQ(got[0].token, 0);
    EXPECT_EQ(got[0].logprob, 0);
  }
}

TEST(SampleTest, EmptyBatchesDoNothing) {
  Memory memory;
  TestStream test(2);
  std::vector<SampledToken> got(3);
  Sample(test.stream, memory.New(DType::kF32, {0, 10}), {}, got);
  EXPECT_TRUE(got.empty());
  EXPECT_EQ(Logprobs(memory, test.stream, memory.New(DType::kF32, {0, 10}), {}, {}).size(), 0);
}

TEST(TokenLogprobsBackwardTest, MatchesCentralDifferences) {
  for (const SamplingFilter& filter :
       {SamplingFilter{1, 0, 1}, SamplingFilter{0.7f, 0, 1}, SamplingFilter{1, 12, 1}, SamplingFilter{1.3f, 0, 0.8f}}) {
    Memory memory;
    TestStream test(2);
    const Tensor logits = memory.Random(DType::kF64, {4, 31}, "logits"), g = memory.Random(DType::kF64, {4}, "g");
    const std::vector<SamplingFilter> filters(4, filter);
    std::vector<int32_t> tokens;
    for (int64_t r = 0; r < 4; ++r) {
      // No two logits alike, and a token that every filter keeps.
      for (int64_t i = 0; i < 31; ++i) Set(logits, r * 31 + i, Get(logits, r * 31 + i) + 1e-4 * static_cast<double>(i));
      const std::vector<double> row = Row(logits, r);
      tokens.push_back(static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
    }
    const auto loss = [&] {
      const Tensor logprobs = Logprobs(memory, test.stream, logits, filters, tokens);
      double sum = 0;
      for (int64_t r = 0; r < 4; ++r) sum += Get(g, r) * Get(logprobs, r);
      return sum;
    };
    const Tensor dlogits = memory.New(DType::kF64, {4, 31}), in_place = memory.Clone(logits);
    TokenLogprobsBackward(test.stream, logits, filters, tokens.data(), g, dlogits);
    EXPECT_TRUE(GradientMatches(loss, logits, dlogits));
    TokenLogprobsBackward(test.stream, in_place, filters, tokens.data(), g, in_place);
    EXPECT_TRUE(Same(in_place, dlogits));
  }
}

TEST(TokenLogprobsBackwardTest, RowsWithoutGradientAreExactlyZero) {
  Memory memory;
  TestStream test(1);
  const Tensor logits = memory.Random(DType::kF32, {3, 20}, "logits"), g = memory.New(DType::kF32, {3}),
               dlogits = memory.New(DType::kF32, {3, 20});
  for (int64_t r = 0; r < 3; ++r) Set(g, r, r == 0 ? 0 : 1);
  Set(logits, 20 + 4, -50);  // row 1: its token is outside the filter; row 2: greedy
  const std::vector<SamplingFilter> filters = {{1, 0, 1}, {1, 3, 1}, {0, 0, 1}};
  const int32_t tokens[] = {1, 4, 2};
  TokenLogprobsBackward(test.stream, logits, filters, tokens, g, dlogits);
  for (int64_t i = 0; i < dlogits.size(); ++i) EXPECT_EQ(Get(dlogits, i), 0) << i;
}

TEST(TokenLogprobsBackwardTest, StatisticsChangeNoBit) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    const DType type = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
    for (const SamplingFilter& filter : kFilters) {
      SCOPED_TRACE(std::string(Name(dtype)) + ", temperature " + std::to_string(filter.temperature) + ", top_k " + std::to_string(filter.top_k));
      Memory memory;
      TestStream test(2);
      const Tensor logits = memory.Random(dtype, {12, 333}, "logits", 2), g = memory.Random(type, {12}, "g");
      Set(logits, 3 * 333 + 7, std::numeric_limits<double>::quiet_NaN());
      Set(logits, 4 * 333 + 44, -std::numeric_limits<double>::infinity());  // the row's token
      Set(g, 5, 0);
      std::vector<int32_t> tokens;
      for (int32_t r = 0; r < 12; ++r) tokens.push_back(r * 11);
      const std::vector<SamplingFilter> filters(12, filter);
      const Tensor logprobs = memory.New(type, {12}), statistics = memory.New(type, {12, 2});
      TokenLogprobs(test.stream, logits, filters, tokens.data(), logprobs, {}, statistics);
      const Tensor want = memory.New(dtype, {12, 333}), got = memory.New(dtype, {12, 333}), in_place = memory.Clone(logits);
      TokenLogprobsBackward(test.stream, logits, filters, tokens.data(), g, want);
      TokenLogprobsBackward(test.stream, logits, filters, tokens.data(), g, got, statistics);
      EXPECT_TRUE(Same(got, want));
      TokenLogprobsBackward(test.stream, in_place, filters, tokens.data(), g, in_place, statistics);
      EXPECT_TRUE(Same(in_place, want));
      for (const int64_t row : {3, 4, 5}) EXPECT_EQ(Get(got, row * 333 + 100), 0) << row;
      for (const int64_t row : {3, 4}) EXPECT_EQ(Get(statistics, row * 2 + 1), 0) << row;
    }
  }
}

TEST(TokenLogprobsTest, NeitherNeighboursNorThreadsChangeABit) {
  for (const SamplingFilter& filter : kFilters) {
    Memory memory;
    const Tensor logits = memory.Random(DType::kF32, {29, 333}, "logits", 2), g = memory.Random(DType::kF32, {29}, "g");
    std::vector<int32_t> tokens;
    for (int32_t r = 0; r < 29; ++r) tokens.push_back(r * 11);
    const std::vector<SamplingFilter> filters(29, filter);
    EXPECT_TRUE(grouper::testing::RowInvariant(
        29, memory.New(DType::kF32, {29}), [&](Stream& s, int64_t begin, int64_t end, const Tensor& out) {
          TokenLogprobs(s, logits.Rows(begin, end), {filters.begin() + begin, filters.begin() + end},
                        tokens.data() + begin, out, Tensor());
        }));
    EXPECT_TRUE(grouper::testing::RowInvariant(
        29, memory.New(DType::kF32, {29, 333}), [&](Stream& s, int64_t begin, int64_t end, const Tensor& out) {
          TokenLogprobsBackward(s, logits.Rows(begin, end), {filters.begin() + begin, filters.begin() + end},
                                tokens.data() + begin, g.Rows(begin, end), out);
        }));
  }
}

}  // namespace
}  // namespace grouper::kernels
