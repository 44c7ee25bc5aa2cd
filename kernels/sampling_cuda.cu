#include "kernels/sampling_cuda.h"

#include "common/tensor/cuda.h"
#include "kernels/sampling_row.cuh"

namespace grouper::kernels::cuda {
namespace {

constexpr int64_t kMaxIds = int64_t{1} << 20;
constexpr int kMaxSharedBytes = 227 << 10;
constexpr int kPartBlocks = 48;  // of ids: two such blocks of threads share a multiprocessor
static_assert(ClusterTeam::kAhead * ClusterTeam::kThreads * 8 == kPartBlocks * kBlockIds);  // a part's loads, all on their way together
constexpr int kFewBlocks = 8;    // of ids: not worth a further block of threads

// --- what is done with a row ----------------------------------------------------

struct Draw {
  const SampleRequest* requests;
  SampledToken* tokens;

  template <typename Row, typename Team>
  __device__ void operator()(Row& row, Team& team, int64_t r) const {
    const SampleRequest request = requests[r];
    SampledToken result;
    if (request.filter.temperature == 0) {
      result.token = row.Argmax();
    } else if (row.Prepare(request.filter)) {
      row.template Sum<false, false>();
      result.token = row.Draw(request);
      result.logprob = row.Logprob(row.FilteredOf(row.Logit(result.token), result.token));
    }
    if (team.rank == 0 && team.thread == 0) tokens[r] = result;
  }
};

template <bool kEntropy>
struct Score {
  const SamplingFilter* filters;
  const int32_t* tokens;
  float *logprobs, *entropies;
  float2* statistics;  // may be null
  int ids;

  template <typename Row, typename Team>
  __device__ void operator()(Row& row, Team& team, int64_t r) const {
    const SamplingFilter filter = filters[r];
    const int32_t token = tokens[r];
    const bool known = token >= 0 && token < ids;
    const float logit = known ? row.Logit(token) : 0;  // it comes meanwhile
    float logprob = -Infinity(), entropy = 0;
    float2 found = make_float2(0, 0);
    if (filter.temperature == 0) {
      if (row.Argmax() == token && known) logprob = 0;
    } else if (row.Prepare(filter)) {
      row.template Sum<kEntropy, false>();
      const float z = known ? row.FilteredOf(logit, token) : -Infinity();
      if (known) logprob = row.Logprob(z);
      entropy = row.entropy;
      if (z > -Infinity()) found = make_float2(row.maximum, row.sum);
    } else {
      logprob = entropy = __int_as_float(0x7fc00000);
    }
    if (team.rank != 0 || team.thread != 0) return;
    logprobs[r] = logprob;
    if constexpr (kEntropy) entropies[r] = entropy;
    if (statistics != nullptr) statistics[r] = found;
  }
};

__device__ __forceinline__ void StoreFour(float* p, const float (&x)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ __forceinline__ void StoreFour(__nv_bfloat16* p, const float (&x)[4]) {
  __nv_bfloat162 pairs[2] = {{__float2bfloat16_rn(x[0]), __float2bfloat16_rn(x[1])},
                             {__float2bfloat16_rn(x[2]), __float2bfloat16_rn(x[3])}};
  *reinterpret_cast<uint2*>(p) = *reinterpret_cast<uint2*>(pairs);
}

// value(i, x) gives out[i], .., out[i + 3]; i counts in the part.
template <typename S, typename F>
__device__ void WriteFours(S* out, int count, int thread, int threads, F value) {
  const bool aligned = reinterpret_cast<uintptr_t>(out) % (4 * sizeof(S)) == 0;
  for (int i = 4 * thread; i < count; i += 4 * threads) {
    float x[4];
    value(i, x);
    if (aligned && i + 4 <= count) {
      StoreFour(out + i, x);
    } else {
      for (int k = 0; k < 4 && i + k < count; ++k) StoreFloat(out + i + k, x[k]);
    }
  }
}

template <typename S>
struct ScoreBackward {
  const SamplingFilter* filters;
  const int32_t* tokens;
  const float* dlogprobs;
  S* dlogits;
  int64_t stride;
  int ids;

  template <typename Row, typename Team>
  __device__ void operator()(Row& row, Team& team, int64_t r) const {
    const SamplingFilter filter = filters[r];
    const int32_t token = tokens[r];
    const float g = dlogprobs[r];
    S* const out = dlogits + r * stride + row.first();
    float z_token = -Infinity();
    if (g != 0 && filter.temperature > 0 && token >= 0 && token < ids) {
      // Read before Prepare meets the others: from here on nobody reads what another one may write, in place.
      const float logit = row.Logit(token);
      if (row.Prepare(filter)) z_token = row.FilteredOf(logit, token);
    }
    if (!(z_token > -Infinity())) {
      WriteFours(out, row.count(), team.thread, Team::kThreads, [](int, float(&x)[4]) { x[0] = x[1] = x[2] = x[3] = 0; });
      return;
    }
    // dL/dz_i = g (1[i = token] - p_i), then through the temperature.
    row.template Sum<false, true>();
    const float slope = g / filter.temperature, scale = -(slope / row.sum);
    const float of_token = slope * (1 - ExpUpToZero(z_token - row.maximum) / row.sum);
    const int place = token - row.first();
    WriteFours(out, row.count(), team.thread, Team::kThreads, [&](int i, float(&x)[4]) {
      row.ProbabilitiesOfFour(i, x);
#pragma unroll
      for (int k = 0; k < 4; ++k) x[k] = i + k == place ? of_token : x[k] * scale;
    });
  }
};

// ScoreBackward with what Score found: every id for itself. Block (x, y): part y of row x.
constexpr int kBackwardThreads = 256, kBackwardIds = kBackwardThreads * 8 * 4;

template <typename S, bool kVector>
__global__ void __launch_bounds__(kBackwardThreads)
    ScoreBackwardById(LogitRows<S> logits, const SamplingFilter* filters, const int32_t* tokens, const float* dlogprobs, const float2* statistics,
                      S* dlogits, int64_t stride) {
  KernelBegin();
  const int64_t r = blockIdx.x;
  const float temperature = filters[r].temperature, g = dlogprobs[r];
  const int token = tokens[r], begin = static_cast<int>(blockIdx.y) * kBackwardIds, end = min(logits.ids, begin + kBackwardIds);
  const float2 known = statistics[r];
  const float maximum = known.x, sum = known.y;
  const bool flows = g != 0 && temperature > 0 && sum > 0;
  const float slope = g / temperature, scale = -(slope / sum);
  const S* const from = logits.data + r * logits.stride;
  S* const to = dlogits + r * stride;
#pragma unroll
  for (int i = begin + static_cast<int>(threadIdx.x) * 8; i < begin + kBackwardIds; i += kBackwardThreads * 8) {
    if (i >= end) break;
    float x[8];
    LoadEight(from + i, end - i, kVector, x);
    if (temperature != 1) {
#pragma unroll
      for (int k = 0; k < 8; ++k) x[k] = __fdiv_rn(x[k], temperature);
    }
    float of_token = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      x[k] = ExpUpToZero(__fsub_rn(x[k], maximum));
      if (i + k == token) of_token = x[k];
    }
    if (i <= token && token < i + 8) of_token = slope * (1 - of_token / sum);
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = !flows ? 0 : i + k == token ? of_token : x[k] * scale;
    StoreEight(to + i, end - i, kVector, x);
  }
}

// --- rows to teams ----------------------------------------------------------------

template <typename Team, bool kCached, typename S, typename Op>
__global__ void __launch_bounds__(Team::kThreads* Team::kRowsABlock, Team::kResident)
    ForRows(LogitRows<S> logits, int scratch_bytes, int team_bytes, Op op) {
  KernelBegin();
  GROUPER_DYNAMIC_SHARED(__align__(16) char, shared);
  char* const own = shared + Team::PlaceInBlock() * team_bytes;
  Team team(own);
  const int64_t r = team.Row();
  if (r >= logits.rows) return;
  LogitRow<S, Team, kCached> row(logits, r, team, reinterpret_cast<float*>(own + scratch_bytes));
  op(row, team, r);
}

__global__ void NextTokensKernel(const SampledToken* sampled, const NextToken* next, int count, int32_t* ids) {
  KernelBegin();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const NextToken n = next[i];
  ids[i] = n.from >= 0 ? max(sampled[n.from].token, 0) : n.given;
}

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

// A team has `blocks` blocks of ids, of all the row's `row_blocks`, and at most `ids` ids.
template <typename Team, bool kCached, typename S, typename Op>
void LaunchTeams(Stream& stream, const LogitRows<S>& logits, int row_blocks, int64_t ids, int ranks, const Op& op) {
  const size_t scratch = RoundUp(Team::ScratchBytes(row_blocks), 16);
  const int64_t cached = (ids + 3) / 4 * 4 + ids / kBlockIds * (kBlockPitch - kBlockIds);
  const size_t bytes = scratch + (kCached ? sizeof(float) * static_cast<size_t>(cached) : 0);
  static std::atomic<uint64_t> allowed = 0;
  AllowSharedMemory(ForRows<Team, kCached, S, Op>, kMaxSharedBytes, allowed);
  const int64_t blocks = (logits.rows + Team::kRowsABlock - 1) / Team::kRowsABlock * ranks;
  CHECK_LE(blocks, int64_t{0x7fffffff});
  LaunchClusters(stream, static_cast<unsigned>(ranks), static_cast<unsigned>(blocks), Team::kThreads * Team::kRowsABlock,
                 bytes * Team::kRowsABlock, ForRows<Team, kCached, S, Op>, logits, static_cast<int>(scratch), static_cast<int>(bytes), op);
}

template <typename S, typename Op>
void ForEachRow(Stream& stream, const Tensor& tensor, const Op& op) {
  const int64_t ids = tensor.dim(1), rows = tensor.dim(0);
  CHECK_LE(ids, kMaxIds);
  if (rows == 0) return;
  const int64_t blocks = (ids + kBlockIds - 1) / kBlockIds;
  LogitRows<S> logits = {static_cast<S*>(tensor.raw()), tensor.stride(0), rows, static_cast<int>(ids), static_cast<int>(blocks)};
  if (ids <= WarpTeam::kMaxIds) {
    return LaunchTeams<WarpTeam, true>(stream, logits, static_cast<int>(blocks), ids, 1, op);
  }
  // Parts that leave room for a second one on the multiprocessor, and more of them for few rows.
  int ranks = 1;
  const auto part = [&] { return (blocks + ranks - 1) / ranks; };
  while (ranks < ClusterTeam::kMaxRanks && (part() > kPartBlocks || (rows * ranks < NumMultiprocessors() && part() > kFewBlocks)))
    ranks *= 2;
  logits.part_blocks = static_cast<int>(part());
  const int64_t part_ids = part() * kBlockIds;
  const bool fits = ClusterTeam::ScratchBytes(static_cast<int>(blocks)) + sizeof(float) * kBlockPitch * static_cast<size_t>(part()) + 16 <=
                    static_cast<size_t>(kMaxSharedBytes);
  if (fits) {
    LaunchTeams<ClusterTeam, true>(stream, logits, static_cast<int>(blocks), part_ids, ranks, op);
  } else {
    LaunchTeams<ClusterTeam, false>(stream, logits, static_cast<int>(blocks), part_ids, ranks, op);
  }
}

}  // namespace

void SampleDevice(Stream& stream, const Tensor& logits, const SampleRequest* requests, SampledToken* tokens) {
  ByDeviceStorage(logits.dtype(), [&](auto s) { ForEachRow<decltype(s)>(stream, logits, Draw{requests, tokens}); });
}

void NextTokens(Stream& stream, const SampledToken* sampled, const NextToken* next, const Tensor& ids) {
  const int count = static_cast<int>(ids.dim(0));
  if (count == 0) return;
  LaunchKernel(stream, (count + 127) / 128, 128, 0, NextTokensKernel, sampled, next, count, ids.data<int32_t>());
}

void TokenLogprobsDevice(Stream& stream, const Tensor& logits, const SamplingFilter* filters, const int32_t* tokens,
                         const Tensor& logprobs, const Tensor& entropies, const Tensor& statistics) {
  const int ids = static_cast<int>(logits.dim(1));
  ByDeviceStorage(logits.dtype(), [&](auto s) {
    using S = decltype(s);
    float* const to = logprobs.data<float>();
    float2* const found = static_cast<float2*>(statistics.raw());
    if (entropies.empty()) {
      ForEachRow<S>(stream, logits, Score<false>{filters, tokens, to, nullptr, found, ids});
    } else {
      ForEachRow<S>(stream, logits, Score<true>{filters, tokens, to, entropies.data<float>(), found, ids});
    }
  });
}

void TokenLogprobsBackwardDevice(Stream& stream, const Tensor& logits, const SamplingFilter* filters, const int32_t* tokens,
                                 const Tensor& dlogprobs, const Tensor& dlogits, const Tensor& statistics) {
  if (logits.size() == 0) return;
  ByDeviceStorage(logits.dtype(), [&](auto s) {
    using S = decltype(s);
    if (!statistics.empty()) {
      const int64_t rows = logits.dim(0), ids = logits.dim(1);
      CHECK_LE(ids, kMaxIds);
      const LogitRows<S> from = {static_cast<S*>(logits.raw()), logits.stride(0), rows, static_cast<int>(ids), 0};
      const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>((ids + kBackwardIds - 1) / kBackwardIds));
      const auto launch = [&](auto* kernel) {
        LaunchKernel(stream, grid, kBackwardThreads, 0, kernel, from, filters, tokens, dlogprobs.data<float>(),
                     static_cast<const float2*>(statistics.raw()), static_cast<S*>(dlogits.raw()), dlogits.stride(0));
      };
      return RowsOfEights(logits) && RowsOfEights(dlogits) ? launch(ScoreBackwardById<S, true>) : launch(ScoreBackwardById<S, false>);
    }
    ForEachRow<S>(stream, logits,
                  ScoreBackward<S>{filters, tokens, dlogprobs.data<float>(), static_cast<S*>(dlogits.raw()),
                                   dlogits.stride(0), static_cast<int>(logits.dim(1))});
  });
}

void Sample(Stream& stream, const Tensor& logits, const std::vector<SampleRequest>& requests,
            std::vector<SampledToken>& tokens) {
  const int64_t rows = logits.dim(0);
  if (rows == 0) return;
  const size_t bytes = sizeof(SampledToken) * static_cast<size_t>(rows);
  const Arena::Mark mark = stream.scratch.mark();
  const SampleRequest* const staged = Staged(stream, requests.data(), rows);
  SampledToken* const sampled = static_cast<SampledToken*>(stream.scratch.Allocate(bytes));
  SampleDevice(stream, logits, staged, sampled);
  grouper::cuda::CopyToHost(stream.device.index, tokens.data(), sampled, bytes, stream.handle);
  stream.Synchronize();
  stream.scratch.Release(mark);
}

void TokenLogprobs(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                   const int32_t* tokens, const Tensor& logprobs, const Tensor& entropies, const Tensor& statistics) {
  const int64_t rows = logits.dim(0);
  const Arena::Mark mark = stream.scratch.mark();
  const SamplingFilter* const staged = Staged(stream, filters.data(), rows);
  TokenLogprobsDevice(stream, logits, staged, Staged(stream, tokens, rows), logprobs, entropies, statistics);
  stream.scratch.Release(mark);
}

void TokenLogprobsBackward(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                           const int32_t* tokens, const Tensor& dlogprobs, const Tensor& dlogits, const Tensor& statistics) {
  const int64_t rows = logits.dim(0);
  const Arena::Mark mark = stream.scratch.mark();
  const SamplingFilter* const staged = Staged(stream, filters.data(), rows);
  const bool whole = std::all_of(filters.begin(), filters.end(), [](const SamplingFilter& f) { return f.top_k <= 0 && f.top_p >= 1; });
  TokenLogprobsBackwardDevice(stream, logits, staged, Staged(stream, tokens, rows), dlogprobs, dlogits, whole ? statistics : Tensor());
  stream.scratch.Release(mark);
}

}  // namespace grouper::kernels::cuda
