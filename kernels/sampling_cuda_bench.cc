// Sampling, log-probabilities and their gradient on CUDA, requests and results on the device.
#include "kernels/sampling_cuda.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kernels/cuda_bench.h"

namespace grouper::kernels {
namespace {

// [rows, ids] logits: float, the engine's, or bf16, training's, where nothing is sampled.
absl::Status SamplingLines(CudaBench& bench, int64_t rows, int64_t ids, const SamplingFilter& filter, DType dtype = DType::kF32) {
  rows = bench.FewTokens(rows), ids = bench.FewColumns(ids);
  std::string shape = absl::StrCat(rows, " x ", ids);
  if (filter.top_k > 0) absl::StrAppend(&shape, ", top_k ", filter.top_k);
  if (filter.top_p < 1) absl::StrAppend(&shape, ", top_p ", filter.top_p);
  const bool training = dtype == DType::kBF16;
  if (training) absl::StrAppend(&shape, ", bf16");
  const std::string sample = "cuda sample " + shape, score = "cuda logprobs " + shape, gradient = "cuda logprobs gradient " + shape;
  if (!(!training && bench.Wants({sample})) && !bench.Wants({score, gradient})) return absl::OkStatus();
  Stream& stream = bench.stream();
  const int64_t row_bytes = ids * static_cast<int64_t>(SizeOf(dtype)), sets = bench.Sets(rows * row_bytes, 16), all = sets * rows;
  const Tensor logits = training ? bench.Random({all, ids}) : bench.RandomFloat({all, ids}), dlogits = bench.New(dtype, {rows, ids});
  const Tensor logprobs = bench.New(DType::kF32, {all}), entropies = bench.New(DType::kF32, {all}), statistics = bench.New(DType::kF32, {all, 2}),
               slopes = bench.RandomFloat({all});
  std::vector<SampleRequest> requests;
  for (int64_t r = 0; r < rows; ++r) requests.push_back({filter, SamplingKey(1, 0, 0), static_cast<uint32_t>(r), 0});
  const SampleRequest* const device_requests = bench.Put(requests);
  const SamplingFilter* const filters = bench.Put(std::vector<SamplingFilter>(static_cast<size_t>(rows), filter));
  SampledToken* const sampled = bench.Put(std::vector<SampledToken>(static_cast<size_t>(all)));
  // What set i has of a tensor.
  const auto part = [&](const Tensor& t, int i) { return t.Rows(i % sets * rows, (i % sets + 1) * rows); };
  const auto draw = [&](int i) { cuda::SampleDevice(stream, part(logits, i), device_requests, sampled + i % sets * rows); };
  for (int i = 0; i < sets; ++i) draw(i);
  std::vector<SampledToken> drawn(static_cast<size_t>(all));
  grouper::cuda::CopyToHost(stream.device.index, drawn.data(), sampled, sizeof(SampledToken) * drawn.size(), stream.handle);
  stream.Synchronize();
  std::vector<int32_t> tokens;
  for (const SampledToken& t : drawn) tokens.push_back(t.token);
  const int32_t* const device_tokens = bench.Put(tokens);
  const auto measure = [&](int i) {
    cuda::TokenLogprobsDevice(stream, part(logits, i), filters, device_tokens + i % sets * rows, part(logprobs, i), part(entropies, i),
                              part(statistics, i));
  };
  for (int i = 0; i < sets; ++i) measure(i);
  const bool whole = filter.top_k <= 0 && filter.top_p >= 1;

  // The same on the CPU, for some rows of the first set.
  const std::vector<int64_t> some = CudaBench::SomeRows(rows, 16);
  const Tensor host = bench.Host(logits, some), host_slopes = bench.Host(slopes, some);
  std::vector<SampleRequest> host_requests;
  std::vector<int32_t> host_tokens;
  for (const int64_t r : some) {
    host_requests.push_back(requests[static_cast<size_t>(r)]);
    host_tokens.push_back(tokens[static_cast<size_t>(r)]);
  }
  const std::vector<SamplingFilter> host_filters(some.size(), filter);
  const int64_t n = static_cast<int64_t>(some.size());
  Arena arena;
  const Tensor host_logprobs = arena.New(DType::kF32, {n}), host_entropies = arena.New(DType::kF32, {n}), host_dlogits = arena.New(dtype, {n, ids});

  const double bytes = static_cast<double>(rows * row_bytes);
  const auto check_draw = [&]() -> absl::Status {
    std::vector<SampledToken> want;
    Sample(bench.cpu(), host, host_requests, want);
    for (size_t i = 0; i < some.size(); ++i) {
      const SampledToken& got = drawn[static_cast<size_t>(some[i])];
      if (got.token == want[i].token && got.logprob == want[i].logprob) continue;
      return absl::InternalError(absl::StrCat("row ", some[i], ": ", got.token, " of ", got.logprob, ", the CPU drew ", want[i].token, " of ", want[i].logprob));
    }
    return absl::OkStatus();
  };
  if (!training) RETURN_IF_ERROR(bench.Line(sample, {.bytes = bytes}, draw, check_draw));
  RETURN_IF_ERROR(bench.Line(score, {.bytes = bytes}, measure, [&]() -> absl::Status {
    TokenLogprobs(bench.cpu(), host, host_filters, host_tokens.data(), host_logprobs, host_entropies);
    RETURN_IF_ERROR(bench.CheckSameRows(logprobs, some, host_logprobs));
    RETURN_IF_ERROR(bench.CheckSameRows(entropies, some, host_entropies));
    const std::vector<double> got = bench.Read(logprobs, 0, all);
    for (int64_t r = 0; r < all; ++r) {
      if (got[static_cast<size_t>(r)] == static_cast<double>(drawn[static_cast<size_t>(r)].logprob)) continue;
      return absl::InternalError(absl::StrCat("row ", r, ": not what was recorded when the token was drawn"));
    }
    for (size_t i = 0; whole && i < some.size(); ++i) {  // in double, too
      const std::vector<double> z = bench.Read(logits, some[i] * ids, ids);
      double sum = 0;
      for (const double x : z) sum += std::exp(x);
      RETURN_IF_ERROR(bench.Check(logprobs, some[i], {z[static_cast<size_t>(host_tokens[i])] - std::log(sum), 1e-5}));
    }
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(bench.Line(
      gradient, {.bytes = 2 * bytes},
      [&](int i) {
        cuda::TokenLogprobsBackwardDevice(stream, part(logits, i), filters, device_tokens + i % sets * rows, part(slopes, i), dlogits,
                                          whole ? part(statistics, i) : Tensor());
      },
      [&] {
        TokenLogprobsBackward(bench.cpu(), host, host_filters, host_tokens.data(), host_slopes, host_dlogits);
        return bench.CheckSameRows(dlogits, some, host_dlogits);
      }));
  bench.Reset();
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchSamplingCuda(CudaBench& bench) {
  // The quickstart's vocabulary, SmolLM2's, Qwen's.
  for (const auto& [rows, ids] : {std::pair<int64_t, int64_t>{16384, 31}, {64, 49152}, {1024, 49152}, {64, 151936}}) {
    RETURN_IF_ERROR(SamplingLines(bench, rows, ids, {}));
  }
  RETURN_IF_ERROR(SamplingLines(bench, 16384, 49152, {}, DType::kBF16));
  for (const SamplingFilter& filter : {SamplingFilter{1, 50, 1}, SamplingFilter{1, 0, 0.95f}}) {
    RETURN_IF_ERROR(SamplingLines(bench, 1024, 49152, filter));
    RETURN_IF_ERROR(SamplingLines(bench, 64, 151936, filter));
  }
  return absl::OkStatus();
}

}  // namespace grouper::kernels
