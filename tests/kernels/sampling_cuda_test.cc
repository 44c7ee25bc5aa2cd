// The sampler and the log-probabilities on the GPU: the CPU's tokens and bits, whatever the vocabulary, the filter and the batch.
#include "kernels/sampling_cuda.h"

#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>
#include <random>

#include "tests/testing/cuda_world.h"

namespace grouper::kernels {
namespace {

using grouper::testing::CudaWorld;
using grouper::testing::Get;
using grouper::testing::Same;
using grouper::testing::Set;

// A warp a row; one block, of few and of many ids; clusters of two to eight; more than they hold.
constexpr int64_t kVocabularies[] = {1, 7, 31, 512, 513, 1000, 2048, 2049, 5003, 32000, 49152, 151936, 500001};
const SamplingFilter kFilters[] = {{1, 0, 1},     {0.7f, 0, 1},     {1, 5, 1},          {1, 0, 0.9f},   {1.3f, 12, 0.8f}, {2, 1, 1},
                                   {0.01f, 0, 1}, {100, 0, 0.5f}, {0.9f, 300, 0.99f}, {1, 40000, 1}, {1, 0, 1e-6f},    {0, 3, 0.5f}};

enum class Kind { kNormal, kPeaked, kTies, kEqual, kImpossible, kNan, kInfinite, kHuge };
const char* const kKinds[] = {"normal", "peaked", "ties", "all equal", "-inf", "NaN", "+inf", "huge"};

// Logits on both devices; `gap` NaN after each row.
struct Logits {
  Tensor cpu, gpu, whole_cpu, whole_gpu;
};
Logits MakeLogits(CudaWorld& world, DType dtype, int64_t rows, int64_t ids, Kind kind, int64_t gap) {
  Logits l;
  l.whole_cpu = world.memory.Random(dtype, {rows, ids + gap}, "logits", kind == Kind::kPeaked ? 8 : 2);
  l.cpu = l.whole_cpu.Columns(0, ids);
  std::mt19937 random(7);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < ids + gap && (gap > 0 || kind > Kind::kPeaked); ++i) {
      const int64_t at = r * (ids + gap) + i;
      const uint32_t dice = random();
      if (i >= ids) Set(l.whole_cpu, at, NAN);
      else if (kind == Kind::kTies) Set(l.whole_cpu, at, dice % 3);
      else if (kind == Kind::kEqual) Set(l.whole_cpu, at, -0.5);
      else if (kind == Kind::kImpossible && (dice % 3 > 0 || r % 4 == 3)) Set(l.whole_cpu, at, -INFINITY);
      else if (kind == Kind::kNan && dice % static_cast<uint32_t>(ids) == 0) Set(l.whole_cpu, at, NAN);
      else if (kind == Kind::kInfinite && dice % static_cast<uint32_t>(ids) == 0) Set(l.whole_cpu, at, INFINITY);
      else if (kind == Kind::kHuge) Set(l.whole_cpu, at, (dice % 5 == 0 ? 1e30 : -3e38) * (dice / 5 % 100) / 100);
    }
  }
  l.whole_gpu = world.Put(l.whole_cpu);
  l.gpu = l.whole_gpu.Columns(0, ids);
  return l;
}

std::vector<SampleRequest> Requests(int64_t rows, const SamplingFilter& filter) {
  std::vector<SampleRequest> requests;
  for (int64_t r = 0; r < rows; ++r) {
    requests.push_back(
        {filter, SamplingKey(11, 0, static_cast<uint64_t>(r / 16)), static_cast<uint32_t>(r % 16), static_cast<uint32_t>(r * 7)});
  }
  return requests;
}

::testing::AssertionResult Equal(const std::vector<SampledToken>& got, const std::vector<SampledToken>& want) {
  if (got.size() != want.size()) return ::testing::AssertionFailure() << got.size() << " tokens, expected " << want.size();
  for (size_t r = 0; r < got.size(); ++r) {
    if (got[r].token != want[r].token || std::bit_cast<uint32_t>(got[r].logprob) != std::bit_cast<uint32_t>(want[r].logprob)) {
      return ::testing::AssertionFailure() << "row " << r << ": " << got[r].token << " with " << got[r].logprob << ", expected "
                                           << want[r].token << " with " << want[r].logprob;
    }
  }
  return ::testing::AssertionSuccess();
}

// All functions, the second half of the rows alone too.
void CompareAll(DType dtype, int64_t rows, int64_t ids, const SamplingFilter& filter, Kind kind, int64_t gap) {
  SCOPED_TRACE(std::string(Name(dtype)) + " " + std::to_string(rows) + " x " + std::to_string(ids) + " in rows of " +
               std::to_string(ids + gap) + ", " + kKinds[static_cast<int>(kind)] + ", temperature " +
               std::to_string(filter.temperature) + ", top_k " + std::to_string(filter.top_k) + ", top_p " + std::to_string(filter.top_p));
  CudaWorld world;
  auto& m = world.memory;
  const Logits l = MakeLogits(world, dtype, rows, ids, kind, gap);
  const std::vector<SampleRequest> requests = Requests(rows, filter);
  std::vector<SampledToken> want, got;
  Sample(world.cpu, l.cpu, requests, want);
  Sample(world.gpu, l.gpu, requests, got);
  EXPECT_TRUE(Equal(got, want));
  const int64_t half = rows / 2;
  if (rows > 0) {
    Sample(world.gpu, l.gpu.Rows(half, rows), {requests.begin() + half, requests.end()}, got);
    EXPECT_TRUE(Equal(got, {want.begin() + half, want.end()})) << "half of the rows";
    Sample(world.gpu, l.gpu.Rows(half, half + 1), {requests[static_cast<size_t>(half)]}, got);
    EXPECT_TRUE(Equal(got, {want[static_cast<size_t>(half)]})) << "one row";
  }

  // The tokens drawn, and any.
  std::mt19937 random(3);
  std::vector<int32_t> tokens;
  for (const SampledToken& t : want)
    tokens.push_back(t.token < 0 || random() % 3 == 0 ? static_cast<int32_t>(random() % static_cast<uint32_t>(ids)) : t.token);
  const std::vector<SamplingFilter> filters(static_cast<size_t>(rows), filter);
  const Tensor logprobs = m.New(DType::kF32, {rows}), entropies = m.New(DType::kF32, {rows});
  const Tensor gpu_logprobs = world.Put(logprobs), gpu_entropies = world.Put(entropies), alone = world.Put(logprobs);
  const Tensor statistics = m.New(DType::kF32, {rows, 2}), gpu_statistics = world.Put(statistics);
  TokenLogprobs(world.cpu, l.cpu, filters, tokens.data(), logprobs, entropies, statistics);
  TokenLogprobs(world.gpu, l.gpu, filters, tokens.data(), gpu_logprobs, gpu_entropies, gpu_statistics);
  TokenLogprobs(world.gpu, l.gpu, filters, tokens.data(), alone, {});
  EXPECT_TRUE(Same(world.Get(gpu_logprobs), logprobs)) << "logprobs";
  EXPECT_TRUE(Same(world.Get(gpu_entropies), entropies)) << "entropies";
  EXPECT_TRUE(Same(world.Get(alone), logprobs)) << "logprobs without entropies";
  EXPECT_TRUE(Same(world.Get(gpu_statistics), statistics)) << "statistics";

  const Tensor slopes = m.Random(DType::kF32, {rows}, "slopes"), gpu_slopes = world.Put(slopes);
  if (rows > 2) {
    Set(slopes, 2, 0);
    Upload(world.gpu, slopes, gpu_slopes);
  }
  const Tensor dlogits = m.New(dtype, {rows, ids}), gpu_dlogits = world.Put(dlogits);
  TokenLogprobsBackward(world.cpu, l.cpu, filters, tokens.data(), slopes, dlogits);
  TokenLogprobsBackward(world.gpu, l.gpu, filters, tokens.data(), gpu_slopes, gpu_dlogits);
  EXPECT_TRUE(Same(world.Get(gpu_dlogits), dlogits)) << "dlogits";
  const Tensor again = world.Put(m.New(dtype, {rows, ids}));
  TokenLogprobsBackward(world.gpu, l.gpu, filters, tokens.data(), gpu_slopes, again, gpu_statistics);
  EXPECT_TRUE(Same(world.Get(again), dlogits)) << "dlogits with statistics";
  TokenLogprobsBackward(world.cpu, l.cpu, filters, tokens.data(), slopes, l.cpu);
  // Half of them in place with statistics.
  TokenLogprobsBackward(world.gpu, l.gpu.Rows(0, half), {filters.begin(), filters.begin() + half}, tokens.data(), gpu_slopes.Rows(0, half),
                        l.gpu.Rows(0, half), gpu_statistics.Rows(0, half));
  TokenLogprobsBackward(world.gpu, l.gpu.Rows(half, rows), {filters.begin() + half, filters.end()}, tokens.data() + half,
                        gpu_slopes.Rows(half, rows), l.gpu.Rows(half, rows));
  EXPECT_TRUE(Same(world.Get(l.whole_gpu), l.whole_cpu)) << "dlogits in place";
}

// With few cases one filter, another each time, and fewer and shorter rows.
std::vector<SamplingFilter> Filters() {
  static size_t times = 0;
  if (testing::FewCases()) return {kFilters[times++ % std::size(kFilters)]};
  return {std::begin(kFilters), std::end(kFilters)};
}

TEST(SamplingCudaTest, HasTheCpusBitsForEveryVocabularyAndFilter) {
  GROUPER_NEEDS_CUDA();
  for (const int64_t ids : kVocabularies) {
    if (testing::FewCases() && ids > 50000) continue;
    int64_t rows = testing::FewCases() ? 2 : ids < 3000 ? 37 : 3;
    for (const SamplingFilter& filter : Filters()) {
      CompareAll(DType::kF32, rows, ids, filter, Kind::kNormal, 0);
      if (ids < 40000) CompareAll(DType::kBF16, rows, ids, filter, Kind::kNormal, rows % 9);
      if (rows > 5 || filter.temperature == 1) CompareAll(DType::kF32, rows, ids, filter, Kind::kPeaked, rows % 5);
    }
  }
}

TEST(SamplingCudaTest, HasTheCpusBitsForTiesInfinitiesAndNan) {
  GROUPER_NEEDS_CUDA();
  for (const int64_t ids : {1, 7, 31, 513, 2049, 20000}) {
    if (testing::FewCases() && ids != 31 && ids != 2049) continue;
    for (Kind kind : {Kind::kTies, Kind::kEqual, Kind::kImpossible, Kind::kNan, Kind::kInfinite, Kind::kHuge}) {
      for (const SamplingFilter& filter : Filters()) {
        CompareAll(DType::kF32, ids < 3000 ? 9 : 4, ids, filter, kind, static_cast<int>(kind) % 3);
        if (ids < 3000 && !testing::FewCases()) CompareAll(DType::kBF16, 5, ids, filter, kind, 0);
      }
    }
  }
}

TEST(SamplingCudaTest, HasTheCpusBitsForAnyNumberOfRows) {
  GROUPER_NEEDS_CUDA();
  for (const int64_t rows : {0, 1, 2, 5, 64, 300}) {
    if (testing::FewCases() && rows > 5) continue;
    for (const SamplingFilter& filter : {SamplingFilter{1, 0, 1}, SamplingFilter{0.8f, 50, 0.95f}}) {
      for (const int64_t ids : {31, 1000, 6000, 28000}) {
        if (rows * ids > 3000000 || (testing::FewCases() && (ids == 1000 || ids == 28000))) continue;
        CompareAll(DType::kF32, rows, ids, filter, Kind::kNormal, 4);
        CompareAll(DType::kBF16, rows, ids, filter, Kind::kNormal, 3);
      }
    }
  }
  if (!testing::FewCases()) CompareAll(DType::kF32, 140, 49152, {1, 0, 1}, Kind::kNormal, 0);
}

TEST(SamplingCudaTest, TakesRowsOfDifferentFilters) {
  GROUPER_NEEDS_CUDA();
  for (const int64_t ids : {31, 3000, 49152}) {
    CudaWorld world;
    const int64_t rows = std::size(kFilters);
    const Logits l = MakeLogits(world, DType::kF32, rows, ids, Kind::kNormal, 0);
    std::vector<SampleRequest> requests = Requests(rows, {});
    for (size_t r = 0; r < requests.size(); ++r) requests[r].filter = kFilters[r];
    std::vector<SampledToken> want, got;
    Sample(world.cpu, l.cpu, requests, want);
    Sample(world.gpu, l.gpu, requests, got);
    EXPECT_TRUE(Equal(got, want)) << ids;
  }
}

TEST(SamplingCudaTest, DrawsTheOnlyTokenWhenItsNoiseIsMinusInfinity) {
  GROUPER_NEEDS_CUDA();
  CudaWorld world;
  const SampleRequest request = {{1, 0, 1}, SamplingKey(11, 0, 3), 0, 5535925};
  ASSERT_GE(Philox(request.key, {0, request.position, 0, 0})[0], 0xffffff80u);
  for (const int64_t ids : {1, 40, 5000}) {
    const Tensor logits = world.memory.New(DType::kF32, {1, ids});
    for (int64_t i = 0; i < ids; ++i) Set(logits, i, i == 0 ? 2 : -INFINITY);
    std::vector<SampledToken> got;
    Sample(world.gpu, world.Put(logits), {request}, got);
    EXPECT_TRUE(Equal(got, {{0, 0}})) << ids;
  }
}

TEST(SamplingCudaTest, FrequenciesFollowTheDistribution) {
  GROUPER_NEEDS_CUDA();
  constexpr int64_t kRows = 40000, kIds = 13;
  CudaWorld world;
  const Tensor logits = world.memory.New(DType::kF32, {kRows, kIds});
  double weights[kIds], total = 0;
  for (int64_t i = 0; i < kIds; ++i) total += weights[i] = 1 + static_cast<double>(i * i % 11);
  for (int64_t i = 0; i < logits.size(); ++i) Set(logits, i, std::log(weights[i % kIds]));
  std::vector<SampledToken> got;
  Sample(world.gpu, world.Put(logits), Requests(kRows, {}), got);
  double counts[kIds] = {}, chi_square = 0;
  for (const SampledToken& t : got) {
    ASSERT_TRUE(t.token >= 0 && t.token < kIds);
    ++counts[t.token];
  }
  for (int64_t i = 0; i < kIds; ++i) {
    const double expected = kRows * weights[i] / total;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 12 + 4 * std::sqrt(24.0));
}

// Bytes on the device.
template <typename T>
T* OnDevice(CudaWorld& world, const std::vector<T>& values) {
  const Tensor bytes = world.memory.New(DType::kI32, {static_cast<int64_t>(sizeof(T) * values.size() / 4)});
  std::memcpy(bytes.raw(), values.data(), sizeof(T) * values.size());
  return static_cast<T*>(world.Put(bytes).raw());
}

TEST(SamplingCudaTest, InAGraphReadsTheRequestsOfItsReplay) {
  GROUPER_NEEDS_CUDA();
  for (const int64_t ids : {31, 49152}) {
    CudaWorld world;
    constexpr int64_t kRows = 5;
    const Logits l = MakeLogits(world, DType::kF32, kRows, ids, Kind::kNormal, 0);
    std::vector<SampleRequest> requests = Requests(kRows, {0.9f, 30, 0.95f});
    SampleRequest* const device_requests = OnDevice(world, requests);
    SampledToken* const device_tokens = OnDevice(world, std::vector<SampledToken>(kRows));
    const cudaStream_t stream = static_cast<cudaStream_t>(world.gpu.handle);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    cuda::SampleDevice(world.gpu, l.gpu, device_requests, device_tokens);
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&replay, graph, 0), cudaSuccess);
    for (uint32_t step = 0; step < 3; ++step) {
      for (SampleRequest& r : requests) r.position += step;
      cudaMemcpyAsync(device_requests, requests.data(), sizeof(SampleRequest) * kRows, cudaMemcpyHostToDevice, stream);
      ASSERT_EQ(cudaGraphLaunch(replay, stream), cudaSuccess);
      std::vector<SampledToken> got(kRows), want, staged;
      cudaMemcpyAsync(got.data(), device_tokens, sizeof(SampledToken) * kRows, cudaMemcpyDeviceToHost, stream);
      world.gpu.Synchronize();
      Sample(world.cpu, l.cpu, requests, want);
      Sample(world.gpu, l.gpu, requests, staged);
      EXPECT_TRUE(Equal(got, want)) << ids << " ids, step " << step;
      EXPECT_TRUE(Equal(staged, want)) << ids << " ids, step " << step;
    }
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
  }
}

TEST(SamplingCudaTest, OnTheDeviceTokensBeyondTheVocabularyHaveNoProbability) {
  GROUPER_NEEDS_CUDA();
  for (const int64_t ids : {31, 5000}) {
    CudaWorld world;
    auto& m = world.memory;
    const Logits l = MakeLogits(world, DType::kF32, 3, ids, Kind::kNormal, 0);
    const std::vector<int32_t> tokens = {-1, 4, static_cast<int32_t>(ids)}, valid = {0, 4, 0};
    const std::vector<SamplingFilter> filters(3);
    const Tensor want = m.New(DType::kF32, {3}), got = world.New(DType::kF32, {3}), slopes = m.Random(DType::kF32, {3}, "slopes");
    const Tensor dlogits = m.New(DType::kF32, {3, ids}), gpu_dlogits = world.New(DType::kF32, {3, ids});
    TokenLogprobs(world.cpu, l.cpu, filters, valid.data(), want, {});
    for (int r : {0, 2}) Set(want, r, -INFINITY), Set(slopes, r, 0);
    TokenLogprobsBackward(world.cpu, l.cpu, filters, valid.data(), slopes, dlogits);
    for (int r : {0, 2}) Set(slopes, r, 1);
    const int32_t* const device_tokens = OnDevice(world, tokens);
    const SamplingFilter* const device_filters = OnDevice(world, filters);
    cuda::TokenLogprobsDevice(world.gpu, l.gpu, device_filters, device_tokens, got, {}, {});
    cuda::TokenLogprobsBackwardDevice(world.gpu, l.gpu, device_filters, device_tokens, world.Put(slopes), gpu_dlogits, {});
    EXPECT_TRUE(Same(world.Get(got), want)) << ids;
    EXPECT_TRUE(Same(world.Get(gpu_dlogits), dlogits)) << ids;
  }
}

}  // namespace
}  // namespace grouper::kernels
