#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/sampling_cuda.h"

namespace grouper::kernels {

namespace cpu {  // sampling_cpu.cc
template <typename S>
void Sample(Stream& stream, const Tensor& logits, const std::vector<SampleRequest>& requests,
            std::vector<SampledToken>& tokens);
template <typename S>
void TokenLogprobs(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                   const int32_t* tokens, const Tensor& logprobs, const Tensor& entropies, const Tensor& statistics);
template <typename S>
void TokenLogprobsBackward(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                           const int32_t* tokens, const Tensor& dlogprobs, const Tensor& dlogits, const Tensor& statistics);
}  // namespace cpu

namespace {

uint64_t Mix(uint64_t z) {  // SplitMix64's finaliser
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

void CheckFilter(const SamplingFilter& f) {
  CHECK(f.temperature >= 0 && std::isfinite(f.temperature) && f.top_k >= 0 && f.top_p > 0 && f.top_p <= 1)
      << "temperature " << f.temperature << ", top_k " << f.top_k << ", top_p " << f.top_p;
}

void CheckFilters(const std::vector<SamplingFilter>& filters, int64_t rows) {
  CHECK_EQ(static_cast<int64_t>(filters.size()), rows);
  for (const SamplingFilter& f : filters) CheckFilter(f);
}

void CheckTokens(const int32_t* tokens, const Tensor& logits) {
  for (int64_t r = 0; r < logits.dim(0); ++r) CHECK(tokens[r] >= 0 && tokens[r] < logits.dim(1)) << tokens[r];
}

void CheckVector(const Tensor& t, DType dtype, int64_t n, const char* name) {
  CHECK(t.rank() == 1 && t.dtype() == dtype && t.dim(0) == n) << name << " is " << t.ShapeString();
}

void CheckStatistics(const Tensor& t, const Tensor& logits) {
  if (t.empty()) return;
  CHECK(t.rank() == 2 && t.contiguous() && t.dtype() == AccumulatorOf(logits.dtype()) && t.dim(0) == logits.dim(0) && t.dim(1) == 2)
      << "statistics is " << t.ShapeString();
}

}  // namespace

PhiloxKey SamplingKey(uint64_t seed, uint32_t stage, uint64_t group_serial) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;
  uint64_t key = Mix(seed + kGolden);
  key = Mix(key + (uint64_t{stage} + 1) * kGolden);
  key = Mix(key + (group_serial + 1) * kGolden);
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

void Sample(Stream& stream, const Tensor& logits, const std::vector<SampleRequest>& requests,
            std::vector<SampledToken>& tokens) {
  CHECK(logits.rank() == 2) << logits.ShapeString();
  CHECK_EQ(static_cast<int64_t>(requests.size()), logits.dim(0));
  for (const SampleRequest& r : requests) CheckFilter(r.filter);
  tokens.resize(requests.size());
  ByStorage(logits, [&](auto s) { cpu::Sample<decltype(s)>(stream, logits, requests, tokens); },
            [&](auto) { cuda::Sample(stream, logits, requests, tokens); });
}

void SampleRows(Stream& stream, const Tensor& logits, const SampleRequest* requests, SampledToken* tokens) {
  CHECK(logits.rank() == 2) << logits.ShapeString();
  const size_t rows = static_cast<size_t>(logits.dim(0));
  ByStorage(
      logits,
      [&](auto s) {
        std::vector<SampledToken> sampled(rows);
        cpu::Sample<decltype(s)>(stream, logits, {requests, requests + rows}, sampled);
        std::copy(sampled.begin(), sampled.end(), tokens);
      },
      [&](auto) { cuda::SampleDevice(stream, logits, requests, tokens); });
}

void NextTokens(Stream& stream, const SampledToken* sampled, const NextToken* next, const Tensor& ids) {
  CheckVector(ids, DType::kI32, ids.dim(0), "ids");
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) return cuda::NextTokens(stream, sampled, next, ids);
  }
  for (int64_t i = 0; i < ids.dim(0); ++i) {
    ids.data<int32_t>()[i] = next[i].from >= 0 ? std::max(sampled[next[i].from].token, 0) : next[i].given;
  }
}

void TokenLogprobs(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                   const int32_t* tokens, const Tensor& logprobs, const Tensor& entropies, const Tensor& statistics) {
  CHECK(logits.rank() == 2) << logits.ShapeString();
  CheckFilters(filters, logits.dim(0));
  CheckTokens(tokens, logits);
  CheckVector(logprobs, AccumulatorOf(logits.dtype()), logits.dim(0), "logprobs");
  if (!entropies.empty()) CheckVector(entropies, AccumulatorOf(logits.dtype()), logits.dim(0), "entropies");
  CheckStatistics(statistics, logits);
  ByStorage(
      logits, [&](auto s) { cpu::TokenLogprobs<decltype(s)>(stream, logits, filters, tokens, logprobs, entropies, statistics); },
      [&](auto) { cuda::TokenLogprobs(stream, logits, filters, tokens, logprobs, entropies, statistics); });
}

void TokenLogprobsBackward(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                           const int32_t* tokens, const Tensor& dlogprobs, const Tensor& dlogits, const Tensor& statistics) {
  CHECK(logits.rank() == 2) << logits.ShapeString();
  CheckFilters(filters, logits.dim(0));
  CheckTokens(tokens, logits);
  CheckVector(dlogprobs, AccumulatorOf(logits.dtype()), logits.dim(0), "dlogprobs");
  CHECK(dlogits.rank() == 2 && dlogits.dtype() == logits.dtype() && dlogits.dim(0) == logits.dim(0) &&
        dlogits.dim(1) == logits.dim(1));
  CheckStatistics(statistics, logits);
  ByStorage(
      logits,
      [&](auto s) {
        cpu::TokenLogprobsBackward<decltype(s)>(stream, logits, filters, tokens, dlogprobs, dlogits, statistics);
      },
      [&](auto) { cuda::TokenLogprobsBackward(stream, logits, filters, tokens, dlogprobs, dlogits, statistics); });
}

}  // namespace grouper::kernels
