// sampling.h on CUDA, for F32 and BF16 logits: the CPU's bits, whatever the batch.
//
// The functions with `Device` in their name take everything on the device, are enqueued on the stream, use no scratch
// and no host memory, and never wait: they may be captured in a graph, whose replays then read the requests (filters,
// tokens) that lie there by then. Nothing is checked there: a negative temperature is none that sampling.h speaks of,
// top_k <= 0 keeps all, top_p >= 1 keeps all, top_p <= 0 keeps one, a token outside [0, V) has the log-probability -inf
// and no gradient. Rows do not read their neighbours' requests, so that a batch may have rows that nobody looks at.
//
// V is at most 2^20. A row up to 2048 ids is a warp's, a longer one a cluster's of up to eight blocks: each holds its
// part of the row in shared memory, so that the row is read once; beyond some 400k ids it is read once a pass.
#pragma once

#include <vector>

#include "kernels/sampling.h"

namespace grouper::kernels::cuda {

// requests, tokens: R values on the device.
void SampleDevice(Stream& stream, const Tensor& logits, const SampleRequest* requests, SampledToken* tokens);
void NextTokens(Stream& stream, const SampledToken* sampled, const NextToken* next, const Tensor& ids);
// filters, tokens: R values on the device; entropies and statistics may be empty.
void TokenLogprobsDevice(Stream& stream, const Tensor& logits, const SamplingFilter* filters, const int32_t* tokens,
                         const Tensor& logprobs, const Tensor& entropies, const Tensor& statistics);
// statistics: TokenLogprobsDevice's, if no filter sets more than the temperature; else empty.
void TokenLogprobsBackwardDevice(Stream& stream, const Tensor& logits, const SamplingFilter* filters, const int32_t* tokens,
                                 const Tensor& dlogprobs, const Tensor& dlogits, const Tensor& statistics);

// sampling.h's functions. Sample waits for the stream.
void Sample(Stream& stream, const Tensor& logits, const std::vector<SampleRequest>& requests,
            std::vector<SampledToken>& tokens);
void TokenLogprobs(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters,
                   const int32_t* tokens, const Tensor& logprobs, const Tensor& entropies, const Tensor& statistics);
void TokenLogprobsBackward(Stream& stream, const Tensor& logits, const std::vector<SamplingFilter>& filters, const int32_t* tokens,
                           const Tensor& dlogprobs, const Tensor& dlogits, const Tensor& statistics);

}  // namespace grouper::kernels::cuda
