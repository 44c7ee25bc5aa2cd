// From logits to a token, and to the log-probability of a given token, under one and the same filtered distribution.
//
// The filter, in this order: z = logits / temperature; top_k keeps the k largest (ties: lower ids); top_p keeps the
// shortest prefix, in descending order of probability (ties: lower ids first), whose probability (among what top_k
// kept) reaches top_p; the rest is renormalised: logprob(i) = z_i - log sum_{kept} exp(z_j). The sums run in a fixed
// order over ids (8 lanes, in blocks of 512 ids), so that the sampler and the trainer get the same bits from the same
// logits. For top_p probabilities are integers in units of 2^-43 of the largest, whose sums need no order.
//
// Noise is counter-based and per vocabulary id (Gumbel-max): token = argmax over kept ids of z_i + g_i, g_i =
// -log(-log1p(-u_i)), u_i uniform on (0, 1) with 32 bits from Philox at counter (id / 4, position, sample_index, 0)
// under the group's key. No state.
#pragma once

#include <vector>

#include "common/base/philox.h"
#include "common/tensor/stream.h"

namespace grouper::kernels {

// The least temperature that is not greedy: logits divided by less may overflow, and their differences mean nothing any more.
inline constexpr float kMinTemperature = 1e-6f;

struct SamplingFilter {
  // Finite; 0, or at least kMinTemperature. 0: greedy, the argmax with the lowest id; its logprob is 0, any other token's is -inf.
  float temperature = 1;
  int32_t top_k = 0;      // 0: all
  float top_p = 1;
  friend bool operator==(const SamplingFilter&, const SamplingFilter&) = default;
};

// The key of one group's noise: a mix of all three (SplitMix64 finalisers), so that no two groups of a run share a
// stream.
PhiloxKey SamplingKey(uint64_t seed, uint32_t stage, uint64_t group_serial);

struct SampleRequest {
  SamplingFilter filter;
  PhiloxKey key;
  uint32_t sample_index = 0;
  uint32_t position = 0;  // absolute position of the token to be drawn in its sequence
};

struct SampledToken {
  int32_t token = -1;
  float logprob = 0;
};

// logits [R, V] (F32 or BF16; BF16 is widened), one request a row. A row with a NaN or +inf, or with nothing but -inf,
// yields token -1, greedy or not.
void Sample(Stream& stream, const Tensor& logits, const std::vector<SampleRequest>& requests,
            std::vector<SampledToken>& tokens);

// Sample with requests and tokens (logits.dim(0) of each) where the stream's ops reach them: a device's memory, or the host's on the CPU.
// Nothing is checked or waited for, so that it can be recorded (common/tensor/graph.h).
void SampleRows(Stream& stream, const Tensor& logits, const SampleRequest* requests, SampledToken* tokens);

// The ids that the next pass takes: ids[i] (=) = from >= 0 ? sampled[from].token : given, [B] int32. A token -1 (logits that were not
// numbers) becomes id 0. All pointers as in SampleRows.
struct NextToken {
  int32_t from = -1, given = 0;
};
void NextTokens(Stream& stream, const SampledToken* sampled, const NextToken* next, const Tensor& ids);

// The same number that Sample records, for a given token: logprobs[r] and, of the filtered distribution, entropies[r]
// (nats). logits [R, V] (F32, F64, BF16), tokens R values. A token outside the filter has -inf. logprobs/entropies: [R]
// float (double for F64). statistics [R, 2] of the same type, or empty: what TokenLogprobsBackward can go on with, the largest z and sum_{kept}
// exp(z_j - largest); the sum is 0 where the token has no gradient.
void TokenLogprobs(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                   const int32_t* tokens, const Tensor& logprobs, const Tensor& entropies, const Tensor& statistics = {});

// dlogits [R, V] (=; may alias logits) for dL/dlogprob [R]:  dL/dz_i = g * (1[i = token] - p_i) on kept ids, 0
// elsewhere; dlogits = dL/dz / temperature. The filter's set is taken as constant. Rows with g == 0 (or a -inf logprob)
// get exact zeros. statistics: TokenLogprobs' of the same logits, filters and tokens, which saves summing again where nothing but the
// temperature is set; or empty. The bits are the same.
void TokenLogprobsBackward(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                           const int32_t* tokens, const Tensor& dlogprobs, const Tensor& dlogits, const Tensor& statistics = {});

}  // namespace grouper::kernels
